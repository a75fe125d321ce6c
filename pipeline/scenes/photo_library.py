"""Photographs in class folders, held in memory as small squares, split by photograph."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.scenes.phrasings import plural_of
from schemas.errors import ArtifactError

Split: TypeAlias = Literal["train", "validation"]

EDGE_PX: Final = 32
"""Photographs are kept at this size; larger ones are cut to a square and reduced."""
_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp")
_VALIDATION_SHARE: Final = 0.1
_LAYOUT: Final = "expected CLASS/NAME.jpg (or png, webp) in a folder or a zip"
_NO_PHOTOGRAPH: Final = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, Warning)
"""What Pillow raises at files that are damaged or something else; a picture of too many pixels comes as a warning."""
_DAMAGED_MEMBER: Final = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""What a member of a zip raises that is damaged, encrypted or packed in a way that is not known."""


@dataclass(frozen=True)
class PhotoLibrary:
    """Photographs of several classes.

    Attributes:
        classes: Names of the classes, sorted.
        photos: uint8 [P, 32, 32, 3].
        labels: Class of each photograph, int64 [P].
        validation: Which ones are held out, by a hash of their names, bool [P].
    """

    classes: tuple[str, ...]
    photos: NDArray[np.uint8]
    labels: NDArray[np.int64]
    validation: NDArray[np.bool_]

    @classmethod
    def open(cls, path: Path) -> PhotoLibrary:
        """Read a class folder, or a zip of one.

        Args:
            path: Folder or file.

        Raises:
            ArtifactError: It is not there, has another layout, or holds what is no photograph.
        """
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
            files = [file for file in files if file.parent != path]
            return _from_files(path, ((f"{p.parent.name}/{p.name}", p.read_bytes()) for p in files))
        try:
            with zipfile.ZipFile(path) as archive:
                # In the order of a folder, so that the same photographs are the same library.
                ordered = sorted(archive.namelist(), key=PurePosixPath)
                inside = [name for name in ordered if PurePosixPath(name).suffix.lower() in _SUFFIXES and "/" in name]
                return _from_files(path, _members(path, archive, inside))
        except OSError as error:
            raise ArtifactError(str(path), f"no photographs ({error.strerror or error}); {_LAYOUT}") from error
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise ArtifactError(str(path), f"no zip file; {_LAYOUT}") from error

    def plural(self, name: str) -> str:
        """Plural of a class's name."""
        return plural_of(name)

    @cached_property
    def sha256(self) -> str:
        """Identity: of classes, pixels, labels and split."""
        digest = hashlib.sha256(json.dumps([self.classes, self.photos.shape]).encode())
        for part in (self.photos, self.labels, self.validation):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    @cached_property
    def _parts(self) -> dict[Split, tuple[NDArray[np.uint8], NDArray[np.int64]]]:
        return {
            "train": (self.photos[~self.validation], self.labels[~self.validation]),
            "validation": (self.photos[self.validation], self.labels[self.validation]),
        }

    def part(self, split: Split) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Photographs uint8 [n, 32, 32, 3] and labels int64 [n] of one split."""
        return self._parts[split]


def _square(content: bytes) -> NDArray[np.uint8]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(content)).convert("RGB")
    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    if image.size != (EDGE_PX, EDGE_PX):
        box = (left, top, left + edge, top + edge)
        image = image.resize((EDGE_PX, EDGE_PX), Image.Resampling.LANCZOS, box=box)
    return np.asarray(image)


def _members(path: Path, archive: zipfile.ZipFile, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    for name in names:
        try:
            content = archive.read(name)
        except _DAMAGED_MEMBER as error:
            raise ArtifactError(f"{path}:{name}", f"cannot be unpacked ({str(error)[:100]})") from error
        yield name, content


def _from_files(path: Path, files: Iterable[tuple[str, bytes]]) -> PhotoLibrary:
    photos, labels, held_out = [], [], []
    for name, content in files:
        try:
            photos.append(_square(content))
        except _NO_PHOTOGRAPH as error:
            raise ArtifactError(f"{path}:{name}", f"no photograph ({str(error)[:100]})") from error
        label = PurePosixPath(name).parent.name
        labels.append(label)
        digest = hashlib.sha256(f"{label}/{PurePosixPath(name).name}".encode()).digest()
        held_out.append(int.from_bytes(digest[:4], "big") < _VALIDATION_SHARE * 2**32)
    classes = tuple(sorted(set(labels)))
    if len(classes) < 2:
        raise ArtifactError(str(path), f"{len(photos)} photographs in {len(classes)} classes; {_LAYOUT}")
    if all(held_out) or not any(held_out):
        raise ArtifactError(
            str(path), f"{len(photos)} photographs, {sum(held_out)} of them held out: too few to train on and to test"
        )
    numbers = {name: index for index, name in enumerate(classes)}
    return PhotoLibrary(
        classes,
        np.stack(photos),
        np.array([numbers[label] for label in labels], dtype=np.int64),
        np.array(held_out, dtype=np.bool_),
    )
