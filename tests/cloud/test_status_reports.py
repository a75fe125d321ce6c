"""What a worker says of itself: a status under a drawn name is published again before the broker forgets it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from cloud_workers import status_reports
from cloud_workers.status import STATUS_EXPIRY_S, STATUS_REFRESH_S, WorkerIdentity
from cloud_workers.status_reports import STATUS_INTERVAL_S, StatusReports
from pipeline.bus.base import PublishResult
from pipeline.config.logs import OncePerKind, get_logger
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_session import WorkerSession
from schemas import wire
from schemas.messages import Status
from schemas.topics import Family
from tests.cloud.scripted import FINGERPRINT, RULE


class SetClock:
    """The time that a test sets."""

    def __init__(self) -> None:
        self.time_s = 1_000.0

    def now_s(self) -> float:
        return self.time_s

    async def sleep(self, delay_s: float) -> None:
        raise NotImplementedError


class Bus:
    """Takes every publish."""

    def __init__(self) -> None:
        self.retained: list[tuple[bytes, int | None]] = []
        self.loads = 0
        self.load_came = asyncio.Event()

    async def publish(
        self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False, expiry_s: int | None = None
    ) -> PublishResult:
        assert topic.startswith("lb/v2/status/" if retain else "lb/v2/load/")
        if retain:
            self.retained.append((payload, expiry_s))
        else:
            self.loads += 1
            self.load_came.set()
        return PublishResult()

    async def next_load(self) -> None:
        self.load_came.clear()
        await self.load_came.wait()


@pytest.mark.parametrize("drawn", [True, False])
async def test_a_status_under_a_drawn_name_is_refreshed_before_it_expires(
    drawn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_reports, "STATUS_ON_CHANGE_S", 0.0)
    session = WorkerSession(
        WorkerProtocolSettings(), worker="w-1", pool="main", fingerprint=FINGERPRINT, stop_rule=RULE
    )
    clock, bus = SetClock(), Bus()
    identity = WorkerIdentity("w-1", "main", 7, FINGERPRINT, drawn=drawn)
    reports = StatusReports(identity, session, cast(Any, bus), OncePerKind(get_logger("test")), clock)
    running = asyncio.create_task(reports.run())
    try:
        async with asyncio.timeout(30):
            reports.due()
            await bus.next_load()
            assert len(bus.retained) == 1
            # Each load says that the reports have looked at the time.
            for refreshes, passes_s in enumerate((STATUS_REFRESH_S - 1, 2 * STATUS_INTERVAL_S)):
                clock.time_s += passes_s
                await bus.next_load()
                assert len(bus.retained) == (1 + refreshes if drawn else 1)
            for days in range(3):
                clock.time_s += STATUS_REFRESH_S
                await bus.next_load()
                assert len(bus.retained) == (3 + days if drawn else 1)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    for payload, expiry_s in bus.retained:
        message = wire.decode(Family.STATUS, payload)
        assert isinstance(message, Status)
        assert (message.online, expiry_s) == (True, STATUS_EXPIRY_S if drawn else None)
    assert STATUS_REFRESH_S < STATUS_EXPIRY_S / 2
