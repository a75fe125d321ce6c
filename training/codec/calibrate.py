"""The command that calibrates a codec's stop rule and chooses its base prefix."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from pipeline.codec.prefix_decoder_torch import load_transform
from pipeline.codec.spec import TABLES_FILE, load_codec_spec
from pipeline.codec.tables import FrequencyTables
from pipeline.protocol.stop_rule import NEVER
from training.codec.data import Progress, cached_tokens, scene_set
from training.codec.folder import encode_all, even_ladder, write_stop
from training.codec.measure import measure_prefixes
from training.codec.stop import apply_policy, calibrate_thresholds, choose_ladder
from training.codec.train import open_vlm

_CANDIDATES: Final = 8
"""Prefix lengths that ladders are built from, evenly spaced in bytes."""
_LADDER_SHARE: Final = 0.4
"""Share of the frames on which the ladder is chosen; the others carry the guarantee."""
_REFINED_RANGE: Final = (0.02, 0.30)


def calibrate_stop(
    vlm_dir: Path,
    codec_dir: Path,
    cache_dir: Path,
    *,
    risk: float = 0.02,
    delta: float = 0.1,
    frames: int = 2_500,
    seed: int = 0,
    threads: int = 2,
    progress: Progress = print,
) -> dict[str, Any]:
    """Choose ladder and base prefix, find the thresholds, write ``stop.json`` and the ladder in ``codec.json``.

    The frames are those of no other set. The fingerprint of the codec does not change.

    Args:
        vlm_dir: The VLM that the codec was made for.
        codec_dir: Codec folder; `stop.json` and `codec.json` are written anew.
        cache_dir: For frames and tokens.
        risk: Accepted share of early answers that differ from the whole latent's.
        delta: Accepted chance that the thresholds break that promise on frames like these.
        frames: Calibration frames.
        seed: Of the frames.
        threads: CPU threads.
        progress: Called with a line of text now and then.

    Returns:
        The policy, what it does on both halves of the frames, and the best ladders that were considered.

    Raises:
        ArtifactError: the codec or the VLM is not usable, or they do not belong together.
    """
    torch.set_num_threads(threads)
    spec = load_codec_spec(codec_dir)
    spec.check_vlm(vlm_dir)
    vlm, frozen = open_vlm(vlm_dir, spec.vlm_id)
    data = scene_set(
        "calibration",
        cache_dir,
        count=frames,
        size=spec.image_size_px,
        seed=seed,
        processes=threads,
        progress=progress,
    )
    tokens = cached_tokens(
        frozen.image_path, data.frames, cache_dir / f"tokens-{frozen.sha256[:12]}" / f"calibration-{seed}-{frames}.npy"
    )
    symbols = encode_all(load_transform(codec_dir, spec), tokens)
    tables = FrequencyTables.load(codec_dir / TABLES_FILE)
    candidates = even_ladder(tables.symbol_bits(symbols, 0, spec.latent_count).sum(axis=2).mean(axis=0), _CANDIDATES)
    answers = measure_prefixes(vlm, codec_dir, tokens, data.asked, candidates, progress)
    choosing = np.zeros(frames, dtype=np.bool_)
    choosing[np.random.default_rng([seed, 3]).permutation(frames)[: round(_LADDER_SHARE * frames)]] = True
    ladder, table = choose_ladder(answers, data.asked, choosing, risk, delta, _REFINED_RANGE)
    policy = calibrate_thresholds(answers, data.asked, ~choosing, ladder, risk, delta)
    result = apply_policy(policy, answers, data.asked, ~choosing)
    # An answer type that no question of the calibration has waits for the whole latent.
    default = [NEVER] * (len(ladder) - 1) + [0.0]
    thresholds = {
        str(name): [round(limit, 7)] * (len(ladder) - 1) + [0.0] for name, limit in sorted(policy.thresholds.items())
    }
    source = {
        "frames": int((~choosing).sum()),
        "questions": sum(1 for item in data.asked if not choosing[item.frame]),
        "seed": seed,
        "delta": delta,
        "guarantee": "Learn-then-Test, fixed sequence, Hoeffding-Bentkus, by frame",
        "result": result.as_dict(),
    }
    write_stop(codec_dir, ladder=ladder, thresholds=thresholds, default=default, risk=risk, source=source)
    spec.model_copy(update={"ladder": ladder, "base_latents": ladder[0]}).save(codec_dir)
    progress(f"{spec.name}: ladder {ladder}, {result}")
    return {
        "ladder": list(ladder),
        "thresholds": thresholds,
        "calibration": source,
        "ladders_considered": table[:20],
        "whole_at_once": {"wire_bytes": round(result.whole_wire_bytes, 1)},
    }
