"""Sites that ask the same questions of the same cameras and differ in how their messages leave."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from broker_config.fleet_folder import FleetFolder
from broker_config.launcher import LocalBroker
from broker_config.secured import CA_FILE, CERTIFICATE_FILE, KEY_FILE
from edge_nodes.node import run_edge
from edge_nodes.observer import OfferedFrame
from latentbus.bench.wire_counter import WireCount, WireCounter
from latentbus.fleet.launcher import Launcher
from latentbus.fleet.settings import edge_node, standing_questions, worker_node
from pipeline.config.broker_settings import BrokerSettings, TlsSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import ChangeGateSettings, EdgeSettings
from pipeline.config.worker_settings import WorkerSettings
from pipeline.node.runtime import Stop
from pipeline.protocol.effects import Decision
from pipeline.protocol.ports import Sent
from schemas.errors import LocalError

CAMERAS: Final = ("gate", "yard", "dock", "lane")
ALIASES: Final = 64
GATHER_MS: Final = 2_000
"""Longer than a busy machine takes to encode four frames; the wait ends when the last one is there."""
DEADLINE_S: Final = 20.0
WARM_FRAMES: Final = 12
"""Frames of a site before counting begins: questions, first key frames and aliases are out then."""


@dataclass(frozen=True, slots=True)
class Variant:
    """How the messages of a site leave.

    Attributes:
        name: of the row.
        aliases: topic aliases that its broker grants.
        gather_ms: see ``edge.uplink_gather_ms``.
    """

    name: str
    aliases: int
    gather_ms: int


BEFORE: Final = Variant("before", 0, 0)
VARIANTS: Final = (
    BEFORE,
    Variant("aliases", ALIASES, 0),
    Variant("together", 0, GATHER_MS),
    Variant("both", ALIASES, GATHER_MS),
)


@dataclass(frozen=True, slots=True)
class SiteCount:
    """What a site came to while it was counted.

    Attributes:
        up: from the edge to the broker.
        down: from the broker to the edge.
        outcomes: questions that ended, by outcome.
        frames: frames that were asked about.
        messages: publishes that left.
        charged_bytes: bytes that the edge charged its uplink with.
        delays_s: from the capture of a frame to the outcome, of each question.
    """

    up: WireCount
    down: WireCount
    outcomes: Counter[str]
    frames: int
    messages: int
    charged_bytes: int
    delays_s: tuple[float, ...] = ()

    @property
    def questions(self) -> int:
        """Questions that ended."""
        return self.outcomes.total()


@dataclass(slots=True)
class _Tally:
    """An :class:`~edge_nodes.observer.EdgeObserver` that counts."""

    outcomes: Counter[str] = field(default_factory=Counter)
    frames: int = 0
    messages: int = 0
    charged_bytes: int = 0
    delays_s: list[float] = field(default_factory=list)
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    def frame_offered(self, offered: OfferedFrame) -> None:  # noqa: ARG002 - one interface for all observers
        self.frames += 1
        self.moved.set()

    def message_sent(self, sent: Sent) -> None:
        self.messages += sent.label != "puback"
        self.charged_bytes += sent.wire_bytes

    def query_ended(self, decision: Decision, delay_s: float | None) -> None:
        self.outcomes[decision.outcome.value] += 1
        if delay_s is not None:
            self.delays_s.append(delay_s)

    def source_changed(self, camera: str, up: bool) -> None:
        """Nothing to count."""


class BenchSite:
    """An edge in this process, its worker and its broker, with a counter between edge and broker.

    Args:
        name: of the site.
        edge: its task.
        stop: ends it.
        counter: of its connection.
        tally: what it does.
    """

    def __init__(self, name: str, edge: asyncio.Task[int], stop: Stop, counter: WireCounter, tally: _Tally) -> None:
        self.name = name
        self._edge = edge
        self._stop = stop
        self._counter = counter
        self._tally = tally

    async def warm(self) -> None:
        """Wait until the site does its usual work.

        Raises:
            LocalError: it ended.
        """
        while self._tally.frames < WARM_FRAMES:
            self._tally.moved.clear()
            moved = asyncio.ensure_future(self._tally.moved.wait())
            await asyncio.wait({moved, self._edge}, return_when=asyncio.FIRST_COMPLETED)
            moved.cancel()
            if self._edge.done():
                raise LocalError(f"the edge of {self.name} ended with status {self._edge.result()}")

    async def count(self, duration_s: float) -> SiteCount:
        """Count for so long."""
        before = self._now()
        await asyncio.sleep(duration_s)
        now = self._now()
        return SiteCount(
            now.up - before.up,
            now.down - before.down,
            now.outcomes - before.outcomes,
            now.frames - before.frames,
            now.messages - before.messages,
            now.charged_bytes - before.charged_bytes,
            now.delays_s[len(before.delays_s) :],
        )

    def _now(self) -> SiteCount:
        tally = self._tally
        return SiteCount(
            self._counter.up,
            self._counter.down,
            Counter(tally.outcomes),
            tally.frames,
            tally.messages,
            tally.charged_bytes,
            tuple(tally.delays_s),
        )


@asynccontextmanager
async def site(
    variant: Variant, launcher: Launcher, folder: Path, *, tls: bool, interval_s: float
) -> AsyncIterator[BenchSite]:
    """A site with broker and worker of its own while the context lasts.

    Args:
        variant: how its messages leave.
        launcher: starts the worker.
        folder: for certificates and state.
        tls: between the edge and its broker.
        interval_s: of each camera.
    """
    async with AsyncExitStack() as stack:
        lines, tls_settings = await asyncio.to_thread(_certificates, folder) if tls else ((), None)
        broker = LocalBroker(listener_lines=lines, options={"max_topic_alias": str(variant.aliases)})
        address = await launcher.start_broker(broker)
        counter = await stack.enter_async_context(WireCounter(address.host, address.port))
        name = f"{variant.name}-{'tls' if tls else 'plain'}"
        worker = WorkerSettings(name=name, threads=1)
        started = await launcher.start_node(name, worker_node(_with(address, tls_settings), worker))
        await launcher.wait_ready(started)
        stack.push_async_callback(launcher.drain, started)
        questions = standing_questions(2, DEADLINE_S)
        edge = EdgeSettings(
            site=name,
            uplink_gather_ms=variant.gather_ms,
            change_gate=ChangeGateSettings(enabled=False),
            cameras={
                camera: CameraSettings(source=f"test:{number}", interval_s=interval_s, questions=tuple(questions))
                for number, camera in enumerate(CAMERAS)
            },
            questions=questions,
        )
        behind = address.model_copy(update={"port": counter.port})
        tally, stop = _Tally(), Stop()
        task = asyncio.create_task(
            run_edge(edge_node(_with(behind, tls_settings), edge), stop, observers=[tally]), name=name
        )
        try:
            yield BenchSite(name, task, stop, counter, tally)
        finally:
            stop.request()
            await asyncio.gather(task, return_exceptions=True)


def _with(address: BrokerSettings, tls: TlsSettings | None) -> BrokerSettings:
    return address.model_copy(update={"tls": tls})


def _certificates(folder: Path) -> tuple[tuple[str, ...], TlsSettings]:
    """A server's certificate: lines of Mosquitto's configuration, and what its clients trust."""
    fleet = FleetFolder.create(folder, ["127.0.0.1"])
    files = (("cafile", CA_FILE), ("certfile", CERTIFICATE_FILE), ("keyfile", KEY_FILE))
    lines = tuple(f"{key} {fleet.broker / name}" for key, name in files)
    return lines, TlsSettings(ca_file=fleet.broker / CA_FILE)
