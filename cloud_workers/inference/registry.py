"""Families of models that are known, by ``model_type``, and the one way to load a model of any of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from jinja2 import TemplateError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText

from cloud_workers.inference.adapter import ModelAdapter
from cloud_workers.inference.family import ModelFamily, as_tensor
from cloud_workers.inference.family_parts import (
    blip2_features,
    blip2_ids,
    blip2_prompt,
    collect_deepstack,
    deepstack_dim,
    inject_deepstack,
    merged_grid_size,
    one_grid,
    one_rope_delta,
    one_square,
    one_tile,
    opt_only,
    paligemma_ids,
    paligemma_prompt,
    position_grid_size,
)
from cloud_workers.inference.precision import quantise_weights, weights_dtype
from cloud_workers.inference.still_processors import load_processor
from cloud_workers.inference.transformers_adapter import TransformersAdapter
from pipeline.codec.model_files import check_model_files
from pipeline.config.logs import get_logger
from pipeline.config.serving_settings import ModelPrecision
from schemas.errors import ArtifactError

_PIXELS: Final = frozenset({"pixel_values"})
_BY_GRID: Final = frozenset({"mm_token_type_ids", "image_grid_thw"})

FAMILIES: Final[dict[str, ModelFamily]] = {
    family.model_type: family
    for family in (
        ModelFamily("smolvlm", "SmolVLM", "one tile; more with a codec for the detailed point"),
        ModelFamily("idefics3", "Idefics3", "one tile; more with a codec for the detailed point"),
        ModelFamily("llava", "LLaVA"),
        ModelFamily(
            "llava_next",
            "LLaVA-NeXT",
            "a frame is one tile and the global view",
            frame_inputs=_PIXELS | {"image_sizes"},
            pin_size=one_tile,
        ),
        ModelFamily(
            "llava_onevision",
            "LLaVA-OneVision",
            "a frame is one tile and the global view",
            frame_inputs=_PIXELS | {"image_sizes", "batch_num_images"},
            pin_size=one_tile,
        ),
        ModelFamily(
            "fast_vlm",
            "FastVLM",
            "checkpoints whose tower is of timm do not load",
            inject=as_tensor,
            any_size=True,
            pin_size=one_square,
        ),
        ModelFamily(
            "qwen2_5_vl",
            "Qwen2.5-VL",
            "448 px unless the codec says otherwise",
            image_size_px=merged_grid_size,
            any_size=True,
            pin_size=one_grid,
            prompt_inputs=_BY_GRID,
            share_positions=one_rope_delta,
        ),
        ModelFamily(
            "qwen3_vl",
            "Qwen3-VL",
            "the size of its position grid unless the codec says otherwise; deepstack features are coded side by side "
            "with the others",
            inject=inject_deepstack,
            collect=collect_deepstack,
            feature_dim=deepstack_dim,
            image_size_px=position_grid_size,
            any_size=True,
            pin_size=one_grid,
            prompt_inputs=_BY_GRID,
            share_positions=one_rope_delta,
        ),
        ModelFamily("internvl", "InternVL", "one tile", inject=as_tensor, frame_inputs=_PIXELS | {"num_patches"}),
        ModelFamily(
            "gemma3",
            "Gemma 3",
            "no crops (pan and scan)",
            inject=as_tensor,
            frame_inputs=_PIXELS | {"num_crops"},
            prompt_inputs=frozenset({"token_type_ids"}),
        ),
        ModelFamily(
            "paligemma",
            "PaliGemma",
            "reads the frame anew for each question: its visual tokens attend to the question",
            inject=as_tensor,
            prompt=paligemma_prompt,
            read=paligemma_ids,
            frame_inputs=_PIXELS | {"labels"},
            prompt_inputs=frozenset({"token_type_ids"}),
            reads_ahead=True,
        ),
        ModelFamily(
            "blip-2",
            "BLIP-2",
            "with OPT; those with T5 are refused",
            inject=blip2_features,
            prompt=blip2_prompt,
            read=blip2_ids,
            refused=opt_only,
            generator=lambda model: model.language_model,
            cache=lambda output: output.language_model_outputs.past_key_values,
        ),
    )
}
"""One entry makes a family known to workers, training, demo and benchmarks."""

LOAD_ERRORS: Final = (
    OSError,
    ValueError,
    KeyError,
    ImportError,
    TypeError,
    AttributeError,
    RuntimeError,
    SafetensorError,
    TemplateError,
)
"""What transformers raises for a model that it cannot load."""

_log = get_logger(__name__)


def family_of(config: Any, source: str) -> ModelFamily:
    """The family of a model's configuration.

    Args:
        config: of the model.
        source: path or hub id, for error messages.

    Raises:
        ArtifactError: it is not known, or this model of it is not supported.
    """
    model_type = str(getattr(config, "model_type", "") or type(config).__name__)
    family = FAMILIES.get(model_type)
    if family is None:
        known = ", ".join(f"{family.model_type} ({family.name})" for family in FAMILIES.values())
        raise ArtifactError(
            source,
            f"a model of type {model_type!r}, which is not supported: use one of type {known}, "
            "or add its family to cloud_workers/inference/registry.py",
        )
    if problem := family.refused(config):
        raise ArtifactError(source, f"{family.name}: {problem}")
    return family


def adapt(
    model: Any, processor: Any, *, source: str, tiles_per_edge: int = 1, frame_size_px: int | None = None
) -> ModelAdapter:
    """Adapter of a loaded model.

    Args:
        model: a ``...ForConditionalGeneration`` in evaluation mode.
        processor: its processor.
        source: path or hub id, for error messages.
        tiles_per_edge: see `TransformersAdapter`.
        frame_size_px: see `TransformersAdapter`.

    Raises:
        ArtifactError: its family is not known, or it cannot be fed with visual features.
    """
    family = family_of(model.config, source)
    make = family.adapter or TransformersAdapter
    return make(model, processor, family, source=source, tiles_per_edge=tiles_per_edge, frame_size_px=frame_size_px)


def hub_id_and_revision(source: str) -> tuple[str, str | None]:
    """A hub id, and the commit, tag or branch behind its ``@`` where it names one."""
    hub_id, _, revision = source.partition("@")
    return hub_id, revision or None


def load_model(
    source: str | Path,
    *,
    device: str = "cpu",
    precision: ModelPrecision = "auto",
    tiles_per_edge: int = 1,
    frame_size_px: int | None = None,
) -> ModelAdapter:
    """Load model and processor as the model's users load them, but never code that comes with a model.

    Args:
        source: folder in ``save_pretrained`` format, or hub id, ``org/name`` or ``org/name@revision``.
        device: torch device.
        precision: its arithmetic; ``auto`` is float32 on a CPU and the checkpoint's own elsewhere.
        tiles_per_edge: see `TransformersAdapter`.
        frame_size_px: see `TransformersAdapter`.

    Raises:
        ArtifactError: it is not there, not readable, or of a family that is not known.
    """
    name = str(source)
    is_hub_id = isinstance(source, str) and name.count("/") == 1 and not name.startswith((".", "/", "~"))
    local = Path(name).is_dir()
    if not local and not is_hub_id:
        raise ArtifactError(
            name,
            "no such folder: give one in save_pretrained format or a hub id, or leave it out for the bundled model",
        )
    revision = None
    if local:
        check_model_files(Path(name))
    else:
        name, revision = hub_id_and_revision(name)
    try:
        # Before the weights, which may be gigabytes.
        config = AutoConfig.from_pretrained(name, revision=revision or "main", trust_remote_code=False)
        family_of(config, name)
        processor = load_processor(name, config, revision=revision)
        # Pickled weights run code when they are read.
        model = AutoModelForImageTextToText.from_pretrained(
            name,
            revision=revision or "main",
            dtype=weights_dtype(precision, device),
            use_safetensors=True,
            trust_remote_code=False,
        )
    except LOAD_ERRORS as error:
        raise ArtifactError(name, unusable(error, local=local)) from error
    model = model.to(device).eval().requires_grad_(False)
    if precision == "int8":
        quantise_weights(model)
    _log.info(
        "model loaded", model=type(model).__name__, source=name, parameters=model.num_parameters(), precision=precision
    )
    return adapt(model, processor, source=name, tiles_per_edge=tiles_per_edge, frame_size_px=frame_size_px)


def unusable(error: Exception, *, local: bool) -> str:
    """What is wrong with a model that cannot be loaded, and the fix."""
    problem = str(error).strip().split("\n")[0]
    if "trust_remote_code" in str(error) or "remote code" in str(error):
        return (
            "it brings code of its own (auto_map in config.json), which is never run: use a model whose class is part "
            "of transformers, such as the -hf conversion of the same weights"
        )
    fix = "save it again with save_pretrained" if local else "check the id and the network, or give a local folder"
    return f"no usable vision-language model ({problem}): {fix}"
