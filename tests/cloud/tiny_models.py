"""Tiny models of the real classes, with random weights: everything but the knowledge."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    EfficientNetConfig,
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    GenerationConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

IMAGE_SIZE_PX = 32
PATCH_PX = 8
TOKEN_COUNT = (IMAGE_SIZE_PX // PATCH_PX) ** 2
TOKEN_DIM = 32

_SPECIAL = ("<pad>", "<|im_start|>", "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>")
_IDEFICS_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
_LLAVA_TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    " {% endfor %}ASSISTANT:"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens, no training: any text, special tokens first."""
    vocabulary = {token: index for index, token in enumerate((*_SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(_SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<pad>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        extra_special_tokens={
            "fake_image_token": "<fake_token_around_image>",
            "image_token": "<image>",
            "global_image_token": "<global-img>",
            "end_of_utterance_token": "<end_of_utterance>",
        },
    )


def _text_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=TOKEN_DIM,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        # The stock 0.02 makes every random model all but blind to its input.
        initializer_range=0.3,
    )


def _vision_sizes() -> dict[str, Any]:
    return {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": IMAGE_SIZE_PX,
        "patch_size": PATCH_PX,
    }


def _finish(model: Any, tokenizer: PreTrainedTokenizerFast) -> Any:
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model.eval()


def _idefics_family(config_class: Any, model_class: Any, seed: int) -> tuple[Any, Any]:
    tokenizer = tiny_tokenizer()
    edge = {"longest_edge": IMAGE_SIZE_PX}
    # The processor of SmolVLM writes the same prompts, but wants a video processor and with it torchvision.
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessorPil(
            size=edge, max_image_size=edge, do_image_splitting=True, image_mean=[0.5] * 3, image_std=[0.5] * 3
        ),
        tokenizer=tokenizer,
        image_seq_len=TOKEN_COUNT,
        chat_template=_IDEFICS_TEMPLATE,
    )
    config = config_class(
        vision_config=_vision_sizes(),
        text_config=_text_config(tokenizer),
        scale_factor=1,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    return _finish(model_class(config), tokenizer), processor


def tiny_smolvlm(seed: int = 0) -> tuple[Any, Any]:
    """A `SmolVLMForConditionalGeneration` and a processor for it."""
    return _idefics_family(SmolVLMConfig, SmolVLMForConditionalGeneration, seed)


def tiny_idefics3(seed: int = 0) -> tuple[Any, Any]:
    """An `Idefics3ForConditionalGeneration` and its processor."""
    return _idefics_family(Idefics3Config, Idefics3ForConditionalGeneration, seed)


def tiny_llava(seed: int = 0) -> tuple[Any, Any]:
    """A `LlavaForConditionalGeneration` and its processor."""
    tokenizer = tiny_tokenizer()
    square = {"height": IMAGE_SIZE_PX, "width": IMAGE_SIZE_PX}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=square, crop_size=square),
        tokenizer=tokenizer,
        patch_size=PATCH_PX,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_LLAVA_TEMPLATE,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_vision_sizes()),
        text_config=_text_config(tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    torch.manual_seed(seed)
    return _finish(LlavaForConditionalGeneration(config), tokenizer), processor


def tiny_fastvlm(seed: int = 0) -> tuple[Any, Any]:
    """A `FastVlmForConditionalGeneration` with a convolutional tower and its processor."""
    tokenizer = tiny_tokenizer()
    stride_px = 32  # of the tower, whatever its size
    edge_px = stride_px * (IMAGE_SIZE_PX // PATCH_PX)
    square = {"height": edge_px, "width": edge_px}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=square, crop_size=square),
        tokenizer=tokenizer,
        patch_size=stride_px,
        vision_feature_select_strategy="full",
        chat_template=_LLAVA_TEMPLATE,
    )
    tower = EfficientNetConfig(
        image_size=edge_px,
        width_coefficient=0.25,
        depth_coefficient=0.1,
        hidden_dim=320,  # a quarter of the stock 1,280
        hidden_size=320,  # what a VLM asks its vision config for
        dropout_rate=0.0,
        initializer_range=0.3,
    )
    config = FastVlmConfig(
        vision_config=tower,
        text_config=_text_config(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(seed)
    model = FastVlmForConditionalGeneration(config)
    # Fresh batch norms shrink a random tower's features to nothing: let them measure some noise first.
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.model.vision_tower.train()(torch.randn(8, 3, edge_px, edge_px))
    return _finish(model, tokenizer), processor


FAMILIES = {"smolvlm": tiny_smolvlm, "idefics3": tiny_idefics3, "llava": tiny_llava, "fastvlm": tiny_fastvlm}
