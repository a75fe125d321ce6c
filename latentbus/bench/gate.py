"""What the change gate saves and misses: rendered cameras that stand still, and real surveillance video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from cloud_workers.inference.adapter import ModelAdapter
from latentbus.bench.gate_site import SiteRun, Watched, camera_report, run_site
from pipeline.codec.gate_file import GateFile, find_gate_file
from pipeline.codec.prefix_decoder_torch import load_transform
from pipeline.codec.spec import TABLES_FILE, CodecSpec, load_codec_spec
from pipeline.codec.tables import FrequencyTables
from pipeline.protocol.change_gate import GATE_SHARE, ChangeGate, GateSettings
from pipeline.scenes.fixed_camera import Conditions, FixedCamera
from pipeline.scenes.motion import standing_questions
from pipeline.scenes.renderer import render
from schemas.errors import ArtifactError, ConfigError
from schemas.types import AnswerType
from training.baselines.footage import VTEST, fetch_vtest
from training.codec.answers import answers_of
from training.codec.data import ANSWER_TYPES, Asked
from training.codec.evaluate.sequences import video_sequence
from training.codec.prefixes import decode_prefixes, encode_all
from training.codec.vlm import FrozenVlm, open_vlm
from training.run import RunSettings

_RAIN: Final = Conditions(
    drift=0.06, drift_period_s=900.0, exposure=0.008, sway=0.003, rain=(0.4, 0.7), rain_period_s=600.0
)
CONDITIONS: Final = {
    "noise-and-drift": replace(_RAIN, sway=0.0, rain=(0.0, 0.0)),
    "wind": replace(_RAIN, sway=0.004, rain=(0.0, 0.0)),
    "rain-and-wind": _RAIN,
}
"""What goes on all the time before each rendered camera."""
_FIRST_SEED: Final = 900_500_000
_EVENT_S: Final = (8.0, 25.0)
_BATCH: Final = 32
_VIDEO_QUESTIONS: Final = (
    ("Is there a person?", AnswerType.YES_NO),
    ("How many people are there?", AnswerType.COUNT),
    ("What color is the person?", AnswerType.WORD),
)


@dataclass(frozen=True, slots=True)
class GateBench:
    """What is measured.

    Attributes:
        vlm_dir: the model that answers.
        codec_dir: codec folder with a change gate.
        run: cache, seed, threads, progress.
        minutes: of each rendered camera.
        events_an_hour: what happens before it.
        video: a file of a fixed camera; None fetches vtest.avi.
        with_video: measure that too.
        max_age_s: of the gate.
        renew_s: of the gate.
        rendered: names of the rendered cameras, keys of :data:`CONDITIONS`.
    """

    vlm_dir: Path
    codec_dir: Path
    run: RunSettings
    minutes: float = 20.0
    events_an_hour: float = 6.0
    video: Path | None = None
    with_video: bool = True
    max_age_s: float = 600.0
    renew_s: float = 180.0
    rendered: Sequence[str] = tuple(CONDITIONS)


def bench_gate(wanted: GateBench) -> dict[str, Any]:
    """Play each camera without a gate and without key frames, with key frames alone, and with both.

    Frames are sent whole, one a second, with three questions. Bytes are what the edge's own uplink counts, with all
    headers, statuses, notes and pings.

    Returns:
        JSON-ready: a row for each camera, what the gate's bytes are, and all still cameras together.

    Raises:
        ArtifactError: the codec or the VLM is not usable, or has no change gate.
    """
    torch.set_num_threads(wanted.run.threads)
    spec = load_codec_spec(wanted.codec_dir)
    spec.check_vlm(wanted.vlm_dir)
    rule = find_gate_file(wanted.codec_dir, spec)
    if rule is None:
        raise ArtifactError(str(wanted.codec_dir), "has no change gate: run `latentbus codec calibrate-gate`")
    vlm, frozen = open_vlm(wanted.vlm_dir, spec.vlm_id, tiles_per_edge=spec.tiles_per_edge, frame_size_px=spec.tile_px)
    model = _Model(vlm, frozen, wanted.codec_dir, spec)
    tables = FrequencyTables.load(wanted.codec_dir / TABLES_FILE)
    cameras = [
        _rendered(number, name, model, wanted) for number, name in enumerate(CONDITIONS) if name in wanted.rendered
    ]
    still = {watched.name for watched in cameras}
    not_measured: dict[str, str] = {}
    if wanted.with_video:
        try:
            cameras.append(_video(model, wanted))
        except ArtifactError as error:
            not_measured[VTEST] = str(error)
    rows: list[dict[str, Any]] = []
    kinds: dict[str, dict[str, int]] = {}
    for watched in cameras:
        runs = _runs(watched, tables, rule, wanted)
        row = camera_report(watched, runs, rule.risk)
        rows.append(row)
        hours = watched.duration_s / 3600
        kinds[watched.name] = {kind: round(size / hours) for kind, size in sorted(runs["gate"].wire_bytes.items())}
        wanted.run.progress(f"{watched.name}: {row}, {dict(runs['gate'].reasons)}")
    names = ("bytes_an_hour_without", "bytes_an_hour_key_frames", "bytes_an_hour_gate")
    total = {name: sum(row[name] for row in rows if row["camera"] in still) for name in names}
    return {
        "codec": wanted.codec_dir.name,
        "fingerprint": spec.fingerprint4.hex(),
        "every_s": 1.0,
        "max_age_s": wanted.max_age_s,
        "renew_s": wanted.renew_s,
        "risk": round(rule.risk / GATE_SHARE, 4),
        "still_scenes": {
            **total,
            "times_fewer_than_key_frames": round(total["bytes_an_hour_key_frames"] / total["bytes_an_hour_gate"], 1),
        },
        "cameras": rows,
        "bytes_an_hour_with_the_gate_by_kind": kinds,
        "not_measured": not_measured,
    }


def checked_cameras(names: Sequence[str] | None) -> tuple[str, ...]:
    """Rendered cameras by their names; all of them where none is named.

    Raises:
        ConfigError: a name that no camera has.
    """
    unknown = sorted(set(names or ()) - CONDITIONS.keys())
    if unknown:
        raise ConfigError("--camera", f"{unknown[0]!r} is none of {', '.join(CONDITIONS)}")
    return tuple(names or CONDITIONS)


def _runs(watched: Watched, tables: FrequencyTables, rule: GateFile, wanted: GateBench) -> dict[str, SiteRun]:
    settings = GateSettings(risk=rule.risk / GATE_SHARE, max_age_s=wanted.max_age_s, renew_s=wanted.renew_s)
    return {
        "without_gate": run_site(watched, tables, key_frames=False),
        "key_frames": run_site(watched, tables),
        "gate": run_site(watched, tables, gate=ChangeGate(rule, settings)),
    }


class _Model:
    """Codec and VLM."""

    def __init__(self, vlm: ModelAdapter, frozen: FrozenVlm, codec_dir: Path, spec: CodecSpec) -> None:
        self.spec, self.size_px = spec, frozen.image_size_px
        self._vlm, self._frozen = vlm, frozen
        self._transform = load_transform(codec_dir, spec)

    def measure(
        self, frames: NDArray[np.uint8], questions: list[tuple[str, AnswerType]]
    ) -> tuple[NDArray[np.int32], NDArray[np.str_]]:
        """Symbols int32 [F, K, d], and answers from whole latents [F, Q]."""
        with torch.no_grad():
            symbols = encode_all(self._transform, self._frozen.image_path.of_frames(frames))
        tokens = decode_prefixes(self._transform, symbols, self.spec.latent_count)
        asked = [Asked(frame, text, kind, text, None) for frame in range(len(frames)) for text, kind in questions]
        return symbols, answers_of(self._vlm, tokens, asked).texts.reshape(len(frames), -1)


def _rendered(number: int, name: str, model: _Model, wanted: GateBench) -> Watched:
    seed = _FIRST_SEED + wanted.run.seed * 1_000 + number
    frames = round(wanted.minutes * 60)
    asked = standing_questions(seed, ("existence", "color", "count"))
    rng = np.random.default_rng([seed, 11])
    camera = FixedCamera(seed, asked, _event_times_s(rng, frames, wanted.events_an_hour), conditions=CONDITIONS[name])
    questions = [(question.text, ANSWER_TYPES[question.kind]) for question in asked]
    symbols, texts = [], []
    for start in range(0, frames, _BATCH):
        times = range(start, min(start + _BATCH, frames))
        pictures = np.stack([render(camera.scene_at(float(time_s)), model.size_px) for time_s in times])
        some, answers = model.measure(pictures, questions)
        symbols.append(some)
        texts.append(answers)
        if start // _BATCH % 5 == 4:
            wanted.run.progress(f"{name}: {start + _BATCH} of {frames} frames")
    happens = np.array([camera.event_at(float(time_s)) is not None for time_s in range(frames)])
    events = [
        (int(np.ceil(event.start_s)), min(int(np.ceil(event.end_s)), frames) - 1)
        for event in camera.events
        if event.start_s < frames
    ]
    found = np.concatenate(texts)
    quiet = found[~happens]
    noise = (quiet[1:] != quiet[:-1]).mean(axis=0)
    return Watched(name, 1.0, np.concatenate(symbols), found, questions, noise, events)


def _event_times_s(rng: np.random.Generator, frames: int, events_an_hour: float) -> list[tuple[float, float]]:
    """Rare events, spread over the time."""
    count = max(1, round(frames * events_an_hour / 3600))
    starts = [(number + float(rng.uniform(0.3, 0.7))) * frames / count for number in range(count)]
    return [(start, start + float(rng.uniform(*_EVENT_S))) for start in starts]


def _video(model: _Model, wanted: GateBench) -> Watched:
    path = wanted.video or fetch_vtest(wanted.run.cache_dir)
    sequence = video_sequence(path, model.size_px, model.spec.fit, (), every_s=0.5)
    frames = np.asarray(sequence.data.frames)[: len(sequence.data) // 2 * 2]
    questions = list(_VIDEO_QUESTIONS)
    parts = [model.measure(frames[start : start + _BATCH], questions) for start in range(0, len(frames), _BATCH)]
    symbols, texts = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    # Nobody knows when nothing happens; half a second later is as near as it gets.
    noise = (texts[::2] != texts[1::2]).mean(axis=0)
    return Watched(path.name, 1.0, symbols[::2], texts[::2], questions, noise)
