"""Families of models that are known, by ``model_type``, and the one way to load a model of any of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from cloud_workers.inference.adapter import ModelAdapter
from cloud_workers.inference.family import ModelFamily, as_tensor
from cloud_workers.inference.transformers_adapter import TransformersAdapter
from pipeline.config.logs import get_logger
from schemas.errors import ArtifactError

FAMILIES: Final[dict[str, ModelFamily]] = {
    family.model_type: family
    for family in (
        ModelFamily("smolvlm", "SmolVLM"),
        ModelFamily("idefics3", "Idefics3"),
        ModelFamily("llava", "LLaVA"),
        ModelFamily("fast_vlm", "FastVLM", inject=as_tensor),
    )
}
"""One entry makes a family known to workers, training, demo and benchmarks."""

_log = get_logger(__name__)


def family_of(config: Any, source: str) -> ModelFamily:
    """The family of a model's configuration.

    Args:
        config: of the model.
        source: path or hub id, for error messages.

    Raises:
        ArtifactError: it is not known.
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
    return family


def adapt(model: Any, processor: Any, *, source: str, tiles_per_edge: int = 1) -> ModelAdapter:
    """Adapter of a loaded model.

    Args:
        model: a ``...ForConditionalGeneration`` in evaluation mode.
        processor: its processor.
        source: path or hub id, for error messages.
        tiles_per_edge: see `TransformersAdapter`.

    Raises:
        ArtifactError: its family is not known, or it cannot be fed with visual features.
    """
    family = family_of(model.config, source)
    make = family.adapter or TransformersAdapter
    return make(model, processor, family, source=source, tiles_per_edge=tiles_per_edge)


def load_model(
    source: str | Path, *, device: str = "cpu", dtype: torch.dtype | None = None, tiles_per_edge: int = 1
) -> ModelAdapter:
    """Load model and processor as the model's users load them.

    Args:
        source: folder in ``save_pretrained`` format, or hub id.
        device: torch device.
        dtype: of the weights; None is float32 on a CPU and the checkpoint's own elsewhere.
        tiles_per_edge: see `TransformersAdapter`.

    Raises:
        ArtifactError: it is not there, not readable, or of a family that is not known.
    """
    name = str(source)
    is_hub_id = isinstance(source, str) and name.count("/") == 1 and not name.startswith((".", "/", "~"))
    if not Path(name).is_dir() and not is_hub_id:
        raise ArtifactError(
            name,
            "no such folder: give one in save_pretrained format or a hub id, or leave it out for the bundled model",
        )
    if dtype is None and torch.device(device).type == "cpu":
        dtype = torch.float32
    try:
        # Before the weights, which may be gigabytes.
        family_of(AutoConfig.from_pretrained(name), name)
        processor = AutoProcessor.from_pretrained(name)
        # Pickled weights run code when they are read.
        model = AutoModelForImageTextToText.from_pretrained(
            name, dtype="auto" if dtype is None else dtype, use_safetensors=True
        )
    except (
        OSError, ValueError, KeyError, ImportError, TypeError, AttributeError, RuntimeError, SafetensorError
    ) as error:  # fmt: skip
        problem = str(error).strip().split("\n")[0]
        fix = (
            "check the id and the network, or give a local folder"
            if is_hub_id
            else "save it again with save_pretrained"
        )
        raise ArtifactError(name, f"no usable vision-language model ({problem}): {fix}") from error
    model = model.to(device).eval().requires_grad_(False)
    _log.info("model loaded", model=type(model).__name__, source=name, parameters=model.num_parameters())
    return adapt(model, processor, source=name, tiles_per_edge=tiles_per_edge)
