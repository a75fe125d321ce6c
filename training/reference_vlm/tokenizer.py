"""Byte-level BPE tokenizer and processor of the reference VLM.

The alphabet is all 256 bytes, so any UTF-8 text has tokens and nothing is ever unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Idefics3Processor, PreTrainedTokenizerFast
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from pipeline.scenes.catalogue import COLORS, COLUMN_WORDS, COUNT_WORDS, KINDS, POSITIONS, ROW_WORDS
from pipeline.scenes.questions import PHRASINGS, QUESTION_KINDS, phrase
from training.reference_vlm.captions import CAPTION_PROMPT

VOCAB_SIZE: Final = 640
START: Final = "<|im_start|>"
END: Final = "<end_of_utterance>"
PAD: Final = "<pad>"
IMAGE: Final = "<image>"
FAKE: Final = "<fake_token_around_image>"
GLOBAL: Final = "<global-img>"
SPECIAL_TOKENS: Final = (PAD, START, END, IMAGE, FAKE, GLOBAL)

BACKGROUND_WORD: Final = " nothing"
ANCHOR_WORD: Final = " object"
PART_WORD: Final = " part"

CHAT_TEMPLATE: Final = (
    "{% if messages %}<|im_start|>{% endif %}{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% if message['content'] is string %}{{ ' ' + message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% elif part['type'] == 'text' %}{{ ' ' + part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def _corpus() -> Iterator[str]:
    """Every wording with every kind and colour, often enough that each word becomes one token."""
    words = [*COLORS, *COUNT_WORDS, *POSITIONS, *ROW_WORDS, *COLUMN_WORDS, "yes", "no", "total"]
    words += [kind.name for kind in KINDS.values()] + [kind.plural for kind in KINDS.values()]
    for _ in range(200):
        for word in words:
            yield f" {word}"
        yield f"{BACKGROUND_WORD}{ANCHOR_WORD}{PART_WORD} {CAPTION_PROMPT}"
        yield "User: \nAssistant:"
    for kind in QUESTION_KINDS:
        for name in KINDS:
            for color in (None, *COLORS):
                for index in range(len(PHRASINGS[kind])):
                    text = phrase(kind, name, color, phrasing=index)
                    yield f" {text}"
                    yield f" {text[0].lower()}{text[1:]}"


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer. Deterministic: the corpus has no random part."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        _corpus(),
        trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
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


def build_processor(tokenizer: PreTrainedTokenizerFast, *, image_size: int, image_tokens: int) -> Idefics3Processor:
    """Processor: one square image without tiles, `image_tokens` placeholders, chat template.

    `Idefics3Processor` writes the same prompt as `SmolVLMProcessor`, which cannot be built without a video processor
    and so not without torchvision; this model answers about single frames.
    """
    edge = {"longest_edge": image_size}
    image_processor = Idefics3ImageProcessorPil(
        size=edge, max_image_size=edge, do_image_splitting=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return Idefics3Processor(
        image_processor=image_processor, tokenizer=tokenizer, image_seq_len=image_tokens, chat_template=CHAT_TEMPLATE
    )


def prompt_text(question: str) -> str:
    """What follows the image tokens: the question and the opening of the answer, as the chat template writes them."""
    return f" {question}{END}\nAssistant:"
