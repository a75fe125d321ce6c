"""Carries out the faults of an episode on its simulated processes and links, and knows what is broken at present."""

from __future__ import annotations

import math
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from pipeline.protocol.worker_frame import WorkerStage
from schemas import topics
from schemas.messages import Handover, Message, QueryRef, Refine
from schemas.types import FrameId
from simulation.broker import BrokerModel
from simulation.clock import VirtualClock
from simulation.content import BYTES_A_LATENT, FINGERPRINT, LADDER, WHOLE
from simulation.edge_actor import EdgeActor
from simulation.faults import EDGE_FAULTS, HEIR, HOSTILE_PEERS, WIRE_FAULTS, WORKER_FAULTS, Fault, FaultKind
from simulation.hostile import HOLDS_S, Hostile
from simulation.plan import LONGEST_DEADLINE_S
from simulation.questions import CROWD, CROWD_QUESTION
from simulation.worker_actor import WorkerActor

GONE_S = LONGEST_DEADLINE_S + 5.0
_CROWD_FRAMES = 64
_LONGEST_DELAY_S = 3.0
_LONGEST_SLOWNESS = 100.0
_DRAIN_POLL_S = 0.25
_FLUSH_S = 30.0
_AMBUSH_S = 20.0
_AMBUSH_DELAY_S = 0.5
_FORGETS = 0.5


