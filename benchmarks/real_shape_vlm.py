"""Builds a vision-language model of the shapes of SmolVLM-256M around the language model of a GGUF file.

    sh scripts/real_shape_vlm.sh FOLDER

The language model is real, tower and connector are random: for figures of speed and memory, never of accuracy.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessorPil,
    SmolVLMProcessor,
)

from cloud_workers.inference.still_processors import for_stills

IMAGE_PX: Final = 512
PATCH_PX: Final = 16
SCALE_FACTOR: Final = 4
VISUAL_TOKENS: Final = (IMAGE_PX // PATCH_PX // SCALE_FACTOR) ** 2
VOCABULARY: Final = 49_280
"""SmolLM2's 49,152 and room for the tokens of images, as SmolVLM-256M has it."""
TOWER: Final = {
    "hidden_size": 768,
    "intermediate_size": 3_072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": IMAGE_PX,
    "patch_size": PATCH_PX,
}
_IMAGE_TOKENS: Final = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
}
_TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build(gguf: Path, folder: Path, seed: int = 0) -> None:
    """Write the model and its processor in `save_pretrained` format.

    Args:
        gguf: language model, of the Llama family.
        folder: made if it is not there.
        seed: of tower and connector.
    """
    language = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(
        gguf.parent, gguf_file=gguf.name, extra_special_tokens=dict(_IMAGE_TOKENS)
    )
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    known = int(language.config.vocab_size)
    # Its own still says that the weights are quantised.
    fields = {**language.config.to_dict(), "vocab_size": VOCABULARY}
    fields.pop("quantization_config", None)
    text_config = LlamaConfig.from_dict(fields)
    torch.manual_seed(seed)
    model: Any = SmolVLMForConditionalGeneration(
        SmolVLMConfig(
            vision_config=TOWER,
            text_config=text_config,
            scale_factor=SCALE_FACTOR,
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=False,
        )
    )
    state = language.model.state_dict()
    table = model.get_input_embeddings().weight.detach().clone()
    table[:known] = state["embed_tokens.weight"]
    model.get_decoder().load_state_dict({**state, "embed_tokens.weight": table})
    with torch.no_grad():
        model.get_output_embeddings().weight.copy_(table)
    model.generation_config.eos_token_id = [
        tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<end_of_utterance>")
    ]
    model.to(torch.bfloat16).save_pretrained(folder)
    _processor(tokenizer).save_pretrained(folder)
    print(
        f"{folder}: {model.num_parameters():,} parameters, {VISUAL_TOKENS} visual tokens of {text_config.hidden_size}"
    )


def _processor(tokenizer: Any) -> Any:
    edge = {"longest_edge": IMAGE_PX}
    images = SmolVLMImageProcessorPil(
        size=edge, max_image_size=edge, do_image_splitting=True, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    stills = for_stills(SmolVLMProcessor)
    videos = () if stills is SmolVLMProcessor else (None,)
    return stills(images, tokenizer, *videos, image_seq_len=VISUAL_TOKENS, chat_template=_TEMPLATE)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="A model of SmolVLM-256M's shapes with a real language model")
    parser.add_argument("gguf", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    build(given.gguf, given.folder)


if __name__ == "__main__":
    main()
