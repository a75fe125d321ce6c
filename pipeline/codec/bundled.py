"""Where the models that ship with the project lie."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from schemas.errors import ArtifactError

MODELS_DIR_VARIABLE = "LATENTBUS_MODELS_DIR"
DEFAULT_CODEC = "meta_autoencoder"
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


def _existing(folder: Path, command: str) -> Path:
    if not folder.is_dir():
        raise ArtifactError(
            str(folder),
            f"no such folder; install latentbus-models (pip install ./models in a checkout), set {MODELS_DIR_VARIABLE} "
            f"to the folder with the models, or make it: {command}",
        )
    return folder
