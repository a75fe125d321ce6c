"""Two logs compared: which answers and outcomes changed, and what bytes and time did. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from analysis.compare.compared_log import ComparedLog, SideFigures, has_answer, outcome_name, side_figures
from analysis.compare.matching import Matched, MatchedBy, match_queries
from analysis.redact.redaction import Redaction, redacted
from analysis.traces import QueryTrace
from analysis.traffic import Traffic
from schemas.counting import counted

CONFIDENCE_EDGES: Final = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99)
"""Lower edges of the buckets of the deciding score. Stop rules decide above 0.9, so the upper ones are narrow."""


@dataclass(frozen=True, slots=True)
class Change:
    """A query that ended otherwise.

    Attributes:
        query_id: its id in the first log.
        camera: its camera.
        question: its text, or its id where the text is unknown.
        answer_type: what the answer may look like, empty where it is unknown.
        outcome_a: how it ended in the first log.
        outcome_b: how it ended in the second log.
        text_a: answer in the first log.
        text_b: answer in the second log.
        score_a: score of the first answer.
        score_b: score of the second answer.
        latents_a: latents that the first answer was read from.
        latents_b: latents that the second answer was read from.
        reason_b: why it ended so in the second log, where that was said.
    """

    query_id: str
    camera: str
    question: str
    answer_type: str
    outcome_a: str
    outcome_b: str
    text_a: str
    text_b: str
    score_a: float | None
    score_b: float | None
    latents_a: int | None
    latents_b: int | None
    reason_b: str


@dataclass(slots=True)
class Share:
    """How many queries of a group changed.

    Attributes:
        compared: queries in both logs.
        changed: those with another outcome or another answer.
    """

    compared: int = 0
    changed: int = 0

    @property
    def share(self) -> float:
        """Changed ones among the compared ones; 0 of none."""
        return self.changed / self.compared if self.compared else 0.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that two logs differ in.

    Attributes:
        a: figures of the first log.
        b: figures of the second log.
        matched_by: how the queries were brought together.
        compared: queries with an outcome in the first log that are in the second one.
        answers_differ: those with an answer in both logs, and not the same.
        outcomes_differ: those with another outcome.
        latents_differ: those with the same answer and outcome from another number of latents.
        only_a: queries with an outcome that the second log does not have.
        only_b: queries that the first log does not have.
        undecided_a: queries without an outcome in the first log; there is nothing to compare them with.
        changes: every query with another answer or outcome.
        matrix: number of queries by outcome in the first log and in the second one.
        by_type: changes by answer type.
        by_camera: changes by camera.
        by_confidence: changes by the score in the first log.
        latency_ms: time to the terminal answer in both logs, of queries with an answer in both.
        notes: what a reader must know before believing the figures.
    """

    a: SideFigures
    b: SideFigures
    matched_by: MatchedBy
    compared: int
    answers_differ: int
    outcomes_differ: int
    latents_differ: int
    only_a: int
    only_b: int
    undecided_a: int
    changes: tuple[Change, ...]
    matrix: dict[str, dict[str, int]]
    by_type: dict[str, Share]
    by_camera: dict[str, Share]
    by_confidence: dict[str, Share]
    latency_ms: tuple[tuple[float, float], ...]
    notes: tuple[str, ...]

    @property
    def changed(self) -> int:
        """Queries of the first log that the second one ends otherwise, or does not have."""
        return len(self.changes) + self.only_a

    @property
    def changed_share(self) -> float:
        """:attr:`changed` among all queries with an outcome in the first log; 0 of none."""
        total = self.compared + self.only_a
        return self.changed / total if total else 0.0

    def over(self, limit: float) -> bool:
        """Whether more than this share of the queries changed; logs with nothing in common are over every limit."""
        return not self.compared or self.changed_share > limit

    def to_json(self) -> dict[str, Any]:
        """Every figure; the keys are documented in docs/recording.md."""
        shares = {
            name: {group: {**asdict(share), "share": share.share} for group, share in groups.items()}
            for name, groups in (
                ("by_type", self.by_type),
                ("by_camera", self.by_camera),
                ("by_confidence", self.by_confidence),
            )
        }
        return {
            "matched_by": self.matched_by.value,
            "compared": self.compared,
            "changed": self.changed,
            "changed_share": self.changed_share,
            "answers_differ": self.answers_differ,
            "outcomes_differ": self.outcomes_differ,
            "latents_differ": self.latents_differ,
            "only_a": self.only_a,
            "only_b": self.only_b,
            "undecided_a": self.undecided_a,
            "a": asdict(self.a),
            "b": asdict(self.b),
            "matrix": self.matrix,
            **shares,
            "changes": [asdict(change) for change in self.changes],
            "notes": list(self.notes),
        }


@dataclass(slots=True)
class _Tally:
    """What differs between queries that are in both logs, counted as in :class:`Comparison`.

    Attributes:
        texts_known: answers can be compared; else outcomes alone.
    """

    texts_known: bool
    answers_differ: int = 0
    outcomes_differ: int = 0
    latents_differ: int = 0
    changes: list[Change] = field(default_factory=list)
    matrix: dict[str, Counter[str]] = field(default_factory=dict)
    by_type: dict[str, Share] = field(default_factory=dict)
    by_camera: dict[str, Share] = field(default_factory=dict)
    by_confidence: dict[str, Share] = field(default_factory=dict)

    def take(self, before: QueryTrace, after: QueryTrace) -> None:
        """Count a query that the first log has an outcome of."""
        outcome_differs = before.outcome != after.outcome
        both_answered = has_answer(before) and has_answer(after)
        answer_differs = self.texts_known and both_answered and before.answer_text != after.answer_text
        changed = outcome_differs or answer_differs
        self.outcomes_differ += outcome_differs
        self.answers_differ += answer_differs
        self.latents_differ += not changed and before.latents != after.latents
        self.matrix.setdefault(outcome_name(before.outcome), Counter())[outcome_name(after.outcome)] += 1
        for shares, group in (
            (self.by_type, str(before.answer_type or after.answer_type or "unknown")),
            (self.by_camera, before.camera),
            (self.by_confidence, _bucket(before.score)),
        ):
            share = shares.setdefault(group, Share())
            share.compared += 1
            share.changed += changed
        if changed:
            self.changes.append(_change(before, after))


