"""The fleet of a chaos run: real processes, each behind a proxy of its own, started again when they were killed."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from latentbus.chaos.options import ChaosOptions
from latentbus.chaos.plan import Role
from latentbus.chaos.reader import CLIENT
from latentbus.chaos.tcp_proxy import FaultProxy
from latentbus.demo.children import Child, running_child
from pipeline.codec.spec import STOP_FILE, load_codec_spec
from pipeline.config.settings import (
    BrokerSettings,
    CameraSettings,
    ClientBudgetSettings,
    EdgeSettings,
    LatentbusSettings,
    LogSettings,
    QuestionSettings,
    WorkerSettings,
)
from schemas.types import AnswerType

QUESTIONS: Final[tuple[tuple[str, AnswerType], ...]] = (
    ("Is there a car?", AnswerType.YES_NO),
    ("How many cars are there?", AnswerType.COUNT),
    ("What color is the bus?", AnswerType.WORD),
    ("Is there a person?", AnswerType.YES_NO),
    ("How many trees are there?", AnswerType.COUNT),
    ("Is there a house?", AnswerType.YES_NO),
)
"""Standing questions of a camera; ad-hoc ones are the same, asked once."""
_RESTART_DELAY_S: Final = 1.0
"""What a supervisor waits, so that a process that cannot start does not keep the machine busy."""
_NEVER_SAFE: Final = 2.0
"""A threshold above every score."""


@dataclass(frozen=True, slots=True)
class Exit:
    """A process that ended without being told to.

    Attributes:
        name: which.
        status: its exit status, negative for a signal.
        log: its last lines.
    """

    name: str
    status: int
    log: str


class Member:
    """A process of the fleet with its link to the broker.

    Args:
        role: edge or worker.
        name: site or worker name.
        proxy: its way to the broker, entered.
        settings_of: settings of the n-th start, from 1.
        run_dir: where settings and logs go.
        ended: told when it ends without being told to.

    Attributes:
        starts: how often it was started.
        busy: a fault is at work on it.
    """

    def __init__(
        self,
        role: Role,
        name: str,
        proxy: FaultProxy,
        settings_of: Callable[[int], LatentbusSettings],
        run_dir: Path,
        ended: Callable[[Member, Exit], None],
    ) -> None:
        self.role = role
        self.name = name
        self.proxy = proxy
        self.starts = 0
        self.busy = False
        self._settings_of = settings_of
        self._run_dir = run_dir
        self._ended = ended
        self._child: Child | None = None
        self._stack = AsyncExitStack()
        self._watch: asyncio.Task[None] | None = None

    @property
    def status_name(self) -> str:
        """Its name in status messages, ``worker/w1``."""
        return f"{self.role}/{self.name}"

    async def start(self) -> None:
        """Start it, as an operator would."""
        self.starts += 1
        settings = self._settings_of(self.starts)
        self._child = await self._stack.enter_async_context(
            running_child(f"{self.name}-{self.starts}", self.role, settings, self._run_dir)
        )
        self._watch = asyncio.create_task(self._watch_exit(self._child), name=f"{self.name} ended")

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        await self._unwatch()
        await self._stack.aclose()
        self._child = None

    def freeze(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    async def drain(self) -> Exit | None:
        """SIGTERM, and wait for the end.

        Returns:
            How it ended, None when it was not running.
        """
        await self._unwatch()
        child = self._child
        if child is None:
            return None
        status = await child.drain()
        await self.kill()
        return Exit(self.name, status, str(child.error()))

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None and self._child.process.returncode is None:
            self._child.process.send_signal(number)

    async def _watch_exit(self, child: Child) -> None:
        status = await child.process.wait()
        self._ended(self, Exit(self.name, status, str(child.error())))

    async def _unwatch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None


def write_patient_codec(source: Path, folder: Path) -> Path:
    """A codec folder whose stop rule is content with nothing less than the whole latent.

    Every question then takes every rung of the ladder: the longest conversation between edge and worker, and the most
    occasions to break it. Weights, tables and fingerprint stay as they are.
    """
    shutil.copytree(source, folder)
    spec = load_codec_spec(folder)
    spec.model_copy(update={"base_latents": spec.ladder[0]}).save(folder)
    rule = json.loads((folder / STOP_FILE).read_text(encoding="utf-8"))
    rule |= {"thresholds": {}, "default": [*(_NEVER_SAFE for _ in rule["ladder"][1:]), 0.0]}
    (folder / STOP_FILE).write_text(json.dumps(rule, indent=1) + "\n", encoding="utf-8")
    return folder


class Fleet:
    """All processes but the broker. An async context manager: proxies on entry, nothing left behind on exit.

    Args:
        options: what was asked for.
        upstream: where the broker is.
        codec: codec folder of all.
        run_dir: settings and logs.

    Attributes:
        members: every process.
        exits: those that ended without being told to; each is started again.
    """

    def __init__(
        self, options: ChaosOptions, upstream: Callable[[], tuple[str, int]], *, codec: Path, run_dir: Path
    ) -> None:
        self.members: list[Member] = []
        self.exits: list[Exit] = []
        self._options = options
        self._upstream = upstream
        self._run_dir = run_dir
        self._stack = AsyncExitStack()
        self._restarts: set[asyncio.Task[None]] = set()
        self._codec = codec

    def of(self, role: Role) -> list[Member]:
        """Members of a role."""
        return [member for member in self.members if member.role is role]

    def cameras(self, site: str) -> frozenset[str]:
        """Cameras of a site."""
        return frozenset(f"{site}-c{number + 1}" for number in range(self._options.cameras_per_site))

    def frame_logs(self) -> list[Path]:
        """Frame logs of every edge process so far."""
        return [
            self._frame_log(member.name, start + 1) for member in self.of(Role.EDGE) for start in range(member.starts)
        ]

    async def __aenter__(self) -> Self:
        """Open the proxies."""
        for number in range(self._options.workers):
            await self._add(Role.WORKER, f"w{number + 1}", self._worker_settings)
        for number in range(self._options.sites):
            await self._add(Role.EDGE, f"s{number + 1}", self._edge_settings)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Kill what still runs."""
        for restart in self._restarts:
            restart.cancel()
        await asyncio.gather(*self._restarts, return_exceptions=True)
        for member in self.members:
            await member.kill()
        await self._stack.aclose()

    async def _add(
        self, role: Role, name: str, settings_of: Callable[[str, BrokerSettings, int], LatentbusSettings]
    ) -> None:
        proxy = await self._stack.enter_async_context(FaultProxy(self._upstream))
        broker = BrokerSettings(host=proxy.host, port=proxy.port, keepalive_s=self._options.keepalive_s)
        self.members.append(
            Member(
                role, name, proxy, lambda start: settings_of(name, broker, start), self._run_dir, self._ended_on_its_own
            )
        )

    def _ended_on_its_own(self, member: Member, end: Exit) -> None:
        self.exits.append(end)
        restart = asyncio.create_task(self._restart(member), name=f"restart {member.name}")
        self._restarts.add(restart)
        restart.add_done_callback(self._restarts.discard)

    async def _restart(self, member: Member) -> None:
        await asyncio.sleep(_RESTART_DELAY_S)
        await member.start()

    def _worker_settings(self, name: str, broker: BrokerSettings, _start: int) -> LatentbusSettings:
        # One thread each: the processes of a run share one machine.
        worker = WorkerSettings(name=name, codec=self._codec, threads=1)
        return LatentbusSettings(broker=broker, worker=worker, log=LogSettings(json_lines=True))

    def _edge_settings(self, site: str, broker: BrokerSettings, start: int) -> LatentbusSettings:
        options = self._options
        questions = {
            f"q{number + 1}": QuestionSettings(
                text=text, answer_type=answer_type, deadline_ms=round(options.deadline_s * 1000)
            )
            for number, (text, answer_type) in enumerate(QUESTIONS[: options.questions_per_camera])
        }
        edge = EdgeSettings(
            site=site,
            uplink_kbps=options.uplink_kbps,
            codec=self._codec,
            cameras={
                camera: CameraSettings(
                    source=f"test:{options.seed + number}", interval_s=options.interval_s, questions=tuple(questions)
                )
                for number, camera in enumerate(sorted(self.cameras(site)))
            },
            questions=questions,
            # The run's client asks for many, and asks everything again after each reconnect.
            client_budgets={CLIENT: ClientBudgetSettings(asks_per_s=100, burst_asks=2_000, open_asks=256, kbps=1_000)},
            state_dir=self._run_dir / f"{site}-state",
            frame_log=self._frame_log(site, start),
        )
        return LatentbusSettings(broker=broker, edge=edge, log=LogSettings(json_lines=True))

    def _frame_log(self, site: str, start: int) -> Path:
        return self._run_dir / f"{site}-{start}.frames.jsonl"
