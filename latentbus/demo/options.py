"""What a demo run is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.config.settings import FirstPrefixRule


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """Options of ``latentbus demo``.

    Attributes:
        duration_s: seconds until it drains by itself; None runs until it is stopped.
        uplink_kbps: rate of the site's uplink, every byte on the wire counted.
        cameras: number of rendered cameras; ignored with own videos.
        workers: worker processes.
        interval_s: time between frames of a camera.
        seed: seed of the rendered cameras.
        videos: own video files, one camera each.
        questions: what to ask of own videos.
        json_file: where every figure is written.
        picture_file: where the live table is drawn at the end, as SVG; None for nowhere.
        work_dir: clips, generated settings and logs.
        compare: compute the other rows of the summary from the same frames afterwards.
        record: log of everything on the broker, None for none.
        first_prefix: what the first message of a frame carries, as in the edge's settings.
        batch_frames: frames in one batch of a worker's model at most.
    """

    duration_s: float | None = None
    uplink_kbps: float = 64.0
    cameras: int = 4
    workers: int = 2
    interval_s: float = 1.0
    seed: int = 7
    videos: tuple[Path, ...] = ()
    questions: tuple[str, ...] = ()
    json_file: Path | None = None
    picture_file: Path | None = None
    work_dir: Path = Path(".demo")
    compare: bool = True
    record: Path | None = None
    first_prefix: FirstPrefixRule = "base"
    batch_frames: int = 16
