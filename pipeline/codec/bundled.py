"""Where the models that ship with the project lie."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import ArtifactError

MODELS_DIR_VARIABLE = "LATENTBUS_MODELS_DIR"
DEFAULT_CODEC = "meta_autoencoder"
OWN_CODEC = "codec"
OWN_VLM = "vlm"
"""What ``latentbus codec calibrate`` writes into a directory."""
_PACKAGE = "latentbus_models"
_IN_A_CHECKOUT = Path(__file__).resolve().parents[2] / "models"
_IN_THE_WHEEL = Path(__file__).resolve().parent / "models"
"""What an edge needs of the default codec."""


def models_dir() -> Path:
    """Folder with ``reference-vlm/`` and ``codecs/``; the environment variable `LATENTBUS_MODELS_DIR` overrides it.

    An installed package looks for the package ``latentbus-models``; without it there is what an edge needs.
    """
    override = os.environ.get(MODELS_DIR_VARIABLE)
    if override:
        return Path(override)
    if not _IN_THE_WHEEL.is_dir():
        return _IN_A_CHECKOUT
    package = importlib.util.find_spec(_PACKAGE)
    folders = [] if package is None else list(package.submodule_search_locations or [])
    return Path(folders[0]) if folders else _IN_THE_WHEEL


def bundled_codec_dir(name: str = DEFAULT_CODEC) -> Path:
    """Folder of a bundled codec.

    Args:
        name: ``"meta_autoencoder"`` or ``"klt"``, each also with ``"_detailed"``.

    Raises:
        ArtifactError: it is not there.
    """
    return _existing(models_dir() / "codecs" / name, "latentbus train codec")


def bundled_vlm_dir() -> Path:
    """Folder of the bundled reference VLM, in `save_pretrained` format.

    Raises:
        ArtifactError: it is not there.
    """
    return _existing(models_dir() / "reference-vlm", "latentbus train reference-vlm")


@dataclass(frozen=True, slots=True)
class ModelPair:
    """A model and the codec that was made for it.

    Attributes:
        vlm: Folder in `save_pretrained` format.
        codec: Codec folder.
    """

    vlm: Path
    codec: Path


def models_in(folder: Path | None) -> ModelPair:
    """The model and the codec of a directory: one of ``latentbus codec calibrate``, or laid out as the bundled models.

    Args:
        folder: The directory; None for the bundled models.

    Raises:
        ArtifactError: it holds neither.
    """
    if folder is None:
        return ModelPair(bundled_vlm_dir(), bundled_codec_dir())
    layouts = [
        ModelPair(folder / OWN_VLM, folder / OWN_CODEC),
        *(ModelPair(folder / "reference-vlm", folder / "codecs" / name) for name in (DEFAULT_CODEC, "klt")),
    ]
    for pair in layouts:
        if pair.vlm.is_dir() and pair.codec.is_dir():
            return pair
    if layouts[0].vlm.is_symlink():
        raise ArtifactError(str(layouts[0].vlm), f"leads to {layouts[0].vlm.readlink()}, where no model is any more")
    raise ArtifactError(
        str(folder), "holds no model with its codec (vlm and codec); make them: latentbus codec calibrate"
    )


def _existing(folder: Path, command: str) -> Path:
    if not folder.is_dir():
        raise ArtifactError(
            str(folder),
            f"no such folder; install latentbus-models (pip install ./models in a checkout), set {MODELS_DIR_VARIABLE} "
            f"to the folder with the models, or make it: {command}",
        )
    return folder