class Injector:
    """Begins each fault and heals it.

    Args:
        clock: virtual clock.
        broker: model of the broker.
        workers: the pool by name.
        edges: edges by site.
        noticed_s: silence after which the broker calls a client dead.
        on_edge_died: called with a site whose process has died, and the standing queries that died with it.
        on_damage: called with a site and the ad-hoc question that its disk has lost.
        on_problem: called with what a drain broke.
        on_line: called with a line for a person.
    """

    def __init__(
        self,
        clock: VirtualClock,
        broker: BrokerModel,
        workers: Mapping[str, WorkerActor],
        edges: Mapping[str, EdgeActor],
        *,
        noticed_s: float,
        on_edge_died: Callable[[str, list[str]], None],
        on_damage: Callable[[str, str], None],
        on_problem: Callable[[str, str, str], None],
        on_line: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._broker = broker
        self._workers = workers
        self._edges = edges
        self._noticed_s = noticed_s
        self._on_edge_died = on_edge_died
        self._on_damage = on_damage
        self._on_problem = on_problem
        self._on_line = on_line
        self._hostile = Hostile(clock, broker, edges)
        self._active = 0
        self._calm_since_s = 0.0
        self._pool_active = 0
        self._pool_calm_since_s = 0.0
        self._ambushes: deque[tuple[float, Fault]] = deque()
        self._on_wire: list[Fault] = []
        self._cut: dict[str, int] = {}
        self._cuts = 0
        self._reachable_since_s: dict[str, float] = {}

    # ---- what is broken ---------------------------------------------------------------------------------------------

    def calm_since_s(self) -> float:
        """Since when nothing is broken; infinite while something is."""
        return math.inf if self._active else self._calm_since_s

    def pool_calm_since_s(self) -> float:
        """Since when nothing but edges is broken."""
        return math.inf if self._pool_active else self._pool_calm_since_s

    def reachable_since_s(self, name: str) -> float:
        """Since when a client's network works; infinite while it is cut."""
        return math.inf if name in self._cut else self._reachable_since_s.get(name, 0.0)

    # ---- faults -----------------------------------------------------------------------------------------------------

    def begin(self, fault: Fault) -> None:
        """A fault strikes, if there is something that it can strike."""
        self._clock.handled += 1
        if fault.target == HEIR:
            self._ambushes.append((self._clock.now_s, fault))
        else:
            self._strike(fault)

    def published(self, message: Message) -> None:
        """The broker has accepted a message: faults that wait for one of its kind strike."""
        if self._ambushes and isinstance(message, Refine) and message.attempt > 1:
            since_s, fault = self._ambushes.popleft()
            if self._clock.now_s - since_s <= _AMBUSH_S:
                self._clock.after(
                    fault.strength * _AMBUSH_DELAY_S, partial(self._strike, replace(fault, target=message.worker))
                )

    def _strike(self, fault: Fault) -> None:
        kind = fault.kind
        heals_s: float | None
        if kind in WORKER_FAULTS:
            heals_s = self._begin_at_worker(fault)
        elif kind in EDGE_FAULTS:
            heals_s = self._begin_at_edge(fault)
        elif kind in HOSTILE_PEERS:
            heals_s = self._begin_hostile(fault)
        elif kind in WIRE_FAULTS:
            heals_s = self._begin_on_wire(fault)
        else:
            heals_s = self._kill_broker(fault)
        if heals_s is None:
            return
        self._active += 1
        self._pool_active += kind not in EDGE_FAULTS
        # What was cut off is noticed later.
        self._clock.after(heals_s + self._noticed_s, partial(self._over, kind))

    def _over(self, kind: FaultKind) -> None:
        self._active -= 1
        self._calm_since_s = self._clock.now_s
        if kind not in EDGE_FAULTS:
            self._pool_active -= 1
            self._pool_calm_since_s = self._clock.now_s

    def _say(self, fault: Fault, name: str, lasts_s: float, what: str = "") -> None:
        self._on_line(f"fault: {fault.kind} {name} for {lasts_s:.1f} s{what}".replace("  ", " "))

    # ---- workers ----------------------------------------------------------------------------------------------------

    def _begin_at_worker(self, fault: Fault) -> float | None:
        worker = self._aimed_at(fault)
        if worker is None:
            return None
        lasts_s = fault.lasts_s
        match fault.kind:
            case FaultKind.WORKER_CRASH:
                worker.crash()
                self._clock.after(lasts_s, partial(self._start_worker, worker, worker.boot))
            case FaultKind.WORKER_RESTART:
                lasts_s = 0.1 + fault.strength
                worker.crash(noticed_s=self._noticed_s)
                self._clock.after(lasts_s, partial(self._start_worker, worker, worker.boot))
            case FaultKind.WORKER_FREEZE:
                worker.freeze()
                self._clock.after(self._noticed_s, partial(self._silent, worker, worker.boot))
                self._clock.after(lasts_s, partial(self._wake_worker, worker, worker.boot))
            case FaultKind.WORKER_SLOW:
                for slow in self._workers.values() if not fault.target else (worker,):
                    slow.slowness = 1.0 + _LONGEST_SLOWNESS * fault.strength
                    self._clock.after(lasts_s, partial(setattr, slow, "slowness", 1.0))
            case FaultKind.WORKER_FULL:
                self._crowd(worker, lasts_s)
            case FaultKind.WORKER_PARTITION:
                self._partition(worker, worker.name, fault)
            case FaultKind.WORKER_KEYS:
                worker.damage_keys()
                self._clock.after(lasts_s, partial(setattr, worker, "damages_keys", False))
            case _:
                worker.drain()
                self._poll_worker_drain(worker, worker.boot, self._clock.now_s + lasts_s)
        slow_pool = fault.kind is FaultKind.WORKER_SLOW and not fault.target
        self._say(fault, "of all" if slow_pool else worker.name, lasts_s)
        # Frames that meet a damaged key frame are opened once more. Nothing else may come of it, so the fleet is calm.
        return None if fault.kind is FaultKind.WORKER_KEYS else lasts_s

    def _aimed_at(self, fault: Fault) -> WorkerActor | None:
        """The worker that a fault names, or the one that has most to lose; None when it cannot be struck."""
        if fault.target:
            worker = self._workers.get(fault.target)
            return worker if worker is not None and self._is_well(worker) else None
        well = [worker for worker in self._workers.values() if self._is_well(worker)]
        return max(well, key=_work_at_stake, default=None)

    def _is_well(self, process: WorkerActor | EdgeActor) -> bool:
        return process.alive and not process.frozen and not process.draining

    def _start_worker(self, worker: WorkerActor, boot: int) -> None:
        if not worker.alive and worker.boot == boot:
            worker.start()

    def _wake_worker(self, worker: WorkerActor, boot: int) -> None:
        if worker.boot == boot:
            worker.wake()

    def _silent(self, process: WorkerActor | EdgeActor, boot: int) -> None:
        """The broker has not heard from a frozen process for too long."""
        if process.alive and process.frozen and process.boot == boot:
            self._broker.close(process.name)

    def _crowd(self, worker: WorkerActor, lasts_s: float) -> None:
        for sequence in range(min(_CROWD_FRAMES, worker.settings.capacity_frames)):
            # Made anew for each burst, so that no query id comes twice.
            boot = zlib.crc32(f"{worker.name}/{self._clock.now_s}".encode())
            message = Handover(
                camera=CROWD,
                hops=worker.settings.max_hops,
                frame=FrameId(boot, sequence),
                attempt=1,
                site=CROWD,
                fingerprint=FINGERPRINT,
                queries=(QueryRef(CROWD_QUESTION.question_id, round(1000 * lasts_s), CROWD_QUESTION.digest),),
                stop=LADDER[0],
                payload=WHOLE[: LADDER[0] * BYTES_A_LATENT],
            )
            self._broker.publish(CROWD, topics.handover_topic(worker.name), message, qos=1)

    def _poll_worker_drain(self, worker: WorkerActor, boot: int, limit_s: float) -> None:
        if worker.boot != boot or not worker.alive:
            return
        if worker.drained() or (self._clock.now_s >= limit_s and not worker.frozen):
            worker.stop()
            self._clock.after(_DRAIN_POLL_S, partial(self._start_worker, worker, boot))
        else:
            self._clock.after(_DRAIN_POLL_S, partial(self._poll_worker_drain, worker, boot, limit_s))

    # ---- edges ------------------------------------------------------------------------------------------------------

    def _begin_at_edge(self, fault: Fault) -> float | None:
        edge = self._edges.get(fault.target)
        if edge is None or not self._is_well(edge):
            return None
        lasts_s = fault.lasts_s
        match fault.kind:
            case FaultKind.EDGE_CRASH | FaultKind.EDGE_GONE | FaultKind.EDGE_POWER_CUT:
                if fault.kind is FaultKind.EDGE_POWER_CUT:
                    edge.disk.frames.cut_power()
                lasts_s = GONE_S if fault.kind is FaultKind.EDGE_GONE else lasts_s
                self._on_edge_died(edge.site, edge.crash())
                self._broker.close(edge.site)
                self._clock.after(lasts_s, partial(self._start_edge, edge, edge.boot))
            case FaultKind.EDGE_FREEZE:
                edge.freeze()
                self._clock.after(self._noticed_s, partial(self._silent, edge, edge.boot))
                self._clock.after(lasts_s, partial(self._wake_edge, edge, edge.boot))
            case FaultKind.EDGE_PARTITION:
                self._partition(edge, edge.site, fault)
            case FaultKind.EDGE_DISK_FULL:
                edge.disk.full = True
                self._clock.after(lasts_s, partial(setattr, edge.disk, "full", False))
            case FaultKind.EDGE_DISK_DAMAGE:
                query_id = edge.disk.damage(fault.strength)
                if query_id is None:
                    return None
                self._on_damage(edge.site, query_id)
            case FaultKind.EDGE_STORE_DAMAGE:
                if edge.disk.frames.damage(fault.strength) is None:
                    return None
            case _:
                edge.drain()
                self._poll_edge_drain(edge, edge.boot, self._clock.now_s, lasts_s)
        self._say(fault, edge.site, lasts_s)
        return lasts_s

    def _start_edge(self, edge: EdgeActor, boot: int) -> None:
        if not edge.alive and edge.boot == boot:
            edge.start()

    def _wake_edge(self, edge: EdgeActor, boot: int) -> None:
        if edge.boot == boot:
            edge.wake()

    def _poll_edge_drain(self, edge: EdgeActor, boot: int, began_s: float, lasts_s: float) -> None:
        """Wait for what is under way, then give it up, then wait until everybody was told."""
        if edge.boot != boot or not edge.alive:
            return
        now_s = self._clock.now_s
        if not edge.frozen:
            if now_s >= began_s + lasts_s:
                edge.abandon()
            linked_since_s = max(edge.linked_since_s, self.reachable_since_s(edge.site))
            if edge.drained() or now_s >= began_s + lasts_s + _FLUSH_S:
                untold = edge.stop()
                if untold and linked_since_s <= began_s and self.pool_calm_since_s() <= began_s:
                    self._on_problem("an edge that drained dropped queries", untold[0], f"{len(untold)} untold")
                self._on_edge_died(edge.site, untold)
                self._clock.after(_DRAIN_POLL_S, partial(self._start_edge, edge, boot))
                return
        self._clock.after(_DRAIN_POLL_S, partial(self._poll_edge_drain, edge, boot, began_s, lasts_s))

    def _begin_hostile(self, fault: Fault) -> float | None:
        if fault.target not in self._edges:
            return None
        self._say(fault, f"at {fault.target}", fault.lasts_s)
        if fault.kind is FaultKind.HOSTILE_CLIENT:
            self._hostile.client(fault.target, fault.lasts_s, fault.strength)
            return fault.lasts_s
        self._hostile.worker(fault.target, fault.lasts_s, fault.strength)
        return fault.lasts_s + HOLDS_S

    # ---- network and broker -----------------------------------------------------------------------------------------

    def _partition(self, client: WorkerActor | EdgeActor, name: str, fault: Fault) -> None:
        self._cuts += 1
        cut = self._cut[name] = self._cuts
        self._broker.cut(name, noticed_s=self._noticed_s)
        self._clock.after(self._noticed_s * fault.strength, partial(self._missed, client, name, cut))
        self._clock.after(fault.lasts_s, partial(self._heal, client, name, cut))

    def _missed(self, client: WorkerActor | EdgeActor, name: str, cut: int) -> None:
        """The client's own keep-alive fails."""
        if self._cut.get(name) == cut:
            client.connection(False)

    def _heal(self, client: WorkerActor | EdgeActor, name: str, cut: int) -> None:
        if self._cut.get(name) != cut:
            return
        del self._cut[name]
        self._reachable_since_s[name] = self._clock.now_s
        self._broker.heal(name)
        if not self._broker.is_up(name):
            client.connection(False)

    def _begin_on_wire(self, fault: Fault) -> float | None:
        if fault.target and fault.target not in self._workers and fault.target not in self._edges:
            return None
        self._on_wire.append(fault)
        self._set_wire()
        self._clock.after(fault.lasts_s, partial(self._wire_heals, fault))
        self._say(fault, f"to {fault.target}" if fault.target else "everywhere", fault.lasts_s)
        return fault.lasts_s

    def _wire_heals(self, fault: Fault) -> None:
        self._on_wire.remove(fault)
        self._set_wire()

    def _set_wire(self) -> None:
        for name in (*self._workers, *self._edges):
            here = [fault for fault in self._on_wire if fault.target in ("", name)]

            def worst(kind: FaultKind, active: list[Fault] = here) -> float:
                return max((fault.strength for fault in active if fault.kind is kind), default=0.0)

            link = self._broker.link_faults(name)
            link.extra_s = _LONGEST_DELAY_S * worst(FaultKind.DELAY)
            link.loss = 0.8 * worst(FaultKind.LOSS)
            link.duplicate = 0.5 * worst(FaultKind.DUPLICATE)
            link.reorder = 0.4 * worst(FaultKind.REORDER)

    def _kill_broker(self, fault: Fault) -> float | None:
        if not self._broker.up:
            return None
        self._broker.kill(forgets=fault.strength > _FORGETS)
        self._clock.after(fault.lasts_s, self._broker.restart)
        self._say(fault, "", fault.lasts_s)
        return fault.lasts_s


def _work_at_stake(worker: WorkerActor) -> int:
    """What would be lost with a worker: latents, for each attempt, above all those being read."""
    return sum(
        frame.prefix * frame.attempt**2 * (8 if frame.stage is WorkerStage.INFERRING else 1)
        for frame in worker.session.frames()
    )
