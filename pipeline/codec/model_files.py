"""Files of a model folder, looked at before a library reads them: what it says of a damaged one names no file."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Final

from schemas.errors import ArtifactError

_LFS: Final = b"version https://git-lfs.github.com/spec/"
_HEADER_BYTES: Final = 8
_MAX_HEADER_BYTES: Final = 100_000_000
"""Of the format itself."""


def check_model_files(folder: Path) -> None:
    """Make sure that weights and settings are whole files of their kind.

    Args:
        folder: in ``save_pretrained`` format.

    Raises:
        ArtifactError: one is a Git LFS pointer, cut off or of another format; names the file.
    """
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".json", ".model")):
        try:
            with path.open("rb") as file:
                start = file.read(len(_LFS))
        except OSError as error:
            raise ArtifactError(str(path), f"cannot be read: {error.strerror or error}") from None
        if start == _LFS:
            raise ArtifactError(
                str(path), "is a Git LFS pointer, not the file itself: run `git lfs pull` in its folder"
            )
        if path.suffix == ".safetensors":
            _check_weights(path)
        elif path.suffix == ".json":
            _check_json(path)


def _check_weights(path: Path) -> None:
    size = path.stat().st_size
    fix = "copy or download it again"
    with path.open("rb") as file:
        start = file.read(_HEADER_BYTES)
        (header_bytes,) = struct.unpack("<Q", start) if len(start) == _HEADER_BYTES else (0,)
        if not 0 < header_bytes <= _MAX_HEADER_BYTES:
            raise ArtifactError(str(path), f"is not a safetensors file: {fix}, or save the model with save_pretrained")
        header = file.read(header_bytes)
    if header[:1] != b"{":
        raise ArtifactError(str(path), f"is not a safetensors file: {fix}, or save the model with save_pretrained")
    if len(header) < header_bytes:
        raise ArtifactError(str(path), f"is cut off after {size} bytes, inside of its header: {fix}")
    try:
        tensors = json.loads(header)
        wanted = _HEADER_BYTES + header_bytes + max(
            (int(entry["data_offsets"][1]) for name, entry in tensors.items() if name != "__metadata__"), default=0
        )  # fmt: skip
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise ArtifactError(str(path), f"is not a safetensors file: {fix}") from None
    if size < wanted:
        raise ArtifactError(str(path), f"is cut off: it has {size} of {wanted} bytes: {fix}")


def _check_json(path: Path) -> None:
    try:
        json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ArtifactError(str(path), f"is not JSON ({error}): copy or download it again") from None
