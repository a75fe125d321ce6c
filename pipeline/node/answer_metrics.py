"""How questions end and how long their answers take: the same metrics at an edge, a worker and a gateway."""

from __future__ import annotations

from typing import Final

from pipeline.node.metrics import Metrics
from pipeline.protocol.reasons import reason_label
from schemas.types import Outcome

LATENT_BUCKETS: Final = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256)
_WITH_AN_ANSWER: Final = (Outcome.ANSWERED, Outcome.DEGRADED)


class AnswerMetrics:
    """Counts answers and outcomes.

    Args:
        metrics: of the process.
        since: from when the time to an answer is counted, in words.
    """

    def __init__(self, metrics: Metrics, since: str) -> None:
        self._outcomes = metrics.counter(
            "query_outcomes",
            "Questions by terminal outcome, by who asked, and by reason",
            ("outcome", "asked", "reason"),
        )
        self._seconds = metrics.seconds(
            "answer_seconds", f"Time from {since} to the first and the final answer", ("answer", "asked")
        )
        self._latents = metrics.amounts(
            "answer_latents", "Latents that the final answer was read from", LATENT_BUCKETS, ("asked",)
        )

    def first(self, asked: str, elapsed_s: float) -> None:
        """A question got its first answer, provisional or not.

        Args:
            asked: who asked it: ``standing``, ``ad_hoc`` or ``history``.
            elapsed_s: time to it.
        """
        self._seconds.labels("first", asked).observe(max(0.0, elapsed_s))

    def ended(
        self,
        outcome: Outcome,
        asked: str,
        reason: str = "",
        *,
        elapsed_s: float | None = None,
        latents: int | None = None,
    ) -> None:
        """A question has its terminal outcome.

        Args:
            outcome: how it ended.
            asked: see :meth:`first`.
            reason: why, in words.
            elapsed_s: time to it; None where that says nothing.
            latents: prefix that its answer was read from.
        """
        self._outcomes.labels(str(outcome), asked, reason_label(reason)).inc()
        if outcome not in _WITH_AN_ANSWER:
            return
        if elapsed_s is not None:
            self._seconds.labels("final", asked).observe(max(0.0, elapsed_s))
        if latents:
            self._latents.labels(asked).observe(latents)
