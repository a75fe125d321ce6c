"""Rendered clips as encoded video, the way a camera delivers them, with their truth beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Final, cast

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from pipeline.scenes.motion import SceneClip
from pipeline.scenes.questions import QuestionSpec, answer_to
from pipeline.scenes.renderer import render
from pipeline.scenes.sidecar import SIDECAR_VERSION, ClipQuestion, ClipTruth, read_sidecar, write_sidecar
from schemas.errors import SourceError

__all__ = ["ClipInfo", "ClipTruth", "decode_frames", "encode_frames", "read_sidecar", "write_clip"]

DEFAULT_SIZE: Final = 256
"""Cameras see more than the model needs; the edge resizes."""
_CRF: Final = 21
_MPEG4_BITS_PER_PIXEL: Final = 2


@dataclass(frozen=True, slots=True)
class ClipInfo:
    """What was written.

    Attributes:
        path: The video.
        sidecar: Its truth.
        frame_count: Number of frames.
        size_bytes: Size of the video file.
        codec: Encoder that was used.
    """

    path: Path
    sidecar: Path
    frame_count: int
    size_bytes: int
    codec: str


def write_clip(
    path: Path,
    *,
    seed: int,
    duration_s: float,
    fps: float,
    questions: Mapping[str, QuestionSpec],
    camera: str = "",
    size: int = DEFAULT_SIZE,
    mean_shot_s: float = 4.0,
) -> ClipInfo:
    """Render a clip, encode it (H.264, or MPEG-4 part 2 where PyAV has no libx264) and write its truth.

    Args:
        path: Where to write; the suffix chooses the container, for example `.mp4`.
        seed: Seed of the `SceneClip`.
        duration_s: Length in seconds.
        fps: Frames a second; a whole number or a simple fraction.
        questions: Standing questions by id.
        camera: Name for the sidecar; the file's stem by default.
        size: Height and width in pixels, even.
        mean_shot_s: Mean time between layouts.

    Raises:
        ValueError: A rate, size or duration that no clip can have.
        SourceError: The file cannot be written or encoded.
    """
    if fps <= 0 or size <= 0 or size % 2:
        raise ValueError(f"fps must be positive and size positive and even, got fps={fps}, size={size}")
    clip = SceneClip(seed, duration_s, tuple(questions.values()), mean_shot_s=mean_shot_s)
    scenes = [clip.scene_at(min(index / fps, duration_s)) for index in range(max(round(duration_s * fps), 1))]
    try:
        codec = encode_frames(path, (render(scene, size) for scene in scenes), fps=fps, size=size)
    except (OSError, av.error.FFmpegError) as error:
        raise SourceError(str(path), f"cannot be written: {error}") from error
    truth = ClipTruth(
        version=SIDECAR_VERSION,
        camera=camera or path.stem,
        seed=seed,
        fps=fps,
        size=size,
        duration_s=duration_s,
        questions=tuple(ClipQuestion.of(name, spec) for name, spec in questions.items()),
        truths=tuple(tuple(answer_to(question, scene) for question in clip.questions) for scene in scenes),
    )
    return ClipInfo(path, write_sidecar(path, truth), len(scenes), path.stat().st_size, codec)


def encode_frames(
    target: Path | BinaryIO, frames: Iterable[NDArray[np.uint8]], *, fps: float, size: int, crf: int = _CRF
) -> str:
    """Encode frames as H.264, or as MPEG-4 part 2 where PyAV was built without libx264.

    Args:
        target: File whose suffix chooses the container, or a seekable buffer that becomes MP4.
        frames: RGB frames, uint8 [size, size, 3] each.
        fps: Frames a second.
        size: Height and width in pixels, even.
        crf: Constant rate factor of H.264; 18 is near transparent, 34 is poor.

    Returns:
        Name of the encoder.

    Raises:
        OSError: The target cannot be written; PyAV's own errors pass through as well.
    """
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    to_buffer = not isinstance(target, Path)
    with av.open(target if to_buffer else str(target), "w", format="mp4" if to_buffer else None) as container:
        stream = cast("av.VideoStream", container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001)))
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        if codec == "libx264":
            stream.options = {"crf": str(crf), "preset": "veryfast"}
        else:
            stream.bit_rate = _MPEG4_BITS_PER_PIXEL * size * size * max(round(fps), 1)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return codec


def decode_frames(source: Path | BinaryIO) -> Iterator[NDArray[np.uint8]]:
    """Decode a video.

    Args:
        source: File, or buffer positioned at its start.

    Yields:
        RGB frames, uint8 [H, W, 3], in order of presentation.

    Raises:
        SourceError: It cannot be read or decoded.
    """
    try:
        with av.open(str(source) if isinstance(source, Path) else source, "r") as container:
            for frame in container.decode(video=0):
                yield cast("NDArray[np.uint8]", frame.to_ndarray(format="rgb24"))
    except (OSError, av.error.FFmpegError) as error:
        raise SourceError(str(source), f"cannot be decoded: {error}") from error
