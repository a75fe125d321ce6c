"""Composes a run of attacks: the fleet, its bystanders, a calm, and one attack after another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from rich.console import Console

from latentbus.attack import bounds, identity, poison
from latentbus.attack.books import READ_LAG_S, Books
from latentbus.attack.bystanders import PERIOD_S, Bystander, Watcher
from latentbus.attack.enemy import CONNECT_TIMEOUT_S, Stage, Tally
from latentbus.attack.fleet import BYSTANDERS, OBSERVER, AttackSetupError, SecuredFleet
from latentbus.attack.options import AttackOptions
from latentbus.attack.report import AttackReport, AttackResult, problems_of
from latentbus.output_files import fresh_run_dir
from pipeline.node.runtime import Stop

START_TIMEOUT_S: Final = 120.0
ATTACK_TIMEOUT_S: Final = 180.0
"""An attack that takes longer is ended, which counts as its success."""
CALM_ASKS: Final = 24
"""Questions in the calm: each bystander question of each camera twice."""
RECOVERED_S: Final = 3.0
"""A fleet whose bystanders wait no longer than this has recovered, so that the next attack is judged by itself."""
RECOVERY_TIMEOUT_S: Final = 60.0
OBSERVED_ASKS: Final = 4
"""Questions of bystanders during each attack, at least."""


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack.

    Attributes:
        name: of one word or two.
        group: what it is aimed at.
        run: does it.
    """

    name: str
    group: str
    run: Callable[[Stage], Awaitable[None]]

    @property
    def what(self) -> str:
        """One sentence."""
        return (self.run.__doc__ or "").split("\n")[0]


ATTACKS: Final = (
    Attack("capture", "identity", identity.capture),
    Attack("same-ids", "identity", identity.same_ids),
    Attack("foreign-replies", "identity", identity.foreign_replies),
    Attack("forbidden-topics", "identity", identity.forbidden_topics),
    Attack("camera-claim", "identity", identity.camera_claim),
    Attack("deletion", "poison", poison.deletion),
    Attack("expiry", "poison", poison.expiry),
    Attack("malformed", "poison", poison.malformed),
    Attack("version-1", "poison", poison.version_1),
    Attack("busy-storm", "poison", poison.busy_storm),
    Attack("text-flood", "poison", poison.text_flood),
    Attack("flood", "bounds", bounds.flood),
    Attack("burst", "bounds", bounds.burst),
    Attack("long-questions", "bounds", bounds.long_questions),
    Attack("correlation", "bounds", bounds.correlation),
    Attack("properties", "bounds", bounds.properties),
    Attack("retained", "bounds", bounds.retained),
    Attack("connections", "bounds", bounds.connections),
)
"""Every attack, in the order in which they run: each meets what the ones before have left."""


async def run_attacks(options: AttackOptions, stop: Stop, console: Console) -> AttackReport:
    """Run to the end, or until stopped.

    Args:
        options: what was asked for.
        stop: begins no further attack.
        console: for progress.

    Raises:
        LatentbusError: the fleet could not be started.
    """
    run_dir = fresh_run_dir(options.work_dir).absolute()
    chosen = [attack for attack in ATTACKS if not options.only or attack.name in options.only]
    books = Books()
    bounds.raise_descriptors()
    fleet = await asyncio.to_thread(SecuredFleet, run_dir)
    async with fleet, _crowd(fleet, books, options) as (watcher, bystanders):
        console.print(
            f"secured broker on {fleet.broker.host}:{fleet.broker.port}; starting the fleet (logs in {run_dir})"
        )
        await _come_up(fleet, watcher)
        await _calm(watcher, bystanders, books)
        report = AttackReport(steady=len(books.steady()), seed=options.seed)
        console.print(f"calm: {report.steady} questions have one answer each; {len(chosen)} attacks")
        for attack in chosen:
            if stop.requested:
                report.interrupted = True
                break
            result = await _strike(attack, options, fleet, watcher, bystanders, books)
            report.results.append(result)
            word = "GOT THROUGH" if result.problems else "held"
            console.print(f"{attack.name}: {word} ({result.seconds:.0f} s)  {attack.what}")
    return report


