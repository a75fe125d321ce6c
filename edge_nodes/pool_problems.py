"""Why the pool can answer nothing of this site, said where an operator looks: the log, the metrics, readiness."""

from __future__ import annotations

from collections import Counter
from typing import Final

from pipeline.config.logs import get_logger
from schemas.messages import Answer, Reject, RejectReason, Status

_log = get_logger(__name__)

MAX_CODECS: Final = 16
"""Foreign codecs that are told one by one."""
MAX_WORKERS: Final = 1_024
"""Workers that are known to be online; one suffices to know that the pool is not empty."""
"""Foreign codecs of the pool that are told apart; later ones are counted only."""


class PoolProblems:
    """Tells an operator that edge and pool do not fit.

    Args:
        pool: the pool that is asked.
        fingerprint: first 4 bytes of the fingerprint of this edge's codec, in hexadecimal.

    Attributes:
        rejected: rejections by reason; for metrics.
        fits: False from a rejection of this edge's codec on, until a worker answers.
        pool: the pool that is asked.
    """

    def __init__(self, pool: str, fingerprint: str) -> None:
        self.rejected: Counter[str] = Counter()
        self.fits = True
        self.pool = pool
        self._fingerprint = fingerprint
        self._online: set[str] = set()
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
            _log.info("the pool answers again", pool=self.pool, worker=answer.worker)

    @property
    def has_no_worker(self) -> bool:
        """Whether no worker of the pool is online, as far as their statuses say."""
        return not self._online

    def worker_status(self, status: Status) -> None:
        """A worker says that it is there, and which codec it has, before the first frame is rejected."""
        if not status.online:
            self._online.discard(status.id)
        elif status.pool == self.pool and len(self._online) < MAX_WORKERS:
            self._online.add(status.id)
        if status.online and status.pool == self.pool and status.fingerprint not in ("", self._fingerprint):
            self._tell("status", status.fingerprint, status.id)

    def _tell(self, how: str, theirs: str, worker: str) -> None:
        if (how, theirs) in self._told or len(self._told) >= 2 * MAX_CODECS:
            return
        self._told.add((how, theirs))
        every = "no question can be answered" if how == "rejected" else "it will answer no question of this site"
        _log.error(
            f"this edge and its pool have different codecs: {every}",
            pool=self.pool,
            worker=worker,
            pool_codec=theirs,
            edge_codec=self._fingerprint,
            fix="deploy the same codec folder on both sides (edge.codec, worker.codec)",
        )
