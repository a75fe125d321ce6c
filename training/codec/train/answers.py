"""The model's own answers, which a codec learns from: asked part by part, and kept, so that a killed run goes on."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from training.codec.fit.language_view import Reference
from training.codec.fit.material import Material, ToAsk
from training.run import Progress

_PART: Final = 256
"""Pictures that are asked about before the answers are written."""


def answered(asked: ToAsk, tokens: Tensor, answer_tokens: int, cache: Path, progress: Progress) -> Material:
    """Ask the frozen model, unless it has been asked.

    Args:
        asked: The questions.
        tokens: Uncompressed visual tokens of all pictures [F, N, D]; may be mapped from a file.
        answer_tokens: How many tokens of an answer are looked at.
        cache: Folder of the answers, of one model and these pictures.
        progress: Called with a line for each part.
    """
    cache.mkdir(parents=True, exist_ok=True)
    frames = asked.frames.to(tokens.device)
    identity = hashlib.sha256(f"{answer_tokens} {_PART}".encode())
    for part in (frames, asked.questions.ids, asked.questions.texts, asked.questions.asked):
        identity.update(part.cpu().numpy().tobytes())
    identity.update(tokens[frames[0]].numpy().tobytes())
    name, began, fresh = identity.hexdigest()[:12], time.monotonic(), 0
    parts = []
    for start in range(0, len(frames), _PART):
        rows = torch.arange(start, min(start + _PART, len(frames)), device=asked.view.device)
        path = cache / f"{name}-{start}.pt"
        if path.exists():
            found = torch.load(path, weights_only=True, map_location=asked.view.device)
            parts.append(Reference(**found))
            continue
        part_tokens = tokens[frames[start : start + _PART]]
        parts.append(asked.view.reference(part_tokens, asked.questions.of(rows), answer_tokens=answer_tokens))
        partial = path.with_suffix(".partial")
        torch.save(asdict(parts[-1]), partial)
        partial.replace(path)
        fresh += len(rows)
        left_s = (time.monotonic() - began) / fresh * (len(frames) - start - len(rows))
        progress(f"the model's own answers: {start + len(rows)} of {len(frames)} pictures, {left_s / 60:.1f} min left")
    return asked.material(tokens, Reference.joined(parts))
