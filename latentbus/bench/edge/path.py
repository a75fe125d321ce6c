"""One way from a camera's picture to an answer, run by itself in a process of its own, so that its memory is its own.

``python -m latentbus.bench.edge.path NAME PICTURES`` prints its figures as JSON; PICTURES is a file of pictures, which
others have drawn, since that takes more memory than most paths. What is measured is the work of the device:
neither the network nor a worker. Names are `codec-fp32`, `codec-int8` (fit, encoder, whole latent coded), `jpeg` (the
picture as a JPEG file) and `vlm` (the whole model on the device, one question).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_nodes.check.memory import peak_bytes
from latentbus.bench.edge.energy import EnergyCounter, find_counter
from pipeline.codec.bundled import bundled_codec_dir, bundled_vlm_dir

Work = Callable[[NDArray[np.uint8]], int]
"""Takes a picture; bytes that leave the device."""

PATHS: Final = ("codec-fp32", "codec-int8", "jpeg", "vlm")
JPEG_QUALITY: Final = 85
QUESTION: Final = ("Is there a car?", "yes_no")
IDLE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class PathFigures:
    """What one frame takes.

    Attributes:
        ms_p50: median time.
        cpu_s: processor time, of all threads, mean.
        rss_peak_bytes: most memory that the process had.
        bytes_per_frame: that leave the device, mean, without headers.
        joules: of the machine, mean; None without a counter.
        joules_above_idle: the same without what the machine takes when it is idle.
        torch: whether the process has loaded torch.
    """

    ms_p50: float
    cpu_s: float
    rss_peak_bytes: int
    bytes_per_frame: float
    joules: float | None
    joules_above_idle: float | None
    torch: bool


def measure(
    work: Work,
    pictures: Sequence[NDArray[np.uint8]],
    frames: int,
    counter: EnergyCounter | None,
    idle_s: float = IDLE_S,
) -> PathFigures:
    """Run a path.

    Args:
        work: it.
        pictures: shown in turn.
        frames: that count; one more warms up.
        counter: of energy, if there is one.
        idle_s: how long the machine is watched doing nothing.
    """
    work(pictures[0])
    idle_w = 0.0
    if counter is not None:
        before_j, before_s = counter.joules(), time.perf_counter()
        time.sleep(idle_s)
        idle_w = (counter.joules() - before_j) / (time.perf_counter() - before_s)
    times_ms, sent_bytes = [], 0
    began_j = None if counter is None else counter.joules()
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    for number in range(frames):
        picture_s = time.perf_counter()
        sent_bytes += work(pictures[number % len(pictures)])
        times_ms.append(1000 * (time.perf_counter() - picture_s))
    used_s, passed_s = time.process_time() - began_cpu_s, time.perf_counter() - began_s
    joules = None if counter is None or began_j is None else (counter.joules() - began_j) / frames
    above = None if joules is None else joules - idle_w * passed_s / frames
    return PathFigures(
        ms_p50=round(statistics.median(times_ms), 2),
        cpu_s=round(used_s / frames, 5),
        rss_peak_bytes=peak_bytes(),
        bytes_per_frame=round(sent_bytes / frames, 1),
        joules=None if joules is None else round(joules, 4),
        joules_above_idle=None if above is None else round(above, 4),
        torch="torch" in sys.modules,
    )


def path_of(name: str, codec: Path) -> Work:
    """A path, loaded.

    Raises:
        ArtifactError: a codec or model is missing or damaged.
        ModuleNotFoundError: the whole model without torch.
    """
    match name:
        case "jpeg":
            return _as_jpeg
        case "vlm":
            return _whole_model()
    from edge_nodes.encoder import OnnxEncoder

    encoder = OnnxEncoder(codec, precision="int8" if name == "codec-int8" else "fp32")

    def encode(picture: NDArray[np.uint8]) -> int:
        (latent,) = encoder.encode([picture])
        return len(latent.payload(0, latent.latent_count))

    return encode


def _as_jpeg(picture: NDArray[np.uint8]) -> int:
    from PIL import Image

    file = BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.tell()


def _whole_model() -> Work:
    import torch

    from cloud_workers.inference.registry import load_model
    from pipeline.codec.frame_fit import fit_frame
    from pipeline.codec.spec import FrameFit
    from schemas.types import AnswerType

    torch.set_num_threads(1)
    vlm = load_model(bundled_vlm_dir())
    text, answer_type = QUESTION[0], AnswerType(QUESTION[1])

    def answer(picture: NDArray[np.uint8]) -> int:
        pixels = fit_frame(picture, vlm.frame_size_px, FrameFit())
        (found,) = vlm.answer(vlm.encode_pixels(pixels[None]), [(text, answer_type)], frames=[0])
        return len(found.text.encode())

    return answer


def main() -> int:
    """Measure one path and print its figures."""
    parser = argparse.ArgumentParser(description="One path of `latentbus bench edge`.")
    parser.add_argument("name", choices=PATHS)
    parser.add_argument("pictures", type=Path, help="uint8 [N, H, W, 3], .npy")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--codec", type=Path)
    arguments = parser.parse_args()
    counter, _ = find_counter()
    work = path_of(arguments.name, arguments.codec or bundled_codec_dir())
    pictures: NDArray[np.uint8] = np.load(arguments.pictures, mmap_mode="r")
    figures = measure(work, [np.asarray(picture) for picture in pictures], arguments.frames, counter)
    if counter is not None:
        counter.close()
    print(json.dumps(asdict(figures)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
