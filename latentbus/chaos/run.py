"""Composes a chaos run: broker, fleet, reader and faults; then everything must be accounted for."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from typing import Final

from rich.console import Console

from broker_config.launcher import LocalBroker
from latentbus.chaos.faults import Injector, Strike
from latentbus.chaos.fleet import Fleet
from latentbus.chaos.ledger import REPORT_PATIENCE_S, ChaosLedger
from latentbus.chaos.options import ChaosOptions
from latentbus.chaos.plan import Role, make_plan
from latentbus.chaos.reader import Reader
from latentbus.chaos.report import ChaosReport, make_report
from latentbus.fleet.client import reading
from latentbus.fleet.launcher import Launcher
from latentbus.fleet.settings import QUESTIONS, write_patient_codec
from latentbus.reports.output_files import fresh_run_dir
from pipeline.codec.bundled import bundled_codec_dir
from pipeline.node.runtime import Stop
from pipeline.node.tasks import first_of
from schemas.counting import counted

_LINE_PERIOD_S: Final = 5.0
_LAST_WORD_S: Final = 5.0
"""What was published before an edge ended is at the reader within this time."""
_BROKER_OPTIONS: Final = {"autosave_interval": "1"}
"""A broker that is killed comes back with what it knew a second before."""


async def run_chaos(options: ChaosOptions, stop: Stop, console: Console) -> ChaosReport:
    """Run to the end, or until stopped, which drains and reports all the same.

    Args:
        options: what was asked for.
        stop: injects no further faults and asks no further questions.
        console: for progress.

    Raises:
        LatentbusError: the fleet could not be started, or the broker did not come up again.
    """
    began_s = time.monotonic()
    run_dir = fresh_run_dir(options.work_dir).absolute()
    ledger = ChaosLedger()
    broker = LocalBroker(directory=run_dir / "broker", persistent=True, options=_BROKER_OPTIONS)
    codec = await asyncio.to_thread(write_patient_codec, options.codec or bundled_codec_dir(), run_dir / "codec")
    async with Launcher(run_dir) as launcher:
        address = (await launcher.start_broker(broker)).model_copy(update={"keepalive_s": options.keepalive_s})
        reader = Reader(address, ledger, options.deadline_s)
        async with reading(reader), Fleet(options, launcher, broker, codec) as fleet:
            processes = counted(len(fleet.members), "process", "processes")
            console.print(
                f"seed {options.seed}; broker on {broker.host}:{broker.port}; starting {processes} (logs in {run_dir})"
            )
            run = _Run(options, fleet, reader, ledger, stop, console)
            await run.start()
            await run.ask_and_strike()
            interrupted = stop.requested
            console.print("draining")
            await run.drain()
            await asyncio.to_thread(ledger.read_frame_logs, fleet.frame_logs(), options.deadline_s)
    return make_report(
        options,
        ledger,
        run.injector,
        fleet.exits,
        duration_s=time.monotonic() - began_s,
        interrupted=interrupted,
    )


class _Run:
    """A run whose fleet has its proxies, and whose reader reads."""

    def __init__(
        self,
        options: ChaosOptions,
        fleet: Fleet,
        reader: Reader,
        ledger: ChaosLedger,
        stop: Stop,
        console: Console,
    ) -> None:
        self.injector = Injector(
            fleet, reader, ledger, options, stop, lambda strike: console.print(_strike_line(strike))
        )
        self._options = options
        self._fleet = fleet
        self._reader = reader
        self._ledger = ledger
        self._stop = stop
        self._console = console

    async def start(self) -> None:
        """Start everything; workers first, so that the first frames find one."""
        for role in (Role.WORKER, Role.EDGE):
            started = await asyncio.gather(*(self._fleet.start(member) for member in self._fleet.of(role)))
            await first_of(self._fleet.launcher.wait_ready(*started), self._stop.wait())

    async def ask_and_strike(self) -> None:
        """Ask questions and let faults loose as they become due, until there were enough of both."""
        options, reader, asked = self._options, self._reader, self._ledger.entries
        rng = random.Random(options.seed)
        cameras = sorted(camera for member in self._fleet.of(Role.EDGE) for camera in self._fleet.cameras(member.name))
        began_s = next_line_s = time.monotonic()
        due = deque(make_plan(options.seed, faults=options.faults, questions=options.questions, kinds=options.kinds))
        async with asyncio.TaskGroup() as group:
            striking: set[asyncio.Task[None]] = set()
            stopped = group.create_task(self._stop.wait(), name="stop")
            while not self._stop.requested and (due or striking or len(asked) < options.questions):
                while reader.asked * options.standing_per_ad_hoc < len(asked) - reader.asked:
                    reader.ask_until_decided(rng.choice(cameras), *rng.choice(QUESTIONS))
                while due and due[0].after_asked <= len(asked):
                    fault = due.popleft()
                    striking.add(group.create_task(self.injector.inject(fault), name=f"fault {fault.number}"))
                if time.monotonic() >= next_line_s:
                    self._console.print(self._progress_line(time.monotonic() - began_s))
                    next_line_s += _LINE_PERIOD_S
                changed = group.create_task(reader.wait_change(), name="change")
                done, _ = await asyncio.wait(
                    {changed, stopped, *striking}, timeout=_LINE_PERIOD_S, return_when=asyncio.FIRST_COMPLETED
                )
                striking -= done
                changed.cancel()
            stopped.cancel()
            # A fault that still looks for a target must look again to see that it is over.
            await reader.wake()

    async def drain(self) -> None:
        """Let everything end in good order; what has no outcome after that has been lost."""
        fleet, reader, ledger = self._fleet, self._reader, self._ledger
        await reader.wait_until(
            lambda: (
                all(member.status_name in reader.online for member in fleet.members)
                and not any(entry.ad_hoc for entry in ledger.unfinished)
            ),
            self._options.deadline_s + REPORT_PATIENCE_S,
        )
        await fleet.drain(Role.EDGE)
        last_due_s = max((entry.due_s for entry in ledger.unfinished), default=0.0)
        await reader.wait_until(lambda: not ledger.unfinished, max(0.0, last_due_s - time.monotonic()) + _LAST_WORD_S)
        await fleet.drain(Role.WORKER)

    def _progress_line(self, elapsed_s: float) -> str:
        ledger = self._ledger
        return (
            f"{elapsed_s:5.0f} s  {len(ledger.entries)} asked, {len(ledger.unfinished)} unfinished, "
            f"{ledger.reopened} reopened, {len(self.injector.strikes)} faults"
        )


def _strike_line(strike: Strike) -> str:
    plan = strike.plan
    return f"fault {plan.number + 1}: {plan.kind} {strike.target} with {len(strike.hit)} unfinished questions"
