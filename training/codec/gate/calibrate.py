"""The command that calibrates a codec's change gate: what is compared, and the limits that keep a risk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from pipeline.codec.gate_file import GATE_FILE, GateDistance, GateFile, GateLimits
from pipeline.codec.spec import load_codec_spec
from pipeline.codec.transform_torch import LatentTransform
from schemas.errors import ConfigError
from schemas.types import AnswerType
from training.codec.gate.clips import Clip, ClipBench, ClipPlan
from training.codec.gate.losses import GateLosses, largest_limit, limits_to_test, losses_of
from training.codec.stop.learn_then_test import Promise, frames_needed
from training.codec.vlm import open_vlm
from training.run import RunSettings

GATE_RISK: Final = 0.015
"""The gate's part of the 2 % that an operator accepts by default; the rest is the stop rule's (docs/change-gate.md)."""
OTHER_RISKS: Final = (0.00375, 0.0075, 0.0375, 0.075)
"""The gate's part of 0.5, 1, 5 and 10 %, which operators may ask for besides. Each is a promise of its own."""
CALIBRATED_TYPES: Final = (AnswerType.YES_NO, AnswerType.COUNT, AnswerType.WORD)
"""Those that rendered clips are asked; the confidence is shared between them."""
LARGEST_SHARE: Final = 0.02


@dataclass(frozen=True, slots=True)
class GateCalibration:
    """What a change gate is calibrated for, and on.

    Attributes:
        promise: Risk of the gate, and the accepted chance that it is broken; always by answer type.
        clips: Clips that limits are tested on.
        frames: Of each.
        still_clips: Clips without events that show what noise, light and wind do.
    """

    promise: Promise = field(default_factory=lambda: Promise(GATE_RISK, by_type=True))
    clips: int = 600
    frames: int = 16
    still_clips: int = 60


def calibrate_gate(
    vlm_dir: Path, codec_dir: Path, run: RunSettings, wanted: GateCalibration | None = None
) -> dict[str, Any]:
    """Find out what still scenes do to coefficients, prove limits, write ``gate.json`` and ``gate.safetensors``.

    An answer type for which no limit can be proved stays closed: the file says why, and edges ask it of every frame.
    The fingerprint of the codec does not change.

    Args:
        vlm_dir: The VLM that the codec was made for.
        codec_dir: Codec folder; the two files are written anew.
        run: Cache, seed of the clips, threads, progress.
        wanted: What to promise, on which clips.

    Returns:
        The limits, what they do on the clips that they were tested on, and what is closed.

    Raises:
        ArtifactError: The codec or the VLM is not usable, or they do not belong together.
        ConfigError: A risk that nothing can prove.
    """
    wanted = wanted or GateCalibration()
    risk, level = wanted.promise.risk, wanted.promise.delta / len(CALIBRATED_TYPES)
    frames_needed(risk, level)
    if wanted.frames < 2 or wanted.clips < 1 or wanted.still_clips < 1:
        raise ConfigError("clips", f"{wanted.clips} clips of {wanted.frames} frames, {wanted.still_clips} still ones: "
                          "one clip of two frames at least")  # fmt: skip
    torch.set_num_threads(run.threads)
    spec = load_codec_spec(codec_dir)
    spec.check_vlm(vlm_dir)
    vlm, frozen = open_vlm(vlm_dir, spec.vlm_id, tiles_per_edge=spec.tiles_per_edge, frame_size_px=spec.tile_px)
    bench = ClipBench(vlm, frozen, codec_dir, spec, run)
    still = list(bench.measure(ClipPlan("still", wanted.still_clips, wanted.frames), asks=False))
    compared = compared_of(bench.transform, still)
    limits = limits_to_test(still_distances(still, compared))
    clips = list(bench.measure(ClipPlan("calibration", wanted.clips, wanted.frames)))
    tables = losses_of(clips, compared, limits)
    proved = {other: _proved(tables, other, level) for other in sorted({risk, *OTHER_RISKS})}
    closed = {kind: why for kind in CALIBRATED_TYPES if (why := _why_closed(tables, kind, proved[risk], wanted))}
    results = {str(kind): _result(tables[kind], place) for kind, (_, place) in proved[risk].items()}
    gate = GateFile(
        spec.fingerprint.hex(),
        risk,
        tuple(
            GateLimits(other, {kind: limit for kind, (limit, _) in found.items()})
            for other, found in proved.items()
            if found
        ),
        compared,
        closed,
        {
            "clips": wanted.clips,
            "frames": wanted.frames,
            "still_clips": wanted.still_clips,
            "seed": run.seed,
            "delta": wanted.promise.delta,
            "guarantee": "Learn-then-Test, fixed sequence, p-values by betting, clips as samples",
            "scope": "for each answer type, on average over clips like these; what answers differ by from one frame to "
            "the next although nothing happens is not counted",
            "results": results,
        },
    )
    gate.save(codec_dir)
    for kind, row in results.items():
        run.progress(f"{spec.name}, {kind}: {row}")
    for kind, why in closed.items():
        run.progress(f"{spec.name}, {kind}: closed, {why}")
    run.progress(f"{codec_dir / GATE_FILE} written")
    return {
        "codec": codec_dir.name,
        "risk": risk,
        "limits": {str(kind): round(limit, 4) for kind, (limit, _) in proved[risk].items()},
        "by_risk": {
            str(other): {str(kind): round(limit, 4) for kind, (limit, _) in found.items()}
            for other, found in proved.items()
        },
        "results": results,
        "closed": {str(kind): why for kind, why in closed.items()},
        "clips": wanted.clips,
    }


