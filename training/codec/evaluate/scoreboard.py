"""Answers and sizes turned into rows with intervals, and into curves that can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.codec.wire_bytes import open_wire_bytes
from schemas.limits import MAX_LATENT_PAYLOAD_BYTES, MAX_QUERIES_PER_FRAME
from training.baselines.still_choice import Criterion
from training.baselines.trivial import MARGIN, balanced_weights, constant_answers
from training.codec.data import AskedAbout
from training.codec.evaluate.intervals import Resamples, bytes_at, interval

SHARE_OF_FULL: Final = 0.95

Measure: TypeAlias = Literal["accuracy", "agreement", "balanced_agreement"]
Sizes: TypeAlias = Literal["payload_bytes", "bare_bytes", "wire_bytes"]


@dataclass(frozen=True, slots=True)
class Point:
    """One way to send a frame, measured.

    Attributes:
        row: JSON-ready.
        payload_bytes: Mean of the measured set, then of each resample [S].
        bare_bytes: The same without container bytes [S].
        wire_bytes: The same with headers of every layer [S], not a number where they are not known.
        accuracy: [S], not a number without truths.
        agreement: [S].
        balanced_agreement: Every answer that is given to a kind of question counts as much as every other one [S].
    """

    row: dict[str, Any]
    payload_bytes: NDArray[np.float64]
    bare_bytes: NDArray[np.float64]
    wire_bytes: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    agreement: NDArray[np.float64]
    balanced_agreement: NDArray[np.float64]

    def sizes(self, which: Sizes) -> NDArray[np.float64]:
        """Bytes [S]."""
        return {"payload_bytes": self.payload_bytes, "bare_bytes": self.bare_bytes, "wire_bytes": self.wire_bytes}[
            which
        ]

    def reached(self, which: Measure) -> NDArray[np.float64]:
        """Accuracy or agreement [S]."""
        return {
            "accuracy": self.accuracy,
            "agreement": self.agreement,
            "balanced_agreement": self.balanced_agreement,
        }[which]


class Scoreboard:
    """Scores answers to the questions of one set of frames.

    Args:
        data: Frames and questions.
        reference: Answers from uncompressed tokens, str [Q].
        seed: Of the resamples.
        block: Frames that are drawn together, see `Resamples`.
        values: Feature values of a frame, N * D; rows then say how many bits each takes.
    """

    def __init__(
        self,
        data: AskedAbout,
        reference: NDArray[np.str_],
        seed: int = 0,
        *,
        block: int = 1,
        values: int | None = None,
    ) -> None:
        asked = data.asked
        self.reference = reference
        self.owner = np.array([item.frame for item in asked], dtype=np.int64)
        self._truth = np.array([item.truth or "" for item in asked], dtype=np.str_)
        self._known = np.array([item.truth is not None for item in asked], dtype=np.bool_)
        self._kinds = np.array([item.kind for item in asked], dtype=np.str_)
        self._questions = np.clip(np.bincount(self.owner, minlength=len(data)), 1, MAX_QUERIES_PER_FRAME)
        self._balance = balanced_weights(reference, self._kinds)
        self._values = values
        self.resamples = Resamples.draw(len(data), seed, block=block)

    def trivial(self, nothing: NDArray[np.str_], groups: NDArray[np.str_] | None = None) -> dict[str, Point]:
        """What answers are worth that need no byte, which every result has to be held against.

        Args:
            nothing: Answers from an empty prefix, str [Q].
            groups: Questions that get one answer, str [Q]; those of one kind unless given.

        Returns:
            Points `empty_prefix`, and `constant_answer`: for each group the answer that is given most often.
        """
        none = np.zeros(len(self._questions))
        return {
            "empty_prefix": self.point(nothing, none, wire_bytes=none),
            "constant_answer": self.point(
                constant_answers(self.reference, self._kinds if groups is None else groups), none, wire_bytes=none
            ),
        }

    @property
    def measure(self) -> Literal["accuracy", "agreement"]:
        """What ratios are taken at: the accuracy, or the agreement where no truth is known."""
        return "accuracy" if self._known.any() else "agreement"

    def quality(self, texts: NDArray[np.str_]) -> float:
        """Share of answers that are right, or agree with the reference where no truth is known."""
        if self._known.any():
            return float((texts == self._truth)[self._known].mean())
        return float((texts == self.reference).mean())

    def criteria(self) -> list[Criterion]:
        """By what settings of baselines are chosen: accuracy where truths are known, and agreement, at their shares."""
        found = [Criterion(self.quality, SHARE_OF_FULL * self.quality(self.reference))]
        if self.measure == "accuracy":
            found.append(Criterion(lambda texts: float((texts == self.reference).mean()), SHARE_OF_FULL))
        return found

    def wire_bytes(self, payload_bytes: NDArray[Any]) -> NDArray[np.float64]:
        """Bytes on the uplink of each frame, sent at once with its questions: sizes [F] to [F]."""
        return np.array(
            [
                # What is longer than one message may be travels as if messages could be longer.
                open_wire_bytes(min(max(1, int(size)), MAX_LATENT_PAYLOAD_BYTES), int(count))
                + max(0, int(size) - MAX_LATENT_PAYLOAD_BYTES)
                for size, count in zip(payload_bytes, self._questions, strict=True)
            ],
            dtype=np.float64,
        )

    def point(
        self,
        texts: NDArray[np.str_],
        payload_bytes: NDArray[Any],
        *,
        container_bytes: int = 0,
        wire_bytes: NDArray[np.float64] | None = None,
        sized_by_question: bool = False,
        **columns: Any,
    ) -> Point:
        """Score answers.

        Args:
            texts: Answers, str [Q].
            payload_bytes: Of each frame [F], or of each question [Q].
            container_bytes: Part of each file that is no picture.
            wire_bytes: Of each frame; those of sending it at once unless given.
            sized_by_question: Sizes are those of the questions.
            columns: Of the row.
        """
        by_frame = self.resamples.mean_of_frames
        if sized_by_question:
            sizes = self.resamples.mean_of_questions(payload_bytes, self.owner)
            bare, wire = sizes, np.full(len(sizes), np.nan)
        else:
            sizes = by_frame(payload_bytes)
            bare = by_frame(np.maximum(payload_bytes - container_bytes, 1))
            wire = by_frame(self.wire_bytes(payload_bytes) if wire_bytes is None else wire_bytes)
        right = texts == self._truth
        agreement = self.resamples.mean_of_questions(texts == self.reference, self.owner)
        balanced = self.resamples.mean_of_questions(texts == self.reference, self.owner, self._balance)
        known = self._known
        accuracy = self.resamples.mean_of_questions(right[known], self.owner[known])
        row: dict[str, Any] = {
            **columns,
            "payload_bytes": _round(sizes[0], 1),
            **({"payload_bytes_without_container": _round(bare[0], 1)} if container_bytes else {}),
            **({} if sized_by_question else {"wire_bytes": _round(wire[0], 1)}),
            **({} if self._values is None else {"bits_per_value": _round(8 * sizes[0] / self._values)}),
            "accuracy": _round(accuracy[0]),
            "accuracy_ci95": _rounded(accuracy[1:]),
            "agreement": _round(agreement[0]),
            "agreement_ci95": _rounded(agreement[1:]),
            "balanced_agreement": _round(balanced[0]),
            "balanced_agreement_ci95": _rounded(balanced[1:]),
            "accuracy_by_kind": {
                str(kind): round(float(right[known & (self._kinds == kind)].mean()), 4)
                for kind in np.unique(self._kinds[known])
            },
        }
        return Point(row, sizes, bare, wire, accuracy, agreement, balanced)

    def ratio(
        self,
        ours: Sequence[Point],
        theirs: Sequence[Point],
        full: Point,
        *,
        trivial: Sequence[Point] = (),
        size: Sizes = "payload_bytes",
        measure: Measure | None = None,
        share: float = SHARE_OF_FULL,
    ) -> dict[str, Any]:
        """How many times fewer bytes ours need for a share of what uncompressed tokens reach.

        Args:
            ours: Prefixes.
            theirs: The baseline's points, all of its settings: the best of each size counts.
            full: What the share is of: uncompressed tokens, or one of our points.
            trivial: Baselines that send nothing. Where one of them comes within `MARGIN`, no ratio is claimed.
            size: Which bytes; `bare_bytes` takes the baseline's container off.
            measure: What is reached; accuracy where truths are known, and agreement elsewhere, unless given.
            share: Of `full`.

        Returns:
            `ratio` with `ci95`, paired by resample, and the bytes of both; None where they are never reached, and no
            ratio with the reason in `not_claimed` where nothing would do nearly as well.
        """
        measure = measure or self.measure
        target = share * full.reached(measure)

        def crossing(points: Sequence[Point]) -> NDArray[np.float64]:
            if not points:
                return np.full(len(target), np.nan)
            sizes = np.stack([point.sizes(size) for point in points])
            return bytes_at(sizes, np.stack([point.reached(measure) for point in points]), target)

        mine, other = crossing(ours), crossing(theirs)
        found = other / mine
        nothing = max((float(point.reached(measure)[0]) for point in trivial), default=0.0)
        claimed = nothing < target[0] - MARGIN
        # Without container the payload of ours is what it was.
        name = "payload_bytes" if size == "bare_bytes" else size
        reason = f"sending nothing reaches {nothing:.1%}, within {100 * MARGIN:.0f} points of {target[0]:.1%}"
        return {
            "ratio": _round(found[0], 3) if claimed else None,
            "ci95": _rounded(found[1:], 3) if claimed else None,
            name: _round(mine[0], 1),
            f"baseline_{name}": _round(other[0], 1),
            measure: _round(target[0]),
            "sending_nothing": _round(nothing) if trivial else None,
            "not_claimed": None if claimed else reason,
        }


def oracle_rows(
    scoreboard: Scoreboard, texts: NDArray[np.str_], payload_bytes: NDArray[np.int64], lengths: Sequence[int]
) -> dict[str, Point]:
    """The best that any stop rule could do with these prefixes: the shortest that already agrees.

    Args:
        scoreboard: Of the questions.
        texts: Answers from each prefix, the whole latent last, str [P, Q].
        payload_bytes: Of each prefix [P, F].
        lengths: Of the prefixes [P].

    Returns:
        Rows by name. `question`: each question stops by itself, agreement with the uncompressed tokens' answer;
        `frame`: the shortest prefix from which all questions of a frame agree; `question_whole` and `frame_whole`: the
        same where agreement is with the whole latent's answer, which is what stop rules promise. Where no prefix
        agrees the whole latent is sent.
    """
    columns = np.arange(texts.shape[1])
    rows = {}
    for suffix, reference in (("", scoreboard.reference), ("_whole", texts[-1])):
        agrees = texts == reference
        agrees[-1] = True
        stop = agrees.argmax(axis=0)
        rows[f"question{suffix}"] = scoreboard.point(
            texts[stop, columns],
            payload_bytes[stop, scoreboard.owner],
            sized_by_question=True,
            mean_latents=_round(np.array(lengths)[stop].mean(), 2),
        )
        frames = payload_bytes.shape[1]
        wrong = np.stack([np.bincount(scoreboard.owner[~row], minlength=frames) for row in agrees])
        frame_stop = (wrong == 0).argmax(axis=0)
        rows[f"frame{suffix}"] = scoreboard.point(
            texts[frame_stop[scoreboard.owner], columns],
            payload_bytes[frame_stop, np.arange(frames)],
            mean_latents=_round(np.array(lengths)[frame_stop].mean(), 2),
        )
    return rows


def _round(value: float | np.floating[Any], digits: int = 4) -> float | None:
    return round(float(value), digits) if np.isfinite(value) else None


def _rounded(resampled: NDArray[np.float64], digits: int = 4) -> list[float] | None:
    found = interval(resampled)
    return [round(found[0], digits), round(found[1], digits)] if found else None
