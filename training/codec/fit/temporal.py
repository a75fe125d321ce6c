"""What key frames save on rendered clips: fits the tables given a key frame on some, and codes others with them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.codec.latent import EncodedLatent
from pipeline.codec.prefix_decoder_torch import load_transform
from pipeline.codec.prefix_policy import Link, PrefixPolicy
from pipeline.codec.spec import TABLES_FILE, load_codec_spec
from pipeline.codec.stop_file import StopFile, find_stop_file
from pipeline.codec.tables import FrequencyTables
from pipeline.codec.transform_torch import LatentTransform
from pipeline.codec.wire_bytes import key_frame_wire_bytes, open_wire_bytes
from pipeline.scenes.motion import SceneClip, standing_questions
from pipeline.scenes.renderer import render
from schemas.types import AnswerType
from training.codec.fit.folder import put_tables
from training.codec.fit.prediction import Pairs, fit_prediction
from training.codec.key_frames import coded_by_policy
from training.codec.prefixes import encode_all
from training.codec.vlm import FrozenVlm, open_vlm
from training.run import RunSettings

FRAMES_PER_S: Final = (1, 2, 5, 10)
_FIRST_SEED: Final = 90_000_000
_CAMERAS: Final = {"cuts": 4.0, "fixed": 12.0, "still": 1e4}
"""Mean seconds of a shot. The demo's cameras see another layout every few seconds; a fixed one sees objects move on, as
long as clips are shorter than 7 seconds; before a still one nothing moves and only the sensor's noise is new."""
_KEY_FRAMES_EVERY: Final = 10
_BATCH: Final = 16
_QUESTIONS: Final = (AnswerType.YES_NO, AnswerType.WORD, AnswerType.COUNT)


@dataclass(frozen=True, slots=True)
class Clips:
    """Rendered clips to fit and to score on.

    Attributes:
        count: Clips that are fitted on, and as many that are scored, for each kind of camera.
        seconds: Length of a clip.
    """

    count: int = 8
    seconds: float = 6.0


def measure_temporal(
    vlm_dir: Path, codec_dir: Path, run: RunSettings, clips: Clips, *, write: bool = False
) -> dict[str, Any]:
    """Bytes of whole latents given a key frame, against those of latents by themselves.

    Lossless, so all answers stay what they are.

    Args:
        vlm_dir: The VLM that the codec was made for.
        codec_dir: Codec folder.
        run: Seed of the clips, threads, progress.
        clips: How many and how long.
        write: Put the fitted tables into the codec folder. Its fingerprint changes: edges and workers need the new one.

    Returns:
        JSON-ready: for each camera and frame rate mean bytes a frame by itself and given the last of one key frame in
        ten, and percent saved with the key frames counted in; then what the edge's own policy makes of the same clips
        one after the other, in wire bytes of frames sent whole with one question, the key frames' messages included;
        and the same with first prefixes chosen by the stop rule's statistics, three questions a frame, bytes expected
        until all is answered, where the codec has a calibrated stop rule.

    Raises:
        ArtifactError: codec or VLM are not usable, or do not belong together.
    """
    torch.set_num_threads(run.threads)
    spec = load_codec_spec(codec_dir)
    spec.check_vlm(vlm_dir)
    _, frozen = open_vlm(vlm_dir, "measured", tiles_per_edge=spec.tiles_per_edge, frame_size_px=spec.tile_px)
    coded = _coded_clips(load_transform(codec_dir, spec), frozen, run, clips)
    tables = _with_prediction(codec_dir, coded, clips.count, run.seed)
    if write:
        spec = put_tables(codec_dir, tables)
        run.progress(
            f"tables given a key frame written to {codec_dir / TABLES_FILE}: fingerprint {spec.fingerprint4.hex()}"
        )
    stop = find_stop_file(codec_dir)
    cameras: dict[str, list[dict[str, Any]]] = {}
    for camera, encoded in coded.items():
        cameras[camera] = [row(encoded[clips.count :], tables, rate, stop) for rate in FRAMES_PER_S]
        for measured in cameras[camera]:
            run.progress(f"{camera}, {_line_of(measured)}")
    return {
        "codec": codec_dir.name,
        "fingerprint": spec.fingerprint4.hex(),
        "clips_fitted": clips.count,
        "clips_scored": clips.count,
        "seconds": clips.seconds,
        "seed": run.seed,
        "key_frames_every": _KEY_FRAMES_EVERY,
        "cameras": cameras,
    }