@asynccontextmanager
async def _crowd(
    fleet: SecuredFleet, books: Books, options: AttackOptions
) -> AsyncIterator[tuple[Watcher, list[Bystander]]]:
    """The observer, connected, and the bystanders, who begin when they are told to."""
    watcher = Watcher(fleet.broker_settings(OBSERVER), books)
    bystanders = [
        Bystander(name, fleet.broker_settings(name), books, deadline_s=options.deadline_s, first_camera=number)
        for number, name in enumerate(BYSTANDERS)
    ]
    async with AsyncExitStack() as stack:
        for bus in (watcher.bus, *(bystander.bus for bystander in bystanders)):
            await stack.enter_async_context(bus)
            await bus.wait_connected(CONNECT_TIMEOUT_S)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(watcher.run(), name="watcher")]
            tasks += [group.create_task(bystander.run(), name="bystander") for bystander in bystanders]
            try:
                yield watcher, bystanders
            finally:
                for task in tasks:
                    task.cancel()


async def _come_up(fleet: SecuredFleet, watcher: Watcher) -> None:
    await fleet.start()
    await watcher.until(lambda: fleet.statuses <= watcher.online or bool(fleet.ended), START_TIMEOUT_S)
    missing = [one.name for one in fleet.ended] or sorted(
        name.partition("/")[2] for name in fleet.statuses - watcher.online
    )
    if missing:
        raise AttackSetupError(f"{', '.join(missing)} did not come up: {fleet.log(missing[0])}")


async def _calm(watcher: Watcher, bystanders: list[Bystander], books: Books) -> None:
    """What is right: every question has been answered once or more, and nothing is under way."""
    for bystander in bystanders:
        bystander.begin()
    enough = await watcher.until(lambda: sum(one.asked for one in bystanders) >= CALM_ASKS, START_TIMEOUT_S)
    books.learning = False
    for bystander in bystanders:
        bystander.period_s = PERIOD_S
    if not enough or not books.steady():
        raise AttackSetupError("no question had a steady answer in the calm: nothing could be told right from wrong")


async def _strike(
    attack: Attack,
    options: AttackOptions,
    fleet: SecuredFleet,
    watcher: Watcher,
    bystanders: list[Bystander],
    books: Books,
) -> AttackResult:
    """Run one attack and see what it did."""
    tally = Tally()
    problems: list[str] = []
    books.begin()
    before = fleet.memory_bytes()
    began_s = time.monotonic()
    asked_before = sum(one.asked for one in bystanders)
    try:
        async with asyncio.timeout(ATTACK_TIMEOUT_S):
            await attack.run(Stage(options, fleet, watcher, bystanders, books, tally))
    except TimeoutError:
        problems.append(f"not over after {ATTACK_TIMEOUT_S:.0f} s")
    await watcher.until(
        lambda: sum(one.asked for one in bystanders) >= asked_before + OBSERVED_ASKS, options.deadline_s
    )
    asked = books.open_queries()
    await watcher.until(lambda: not asked & books.open_queries(), options.deadline_s + 2 * READ_LAG_S)
    if not await watcher.until(lambda: books.waits_since_s(time.monotonic()) < RECOVERED_S, RECOVERY_TIMEOUT_S):
        problems.append(f"bystanders still wait {RECOVERY_TIMEOUT_S:.0f} s later")
    problems += [f"a bug was contained by {bug}" for bug in fleet.new_bugs()]
    ended = await fleet.revive()
    if ended:
        problems += [f"{one.name} ended with status {one.status}" for one in ended]
        await watcher.until(lambda: fleet.statuses <= watcher.online, START_TIMEOUT_S)
    after = fleet.memory_bytes()
    verdicts = {str(verdict): count for verdict, count in books.counts.items()}
    problems += tally.failed
    if tally.forbidden:
        problems.append(f"{len(tally.forbidden)} forbidden requests were taken: {tally.forbidden[0]}")
    problems += problems_of(verdicts, books.foreign, before, after)
    return AttackResult(
        name=attack.name,
        group=attack.group,
        taken=tally.taken,
        refused=tally.refused,
        broken=tally.broken,
        verdicts=verdicts,
        before_bytes=before,
        after_bytes=after,
        seconds=time.monotonic() - began_s,
        problems=tuple(problems),
        notes=tuple(tally.notes),
    )
