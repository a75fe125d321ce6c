"""The fleet of a chaos run: real processes, each behind a proxy of its own, started again when they were killed."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from broker_config.launcher import LocalBroker
from latentbus.chaos.options import ChaosOptions
from latentbus.chaos.plan import Role
from latentbus.chaos.reader import CLIENT
from latentbus.chaos.tcp_proxy import FaultProxy
from latentbus.fleet.launcher import Launcher
from latentbus.fleet.process import FleetProcess
from latentbus.fleet.settings import (
    EVERY_FRAME,
    WIDE_BUDGET,
    camera_names,
    edge_node,
    rendered_cameras,
    standing_questions,
    worker_node,
)
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.settings import LatentbusSettings
from pipeline.config.worker_settings import WorkerSettings

_RESTART_DELAY_S: Final = 1.0
"""What a supervisor waits, so that a process that cannot start does not keep the machine busy."""


@dataclass(frozen=True, slots=True)
class Exit:
    """A process that ended without being told to, or not as it should.

    Attributes:
        name: which.
        status: its exit status, negative for a signal.
        log: its last lines.
    """

    name: str
    status: int
    log: str


@dataclass(slots=True)
class Member:
    """A process of the fleet with its link to the broker.

    Attributes:
        role: edge or worker.
        name: site or worker name.
        proxy: its way to the broker, entered.
        starts: how often it was started.
        busy: a fault is at work on it.
        process: what was started last; None before.
    """

    role: Role
    name: str
    proxy: FaultProxy
    starts: int = 0
    busy: bool = False
    process: FleetProcess | None = None

    @property
    def status_name(self) -> str:
        """Its name in status messages, ``worker/w1``."""
        return f"{self.role}/{self.name}"

    @property
    def running(self) -> FleetProcess:
        """Its process.

        Raises:
            AssertionError: it was not started.
        """
        if self.process is None:
            raise AssertionError(f"{self.name} was not started")
        return self.process


class Fleet:
    """All processes but the broker. An async context manager: proxies on entry, nothing left behind on exit.

    Args:
        options: what was asked for.
        launcher: entered.
        broker: of the run.
        codec: codec folder of all.

    Attributes:
        members: every process.
        exits: those that ended without being told to; each is started again.
        launcher: as given.
        broker: as given.
    """

    def __init__(self, options: ChaosOptions, launcher: Launcher, broker: LocalBroker, codec: Path) -> None:
        self.members: list[Member] = []
        self.exits: list[Exit] = []
        self.launcher = launcher
        self._options = options
        self.broker = broker
        self._stack = AsyncExitStack()
        self._restarts: set[asyncio.Task[None]] = set()
        self._codec = codec

    def of(self, role: Role) -> list[Member]:
        """Members of a role."""
        return [member for member in self.members if member.role is role]

    def cameras(self, site: str) -> frozenset[str]:
        """Cameras of a site."""
        return frozenset(camera_names(site, self._options.cameras_per_site))

    def frame_logs(self) -> list[Path]:
        """Frame logs of every edge process so far."""
        return [
            self._frame_log(member.name, start + 1) for member in self.of(Role.EDGE) for start in range(member.starts)
        ]

    async def start(self, member: Member) -> FleetProcess:
        """Start a member, as an operator would."""
        member.starts += 1
        settings_of = self._edge_settings if member.role is Role.EDGE else self._worker_settings
        member.process = await self.launcher.start_node(member.name, settings_of(member))
        return member.process

    async def drain(self, role: Role) -> None:
        """Drain the members of a role; one that does not end in good order is an exit."""
        running = [member.process for member in self.of(role) if member.process is not None]
        for process, status in zip(running, await self.launcher.drain(*running), strict=True):
            if status and process.told_to_end:
                self.exits.append(_exit(process))

    async def __aenter__(self) -> Self:
        """Open the proxies."""
        self.launcher.on_exit = self._ended_on_its_own
        names = [(Role.WORKER, f"w{number + 1}") for number in range(self._options.workers)]
        names += [(Role.EDGE, f"s{number + 1}") for number in range(self._options.sites)]
        for role, name in names:
            proxy = FaultProxy(lambda: (self.broker.host, self.broker.port))
            self.members.append(Member(role, name, await self._stack.enter_async_context(proxy)))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Kill what still runs."""
        for restart in self._restarts:
            restart.cancel()
        await asyncio.gather(*self._restarts, return_exceptions=True)
        await self.launcher.kill()
        await self._stack.aclose()

    def _ended_on_its_own(self, process: FleetProcess) -> None:
        self.exits.append(_exit(process))
        (member,) = (member for member in self.members if member.process is process)
        restart = asyncio.create_task(self._restart(member), name=f"restart {member.name}")
        self._restarts.add(restart)
        restart.add_done_callback(self._restarts.discard)

    async def _restart(self, member: Member) -> None:
        await asyncio.sleep(_RESTART_DELAY_S)
        if member.running.status is not None:  # a fault may have started it meanwhile
            await self.start(member)

    def _link(self, member: Member) -> BrokerSettings:
        return BrokerSettings(host=member.proxy.host, port=member.proxy.port, keepalive_s=self._options.keepalive_s)

    def _worker_settings(self, member: Member) -> LatentbusSettings:
        # One thread each: the processes of a run share one machine.
        return worker_node(self._link(member), WorkerSettings(name=member.name, codec=self._codec, threads=1))

    def _edge_settings(self, member: Member) -> LatentbusSettings:
        options, site = self._options, member.name
        questions = standing_questions(options.questions_per_camera, options.deadline_s)
        edge = EdgeSettings(
            site=site,
            uplink_kbps=options.uplink_kbps,
            codec=self._codec,
            change_gate=EVERY_FRAME,
            cameras=rendered_cameras(
                sorted(self.cameras(site)), list(questions), options.interval_s, seed=options.seed
            ),
            questions=questions,
            # The run's client asks for many, and asks everything again after each reconnect.
            client_budgets={CLIENT: WIDE_BUDGET},
            state_dir=self.launcher.run_dir / f"{site}-state",
            frame_log=self._frame_log(site, member.starts),
        )
        return edge_node(self._link(member), edge)

    def _frame_log(self, site: str, start: int) -> Path:
        return self.launcher.run_dir / f"{site}-{start}.frames.jsonl"


def _exit(process: FleetProcess) -> Exit:
    return Exit(process.name, process.status or 0, str(process.error()))
