"""Gathers pictures: decoded, and fitted to the model's input as an edge fits them.

Files are read twice, once to see which can be used and once for their visual tokens: fitted pictures of a large set
would take ten times the space of their tokens. Frames of a video are kept, since one cannot be read by itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.codec.frame_fit import fit_frame
from pipeline.codec.spec import FrameFit
from schemas.errors import ArtifactError
from training.codec.calibrate.disk import check_space
from training.codec.calibrate.source import Picture, PictureSource
from training.run import Progress

FRAMES: Final = "frames.npy"
LIST: Final = "pictures.json"
_LINE_EVERY: Final = 100


@dataclass(frozen=True, slots=True)
class Gathered:
    """Pictures that can be used, and those that cannot.

    Attributes:
        names: Those that can be used, in the order of their rows.
        skipped: Names and problems of those that cannot be read.
        repeated: Names of those that show exactly what another one shows.
        left_out: How many were over the limit.
        video: Whether they follow one another.
        every_s: Seconds between two frames of a video.
    """

    names: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    repeated: tuple[str, ...]
    left_out: int
    video: bool
    every_s: float | None

    def __len__(self) -> int:
        return len(self.names)

    def save(self, folder: Path) -> None:
        """Write the list."""
        (folder / LIST).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        found: dict[str, Any] = json.loads((folder / LIST).read_bytes())
        return cls(
            tuple(found["names"]),
            tuple((name, problem) for name, problem in found["skipped"]),
            tuple(found["repeated"]),
            found["left_out"],
            found["video"],
            found["every_s"],
        )


@dataclass(frozen=True, slots=True)
class Gathering:
    """How pictures are gathered.

    Attributes:
        size_px: Edge of the frames that the model reads.
        fit: How a picture of another size becomes one.
        limit: Most pictures. Of more files so many are taken, evenly spread; those that must be asked about come first.
        every_s: Seconds between two frames of a video.
    """

    size_px: int
    fit: FrameFit
    limit: int
    every_s: float


def gather(
    source: PictureSource, folder: Path, how: Gathering, progress: Progress, *, asked: frozenset[str] = frozenset()
) -> Gathered:
    """Look which pictures can be used, and write their list to `LIST`; of a video fitted frames to `FRAMES` as well.

    Args:
        source: Where they come from.
        folder: For these files.
        how: Size, limit, spacing.
        progress: Called with a line now and then.
        asked: Names that there are questions about.

    Raises:
        ConfigError: frames do not fit on the disk.
        SourceError: a video of which no frame decodes.
    """
    found = _frames(source, folder, how) if source.video else _files(source, how, progress, asked)
    found.save(folder)
    return found


class FittedPictures(Protocol):
    """Pictures in the model's size, by the row of the gathered list.

    Attributes:
        size_px: Their edge, S.
    """

    size_px: int

    def of(self, rows: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Pictures of some rows, one after the other, uint8 [S, S, 3].

        Raises:
            ArtifactError: a file can be read no more.
        """


class KeptFrames:
    """Of a video.

    Args:
        folder: That `gather` wrote to.
    """

    def __init__(self, folder: Path) -> None:
        self._frames: NDArray[np.uint8] = np.load(folder / FRAMES, mmap_mode="r")
        self.size_px = int(self._frames.shape[1])

    def of(self, rows: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """See `FittedPictures.of`."""
        return (self._frames[row] for row in rows)


class ReadPictures:
    """Of files, read when they are used.

    Args:
        source: Where they are.
        names: Of the rows.
        how: Size and fit.
    """

    def __init__(self, source: PictureSource, names: Sequence[str], how: Gathering) -> None:
        self._source, self._names, self._fit = source, names, how.fit
        self.size_px = how.size_px

    def of(self, rows: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """See `FittedPictures.of`."""
        for picture in self._source.read(self._names[row] for row in rows):
            if picture.pixels is None:
                raise ArtifactError(picture.name, f"{picture.problem}; it could be read before: run the command again")
            yield fit_frame(picture.pixels, self.size_px, self._fit)


def open_fitted(source: PictureSource, folder: Path, how: Gathering) -> FittedPictures:
    """The pictures that `gather` found usable."""
    return KeptFrames(folder) if source.video else ReadPictures(source, Gathered.load(folder).names, how)


def _files(source: PictureSource, how: Gathering, progress: Progress, asked: frozenset[str]) -> Gathered:
    chosen = _chosen(source.names, how.limit, asked)
    names: list[str] = []
    skipped: list[tuple[str, str]] = []
    repeated: list[str] = []
    known: set[bytes] = set()
    for number, picture in enumerate(source.read(iter(chosen)), start=1):
        if picture.pixels is None:
            skipped.append((picture.name, picture.problem))
            progress(f"skipped: {picture.name}: {picture.problem}")
        else:
            fitted = fit_frame(picture.pixels, how.size_px, how.fit)
            digest = hashlib.sha256(np.ascontiguousarray(fitted).data).digest()
            # The same picture in two sets would be learned and held out at once.
            if digest in known:
                repeated.append(picture.name)
            else:
                known.add(digest)
                names.append(picture.name)
        if number % _LINE_EVERY == 0:
            progress(f"pictures: {number} of {len(chosen)} read")
    left_out = len(source.names) - len(chosen)
    return Gathered(tuple(names), tuple(skipped), tuple(repeated), left_out, video=False, every_s=None)


def _chosen(names: Sequence[str], limit: int, asked: frozenset[str]) -> list[str]:
    """Names in order, evenly spread if there are too many: those that are asked about, then others."""
    mine = [name for name in names if name in asked]
    others = [name for name in names if name not in asked]
    mine = _spread(mine, limit)
    return sorted([*mine, *_spread(others, limit - len(mine))])


def _spread(names: Sequence[str], count: int) -> list[str]:
    if len(names) <= count:
        return list(names)
    return [names[index] for index in (np.arange(count) * len(names) // max(count, 1)).tolist()]


def _frames(source: PictureSource, folder: Path, how: Gathering) -> Gathered:
    """Frames at even times; when the limit is reached, every second one goes and the spacing doubles."""
    shape = (how.limit, how.size_px, how.size_px, 3)
    check_space(folder, int(np.prod(shape)), "the frames")
    frames = np.lib.format.open_memmap(folder / FRAMES, mode="w+", dtype=np.uint8, shape=shape)
    names: list[str] = []
    thinned, left_out = 1, 0
    shown: Iterator[Picture] = source.frames(how.every_s)
    for number, picture in enumerate(shown):
        if picture.pixels is None:
            continue
        if number % thinned:
            left_out += 1
            continue
        if len(names) == len(frames):
            kept = (len(names) + 1) // 2
            frames[:kept] = frames[: len(names) : 2].copy()
            left_out += len(names) - kept
            names, thinned = names[::2], 2 * thinned
            if number % thinned:
                left_out += 1
                continue
        frames[len(names)] = fit_frame(picture.pixels, how.size_px, how.fit)
        names.append(picture.name)
    frames.flush()
    return Gathered(tuple(names), (), (), left_out, video=True, every_s=how.every_s * thinned)