def compared_of(transform: LatentTransform, still: Sequence[Clip]) -> GateDistance:
    """What is compared of two frames of a codec, weighed by what moves on still clips.

    Args:
        transform: Of the codec.
        still: Clips without events.
    """
    roots, coefficient = np.unique(transform.root.numpy(), return_inverse=True)
    unit = transform.unit.numpy().astype(np.int32)
    even = GateDistance(coefficient.astype(np.int32), unit, np.ones(len(roots), np.float32), 1)
    total, count = np.zeros(len(roots)), 0
    for clip in still:
        looks = [even.look(one.astype(np.int32)).astype(np.float64) for one in clip.symbols]
        for before, now in pairwise(looks):
            total += (now - before) ** 2
            count += 1
    return GateDistance.of_noise(even.coefficient, unit, total / max(count, 1), LARGEST_SHARE)


def still_distances(still: Sequence[Clip], compared: GateDistance) -> list[float]:
    """Distances between the first frame of each still clip and its others."""
    distances = []
    for clip in still:
        looks = [compared.look(one.astype(np.int32)) for one in clip.symbols]
        distances += [compared.between(looks[0], look) for look in looks[1:]]
    return distances


def _proved(tables: Mapping[AnswerType, GateLosses], risk: float, level: float) -> dict[AnswerType, tuple[float, int]]:
    """Limits that keep a risk, of those answer types that have one that holds anything, and their places."""
    proved = {}
    for kind, table in tables.items():
        found = largest_limit(table, risk, level)
        if found is not None and table.held[found[1]].any():
            proved[kind] = found
    return proved


def _why_closed(
    tables: Mapping[AnswerType, GateLosses],
    kind: AnswerType,
    proved: Mapping[AnswerType, tuple[float, int]],
    wanted: GateCalibration,
) -> str:
    """Why an answer type is always asked; empty where it is not."""
    if kind in proved:
        return ""
    if kind not in tables:
        return "no clip was asked such a question"
    promise = wanted.promise
    needed = frames_needed(promise.risk, promise.delta / len(CALIBRATED_TYPES))
    if wanted.clips < needed:
        return f"a risk of {promise.risk:g} needs {needed} clips at least, here are {wanted.clips}"
    table = tables[kind]
    first = int(np.argmax((table.held > 0).any(axis=1)))
    found = float(table.losses[first].mean())
    return (
        f"a risk of {promise.risk:g} cannot be proved on {wanted.clips} clips: "
        f"the strictest limit that holds any frame lost {found:.4f}"
    )


def _result(table: GateLosses, place: int) -> dict[str, float]:
    """What a limit does on the clips that it was tested on."""
    differing, loss = float(table.differing[place].mean()), float(table.losses[place].mean())
    return {
        "limit": round(float(table.limits[place]), 4),
        "risk": round(loss, 4),
        "differing": round(differing, 4),
        "differing_by_noise": round(differing - loss, 4),
        "held": round(float(table.held[place].mean()), 4),
        "held_still": round(float(table.held_still[place].mean()), 4),
    }
