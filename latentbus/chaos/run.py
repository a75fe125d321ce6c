"""Composes a chaos run: broker, fleet, reader and faults; then everything must be accounted for."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from rich.console import Console

from broker_config.launcher import LocalBroker
from latentbus.chaos.books import REPORT_PATIENCE_S, Books
from latentbus.chaos.edge_log import read_edge_log
from latentbus.chaos.faults import RETURN_PATIENCE_S, Injector, Strike
from latentbus.chaos.fleet import QUESTIONS, Fleet, Member, write_patient_codec
from latentbus.chaos.options import ChaosOptions
from latentbus.chaos.plan import PlannedFault, Role, make_plan
from latentbus.chaos.reader import Reader
from latentbus.chaos.report import ChaosReport, make_report
from latentbus.output_files import fresh_run_dir
from pipeline.codec.bundled import bundled_codec_dir
from pipeline.config.settings import BrokerSettings
from pipeline.node.runtime import Stop
from schemas.errors import LocalError

_CONNECT_TIMEOUT_S: Final = 10.0
_LINE_PERIOD_S: Final = 5.0
_LAST_WORD_S: Final = 5.0
"""What was published before an edge ended is at the reader within this time."""
_BROKER_OPTIONS: Final = {"autosave_interval": "1"}
"""A broker that is killed comes back with what it knew a second before."""


class FleetStartError(LocalError):
    """The processes of a run did not come up."""


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
    run_dir = fresh_run_dir(options.work_dir)
    books = Books()
    plan = make_plan(options.seed, faults=options.faults, questions=options.questions, kinds=options.kinds)
    broker = LocalBroker(directory=run_dir / "broker", persistent=True, options=_BROKER_OPTIONS)
    codec = await asyncio.to_thread(
        write_patient_codec, options.codec or bundled_codec_dir(), run_dir.absolute() / "codec"
    )
    fleet = Fleet(options, lambda: (broker.host, broker.port), codec=codec, run_dir=run_dir.absolute())
    async with broker, _reading(broker, books, options) as reader, fleet:
        console.print(
            f"seed {options.seed}; broker on {broker.host}:{broker.port}; starting {len(fleet.members)} processes "
            f"(logs in {run_dir})"
        )
        await _start(fleet, reader, stop)
        injector = Injector(
            fleet,
            broker,
            reader,
            books,
            detection_s=options.detection_s,
            seed=options.seed,
            stop=stop,
            tell=lambda strike: console.print(_strike_line(strike)),
        )
        await _ask_and_strike(options, plan, fleet, injector, reader, books, stop, console)
        interrupted = stop.requested
        console.print("draining")
        await _drain(fleet, reader, books, options)
        logs = [read_edge_log(path) for path in fleet.frame_logs()]
    for log in logs:
        books.read_edge_log(log, options.deadline_s)
    return make_report(
        options.seed,
        books,
        books.balance(logs),
        injector,
        fleet.exits,
        duration_s=time.monotonic() - began_s,
        interrupted=interrupted,
    )


@asynccontextmanager
async def _reading(broker: LocalBroker, books: Books, options: ChaosOptions) -> AsyncIterator[Reader]:
    settings = BrokerSettings(host=broker.host, port=broker.port, keepalive_s=options.keepalive_s)
    reader = Reader(settings, books, options.deadline_s)
    async with reader.bus, asyncio.TaskGroup() as group:
        await reader.bus.wait_connected(_CONNECT_TIMEOUT_S)
        tasks = [
            group.create_task(reader.run(), name="reader"),
            group.create_task(reader.run_asks(), name="asks"),
        ]
        yield reader
        for task in tasks:
            task.cancel()


async def _start(fleet: Fleet, reader: Reader, stop: Stop) -> None:
    """Start everything; workers first, so that the first frames find one."""
    for role in (Role.WORKER, Role.EDGE):
        await asyncio.gather(*(member.start() for member in fleet.of(role)))
        up = await reader.wait_until(partial(_settled, fleet, fleet.of(role), reader, stop), RETURN_PATIENCE_S)
        if fleet.exits:
            raise FleetStartError(fleet.exits[0].log)
        if not up:
            raise FleetStartError(f"the {role}s were not up within {RETURN_PATIENCE_S:.0f} s")


def _settled(fleet: Fleet, members: list[Member], reader: Reader, stop: Stop) -> bool:
    return stop.requested or bool(fleet.exits) or _online(members, reader)


async def _ask_and_strike(
    options: ChaosOptions,
    plan: list[PlannedFault],
    fleet: Fleet,
    injector: Injector,
    reader: Reader,
    books: Books,
    stop: Stop,
    console: Console,
) -> None:
    """Ask questions and let faults loose as they become due, until there were enough of both."""
    rng = random.Random(options.seed)
    cameras = sorted(camera for member in fleet.of(Role.EDGE) for camera in fleet.cameras(member.name))
    began_s = next_line_s = time.monotonic()
    due = deque(plan)
    async with asyncio.TaskGroup() as group:
        striking: set[asyncio.Task[None]] = set()
        stopped = group.create_task(stop.wait(), name="stop")
        while not stop.requested and (due or striking or len(books.rows) < options.questions):
            while reader.asked * options.standing_per_ad_hoc < len(books.rows) - reader.asked:
                reader.ask(rng.choice(cameras), *rng.choice(QUESTIONS))
            while due and due[0].after_asked <= len(books.rows):
                fault = due.popleft()
                striking.add(group.create_task(injector.inject(fault), name=f"fault {fault.number}"))
            if time.monotonic() >= next_line_s:
                console.print(_progress_line(time.monotonic() - began_s, books, injector))
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


async def _drain(fleet: Fleet, reader: Reader, books: Books, options: ChaosOptions) -> None:
    """Let everything end in good order; what has no outcome after that has been lost."""
    patience_s = options.deadline_s + REPORT_PATIENCE_S
    await reader.wait_until(
        lambda: _online(fleet.members, reader) and not any(row.ad_hoc for row in books.undecided.values()), patience_s
    )
    await _drain_all(fleet, fleet.of(Role.EDGE))
    last_due_s = max((row.due_s for row in books.undecided.values()), default=0.0)
    await reader.wait_until(lambda: not books.undecided, max(0.0, last_due_s - time.monotonic()) + _LAST_WORD_S)
    await _drain_all(fleet, fleet.of(Role.WORKER))


async def _drain_all(fleet: Fleet, members: list[Member]) -> None:
    ends = await asyncio.gather(*(member.drain() for member in members))
    fleet.exits += [end for end in ends if end is not None and end.status]


def _online(members: list[Member], reader: Reader) -> bool:
    return all(member.status_name in reader.boots for member in members)


def _strike_line(strike: Strike) -> str:
    plan = strike.plan
    return f"fault {plan.number + 1}: {plan.kind} {strike.target} with {len(strike.hit)} unfinished questions"


def _progress_line(elapsed_s: float, books: Books, injector: Injector) -> str:
    return (
        f"{elapsed_s:5.0f} s  {len(books.rows)} asked, {len(books.undecided)} unfinished, {books.reopened} reopened, "
        f"{len(injector.strikes)} faults"
    )
