"""The language model of a vision-language model, in a folder that a vLLM server loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, GenerationConfig

from cloud_workers.inference.generation import end_tokens
from cloud_workers.inference.registry import LOAD_ERRORS, unusable
from cloud_workers.inference.still_processors import load_processor
from cloud_workers.inference.vllm.prompt_embeddings import check_family
from pipeline.codec.model_files import check_model_files
from pipeline.codec.spec import hash_vlm
from schemas.errors import ArtifactError

NAME_FILE: Final = "served-model-name"
_DIGITS: Final = 16


def served_model_name(vlm_sha256: str) -> str:
    """Name under which a server has to offer a model: it holds the model's fingerprint, which HTTP does not show.

    Args:
        vlm_sha256: `pipeline.codec.spec.hash_vlm` of the vision-language model.
    """
    return f"latentbus-{vlm_sha256[:_DIGITS]}"


def export_language_model(vlm: Path, output: Path) -> str:
    """Write the language model, its tokenizer and the name to serve it under.

    Args:
        vlm: vision-language model in `save_pretrained` format.
        output: folder, made if it is not there.

    Returns:
        The name.

    Raises:
        ArtifactError: the model is missing, damaged or of an unknown family.
        ConfigError: its language model reads more than embeddings.
    """
    source = str(vlm)
    check_model_files(vlm)
    try:
        config = AutoConfig.from_pretrained(vlm, trust_remote_code=False)
        check_family(config, source)
        processor = load_processor(source, config)
        model = AutoModelForImageTextToText.from_pretrained(
            vlm, dtype="auto", use_safetensors=True, trust_remote_code=False
        )
    except LOAD_ERRORS as error:
        raise ArtifactError(source, unusable(error, local=True)) from error
    causal = _causal(model)
    # A server takes its defaults of sampling from here; an answer is greedy.
    ends = sorted(end_tokens(model.generation_config, processor.tokenizer, source))
    causal.generation_config = GenerationConfig(eos_token_id=ends)
    output.mkdir(parents=True, exist_ok=True)
    causal.save_pretrained(output)
    processor.tokenizer.save_pretrained(output)
    name = served_model_name(hash_vlm(vlm))
    (output / NAME_FILE).write_text(f"{name}\n")
    return name


def _causal(model: Any) -> Any:
    """The language model by itself, with its own weights."""
    config = model.config.get_text_config()
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    config.tie_word_embeddings = table.data_ptr() == head.data_ptr()
    config.vocab_size = int(table.shape[0])
    causal = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    causal.get_decoder().load_state_dict(model.get_decoder().state_dict())
    if not config.tie_word_embeddings:
        causal.get_output_embeddings().load_state_dict(model.get_output_embeddings().state_dict())
    return causal.eval()
