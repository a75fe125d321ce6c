"""What every test run shares: the event loop of production, a private broker, and patience for property tests."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import cast

import pytest
import structlog
import uvloop
from hypothesis import HealthCheck, settings

from broker_config.launcher import LocalBroker
from pipeline.config.broker_settings import BrokerSettings
from pipeline.node.containment import raise_contained
from tests import second_broker

# Tiny models gain nothing from a second thread, and wait for it at every layer when the machine is busy: fifty times as
# long was measured. Read when a process first loads torch, the workers that tests start included.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A bug that a running process would contain is to fail the test that meets it.
raise_contained(True)

FOREIGN_LIMITS = {"max_packet_size": "131072"}
"""A broker that is not configured by us takes larger packets, and processes must stand what comes through it."""

# A busy machine is no failure: a test run shares its cores with a broker and with models.
settings.register_profile("latentbus", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("latentbus")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The processes run on uvloop, so do their tests; a folder that cares about both loops says so in its conftest."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """What a test sets up of logging ends with it: a handler would write to a stream that is closed by then."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture
def broker() -> Iterator[LocalBroker]:
    """A running private Mosquitto; it starts in about 10 ms, so each test has its own."""
    if second_broker.chosen():
        with second_broker.IotcoreBroker() as other:
            yield cast(LocalBroker, other)
        return
    with LocalBroker(options=FOREIGN_LIMITS) as running:
        yield running
        running.kill()  # a stop in good order takes 100 ms, and there is nothing to save


@pytest.fixture
def broker_settings(broker: LocalBroker) -> BrokerSettings:
    """How to reach :func:`broker`."""
    return BrokerSettings(host=broker.host, port=broker.port)


@pytest.fixture
def contained() -> Iterator[None]:
    """Bugs are contained in this test, as in a running process."""
    raise_contained(False)
    yield
    raise_contained(True)


NO_SKIPS = "LATENTBUS_NO_SKIPS"
"""Set by ``make test-extras``: what is not installed fails the test that needs it."""
BY_VERSION = re.compile(r"Mosquitto (before 2\.0\.13|2\.1) ")
"""Reasons to skip that lie in the version of a tool, not in its absence."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where nothing may be missing."""
    del item, call
    report = yield
    if report.skipped and os.environ.get(NO_SKIPS) and isinstance(report.longrepr, tuple):
        *_, reason = report.longrepr
        if not BY_VERSION.search(str(reason)):
            report.outcome, report.longrepr = "failed", f"not to be skipped here: {reason}"
    return report
