"""Tiny models of the real classes, with random weights: everything but the knowledge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessorPil,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    EfficientNetConfig,
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    Gemma3TextConfig,
    GemmaConfig,
    GenerationConfig,
    GotOcr2ImageProcessorPil,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    OPTConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessorPil,
    SmolVLMProcessor,
)

from cloud_workers.inference.still_processors import for_stills

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


def tiny_tokenizer(
    further: Mapping[str, str] | None = None, image_token: str | None = "<image>"
) -> PreTrainedTokenizerFast:
    """Bytes as tokens, no training: any text, special tokens first.

    Args:
        further: special tokens of a family, by the name of their attribute.
        image_token: what it calls its image token; None leaves that to others.
    """
    further = further or {}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*_SPECIAL, *alphabet, *further.values()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*_SPECIAL, *further.values()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<pad>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        extra_special_tokens={
            "fake_image_token": "<fake_token_around_image>",
            **({"image_token": image_token} if image_token else {}),
            "global_image_token": "<global-img>",
            "end_of_utterance_token": "<end_of_utterance>",
            **further,
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


def _idefics_family(
    config_class: Any, model_class: Any, processor_class: Any, images_class: Any, seed: int
) -> tuple[Any, Any]:
    tokenizer = tiny_tokenizer()
    edge = {"longest_edge": IMAGE_SIZE_PX}
    images = images_class(
        size=edge, max_image_size=edge, do_image_splitting=True, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    stills = for_stills(processor_class)
    further = () if stills is processor_class else (None,)
    processor = stills(images, tokenizer, *further, image_seq_len=TOKEN_COUNT, chat_template=_IDEFICS_TEMPLATE)
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
    return _idefics_family(
        SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMProcessor, SmolVLMImageProcessorPil, seed
    )


def tiny_idefics3(seed: int = 0) -> tuple[Any, Any]:
    """An `Idefics3ForConditionalGeneration` and its processor."""
    return _idefics_family(
        Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor, Idefics3ImageProcessorPil, seed
    )


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


def _llava_like(model_class: Any, config_class: Any, tower: Any, processor: Any, seed: int, **config: Any) -> Any:
    tokenizer = processor.tokenizer
    torch.manual_seed(seed)
    made = config_class(
        vision_config=tower,
        text_config=_text_config(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=[[IMAGE_SIZE_PX, 2 * IMAGE_SIZE_PX], [2 * IMAGE_SIZE_PX, IMAGE_SIZE_PX]],
        **config,
    )
    model = model_class(made)
    # All zeros in a fresh model; a trained one has learned it.
    torch.nn.init.normal_(model.model.image_newline)
    return _finish(model, tokenizer)


def tiny_llava_next(seed: int = 0) -> tuple[Any, Any]:
    """A `LlavaNextForConditionalGeneration` and its processor."""
    square = {"height": IMAGE_SIZE_PX, "width": IMAGE_SIZE_PX}
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": IMAGE_SIZE_PX},
            crop_size=square,
            image_grid_pinpoints=[[IMAGE_SIZE_PX, 2 * IMAGE_SIZE_PX], [2 * IMAGE_SIZE_PX, IMAGE_SIZE_PX]],
        ),
        tokenizer=tiny_tokenizer(),
        patch_size=PATCH_PX,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_LLAVA_TEMPLATE,
    )
    tower = CLIPVisionConfig(**_vision_sizes())
    made = _llava_like(
        LlavaNextForConditionalGeneration, LlavaNextConfig, tower, processor, seed, vision_feature_layer=-1
    )
    return made, processor


def tiny_llava_onevision(seed: int = 0) -> tuple[Any, Any]:
    """A `LlavaOnevisionForConditionalGeneration` and its processor."""
    processor = for_stills(LlavaOnevisionProcessor)(
        LlavaOnevisionImageProcessorPil(
            size={"height": IMAGE_SIZE_PX, "width": IMAGE_SIZE_PX},
            image_grid_pinpoints=[[IMAGE_SIZE_PX, 2 * IMAGE_SIZE_PX], [2 * IMAGE_SIZE_PX, IMAGE_SIZE_PX]],
        ),
        tiny_tokenizer({"video_token": "<video>"}),
        num_image_tokens=TOKEN_COUNT,
        vision_feature_select_strategy="full",
        chat_template=_LLAVA_TEMPLATE,
    )
    tower = SiglipVisionConfig(**_vision_sizes(), vision_use_head=False)
    made = _llava_like(
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionConfig,
        tower,
        processor,
        seed,
        video_token_index=processor.tokenizer.convert_tokens_to_ids("<video>"),
    )
    return made, processor


_QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><image><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}<|im_start|>assistant\n"
)


def _qwen(
    seed: int, processor_class: Any, config_class: Any, model_class: Any, patch_px: int, vision: dict[str, Any]
) -> Any:
    tokenizer = tiny_tokenizer(
        {
            "video_token": "<video>",
            "vision_start_token": "<|vision_start|>",
            "vision_end_token": "<|vision_end|>",
        }
    )
    processor = for_stills(processor_class)(
        Qwen2VLImageProcessorPil(
            patch_size=patch_px,
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        ),
        tokenizer,
        chat_template=_QWEN_TEMPLATE,
    )
    text = _text_config(tokenizer).to_dict()
    text.pop("model_type")
    # Half of 32 / 2 pairs of a head, for time, height and width.
    # What deepstack adds behind the last layer would reach no answer.
    text |= {"num_hidden_layers": 3}
    text |= {"head_dim": 16, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}}
    torch.manual_seed(seed)
    config = config_class(
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_heads": 2,
            "patch_size": patch_px,
            "spatial_merge_size": 2,
            "out_hidden_size": TOKEN_DIM,
            "initializer_range": 0.3,
            **vision,
        },
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )
    return _finish(model_class(config), tokenizer), processor


def tiny_qwen2_5_vl(seed: int = 0) -> tuple[Any, Any]:
    """A `Qwen2_5_VLForConditionalGeneration` with window attention in its first layer, and a processor for it."""
    patch_px = 2  # a frame has 16 x 16 tokens of 2 x 2 patches
    vision = {"window_size": 8 * patch_px, "fullatt_block_indexes": [1]}
    made: tuple[Any, Any] = _qwen(
        seed, Qwen2_5_VLProcessor, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, patch_px, vision
    )
    return made


def tiny_qwen3_vl(seed: int = 0) -> tuple[Any, Any]:
    """A `Qwen3VLForConditionalGeneration` with two deepstack layers, and a processor for it."""
    vision = {"num_position_embeddings": (2 * IMAGE_SIZE_PX // PATCH_PX) ** 2, "deepstack_visual_indexes": [0, 1]}
    made: tuple[Any, Any] = _qwen(
        seed, Qwen3VLProcessor, Qwen3VLConfig, Qwen3VLForConditionalGeneration, PATCH_PX, vision
    )
    return made


def tiny_internvl(seed: int = 0) -> tuple[Any, Any]:
    """An `InternVLForConditionalGeneration` and a processor for it."""
    tokenizer = tiny_tokenizer(
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        }
    )
    processor = for_stills(InternVLProcessor)(
        GotOcr2ImageProcessorPil(size={"height": IMAGE_SIZE_PX, "width": IMAGE_SIZE_PX}),
        tokenizer,
        image_seq_length=TOKEN_COUNT // 4,
        chat_template=_LLAVA_TEMPLATE.replace("<image>", "<IMG_CONTEXT>"),
    )
    torch.manual_seed(seed)
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(**_vision_sizes(), initializer_range=0.3),
        text_config=_text_config(tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=TOKEN_COUNT // 4,
    )
    return _finish(InternVLForConditionalGeneration(config), tokenizer), processor


def _siglip_processor(tokens: int) -> Any:
    processor = SiglipImageProcessorPil(size={"height": IMAGE_SIZE_PX, "width": IMAGE_SIZE_PX})
    processor.image_seq_length = tokens
    return processor


def tiny_gemma3(seed: int = 0, *, window: int = 512) -> tuple[Any, Any]:
    """A `Gemma3ForConditionalGeneration`, one of its layers with a window, and its processor."""
    tokenizer = tiny_tokenizer({"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"})
    tokens = TOKEN_COUNT // 4
    processor = Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": IMAGE_SIZE_PX, "width": IMAGE_SIZE_PX}),
        tokenizer,
        image_seq_length=tokens,
        chat_template=_LLAVA_TEMPLATE.replace("<image>", "<start_of_image>"),
    )
    text = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TOKEN_DIM,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=1024,
        sliding_window=window,
        layer_types=["sliding_attention", "full_attention"],
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.3,
    )
    torch.manual_seed(seed)
    config = Gemma3Config(
        text_config=text,
        vision_config=SiglipVisionConfig(**_vision_sizes(), vision_use_head=False),
        mm_tokens_per_image=tokens,
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        initializer_range=0.3,
    )
    model = Gemma3ForConditionalGeneration(config)
    # All zeros in a fresh model.
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
    return _finish(model, tokenizer), processor


def tiny_paligemma(seed: int = 0) -> tuple[Any, Any]:
    """A `PaliGemmaForConditionalGeneration` and its processor, without a chat template as its checkpoints have none."""
    processor = PaliGemmaProcessor(_siglip_processor(TOKEN_COUNT), tiny_tokenizer())
    tokenizer = processor.tokenizer
    text = GemmaConfig(
        vocab_size=len(tokenizer),
        hidden_size=TOKEN_DIM,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=1024,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.3,
    )
    torch.manual_seed(seed)
    config = PaliGemmaConfig(
        text_config=text,
        vision_config=SiglipVisionConfig(**_vision_sizes(), vision_use_head=False),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=TOKEN_DIM,
        hidden_size=TOKEN_DIM,
    )
    return _finish(PaliGemmaForConditionalGeneration(config), tokenizer), processor


def tiny_blip2(seed: int = 0) -> tuple[Any, Any]:
    """A `Blip2ForConditionalGeneration` with OPT and its processor, without a chat template."""
    queries = 4
    square = {"height": IMAGE_SIZE_PX, "width": IMAGE_SIZE_PX}
    # The processor names the token by itself, and wants a tokenizer that does not.
    tokenizer = tiny_tokenizer(image_token=None)
    processor = Blip2Processor(BlipImageProcessorPil(size=square), tokenizer, num_query_tokens=queries)
    text = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=TOKEN_DIM,
        word_embed_proj_dim=TOKEN_DIM,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=1024,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        init_std=0.3,
    )
    torch.manual_seed(seed)
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**_vision_sizes(), initializer_range=0.3),
        qformer_config=Blip2QFormerConfig(
            vocab_size=8,
            hidden_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            initializer_range=0.3,
        ),
        text_config=text,
        num_query_tokens=queries,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = Blip2ForConditionalGeneration(config)
    # All zeros in a fresh model.
    torch.nn.init.normal_(model.query_tokens)
    return _finish(model, tokenizer), processor


FAMILIES = {
    "smolvlm": tiny_smolvlm,
    "idefics3": tiny_idefics3,
    "llava": tiny_llava,
    "llava_next": tiny_llava_next,
    "llava_onevision": tiny_llava_onevision,
    "fast_vlm": tiny_fastvlm,
    "qwen2_5_vl": tiny_qwen2_5_vl,
    "qwen3_vl": tiny_qwen3_vl,
    "internvl": tiny_internvl,
    "gemma3": tiny_gemma3,
    "paligemma": tiny_paligemma,
    "blip-2": tiny_blip2,
}
"""By ``model_type``."""
