"""Peers of an older wire version: nothing that they say reaches a process of this one, but their statuses show them."""

from __future__ import annotations

from pipeline.bus.base import Bus, Subscription
from pipeline.config.logs import get_logger
from schemas import topics
from schemas.errors import BusError

_log = get_logger(__name__)


async def listen_for_older_peers(bus: Bus) -> None:
    """Receive the statuses of processes that speak older wire versions alone.

    Their topics are refused with :class:`~schemas.errors.SchemaVersionError`, which names both versions and the fix. A
    broker whose roles know this version alone refuses the subscription; then it refuses those peers as well, and
    their own logs say so.

    Args:
        bus: connected.
    """
    for topic_filter in topics.older_status_filters():
        try:
            await bus.subscribe(Subscription(topic_filter))
        except BusError as error:
            _log.debug("older peers would not be noticed", filter=topic_filter, problem=str(error))
