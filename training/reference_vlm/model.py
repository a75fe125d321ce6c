"""Build the reference VLM: the stock `SmolVLMForConditionalGeneration`, small."""

from __future__ import annotations

import torch
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast, SmolVLMForConditionalGeneration
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMConfig

from training.reference_vlm.config import ModelSize


def build_model(size: ModelSize, tokenizer: PreTrainedTokenizerFast, *, seed: int) -> SmolVLMForConditionalGeneration:
    """Create an untrained model.

    Word embeddings start with a norm of one (the stock start is 0.02 a value): in stage 1 they are the classifier of
    the visual tokens, in the language stages the output layer.

    Args:
        size: Architecture.
        tokenizer: Gives the vocabulary and the special ids.
        seed: Seed of the weights.
    """
    torch.manual_seed(seed)
    vocab_size = -(-len(tokenizer) // 8) * 8
    ids = {"pad": tokenizer.pad_token_id, "bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
    text_config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=size.text_width,
        intermediate_size=3 * size.text_width,
        num_hidden_layers=size.text_layers,
        num_attention_heads=size.text_heads,
        num_key_value_heads=size.text_heads,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        pad_token_id=ids["pad"],
        bos_token_id=ids["bos"],
        eos_token_id=ids["eos"],
        tie_word_embeddings=True,
    )
    config = SmolVLMConfig(
        vision_config={
            "hidden_size": size.vision_width,
            "intermediate_size": 4 * size.vision_width,
            "num_hidden_layers": size.vision_layers,
            "num_attention_heads": size.vision_heads,
            "image_size": size.image_size,
            "patch_size": size.patch_size,
        },
        text_config=text_config,
        scale_factor=size.scale_factor,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=True,
        pad_token_id=ids["pad"],
        bos_token_id=ids["bos"],
        eos_token_id=ids["eos"],
    )
    model = SmolVLMForConditionalGeneration(config)
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=size.text_width**-0.5)
    # With embeddings of norm one the first logits would be huge; the final norm's gain tames them.
    torch.nn.init.constant_(model.model.text_model.norm.weight, 0.25)
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=ids["bos"], eos_token_id=ids["eos"], pad_token_id=ids["pad"], do_sample=False, max_new_tokens=48
    )
    return model
