"""What the previous frame says about the next: bits that conditional tables would save on rendered clips."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.codec.latent import EncodedLatent
from pipeline.codec.prefix_decoder_torch import load_transform
from pipeline.codec.spec import TABLES_FILE, load_codec_spec
from pipeline.codec.tables import FREQUENCY_TOTAL, FrequencyTables
from pipeline.codec.wire_bytes import open_wire_bytes
from pipeline.scenes.motion import SceneClip, standing_questions
from pipeline.scenes.renderer import render
from training.codec.data import Progress
from training.codec.folder import encode_all
from training.codec.train import open_vlm

FRAMES_PER_S: Final = (1, 2, 5, 10)
_FIRST_SEED: Final = 90_000_000
_CAMERAS: Final = {"cuts": 4.0, "fixed": 12.0, "still": 1e4}
"""Mean seconds of a shot. The demo's cameras see another layout every few seconds; a fixed one sees objects move on, as
long as clips are shorter than 7 seconds; before a still one nothing moves and only the sensor's noise is new."""
_SIZES: Final = 3
_RARITIES: Final = 8
_FIT_EVERY: Final = 3
_FIT_STEPS: Final = 25
_KEY_FRAMES_EVERY: Final = 10
_BATCH: Final = 32

Pairs: TypeAlias = tuple[NDArray[np.int32], NDArray[np.int32]]


def measure_temporal(
    vlm_dir: Path,
    codec_dir: Path,
    *,
    clips: int = 8,
    seconds: float = 6.0,
    seed: int = 0,
    threads: int = 2,
    progress: Progress = print,
) -> dict[str, Any]:
    """Code length of whole latents given the previous frame's symbols, against that under static tables.

    Lossless, so all answers stay what they are. Each symbol's table is a mixture of the codec's static table, of the
    symbol's value in the previous frame, and of that value plus or minus one, with weights by context that are fitted
    on some clips and scored on others. Tables counted anew for each position and previous value need far more frames
    than that: on sixteen clips they saved a third as much.

    Args:
        vlm_dir: The VLM that the codec was made for.
        codec_dir: Codec folder.
        clips: Clips that are fitted on, and as many that are scored, for each kind of camera.
        seconds: Length of a clip.
        seed: Of the clips.
        threads: CPU threads and rendering processes.
        progress: Called with a line of text now and then.

    Returns:
        JSON-ready: for each camera and frame rate mean bytes a frame without and with prediction, and percent saved,
        also with one key frame in ten, and that in wire bytes of frames sent whole with one question; the same when
        every frame is foretold from the last key frame, which all workers of a pool can hold, and not from the frame
        before.

    Raises:
        ArtifactError: codec or VLM are not usable, or do not belong together.
    """
    torch.set_num_threads(threads)
    spec = load_codec_spec(codec_dir)
    spec.check_vlm(vlm_dir)
    _, frozen = open_vlm(vlm_dir, "measured", tiles_per_edge=spec.tiles_per_edge)
    transform = load_transform(codec_dir, spec)
    tables = FrequencyTables.load(codec_dir / TABLES_FILE)
    report: dict[str, Any] = {
        "codec": codec_dir.name,
        "fingerprint": spec.fingerprint4.hex(),
        "clips_fitted": clips,
        "clips_scored": clips,
        "seconds": seconds,
        "seed": seed,
        "key_frames_every": _KEY_FRAMES_EVERY,
        "cameras": {},
    }
    for camera, mean_shot_s in _CAMERAS.items():
        jobs = [
            (_FIRST_SEED + seed * 1_000 + number, seconds, mean_shot_s, frozen.image_size_px)
            for number in range(2 * clips)
        ]
        coded: list[NDArray[np.int32]] = []
        with ProcessPoolExecutor(threads, mp_context=multiprocessing.get_context("spawn")) as pool:
            for frames in pool.map(_draw, jobs):
                parts = [
                    encode_all(transform, frozen.image_path.of_frames(frames[start : start + _BATCH]))
                    for start in range(0, len(frames), _BATCH)
                ]
                coded.append(np.concatenate(parts))
        progress(f"{camera}: {len(coded)} clips of {len(coded[0])} frames encoded")
        rows = [_row(coded[:clips], coded[clips:], tables, rate) for rate in FRAMES_PER_S]
        for row in rows:
            progress(f"{camera}: {row['frames_per_s']} frames a second, {row['saved_percent']} % fewer payload bytes")
        report["cameras"][camera] = rows
    return report


def _draw(job: tuple[int, float, float, int]) -> NDArray[np.uint8]:
    """Frames of one clip at the highest rate, uint8 [T, size, size, 3]."""
    seed, seconds, mean_shot_s, size = job
    clip = SceneClip(seed, seconds, standing_questions(seed), mean_shot_s=mean_shot_s)
    times = np.arange(round(seconds * max(FRAMES_PER_S))) / max(FRAMES_PER_S)
    return np.stack([render(clip.scene_at(float(t_s)), size) for t_s in times])


