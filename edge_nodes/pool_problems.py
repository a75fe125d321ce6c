"""Why the pool can answer nothing of this site, said where an operator looks: the log, the metrics, readiness."""

from __future__ import annotations

from collections import Counter
from typing import Final

from pipeline.logs import get_logger
from schemas.messages import Answer, Reject, RejectReason, Status

_log = get_logger(__name__)

MAX_CODECS: Final = 16
"""Foreign codecs of the pool that are told apart; later ones are counted only."""


class PoolProblems:
    """Tells an operator that edge and pool do not fit.

    Args:
        pool: the pool that is asked.
        fingerprint: first 4 bytes of the fingerprint of this edge's codec, in hexadecimal.

    Attributes:
        rejected: rejections by reason; for metrics.
        fits: False from a rejection of this edge's codec on, until a worker answers.
    """

    def __init__(self, pool: str, fingerprint: str) -> None:
        self.rejected: Counter[str] = Counter()
        self.fits = True
        self._pool = pool
        self._fingerprint = fingerprint
        self._told: set[tuple[str, str]] = set()

    def reject(self, message: Reject) -> None:
        """A worker can never answer a frame of this site."""
        self.rejected[message.reason.name.lower()] += 1
        if message.reason is RejectReason.FINGERPRINT:
            self.fits = False
            self._tell("rejected", message.fingerprint.hex(), message.worker)

    def answer(self, answer: Answer) -> None:
        """A worker answered a question."""
        if not self.fits and answer.outcome is not None:
            self.fits = True
            self._told.clear()
            _log.info("the pool answers again", pool=self._pool, worker=answer.worker)

    def worker_status(self, status: Status) -> None:
        """A worker says which codec it has, before the first frame is rejected."""
        if status.online and status.pool == self._pool and status.fingerprint not in ("", self._fingerprint):
            self._tell("status", status.fingerprint, status.id)

    def _tell(self, how: str, theirs: str, worker: str) -> None:
        if (how, theirs) in self._told or len(self._told) >= 2 * MAX_CODECS:
            return
        self._told.add((how, theirs))
        every = "no question can be answered" if how == "rejected" else "it will answer no question of this site"
        _log.error(
            f"this edge and its pool have different codecs: {every}",
            pool=self._pool,
            worker=worker,
            pool_codec=theirs,
            edge_codec=self._fingerprint,
            fix="deploy the same codec folder on both sides (edge.codec, worker.codec)",
        )
