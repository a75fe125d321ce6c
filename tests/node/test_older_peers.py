"""Listening for peers of an older wire version costs nobody anything where it is not allowed."""

from __future__ import annotations

from typing import Any, cast

import pytest

from pipeline.bus.base import Subscription
from pipeline.node.older_peers import listen_for_older_peers
from schemas import topics
from schemas.errors import BusError, ConnectionLostError, NotAuthorizedError, SchemaVersionError


class _Bus:
    def __init__(self, error: BusError | None = None) -> None:
        self.filters: list[str] = []
        self._error = error

    async def subscribe(self, subscription: Subscription) -> None:
        self.filters.append(subscription.filter)
        if self._error is not None:
            raise self._error


async def test_the_statuses_of_older_processes_are_subscribed_to() -> None:
    bus = _Bus()
    await listen_for_older_peers(cast(Any, bus))
    assert bus.filters == ["lb/v1/status/+/+"]


@pytest.mark.parametrize("error", [NotAuthorizedError("lb/v1/status/+/+"), ConnectionLostError("gone")])
async def test_a_broker_that_refuses_it_ends_nothing(error: BusError) -> None:
    await listen_for_older_peers(cast(Any, _Bus(error)))


@pytest.mark.parametrize("topic_filter", topics.older_status_filters())
def test_what_comes_of_it_is_refused_by_version(topic_filter: str) -> None:
    with pytest.raises(SchemaVersionError):
        topics.parse(topic_filter.replace("+/+", "edge/north"))