def _line_of(measured: dict[str, Any]) -> str:
    policy = measured["policy"]
    return (
        f"{measured['frames_per_s']} frames a second: {measured['saved_percent']} % of payload with one key frame in "
        f"{_KEY_FRAMES_EVERY}, {policy['saved_percent_wire']} % of wire bytes by the policy, "
        f"{policy.get('saved_percent_wire_with_stop_rule', '-')} % with the stop rule"
    )


def _coded_clips(
    transform: LatentTransform, frozen: FrozenVlm, run: RunSettings, clips: Clips
) -> dict[str, list[NDArray[np.int32]]]:
    """Symbols of twice as many clips of each kind of camera, each int32 [T, K, d]."""
    coded: dict[str, list[NDArray[np.int32]]] = {}
    for camera, mean_shot_s in _CAMERAS.items():
        first = _FIRST_SEED + run.seed * 1_000
        jobs = [(first + number, clips.seconds, mean_shot_s, frozen.image_size_px) for number in range(2 * clips.count)]
        coded[camera] = []
        with ProcessPoolExecutor(run.threads, mp_context=multiprocessing.get_context("spawn")) as pool:
            for frames in pool.map(_draw, jobs):
                parts = [
                    encode_all(transform, frozen.image_path.of_frames(frames[start : start + _BATCH]))
                    for start in range(0, len(frames), _BATCH)
                ]
                coded[camera].append(np.concatenate(parts))
        run.progress(f"{camera}: {len(coded[camera])} clips of {len(coded[camera][0])} frames encoded")
    return coded


def row(
    scored: Sequence[NDArray[np.int32]], tables: FrequencyTables, rate: int, stop: StopFile | None = None
) -> dict[str, Any]:
    """Bytes a frame at one frame rate.

    Args:
        scored: Symbols of clips at the highest rate, each int32 [T, K, d].
        tables: With a prediction.
        rate: Frames a second.
        stop: The codec's stop rule.
    """
    gap = max(FRAMES_PER_S) // rate
    by_itself = given_key = frames = 0
    changed = 0.0
    for clip in scored:
        for number, symbols in enumerate(clip[::gap]):
            latent = EncodedLatent(symbols, tables)
            whole_bytes = latent.size_bytes(latent.latent_count)
            if number % _KEY_FRAMES_EVERY == 0:
                key, key_symbols = latent.as_key(), symbols
                given_key += whole_bytes
            else:
                given_key += latent.given(key).size_bytes(latent.latent_count)
                changed += float((symbols != key_symbols).mean())
                frames += 1
            by_itself += whole_bytes
    total = sum(len(clip[::gap]) for clip in scored)
    return {
        "frames_per_s": rate,
        "frames": total,
        "symbols_unchanged": round(1 - changed / max(frames, 1), 4),
        "payload_bytes": round(by_itself / total, 1),
        "payload_bytes_given_key": round(given_key / total, 1),
        "saved_percent": _saved(by_itself, given_key),
        "policy": _by_policy(scored, tables, gap, stop),
    }


