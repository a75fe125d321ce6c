"""The state of a fleet as its processes describe it, looked at once: what is wrong first."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

from latentbus.client.client import CONNECT_TIMEOUT_S, Client
from pipeline.config.broker_settings import BrokerSettings
from pipeline.health.conditions import SEVERITIES, Severity, Sign, advice_of, severity_of, text_of
from pipeline.health.fleet import problems_of
from pipeline.protocol.fleet_view import FleetView
from pipeline.protocol.settings import ClientProtocolSettings
from schemas.messages import Status
from schemas.types import UplinkStage

LOOK_S: Final = 4.0
"""Longest wait for loads: workers say every two seconds how much they hold."""


@dataclass(frozen=True, slots=True)
class ProblemLine:
    """Something that is wrong.

    Attributes:
        kind: what it is.
        about: the site, pool, worker or camera.
        severity: how bad it is.
        text: what it is.
        advice: what to do.
    """

    kind: str
    about: str
    severity: Severity
    text: str
    advice: str


@dataclass(frozen=True, slots=True)
class CameraLine:
    """A camera, its site, and why it gives no answers where it does not."""

    camera: str
    site: str | None
    online: bool
    problem: str | None


@dataclass(frozen=True, slots=True)
class SiteLine:
    """A site: one edge process."""

    site: str
    online: bool
    pool: str | None
    fingerprint: str
    cameras: int
    uplink: UplinkStage


@dataclass(frozen=True, slots=True)
class WorkerLine:
    """A worker, the frames that it holds and may hold."""

    worker: str
    online: bool
    pool: str | None
    fingerprint: str
    frames: int
    capacity: int


@dataclass(frozen=True, slots=True)
class PoolLine:
    """A pool: its workers that are online, their frames together, and the sites that ask it."""

    pool: str
    workers: int
    frames: int
    capacity: int
    sites: int
    fingerprints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """A fleet at one moment.

    Attributes:
        problems: what is wrong, the worst first.
        pools: by name.
        sites: those with something wrong first, then by name.
        cameras: the same.
        workers: the same.
        workers_are_seen: whether this identity may read the status of workers.
    """

    problems: tuple[ProblemLine, ...]
    pools: tuple[PoolLine, ...]
    sites: tuple[SiteLine, ...]
    cameras: tuple[CameraLine, ...]
    workers: tuple[WorkerLine, ...]
    workers_are_seen: bool

    @property
    def healthy(self) -> bool:
        """Nothing is wrong that needs somebody."""
        return all(problem.severity == "info" for problem in self.problems)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"healthy": self.healthy, **asdict(self)}


async def read_overview(
    broker: BrokerSettings,
    *,
    name: str | None = None,
    look_s: float = LOOK_S,
    settings: ClientProtocolSettings | None = None,
) -> Overview:
    """Look at a fleet once.

    Args:
        broker: where it is.
        name: of this client.
        look_s: longest wait for workers to say how much they hold.
        settings: how long to wait for what the broker retains.

    Raises:
        NotAuthorizedError: the broker does not let this identity read the status of edges.
        ConnectionLostError: the broker cannot be reached.
    """
    settings = settings or ClientProtocolSettings()
    client = Client(broker, name=name, settings=settings, connect_timeout_s=CONNECT_TIMEOUT_S, whole_fleet=True)
    async with client:
        # What is retained comes at once, but nothing says that it was all; a broker that retains nothing sends nothing.
        await asyncio.sleep(settings.status_patience_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(look_s):
                changes = client.fleet.changes
                while client.fleet.workers_are_seen and not client.fleet.loads_are_known:
                    changes = await client.fleet_changed(changes)
        return overview_of(client.fleet)


def overview_of(fleet: FleetView) -> Overview:
    """What the statuses say at this moment."""
    problems = [*map(_problem, problems_of(fleet)), *_conflicts(fleet)]
    cameras = [
        CameraLine(name, fleet.site_of(name), fleet.serves(name), fleet.problem(name)) for name in _cameras(fleet)
    ]
    return Overview(
        problems=tuple(sorted(problems, key=lambda line: SEVERITIES.index(line.severity))),
        pools=tuple(_pool(fleet, name) for name in _pools(fleet)),
        sites=tuple(sorted(map(_site, fleet.edges), key=lambda line: (line.online, line.site))),
        cameras=tuple(sorted(cameras, key=lambda line: (line.problem is None, line.camera))),
        workers=tuple(sorted(map(_worker, fleet.workers), key=lambda line: (line.online, line.worker))),
        workers_are_seen=fleet.workers_are_seen,
    )


def _problem(sign: Sign) -> ProblemLine:
    return ProblemLine(sign.kind, sign.part or sign.name, severity_of(sign), text_of(sign), advice_of(sign))


def _cameras(fleet: FleetView) -> set[str]:
    return {*fleet.cameras, *(camera for edge in fleet.edges for camera in edge.cameras)}


def _conflicts(fleet: FleetView) -> Iterable[ProblemLine]:
    """Cameras that two sites have: the states of sites and pools do not tell."""
    sites: dict[str, list[str]] = {}
    for edge in fleet.edges:
        for camera in edge.cameras if edge.online else ():
            sites.setdefault(camera, []).append(edge.id)
    for camera, serving in sorted(sites.items()):
        if len(serving) > 1:
            text = f"camera {camera} is served by sites {' and '.join(sorted(serving))}"
            yield ProblemLine("camera-twice", camera, "critical", text, "Give one of the cameras another name")


def _pools(fleet: FleetView) -> list[str]:
    return sorted({status.pool for status in (*fleet.edges, *fleet.workers) if status.pool is not None})


def _pool(fleet: FleetView, name: str) -> PoolLine:
    workers = [worker for worker in fleet.workers if worker.online and worker.pool == name]
    edges = [edge for edge in fleet.edges if edge.online and edge.pool == name]
    return PoolLine(
        pool=name,
        workers=len(workers),
        frames=sum(worker.parked for worker in workers),
        capacity=sum(worker.capacity for worker in workers),
        sites=len(edges),
        fingerprints=tuple(sorted({status.fingerprint for status in (*workers, *edges)})),
    )


def _site(edge: Status) -> SiteLine:
    return SiteLine(edge.id, edge.online, edge.pool, edge.fingerprint, len(edge.cameras), edge.uplink)


def _worker(worker: Status) -> WorkerLine:
    return WorkerLine(worker.id, worker.online, worker.pool, worker.fingerprint, worker.parked, worker.capacity)