def compare_logs(a: ComparedLog, b: ComparedLog) -> Comparison:
    """Compare two logs.

    Args:
        a: what was before.
        b: what is now.

    Raises:
        RecordingError: one of them is a replay and does not say of what.
    """
    origins = a.origin(), b.origin()
    matched = match_queries(a.traffic, b.traffic, *origins)
    pairs = [(before, after) for before, after in matched.pairs if before.outcome is not None]
    tally = _Tally(texts_known=not any(Redaction.TEXT in redacted(log.metadata) for log in (a, b)))
    for before, after in pairs:
        tally.take(before, after)
    only_a = [query for query in matched.only_a if query.outcome is not None]
    rates = [1.0 if origin is None else origin.rate for origin in origins]
    return Comparison(
        a=side_figures(a, [before for before, _ in pairs], rates[0]),
        b=side_figures(b, [after for _, after in pairs], rates[1]),
        matched_by=matched.by,
        compared=len(pairs),
        answers_differ=tally.answers_differ,
        outcomes_differ=tally.outcomes_differ,
        latents_differ=tally.latents_differ,
        only_a=len(only_a),
        only_b=len(matched.only_b),
        undecided_a=len(matched.pairs) - len(pairs) + len(matched.only_a) - len(only_a),
        changes=tuple(tally.changes),
        matrix={name: dict(row) for name, row in sorted(tally.matrix.items())},
        by_type=dict(sorted(tally.by_type.items())),
        by_camera=dict(sorted(tally.by_camera.items())),
        by_confidence={name: tally.by_confidence[name] for name in (*BUCKETS, NO_SCORE) if name in tally.by_confidence},
        latency_ms=tuple(
            (before.latency_ms, after.latency_ms)
            for before, after in pairs
            if has_answer(before)
            and has_answer(after)
            and before.latency_ms is not None
            and after.latency_ms is not None
        ),
        notes=tuple(_notes(a, b, matched, rates, compared=len(pairs))),
    )


def _change(before: QueryTrace, after: QueryTrace) -> Change:
    return Change(
        query_id=before.query_id,
        camera=before.camera,
        question=before.text or after.text or before.question_id,
        answer_type=str(before.answer_type or after.answer_type or ""),
        outcome_a=outcome_name(before.outcome),
        outcome_b=outcome_name(after.outcome),
        text_a=before.answer_text,
        text_b=after.answer_text,
        score_a=before.score,
        score_b=after.score,
        latents_a=before.latents,
        latents_b=after.latents,
        reason_b=after.reason,
    )


def _bucket_name(number: int) -> str:
    lower = CONFIDENCE_EDGES[number]
    upper = CONFIDENCE_EDGES[number + 1] if number + 1 < len(CONFIDENCE_EDGES) else 1.0
    return f"{lower:g} to {upper:g}"


BUCKETS: Final = tuple(_bucket_name(number) for number in range(len(CONFIDENCE_EDGES)))
"""Names of the confidence buckets, ascending."""
NO_SCORE: Final = "no score"
"""Queries that ended without an answer."""


def _bucket(score: float | None) -> str:
    if score is None:
        return NO_SCORE
    return BUCKETS[sum(score >= edge for edge in CONFIDENCE_EDGES) - 1]


def _notes(
    a: ComparedLog, b: ComparedLog, matched: Matched, rates: Sequence[float | None], *, compared: int
) -> list[str]:
    notes: list[str] = []
    if not compared:
        notes.append("The logs have no decided query in common: nothing was compared.")
    if matched.by is MatchedBy.PLACE and compared:
        notes.append(
            "No query id is in both logs: queries were brought together by camera, number of the frame and question. "
            "That holds only if both runs saw the same frames."
        )
    for log, rate in zip((a, b), rates, strict=True):
        if rate != 1.0:
            speed = "as fast as possible" if rate is None else f"at {rate:g} times speed"
            notes.append(f"{log.name} is a replay {speed}: its times cannot be compared with the other log's.")
        if not log.complete:
            notes.append(f"{log.name} was not closed well, its end may be missing: see latentbus recover.")
        notes.extend(f"In {log.name} {clock}." for clock in log.clocks)
        if log.missing_messages:
            notes.append(f"{log.name} lacks {counted(log.missing_messages, 'message')} that its recorder had to drop.")
        if log.traffic.undecodable:
            foreign = counted(log.traffic.undecodable.total(), "message")
            notes.append(f"{log.name} holds {foreign} that somebody else sent, none of ours.")
        if Redaction.TEXT in redacted(log.metadata):
            notes.append(f"The texts of {log.name} were redacted: outcomes were compared, answers were not.")
    if set(a.traffic.fingerprints) != set(b.traffic.fingerprints):
        notes.append(f"Other codec fingerprints: {_listed(a.traffic)} in {a.name}, {_listed(b.traffic)} in {b.name}.")
    return notes


def _listed(traffic: Traffic) -> str:
    return ", ".join(sorted(traffic.fingerprints)) or "none"
