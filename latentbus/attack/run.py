"""Composes a run of attacks: the fleet, its bystanders, a calm, and one attack after another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from rich.console import Console

from latentbus.attack import bounds, identity, poison
from latentbus.attack.attacker import Stage, Tally
from latentbus.attack.bystanders import PERIOD_S, Bystander, Watcher
from latentbus.attack.fleet import BYSTANDERS, OBSERVER, AttackSetupError, SecuredFleet
from latentbus.attack.ledger import BystanderLedger
from latentbus.attack.options import AttackOptions
from latentbus.attack.report import AttackReport, AttackResult, problems_of
from latentbus.fleet.client import reading
from latentbus.fleet.ledger import READ_LAG_S
from latentbus.reports.output_files import fresh_run_dir
from pipeline.node.runtime import Stop
from schemas.counting import counted

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
    ledger = BystanderLedger()
    bounds.raise_descriptors()
    fleet = await asyncio.to_thread(SecuredFleet, run_dir)
    async with fleet, _crowd(fleet, ledger, options) as (watcher, bystanders):
        console.print(
            f"secured broker on {fleet.broker.host}:{fleet.broker.port}; starting the fleet (logs in {run_dir})"
        )
        await fleet.start()
        await _calm(watcher, bystanders, ledger)
        report = AttackReport(steady=len(ledger.steady()), seed=options.seed)
        console.print(
            f"calm: {counted(report.steady, 'question')} with one answer each time; {counted(len(chosen), 'attack')}"
        )
        for attack in chosen:
            if stop.requested:
                report.interrupted = True
                break
            result = await _strike(attack, Stage(options, fleet, watcher, bystanders, ledger, Tally()))
            report.results.append(result)
            word = "GOT THROUGH" if result.problems else "held"
            console.print(f"{attack.name}: {word} ({result.seconds:.0f} s)  {attack.what}")
    return report


@asynccontextmanager
async def _crowd(
    fleet: SecuredFleet, ledger: BystanderLedger, options: AttackOptions
) -> AsyncIterator[tuple[Watcher, list[Bystander]]]:
    """The observer, connected, and the bystanders, who begin when they are told to."""
    watcher = Watcher(fleet.broker_settings(OBSERVER), ledger)
    bystanders = [
        Bystander(fleet.broker_settings(name), name, ledger, deadline_s=options.deadline_s, first_camera=number)
        for number, name in enumerate(BYSTANDERS)
    ]
    async with reading(watcher, *bystanders):
        yield watcher, bystanders


async def _calm(watcher: Watcher, bystanders: list[Bystander], ledger: BystanderLedger) -> None:
    """What is right: every question has been answered once or more, and nothing is under way."""
    for bystander in bystanders:
        bystander.begin()
    enough = await watcher.wait_until(lambda: sum(one.asked for one in bystanders) >= CALM_ASKS, START_TIMEOUT_S)
    ledger.learning = False
    for bystander in bystanders:
        bystander.period_s = PERIOD_S
    if not enough or not ledger.steady():
        raise AttackSetupError("no question had a steady answer in the calm: nothing could be told right from wrong")


async def _strike(attack: Attack, stage: Stage) -> AttackResult:
    """Run one attack and see what it did."""
    fleet, watcher, bystanders, ledger, tally = (
        stage.fleet, stage.watcher, stage.bystanders, stage.ledger, stage.tally
    )  # fmt: skip
    problems: list[str] = []
    ledger.begin()
    before = fleet.memory_bytes()
    began_s = time.monotonic()
    asked_before = sum(one.asked for one in bystanders)
    try:
        async with asyncio.timeout(ATTACK_TIMEOUT_S):
            await attack.run(stage)
    except TimeoutError:
        problems.append(f"not over after {ATTACK_TIMEOUT_S:.0f} s")
    await watcher.wait_until(
        lambda: sum(one.asked for one in bystanders) >= asked_before + OBSERVED_ASKS, stage.options.deadline_s
    )
    asked = ledger.open_queries()
    await watcher.wait_until(lambda: not asked & ledger.open_queries(), stage.options.deadline_s + 2 * READ_LAG_S)
    if not await watcher.wait_until(lambda: ledger.waits_since_s(time.monotonic()) < RECOVERED_S, RECOVERY_TIMEOUT_S):
        problems.append(f"bystanders still wait {RECOVERY_TIMEOUT_S:.0f} s later")
    problems += [f"a bug was contained by {bug}" for bug in fleet.new_bugs()]
    ended = await fleet.revive()
    if ended:
        problems += [f"{one.name} ended with status {one.status}" for one in ended]
    after = fleet.memory_bytes()
    verdicts = {str(verdict): count for verdict, count in ledger.counts.items()}
    problems += tally.failed
    if tally.forbidden:
        problems.append(
            f"taken by the broker: {counted(len(tally.forbidden), 'forbidden request')}, {tally.forbidden[0]}"
        )
    problems += problems_of(verdicts, ledger.foreign, before, after)
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
