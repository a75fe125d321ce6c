"""A camera that stands still, one picture at each question: a video file, or rendered clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import torch

from training.codec.data import Asked, Domain
from training.codec.evaluate.models import open_codecs
from training.codec.evaluate.sequence_bench import SequenceBench, VideoSize
from training.codec.evaluate.sequences import SURVEILLANCE_QUESTIONS, rendered_clips, video_sequence
from training.codec.frame_source import FrameSource
from training.run import RunSettings

VIDEO_SIZE: Final = VideoSize(120, 8, 20, 80, 24, 8, 7, 6)
VIDEO_QUICK: Final = VideoSize(32, 3, 10, 32, 12, 4, 3, 2, quick=True)


@dataclass(frozen=True, slots=True)
class VideoEvaluation:
    """What to evaluate.

    Attributes:
        vlm_dir: The VLM that the codecs were made for.
        codec_dirs: Folders of one operating point; the first is the one that is compared with all others.
        run: Cache, seed of clips, drawn frames and resamples, threads, progress.
        size: How much is measured.
        video: A file; rendered clips unless given.
        questions: Asked of every frame of a video.
        every_s: Time between two frames that are taken.
        domain: Of the drawn frames that feature baselines learn on.
    """

    vlm_dir: Path
    codec_dirs: Sequence[Path]
    run: RunSettings
    size: VideoSize
    video: Path | None = None
    questions: Sequence[Asked] = SURVEILLANCE_QUESTIONS
    every_s: float = 1.0
    domain: Domain = "rendered"

    def with_frames(self, frames: int | None) -> Self:
        """The same with another number of frames of a video, or of each clip."""
        return self if frames is None else replace(self, size=replace(self.size, frames=frames, clip_frames=frames))


def evaluate_video(wanted: VideoEvaluation) -> dict[str, Any]:
    """Measure codecs and baselines on sequences, with no frame left out.

    Settings of baselines are chosen in hindsight, on frames that are reported too. In ratios the best point of each
    size counts, of ours and of theirs.

    Args:
        wanted: What to evaluate.

    Returns:
        JSON-ready; see docs/baselines.md.

    Raises:
        ArtifactError: A codec or the VLM is not usable, or they do not belong together.
        ConfigError: The codecs are of different operating points, or the video is too short.
        SourceError: The video cannot be read.
    """
    torch.set_num_threads(wanted.run.threads)
    opened = open_codecs(wanted.vlm_dir, wanted.codec_dirs)
    spec, frozen, size = opened.specs[0], opened.frozen, wanted.size
    if wanted.video is None:
        sequences = rendered_clips(
            size.clips, size.clip_frames, frozen.image_size_px, every_s=wanted.every_s, seed=wanted.run.seed
        )
    else:
        sequences = video_sequence(
            wanted.video, frozen.image_size_px, spec.fit, wanted.questions, every_s=wanted.every_s, frames=size.frames
        )
    known = FrameSource(frozen, wanted.run, (wanted.domain,)).frames("selection", size.known)
    bench = SequenceBench(sequences, opened, size, wanted.run)
    tokens = frozen.image_path.of_frames(known.frames).half()
    return {
        **opened.report(),
        "seed": wanted.run.seed,
        **bench.measure(wanted.codec_dirs, tokens),
    }