def _by_policy(
    scored: Sequence[NDArray[np.int32]], tables: FrequencyTables, gap: int, stop: StopFile | None
) -> dict[str, Any]:
    """What an edge would send of the clips, one after the other: each begins with a cut."""
    latents = [EncodedLatent(symbols, tables) for clip in scored for symbols in clip[::gap]]
    coded = coded_by_policy(latents)
    given = [frame.given for frame in coded]
    whole = [latent.size_bytes(latent.latent_count) for latent in latents]
    sent = [frame.sent.size_bytes(frame.sent.latent_count) for frame in coded]
    keys = [frame.key_bytes for frame in coded if frame.key_bytes]
    key_wire_bytes = sum(map(key_frame_wire_bytes, keys))
    wire_by_itself = sum(open_wire_bytes(size, 1) for size in whole)
    wire = sum(open_wire_bytes(size, 1) for size in sent) + key_wire_bytes
    row = {
        "key_frames_share": round(len(keys) / len(latents), 4),
        "saved_percent_payload": _saved(sum(whole), sum(sent) + sum(keys)),
        "saved_percent_wire": _saved(wire_by_itself, wire),
        "wire_bytes": round(wire / len(latents), 1),
        "wire_bytes_by_itself": round(wire_by_itself / len(latents), 1),
    }
    if stop is None or stop.statistics is None:
        return row
    by_itself, with_keys = (
        _expected_wire_bytes(PrefixPolicy(stop.statistics, at_once=stop.rule.at_once), latents, way)
        for way in ([None] * len(latents), given)
    )
    with_keys += key_wire_bytes
    return row | {
        "saved_percent_wire_with_stop_rule": _saved(by_itself, with_keys),
        "wire_bytes_with_stop_rule": round(with_keys / len(latents), 1),
        "wire_bytes_by_itself_with_stop_rule": round(by_itself / len(latents), 1),
    }


def _expected_wire_bytes(
    policy: PrefixPolicy, latents: Sequence[EncodedLatent], given: Sequence[EncodedLatent | None]
) -> float:
    """Of frames whose first prefix the policy chooses, until all is answered."""
    return sum(
        policy.choose_for("camera", latent, _QUESTIONS, Link(), given=other).wire_bytes
        for latent, other in zip(latents, given, strict=True)
    )


def _with_prediction(
    codec_dir: Path, coded: dict[str, list[NDArray[np.int32]]], clips: int, seed: int
) -> FrequencyTables:
    tables = FrequencyTables.load(codec_dir / TABLES_FILE)
    found = [
        key_pairs(encoded[:clips], max(FRAMES_PER_S) // rate) for encoded in coded.values() for rate in FRAMES_PER_S
    ]
    pairs = np.concatenate([before for before, _ in found]), np.concatenate([now for _, now in found])
    return FrequencyTables(tables.frequencies, fit_prediction(pairs, tables, seed=seed))


def key_pairs(clips: Sequence[NDArray[np.int32]], gap: int) -> Pairs:
    """Key frames, and the frames up to the next key frame.

    Args:
        clips: Symbols of consecutive frames, each int32 [T, K, d].
        gap: Every so many-th frame is looked at.
    """
    before, now = [], []
    for clip in clips:
        frames = clip[::gap]
        for start in range(0, len(frames), _KEY_FRAMES_EVERY):
            later = frames[start + 1 : start + _KEY_FRAMES_EVERY]
            before.append(np.repeat(frames[start : start + 1], len(later), axis=0))
            now.append(later)
    return np.concatenate(before), np.concatenate(now)


def _draw(job: tuple[int, float, float, int]) -> NDArray[np.uint8]:
    """Frames of one clip at the highest rate, uint8 [T, size, size, 3]."""
    seed, seconds, mean_shot_s, size = job
    clip = SceneClip(seed, seconds, standing_questions(seed), mean_shot_s=mean_shot_s)
    times = np.arange(round(seconds * max(FRAMES_PER_S))) / max(FRAMES_PER_S)
    return np.stack([render(clip.scene_at(float(t_s)), size) for t_s in times])


def _saved(before: float, after: float) -> float:
    return round(100 * (1 - after / before), 1)
