"""Visual tokens of pictures, computed once and kept on disk; a run that was killed goes on where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from schemas.errors import ArtifactError
from training.codec.calibrate.disk import check_space
from training.codec.calibrate.pictures import FittedPictures
from training.codec.image_path import PixelsToTokens
from training.run import Progress

_BATCH_PIXELS: Final = 1 << 21
"""Of one pass of the tower: eight frames of 512 px."""
_MOST_FRAMES: Final = 16
_SAVE_EVERY_S: Final = 5.0


def batch_frames(size_px: int) -> int:
    """Frames of one pass of the tower."""
    return max(1, min(_MOST_FRAMES, _BATCH_PIXELS // size_px**2))


def fill_tokens(
    path: Path,
    image_path: PixelsToTokens,
    pictures: FittedPictures,
    rows: Sequence[int],
    shape: tuple[int, int],
    progress: Progress,
    *,
    source: str,
) -> Tensor:
    """Uncompressed visual tokens of chosen frames, float16 [F, N, D], mapped from a file.

    Args:
        path: The file; how far it is filled lies beside it.
        image_path: From pixels to tokens.
        pictures: In the model's size.
        rows: Of these pictures, in the order of the tokens.
        shape: N and D.
        progress: Called with a line now and then.
        source: Path or id of the model, for errors.

    Raises:
        ArtifactError: the tower gives values that half precision does not hold, or a picture can be read no more.
        ConfigError: the tokens do not fit on the disk.
    """
    count, done = len(rows), path.with_suffix(".json")
    filled = _filled(path, done, (count, *shape))
    if filled is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        done.unlink(missing_ok=True)
        check_space(path.parent, 2 * count * shape[0] * shape[1], "visual tokens")
        np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(count, *shape)).flush()
        filled = 0
    tokens = np.lib.format.open_memmap(path, mode="r+")
    batch = batch_frames(pictures.size_px)
    shown = pictures.of(rows[filled:])
    began = saved = time.monotonic()
    before = filled
    while filled < count:
        frames = np.stack(list(islice(shown, batch)))
        found = image_path.of_frames(frames)
        half = found.half()
        if not bool(torch.isfinite(half).all()):
            largest = float(found.nan_to_num(nan=torch.inf).abs().max())
            raise ArtifactError(
                source, f"its tower gives values up to {largest:g}, which are not finite in half precision: no codec"
            )
        tokens[filled : filled + len(frames)] = half.numpy()
        filled += len(frames)
        now = time.monotonic()
        if filled == count or now - saved >= _SAVE_EVERY_S:
            saved = now
            tokens.flush()
            _note(done, filled)
            left_s = (now - began) / (filled - before) * (count - filled)
            progress(f"visual tokens: {filled} of {count} pictures, {left_s / 60:.1f} min left")
    return open_tokens(path)


def kept_tokens(path: Path, shape: tuple[int, int, int]) -> Tensor | None:
    """Tokens of a file that `fill_tokens` has finished, [F, N, D]; None if there is no such file."""
    return open_tokens(path) if _filled(path, path.with_suffix(".json"), shape) == shape[0] else None


def open_tokens(path: Path) -> Tensor:
    """Tokens of a file, float16 [F, N, D]; they are read when they are used."""
    # Copy on write, since torch warns of arrays that cannot be written to; nobody writes.
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def _filled(path: Path, done: Path, shape: tuple[int, ...]) -> int | None:
    """How many frames are done; None if the file has to be made anew."""
    try:
        filled = int(json.loads(done.read_bytes())["frames"])
        found = np.load(path, mmap_mode="r").shape
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return filled if found == shape and 0 <= filled <= shape[0] else None


def _note(done: Path, filled: int) -> None:
    partial = done.with_suffix(".partial")
    partial.write_text(json.dumps({"frames": filled}), encoding="utf-8")
    partial.replace(done)
