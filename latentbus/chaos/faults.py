"""Aims each fault at a process that owns unfinished questions, strikes, and puts things right again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from latentbus.chaos.fleet import Fleet, Member
from latentbus.chaos.ledger import ChaosLedger
from latentbus.chaos.options import ChaosOptions
from latentbus.chaos.plan import FaultKind, PlannedFault, Role
from latentbus.chaos.reader import Reader
from latentbus.fleet.ledger import Entry
from pipeline.node.runtime import Stop
from schemas.errors import BrokerStartError

AIM_PATIENCE_S: Final = 60.0
"""How long a fault waits for a target; a fleet that has no unfinished question for so long is stuck."""
RETURN_PATIENCE_S: Final = 120.0
"""How long a restarted process may take; workers import torch and load a model."""
SLOW_BYTES_PER_S: Final = 400.0
_DATABASE: Final = "mosquitto.db"


@dataclass(slots=True)
class Strike:
    """A fault that has struck.

    Attributes:
        plan: what was planned.
        target: who was hit.
        at_s: when, on this host's monotonic clock.
        hit: the unfinished queries that the target owned then.
        outage_s: how long nobody can know of the fault or do anything about it; recovery counts from there.
        returned: the target was whole again in time.
    """

    plan: PlannedFault
    target: str
    at_s: float
    hit: list[Entry] = field(default_factory=list)
    outage_s: float = 0.0
    returned: bool = True


class Injector:
    """Carries out planned faults.

    Args:
        fleet: its targets, all of them connected, over a persistent broker, which is the other target.
        reader: tells who is up.
        ledger: tells who owns what.
        options: of the run; their seed is that of the choice between several possible targets.
        stop: no fault strikes after it was requested.
        tell: called with each strike when it has happened.

    Attributes:
        strikes: what was done.
        missed: planned faults that found no target.
    """

    def __init__(
        self,
        fleet: Fleet,
        reader: Reader,
        ledger: ChaosLedger,
        options: ChaosOptions,
        stop: Stop,
        tell: Callable[[Strike], None],
    ) -> None:
        self.strikes: list[Strike] = []
        self.missed: list[PlannedFault] = []
        self._fleet = fleet
        self._broker = fleet.broker
        self._reader = reader
        self._ledger = ledger
        self._detection_s = options.detection_s
        self._rng = random.Random(options.seed)
        self._stop = stop
        self._tell = tell
        self._broker_busy = False
        self._sessions_since_s = time.time()

    async def inject(self, plan: PlannedFault) -> None:
        """Wait for a target, strike, and return when the target is whole again.

        Raises:
            BrokerStartError: the broker did not come up again.
        """
        if plan.role is Role.BROKER:
            await self._inject_broker(plan)
            return
        await self._reader.wait_until(lambda: self._stop.requested or bool(self._targets(plan.role)), AIM_PATIENCE_S)
        targets = self._targets(plan.role)
        if self._stop.requested or not targets:
            self.missed.append(plan)
            return
        member = self._rng.choice(targets)
        member.busy = True
        try:
            match plan.kind:
                case FaultKind.KILL_WORKER | FaultKind.KILL_EDGE:
                    await self._kill(plan, member)
                case FaultKind.FREEZE_WORKER:
                    await self._freeze(plan, member)
                case FaultKind.HALF_OPEN_LINK:
                    await self._half_open(plan, member)
                case _:
                    await self._on_link(plan, member)
        finally:
            member.busy = False
            await self._reader.wake()

    # ---- aim --------------------------------------------------------------------------------------------------------

    def _targets(self, role: Role) -> list[Member]:
        """Members of a role that own unfinished queries; of the workers one is always left alone."""
        idle = [member for member in self._fleet.of(role) if not member.busy]
        if role is Role.WORKER and len(idle) < min(2, len(self._fleet.of(role))):
            return []
        return [member for member in idle if member.status_name in self._reader.online and self._owned(member)]

    def _broker_ready(self) -> bool:
        if self._broker_busy or not self._reader.bus.statistics().connected:
            return False
        # The sessions of edges and reader must be on its disk, as they are in a broker that has run for long.
        return bool(self._ledger.unfinished) and _written_since(
            self._broker.directory / _DATABASE, self._sessions_since_s
        )

    def _owned(self, member: Member) -> list[Entry]:
        if member.role is Role.WORKER:
            return self._ledger.owned_by_worker(member.name)
        return self._ledger.owned_by_cameras(self._fleet.cameras(member.name))

    def _struck(self, plan: PlannedFault, member: Member | None, outage_s: float = 0.0) -> Strike:
        hit = self._ledger.unfinished if member is None else self._owned(member)
        strike = Strike(plan, "broker" if member is None else member.name, time.monotonic(), hit, outage_s)
        self.strikes.append(strike)
        self._tell(strike)
        return strike

    # ---- processes --------------------------------------------------------------------------------------------------

    async def _kill(self, plan: PlannedFault, member: Member) -> None:
        boot = self._reader.online.pop(member.status_name)
        strike = self._struck(plan, member)
        if member.role is Role.EDGE:
            self._ledger.edge_killed(boot, strike.at_s)
        await member.running.kill()
        await asyncio.sleep(plan.duration_s)
        await self._fleet.start(member)
        strike.returned = await self._reader.wait_until(
            lambda: self._reader.online.get(member.status_name, boot) != boot, RETURN_PATIENCE_S
        )
        if member.role is Role.EDGE:
            # What is left of its questions is on its own disk: nobody can answer them before it is back.
            strike.outage_s = time.monotonic() - strike.at_s

    async def _freeze(self, plan: PlannedFault, member: Member) -> None:
        member.running.freeze()
        self._struck(plan, member, min(plan.duration_s, self._detection_s))
        try:
            await asyncio.sleep(plan.duration_s)
        finally:
            member.running.thaw()

    async def _inject_broker(self, plan: PlannedFault) -> None:
        await self._reader.wait_until(lambda: self._stop.requested or self._broker_ready(), AIM_PATIENCE_S)
        if self._stop.requested or not self._broker_ready():
            self.missed.append(plan)
            return
        self._broker_busy = True
        try:
            port = self._broker.port
            strike = self._struck(plan, None)
            self._broker.kill()
            self._ledger.broker_killed(strike.at_s)
            await asyncio.sleep(plan.duration_s)
            await self._fleet.launcher.start_broker(self._broker)
            if self._broker.port != port:
                raise BrokerStartError(f"the broker came back on port {self._broker.port}, not {port}")
            strike.outage_s = time.monotonic() - strike.at_s
        finally:
            self._broker_busy = False
            await self._reader.wake()

    # ---- links ------------------------------------------------------------------------------------------------------

    async def _on_link(self, plan: PlannedFault, member: Member) -> None:
        match plan.kind:
            case FaultKind.STALL_LINK:
                member.proxy.stall()
            case FaultKind.SLOW_LINK:
                member.proxy.slow(SLOW_BYTES_PER_S)
            case _:
                member.proxy.cut()
        self._struck(plan, member, link_outage_s(plan, self._detection_s))
        try:
            await asyncio.sleep(plan.duration_s)
        finally:
            member.proxy.heal()

    async def _half_open(self, plan: PlannedFault, member: Member) -> None:
        member.proxy.half_open()
        strike = self._struck(plan, member, self._detection_s)
        strike.returned = await self._reader.wait_until(lambda: member.proxy.connections > 0, RETURN_PATIENCE_S)


def link_outage_s(plan: PlannedFault, detection_s: float) -> float:
    """How long nobody can act after a link was cut, stalled or slowed down.

    Args:
        plan: the fault.
        detection_s: time in which the broker calls a silent client dead.
    """
    if plan.role is Role.EDGE:
        # Its link is the only one: nobody can do anything for its cameras before something passes again.
        return plan.duration_s
    # The broker sees a torn connection end at once, and others take over.
    return 0.0 if plan.kind is FaultKind.CUT_LINK else min(plan.duration_s, detection_s)


def recovered(strike: Strike, orphans: Collection[str]) -> list[tuple[Entry, float]]:
    """Queries that a fault hit and that ended, with the time of the end.

    Args:
        strike: the fault.
        orphans: standing queries whose edge was killed: they do not recover, they end.
    """
    return [
        (entry, entry.decided_s)
        for entry in strike.hit
        if entry.decided_s is not None and entry.query_id not in orphans
    ]


def recovery_s(strike: Strike, strikes: Sequence[Strike], orphans: Collection[str]) -> list[float]:
    """Time from a fault to the end of each query that it hit, less the time in which nobody could act.

    That is the union of the outages of this fault and of all that came while the query was still unfinished.

    Args:
        strike: the fault.
        strikes: every fault of the run.
        orphans: see :func:`recovered`.
    """
    return [
        decided_s - strike.at_s - _outage_s(strikes, strike.at_s, decided_s)
        for _, decided_s in recovered(strike, orphans)
    ]


def _outage_s(strikes: Sequence[Strike], start_s: float, stop_s: float) -> float:
    total_s, reached_s = 0.0, start_s
    for strike in sorted(strikes, key=lambda strike: strike.at_s):
        begin_s = max(strike.at_s, reached_s)
        end_s = min(strike.at_s + strike.outage_s, stop_s)
        if end_s > begin_s:
            total_s += end_s - begin_s
            reached_s = end_s
    return total_s


def _written_since(file: Path, wall_s: float) -> bool:
    return file.is_file() and file.stat().st_mtime >= wall_s
