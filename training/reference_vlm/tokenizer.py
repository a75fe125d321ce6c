"""Byte-level BPE tokenizer and processor of the reference VLM.

The alphabet is all 256 bytes, so any UTF-8 text has tokens and nothing is ever unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Idefics3Processor, PreTrainedTokenizerFast
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from pipeline.scenes.questions import QUESTION_KINDS, sample_question
from pipeline.scenes.scene import sample_scene
from training.reference_vlm.captions import CAPTION_PROMPT, caption_of, description_of
from training.reference_vlm.config import ModelSize
from training.reference_vlm.vocabulary import Vocabulary

VOCAB_SIZE: Final = 1024
START: Final = "<|im_start|>"
END: Final = "<end_of_utterance>"
PAD: Final = "<pad>"
IMAGE: Final = "<image>"
FAKE: Final = "<fake_token_around_image>"
GLOBAL: Final = "<global-img>"
MAX_TILES: Final = 4
"""Tiles along an edge that have tokens of their own for row and column."""
TILE_TOKENS: Final = tuple(
    f"<row_{row}_col_{col}>" for row in range(1, MAX_TILES + 1) for col in range(1, MAX_TILES + 1)
)
SPECIAL_TOKENS: Final = (PAD, START, END, IMAGE, FAKE, GLOBAL, *TILE_TOKENS)

CHAT_TEMPLATE: Final = (
    "{% if messages %}<|im_start|>{% endif %}{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% if message['content'] is string %}{{ ' ' + message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% elif part['type'] == 'text' %}{{ ' ' + part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
_CORPUS_SCENES: Final = 400


def _corpus(vocabulary: Vocabulary) -> Iterator[str]:
    """Every word that must be one token, often enough that it becomes one, then sentences about scenes."""
    for _ in range(2000):
        for word in vocabulary.single_tokens:
            yield f" {word}"
    for _ in range(200):
        yield f" {CAPTION_PROMPT}"
        yield "User: \nAssistant:"
    for seed in range(_CORPUS_SCENES):
        scene, rng = sample_scene(seed), np.random.default_rng([seed, 9])
        for kind in QUESTION_KINDS:
            for _ in range(3):
                question = sample_question(kind, scene, rng)
                if question is not None:
                    yield f" {question.text}"
                    yield f" {question.text[0].lower()}{question.text[1:]}"
        yield caption_of(scene)
        yield f" {description_of(scene)}"


def train_tokenizer(vocabulary: Vocabulary, corpus: Iterable[str] | None = None) -> PreTrainedTokenizerFast:
    """Train the tokenizer. Deterministic: the same vocabulary gives the same tokens.

    Args:
        vocabulary: Words that become one token each.
        corpus: Texts to learn from; those of the second reference VLM unless given.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        _corpus(vocabulary) if corpus is None else corpus,
        trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
        extra_special_tokens={
            "fake_image_token": FAKE,
            "image_token": IMAGE,
            "global_image_token": GLOBAL,
            "end_of_utterance_token": END,
        },
    )


def build_processor(tokenizer: PreTrainedTokenizerFast, size: ModelSize, *, tiles: bool = False) -> Idefics3Processor:
    """Processor with the chat template: one square view, or tiles and the whole.

    `Idefics3Processor` writes the same prompt as `SmolVLMProcessor`, which cannot be built without a video processor
    and so not without torchvision; this model answers about single frames. Frames are reduced by averaging (box
    filter), which an exported encoder can repeat exactly.

    Args:
        tokenizer: From `train_tokenizer`.
        size: Of the model.
        tiles: Show a frame of `tiles_per_edge` times the size as tiles and as a whole.
    """
    longest = size.image_size * (size.tiles_per_edge if tiles else 1)
    image_processor = Idefics3ImageProcessorPil(
        size={"longest_edge": longest},
        max_image_size={"longest_edge": size.image_size},
        do_image_splitting=tiles,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        resample=Image.Resampling.BOX,
    )
    return Idefics3Processor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        image_seq_len=size.image_tokens,
        chat_template=CHAT_TEMPLATE,
    )


def image_prefix(processor: Idefics3Processor, edge_px: int) -> tuple[int, ...]:
    """Token ids from the start of a prompt up to the end of its image, as the processor writes them.

    Args:
        processor: From `build_processor`.
        edge_px: Edge of the square frame.
    """
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}
    text = processor.apply_chat_template([message], add_generation_prompt=True)
    blank = np.zeros((edge_px, edge_px, 3), dtype=np.uint8)
    ids = [int(token) for token in processor(text=text, images=[blank], return_tensors="np")["input_ids"][0]]
    fake = processor.tokenizer.convert_tokens_to_ids(FAKE)
    return tuple(ids[: len(ids) - ids[::-1].index(fake)])


def prompt_text(question: str) -> str:
    """What follows the image tokens: the question and the opening of the answer, as the chat template writes them."""
    return f" {question}{END}\nAssistant:"