def _row(
    fitted: Sequence[NDArray[np.int32]], scored: Sequence[NDArray[np.int32]], tables: FrequencyTables, rate: int
) -> dict[str, Any]:
    """Bytes a frame at one frame rate."""
    gap = max(FRAMES_PER_S) // rate
    row = {"frames_per_s": rate, **_saving(_pairs(fitted, gap), _pairs(scored, gap), tables)}
    from_key = _saving(_key_pairs(fitted, gap), _key_pairs(scored, gap), tables)
    kept = ("pairs_scored", "symbols_unchanged", "saved_percent_with_key_frames", "saved_percent_wire_with_key_frames")
    return row | {"from_key_frame": {name: from_key[name] for name in kept}}


def _saving(train: Pairs, test: Pairs, tables: FrequencyTables) -> dict[str, Any]:
    """Bytes a frame without and with prediction, fitted on some pairs and scored on others."""
    weights = _fit(_candidates((train[0][::_FIT_EVERY], train[1][::_FIT_EVERY]), tables))
    chances, context = _candidates(test, tables)
    # What follows an escape costs the same either way, so the difference is exact.
    static = -np.log2(chances[0]).sum(axis=1)
    saved_bits = static + np.log2((chances * weights[:, context]).sum(axis=0)).sum(axis=1)
    whole = np.array([EncodedLatent(frame, tables).size_bytes(tables.latent_count) for frame in test[1]])
    predicted = whole - saved_bits / 8
    with_keys = (whole.mean() + (_KEY_FRAMES_EVERY - 1) * predicted.mean()) / _KEY_FRAMES_EVERY
    headers = open_wire_bytes(1, 1) - 1

    def saved(before: float, after: float) -> float:
        return round(100 * (1 - after / before), 1)

    return {
        "pairs_scored": len(test[0]),
        "symbols_unchanged": round(float((test[0] == test[1]).mean()), 4),
        "payload_bytes": round(float(whole.mean()), 1),
        "payload_bytes_predicted": round(float(predicted.mean()), 1),
        "saved_percent": saved(float(whole.mean()), float(predicted.mean())),
        "saved_percent_with_key_frames": saved(float(whole.mean()), float(with_keys)),
        "saved_percent_wire_with_key_frames": saved(float(headers + whole.mean()), float(headers + with_keys)),
    }


def _pairs(clips: Sequence[NDArray[np.int32]], gap: int) -> Pairs:
    """Symbols of frames and of those `gap` frames later, each int32 [P, K, d]."""
    return np.concatenate([clip[:-gap] for clip in clips]), np.concatenate([clip[gap:] for clip in clips])


def _key_pairs(clips: Sequence[NDArray[np.int32]], gap: int) -> Pairs:
    """Symbols of key frames, and of the frames up to the next key frame, each int32 [P, K, d]."""
    before, now = [], []
    for clip in clips:
        frames = clip[::gap]
        for start in range(0, len(frames), _KEY_FRAMES_EVERY):
            later = frames[start + 1 : start + _KEY_FRAMES_EVERY]
            before.append(np.repeat(frames[start : start + 1], len(later), axis=0))
            now.append(later)
    return np.concatenate(before), np.concatenate(now)


def _candidates(pair: Pairs, tables: FrequencyTables) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """How likely each way to foretell a symbol finds what came, and in which context.

    Args:
        pair: Symbols before and now, each int32 [P, K, d].
        tables: The codec's.

    Returns:
        Chances under the static table, under "as before" and under "one off" [3, P, K * d], and contexts [P, K * d]:
        how many of the two symbols sent before this one are as they were, how large the symbol was, and how likely
        that value is by itself.
    """
    support = tables.support
    rows = tables.frequencies.reshape(-1, tables.frequencies.shape[2])
    static = (rows / FREQUENCY_TOTAL).astype(np.float32)
    before, now = (symbols.reshape(len(symbols), -1) for symbols in pair)

    def chance(symbols: NDArray[np.int32]) -> NDArray[np.float32]:
        entries = np.where(np.abs(symbols) <= support, symbols + support, 2 * support + 1)
        found: NDArray[np.float32] = static[np.arange(len(static)), entries]
        return found

    same, off = before == now, np.abs(before - now) == 1
    around = np.zeros(before.shape, dtype=np.int64)
    around[:, 1:] += same[:, :-1]
    around[:, 2:] += same[:, :-2]
    rarity = np.clip(-np.log2(chance(before)), 0, _RARITIES - 1).astype(np.int64)
    context = (around * _SIZES + np.minimum(np.abs(before), _SIZES - 1)) * _RARITIES + rarity
    chances = np.stack([chance(now), same, np.float32(0.5) * off]).astype(np.float32)
    return chances, context


def _fit(candidates: tuple[NDArray[np.float32], NDArray[np.int64]]) -> NDArray[np.float32]:
    """Weights of the three candidates in each context by expectation maximisation; [3, contexts]."""
    chances, context = candidates
    count = 3 * _SIZES * _RARITIES
    weights = np.full((3, count), 1 / 3, dtype=np.float32)
    flat = context.ravel()
    total = np.bincount(flat, minlength=count) + 3
    for _ in range(_FIT_STEPS):
        shares = chances * weights[:, context]
        shares /= shares.sum(axis=0)
        found = [np.bincount(flat, weights=share.ravel(), minlength=count) + 1 for share in shares]
        weights = (np.stack(found) / total).astype(np.float32)
    return weights
