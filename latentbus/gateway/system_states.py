"""What is wrong with the fleet, as far as its statuses tell: the states that are alerts when they last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from latentbus.gateway.alerts import Severity
from pipeline.protocol.fleet_view import FleetView
from schemas.counting import counted
from schemas.types import UplinkStage

_LEFT_OUT: Final = {
    UplinkStage.STRETCHED: "standing questions are asked less often",
    UplinkStage.AD_HOC_ONLY: "standing questions are not asked",
    UplinkStage.SPENT: "no questions are asked",
}


@dataclass(frozen=True, slots=True)
class SystemState:
    """A state that should not last.

    Attributes:
        kind: what it is, as the alert is called.
        about: the site or pool that it is about.
        text: what it is, and what to do.
        severity: how bad it is.
    """

    kind: str
    about: str
    text: str
    severity: Severity


def states_of(fleet: FleetView) -> list[SystemState]:
    """The states that hold at this moment."""
    found = [
        SystemState(
            "site-offline",
            edge.id,
            f"site {edge.id} is offline: {counted(len(edge.cameras), 'camera')} cannot be asked. Look at its power and "
            "uplink, then at the log of its edge",
            "critical",
        )
        for edge in fleet.edges
        if not edge.online
    ]
    found += [
        SystemState(
            "uplink-budget",
            edge.id,
            f"site {edge.id} has little left of its uplink budget: {_LEFT_OUT[edge.uplink]}. Wait for the next period, "
            "or raise the budget in its settings",
            "critical" if edge.uplink is UplinkStage.SPENT else "warning",
        )
        for edge in fleet.edges
        if edge.online and edge.uplink is not UplinkStage.NORMAL
    ]
    if not fleet.workers_are_seen:
        return found
    for pool in sorted({edge.pool for edge in fleet.edges if edge.online and edge.pool is not None}):
        edges = [edge for edge in fleet.edges if edge.online and edge.pool == pool]
        workers = [worker for worker in fleet.workers if worker.online and worker.pool == pool]
        if not workers:
            text = f"pool {pool} has no worker: start one with latentbus worker"
            found.append(SystemState("pool-empty", pool, text, "critical"))
            continue
        foreign = sorted({edge.id for edge in edges} - {
            edge.id for edge in edges if any(worker.fingerprint == edge.fingerprint for worker in workers)
        })  # fmt: skip
        if foreign:
            text = (
                f"no worker of pool {pool} has the codec of {counted(len(foreign), 'site')} "
                f"({', '.join(foreign[:5])}): deploy the same codec folder on both sides"
            )
            found.append(SystemState("codec-mismatch", pool, text, "critical"))
    return found
