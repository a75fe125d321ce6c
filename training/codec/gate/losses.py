"""What a limit of the change gate costs on clips: the gate is played, and what it holds is compared with what it skips.

The loss of a clip is the share of its answers that differ because of the gate. One that holds on is compared with the
answer that the skipped frame itself would have got. Where a model is unsure, noise alone changes its answer from one
frame to the next although nothing happens. That is not the gate's doing, and asking would not have helped, so it is
subtracted: for each question, how often its answer differs between neighbouring frames in which nothing happens. A
clip's loss is at most 1, and below 0 where holding on happened to differ less than asking again. Clips are the samples,
since frames of a clip resemble one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.codec.gate_file import GateDistance
from schemas.types import AnswerType
from training.codec.gate.clips import Clip
from training.codec.stop.learn_then_test import betting_p_value

STEPS: Final = 60


@dataclass(frozen=True, slots=True)
class GateLosses:
    """What each limit does on each of N clips, for one answer type.

    Attributes:
        limits: Ascending [L].
        losses: Share of the answers that differ because of the gate [L, N].
        differing: Share that differ, whatever the reason [L, N].
        held: Share of the frames that are not asked [L, N].
        held_still: The same of frames in which nothing happens, [L, N]; 1 where a clip has none.
    """

    limits: NDArray[np.float64]
    losses: NDArray[np.float64]
    differing: NDArray[np.float64]
    held: NDArray[np.float64]
    held_still: NDArray[np.float64]


def limits_to_test(still: Sequence[float]) -> NDArray[np.float64]:
    """Limits that are tested, from the strictest one.

    Args:
        still: Distances between frames of still clips, which no threshold is tested on.
    """
    usual = float(np.median(still))
    return np.geomspace(usual / 4, usual * 12, STEPS)


def losses_of(
    clips: Sequence[Clip], compared: GateDistance, limits: NDArray[np.float64]
) -> dict[AnswerType, GateLosses]:
    """Play the gate on every clip, from every first frame on.

    Args:
        clips: With answers.
        compared: What is compared of two frames.
        limits: Ascending [L].
    """
    kinds = sorted({kind for clip in clips for kind in clip.types})
    sums = {kind: np.zeros((4, len(limits), len(clips))) for kind in kinds}
    for number, clip in enumerate(clips):
        for kind in kinds:
            sums[kind][3, :, number] = 1.0  # a clip without such a question loses nothing
        for kind, row in _clip_losses(clip, compared, limits).items():
            sums[kind][:, :, number] = row
    return {kind: GateLosses(limits, *sums[kind]) for kind in kinds}


def largest_limit(found: GateLosses, risk: float, level: float) -> tuple[float, int] | None:
    """The largest limit whose loss is proved to be at most the risk; with its place, or None.

    By fixed-sequence testing from the strictest limit (Learn-then-Test, arXiv 2110.01052), each p-value by betting.

    Args:
        found: On the calibration's clips.
        risk: Accepted expectation of the loss.
        level: Accepted chance that it is above all the same.
    """
    accepted = None
    for place, losses in enumerate(found.losses):
        if betting_p_value(losses, risk, level) > level:
            break
        accepted = float(found.limits[place]), place
    return accepted


def _clip_losses(
    clip: Clip, compared: GateDistance, limits: NDArray[np.float64]
) -> dict[AnswerType, NDArray[np.float64]]:
    """Loss, differing, held and held still of one clip, [4, L], by answer type."""
    frames = len(clip.symbols)
    looks = [compared.look(one.astype(np.int32)) for one in clip.symbols]
    members = {kind: np.flatnonzero([one is kind for one in clip.types]) for kind in set(clip.types)}
    noise = noise_of(clip)
    apart = np.zeros((frames, frames))
    for before in range(frames):
        for now in range(before + 1, frames):
            apart[before, now] = compared.between(looks[before], looks[now])
    differs = clip.texts[:, None] != clip.texts[None, :]
    totals = {kind: np.zeros((4, len(limits))) for kind in members}
    still = tried = 0
    for first in range(frames - 1):
        answered = np.full(len(limits), first)
        for now in range(first + 1, frames):
            holds = apart[answered, now] <= limits
            quiet = not clip.event[now]
            tried += 1
            still += quiet
            for kind, questions in members.items():
                wrong = differs[answered, now][:, questions].mean(axis=1)
                excess = wrong - noise[questions].mean()
                row = np.stack([excess, wrong, np.ones_like(wrong), np.full_like(wrong, quiet)])
                totals[kind] += holds * row
            answered = np.where(holds, answered, now)
    for row in totals.values():
        row[:3] /= tried
        row[3] = row[3] / still if still else 1.0
    return totals


def noise_of(clip: Clip) -> NDArray[np.float64]:
    """How often each question's answer differs between neighbouring frames in which nothing happens.

    Args:
        clip: With answers.

    Returns:
        float64 [Q]; 0 where a clip has no two such frames.
    """
    quiet = np.flatnonzero(~clip.event)
    if len(quiet) < 2:
        return np.zeros(clip.texts.shape[1])
    texts = clip.texts[quiet]
    return np.asarray((texts[1:] != texts[:-1]).mean(axis=0), dtype=np.float64)
