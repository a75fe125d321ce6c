"""What an operator reads of an overload: when it began, how deep it is, when it was over."""

from __future__ import annotations

import math
from collections import Counter

from edge_nodes.observer import OfferedFrame
from edge_nodes.pool_problems import PoolProblems
from pipeline.config.logs import get_logger
from pipeline.node.clock import Clock
from pipeline.protocol.effects import Decision
from pipeline.protocol.load_shedding import LoadShedding
from pipeline.protocol.ports import Sent
from schemas.types import Outcome

_log = get_logger(__name__)

REPEAT_S = 30.0
"""Between two lines while standing questions are shed."""
MENTIONED_SHARE = 0.9
"""A share above it comes and goes on a good day: nobody is told."""


class LoadSheddingLog:
    """An :class:`~edge_nodes.observer.EdgeObserver` that writes log lines about load shedding.

    Args:
        load_shedding: of the site.
        clock: the edge's clock.
        pool: what is known of the pool: an empty one looks like an overloaded one to whoever counts answers.
    """

    def __init__(self, load_shedding: LoadShedding, clock: Clock, pool: PoolProblems) -> None:
        self._load_shedding = load_shedding
        self._clock = clock
        self._pool = pool
        self._ended: Counter[Outcome] = Counter()
        self._said_s = -math.inf
        self._shedding = False

    def frame_offered(self, offered: OfferedFrame) -> None:
        """See :class:`~edge_nodes.observer.EdgeObserver`."""

    def message_sent(self, sent: Sent) -> None:
        """See :class:`~edge_nodes.observer.EdgeObserver`."""

    def source_changed(self, camera: str, up: bool) -> None:
        """See :class:`~edge_nodes.observer.EdgeObserver`."""

    def query_ended(self, decision: Decision, delay_s: float | None) -> None:  # noqa: ARG002 - one interface for all observers
        """See :class:`~edge_nodes.observer.EdgeObserver`."""
        if not decision.ad_hoc:
            self._ended[decision.outcome] += 1
        share, now_s = self._load_shedding.share, self._clock.now_s()
        if self._shedding and share >= 1.0:
            self._shedding = False
            _log.info("standing questions are asked at the full rate again")
        elif share < (1.0 if self._shedding else MENTIONED_SHARE) and now_s - self._said_s >= REPEAT_S:
            self._shedding = True
            self._said_s = now_s
            ended = max(1, self._ended.total())
            cause = "the pool is overloaded"
            if self._pool.has_no_worker:
                cause = f"no worker of pool {self._pool.pool} is online"
            _log.warning(
                f"{cause}: standing questions are shed",
                standing_share_percent=round(100 * share),
                degraded_percent=round(100 * self._ended[Outcome.DEGRADED] / ended),
                expired_percent=round(100 * self._ended[Outcome.EXPIRED] / ended),
                slots_left_out=self._load_shedding.skipped.total(),
            )
            self._ended.clear()
