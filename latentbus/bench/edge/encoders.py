"""Both encoders of a codec folder in turn: time of a frame, the codec's share of it, and the answers that differ."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from edge_nodes.encoder import OnnxEncoder
from pipeline.codec.spec import ENCODER_FILES, Precision
from schemas.errors import ArtifactError

if TYPE_CHECKING:
    from training.codec.fit.answer_parity import AnswerParity

THREADS: Final = 1


@dataclass(frozen=True, slots=True)
class EncoderTimes:
    """Times of a frame with one encoder, on one thread.

    Attributes:
        ms_p50: median time: fit, encoder, latent.
        cpu_ms_p50: median processor time of the same.
        codec_share: share of the processor time that is spent behind the vision tower and its connector: analysis,
            rounding, range coding of the whole latent; None where the encoder shows no tokens.
    """

    ms_p50: float
    cpu_ms_p50: float
    codec_share: float | None


def time_encoders(
    folder: Path, pictures: Sequence[NDArray[np.uint8]], frames: int
) -> tuple[dict[Precision, EncoderTimes], list[str]]:
    """Time the encoders of a folder in turn, so that all meet the same load of the machine.

    Args:
        folder: codec folder.
        pictures: RGB, each uint8 [H, W, 3], shown in turn.
        frames: that count.

    Returns:
        Times by precision, and what could not be measured.

    Raises:
        ArtifactError: the encoder in float is missing or damaged.
    """
    encoders: dict[Precision, OnnxEncoder] = {"fp32": OnnxEncoder(folder, threads=THREADS)}
    notes = []
    if (folder / ENCODER_FILES["int8"]).is_file():
        encoders["int8"] = OnnxEncoder(folder, precision="int8", threads=THREADS)
    else:
        notes.append(f"no encoder in 8-bit integers: latentbus codec export --codec {folder.name} --int8")
    steps: dict[tuple[Precision, str], Callable[[NDArray[np.uint8]], object]] = {}
    for precision, encoder in encoders.items():
        steps[precision, "whole"] = _coded(encoder)
        try:
            encoder.tokens([pictures[0]])
            steps[precision, "tower"] = _towered(encoder)
        except ArtifactError as error:
            notes.append(f"codec_share of {precision}: {error.problem}")
    passed: dict[tuple[Precision, str], list[float]] = {key: [] for key in steps}
    used: dict[tuple[Precision, str], list[float]] = {key: [] for key in steps}
    for number in range(frames):
        picture = pictures[number % len(pictures)]
        for key, step in steps.items():
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            step(picture)
            used[key].append(1000 * (time.process_time() - began_cpu_s))
            passed[key].append(1000 * (time.perf_counter() - began_s))
    found: dict[Precision, EncoderTimes] = {}
    for precision in encoders:
        whole_ms = statistics.median(used[precision, "whole"])
        tower = used.get((precision, "tower"))
        share = None if tower is None else round(max(0.0, 1 - statistics.median(tower) / whole_ms), 4)
        found[precision] = EncoderTimes(
            round(statistics.median(passed[precision, "whole"]), 2), round(whole_ms, 2), share
        )
    return found, notes


def compare_answers(folder: Path, vlm_dir: Path, cache: Path, frames: int) -> AnswerParity:
    """Answers to the whole latents of both encoders, from a worker's model.

    Args:
        folder: codec folder with both.
        vlm_dir: the model that the codec was made for.
        cache: for drawn frames.
        frames: held-out frames, some five questions each.

    Raises:
        ModuleNotFoundError: there is no torch here.
        ArtifactError: there is no such encoder, or model and codec do not belong together.
    """
    from pipeline.codec.prefix_decoder_torch import load_transform
    from training.codec.data import scene_set
    from training.codec.fit.answer_parity import AnswerParity
    from training.codec.points import DOMAINS, point_of
    from training.codec.vlm import open_vlm
    from training.run import RunSettings, silent

    encoders = [OnnxEncoder(folder, precision=precision) for precision in ENCODER_FILES]
    spec = encoders[0].spec
    spec.check_vlm(vlm_dir)
    vlm, frozen = open_vlm(vlm_dir, spec.vlm_id, tiles_per_edge=spec.tiles_per_edge, frame_size_px=spec.tile_px)
    domain = DOMAINS[point_of(frozen)]
    data = scene_set("report", frames, spec.image_size_px, RunSettings(cache, progress=silent), domains=(domain,))
    symbols = [
        np.stack([encoder.encode([frame])[0].symbols for frame in np.asarray(data.frames)]) for encoder in encoders
    ]
    return AnswerParity.of(vlm, load_transform(folder, spec), symbols, data)


def _coded(encoder: OnnxEncoder) -> Callable[[NDArray[np.uint8]], object]:
    def code(picture: NDArray[np.uint8]) -> bytes:
        (latent,) = encoder.encode([picture])
        return latent.payload(0, latent.latent_count)

    return code


def _towered(encoder: OnnxEncoder) -> Callable[[NDArray[np.uint8]], object]:
    return lambda picture: encoder.tokens([picture])
