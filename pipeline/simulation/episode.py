"""One episode: a small fleet with a workload and faults, all drawn from one seed."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from pipeline.protocol.effects import AskedQuery, Terminal
from pipeline.protocol.settings import EdgeProtocolSettings, WorkerProtocolSettings
from pipeline.simulation.broker import BrokerModel, LinkFaults
from pipeline.simulation.clock import VirtualClock
from pipeline.simulation.content import SimulatedModel
from pipeline.simulation.edge_actor import EdgeActor
from pipeline.simulation.faults import Fault, FaultKind, draw_faults
from pipeline.simulation.judge import Judge, Violation
from pipeline.simulation.worker_actor import WorkerActor
from schemas import topics
from schemas.messages import Ask, Message

POOL = "main"
QUESTIONS = ("q0", "q1", "q2")
KEEP_ALIVE_S = 4.0
GRACE_S = 12.0
"""What has piled up on a thin uplink while the connection was away takes its time."""
_QUIET_S = 60.0
_LONGEST_FAULT_S = 10.0
_IDLE_FRAMES = 4
_EVENTS_AT_ONE_TIME = 20_000


@dataclass(frozen=True, slots=True)
class EpisodeReport:
    """What an episode came to.

    Attributes:
        seed: the seed that replays it.
        events: deliveries, losses, timers and faults that sessions handled.
        virtual_s: virtual time that passed.
        asked: queries that edges took on.
        outcomes: terminals by kind, after the reducer.
        violations: broken invariants.
        faults: faults by kind.
        counters: of sessions and broker.
        trace: the last lines about the subject of the first violation, when asked for.
    """

    seed: int
    events: int
    virtual_s: float
    asked: int
    outcomes: Counter[str]
    violations: list[Violation]
    faults: Counter[str]
    counters: Counter[str]
    trace: list[str] = field(default_factory=list)


class Episode:
    """A fleet of a few sites and workers for about a minute of virtual time.

    Args:
        seed: decides everything.
        trace: keep lines about what happens, for a person to read.
    """

    def __init__(self, seed: int, *, trace: bool = False) -> None:
        self.seed = seed
        draw = random.Random(seed)
        self._draw = draw
        self.clock = VirtualClock()
        self.judge = Judge(
            grace_s=GRACE_S, max_hops=WorkerProtocolSettings().max_hops, linked_since_s=self._linked_since_s
        )
        self._wire = LinkFaults(delay_s=draw.choice([0.005, 0.02, 0.1]))
        self.broker = BrokerModel(self.clock, random.Random(draw.random()), self._wire)
        self.broker.recorder = draw.random() < 0.3
        self.broker.observers.append(self._observe)
        self._trace: deque[str] | None = deque(maxlen=20_000) if trace else None
        self._asked = 0
        self._active_faults = 0
        self._calm_since_s = 0.0
        self._duration_s = draw.uniform(20.0, 60.0)
        model = SimulatedModel(seed, draw.choice([0.8, 0.1]))
        base_lease_s = draw.choice([1.0, 3.0])
        edge_settings = EdgeProtocolSettings(
            base_lease_s=base_lease_s, attempts=draw.choice([3, 6]), max_frames_per_camera=draw.choice([2, 16])
        )
        worker_settings = WorkerProtocolSettings(
            base_lease_s=base_lease_s,
            max_lease_s=draw.choice([2.0, 10.0]),
            capacity_frames=draw.choice([2, 8, 1024]),
            finalise_margin_s=draw.choice([0.1, 0.3]),
        )
        known = QUESTIONS if draw.random() < 0.8 else QUESTIONS[:1]
        self.workers = [
            WorkerActor(
                self.clock,
                self.broker,
                random.Random(draw.random()),
                name=f"w{index}",
                pool=POOL,
                settings=replace(worker_settings),
                model=model,
                batch_s=draw.choice([0.02, 0.1, 0.5, 1.0]),
                frame_s=draw.choice([0.002, 0.05]),
                questions=known,
                on_problem=partial(self._problem, "look reads no prefix"),
            )
            for index in range(draw.randint(1, 5))
        ]
        self._all_fit = draw.random() >= 0.1
        if not self._all_fit:
            self.workers.append(self._stranger(model, worker_settings))
        self.edges = [
            EdgeActor(
                self.clock,
                self.broker,
                site=f"site{index}",
                pool=POOL,
                cameras=tuple(f"cam{index}-{camera}" for camera in range(draw.randint(1, 3))),
                uplink_kbps=draw.choice([24.0, 64.0, 256.0, 1000.0]),
                settings=edge_settings,
                on_terminal=self._terminal,
                on_query=self._query,
                on_problem=self._problem,
            )
            for index in range(draw.randint(1, 3))
        ]
        self._faults = draw_faults(
            random.Random(draw.random()),
            duration_s=self._duration_s,
            workers=len(self.workers),
            edges=len(self.edges),
            rate_hz=draw.choice([0.0, 0.1, 0.4, 0.8]),
        )

    def _stranger(self, model: SimulatedModel, settings: WorkerProtocolSettings) -> WorkerActor:
        self.judge.foreign_worker("stranger")
        return WorkerActor(
            self.clock,
            self.broker,
            random.Random(0),
            name="stranger",
            pool=POOL,
            settings=settings,
            model=model,
            batch_s=0.02,
            frame_s=0.002,
            questions=QUESTIONS,
            on_problem=partial(self._problem, "foreign latents decoded"),
            fingerprint=b"none",
        )

    # ---- run --------------------------------------------------------------------------------------------------------

    def run(self) -> EpisodeReport:
        """Run to the end: workload and faults, then quiet until everything is decided."""
        for worker in self.workers:
            worker.start()
        for edge in self.edges:
            edge.start()
            for camera in edge.cameras:
                self._schedule_camera(edge, camera)
        for fault in self._faults:
            self.clock.at(fault.start_s, partial(self._begin, fault))
        end_s = self._duration_s + _QUIET_S
        check_s, at_one_time, last_s = 1.0, 0, 0.0
        while (next_s := self.clock.next_s()) is not None and next_s <= end_s:
            try:
                self.clock.step()
            except Exception as error:  # noqa: BLE001 - whatever a machine raises is a finding
                self._problem("a machine raised", f"{type(error).__name__}: {error}")
                break
            at_one_time = at_one_time + 1 if self.clock.now_s == last_s else 0
            last_s = self.clock.now_s
            if at_one_time > _EVENTS_AT_ONE_TIME:
                self._problem("live-lock", f"{at_one_time} events at {last_s}")
                break
            if self.clock.now_s >= check_s:
                check_s = self.clock.now_s + 1.0
                self._check()
        if not self.judge.violations:
            self.clock.now_s = end_s
            self._check()
            self._check_leftovers()
        return self._report()

    def _schedule_camera(self, edge: EdgeActor, camera: str) -> None:
        draw = self._draw
        period_s = draw.choice([1.0, 2.0, 4.0])
        deadline_s = draw.choice([1.5, 5.0, 15.0, 40.0])
        many = draw.randint(1, 3)
        time_s = draw.random()
        while time_s < self._duration_s:
            self.clock.at(time_s, partial(self._capture, edge, camera, many, deadline_s))
            time_s += period_s
        for index in range(draw.randint(0, 6)):
            ask = Ask(query_id=f"ask-{camera}-{index}", text="?", deadline_ms=draw.choice([3_000, 12_000, 40_000]))
            time_s = draw.uniform(0, self._duration_s)
            for again in range(draw.choice([1, 1, 2])):
                self.clock.at(time_s + 2.0 * again, partial(self._ask, camera, ask))

    def _capture(self, edge: EdgeActor, camera: str, many: int, deadline_s: float) -> None:
        queries = [
            AskedQuery(question_id, self.clock.now_s + deadline_s, f"{question_id}?")
            for question_id in QUESTIONS[:many]
        ]
        edge.capture(camera, queries)

    def _ask(self, camera: str, ask: Ask) -> None:
        if self.broker.up:
            self.broker.publish("client", topics.ask_topic(camera), ask, qos=1)

    # ---- faults -----------------------------------------------------------------------------------------------------

    def _begin(self, fault: Fault) -> None:
        self.clock.handled += 1
        self._active_faults += 1
        # What was cut off is noticed up to one and a half keep-alives later.
        self.clock.after(min(fault.lasts_s, _LONGEST_FAULT_S) + 1.5 * KEEP_ALIVE_S, self._over)
        self._line(f"fault: {fault.kind} #{fault.target} for {fault.lasts_s:.1f} s")
        worker = self._aimed_at(fault)
        edge = self.edges[fault.target % len(self.edges)]
        heal: Callable[[], None]
        match fault.kind:
            case FaultKind.WORKER_CRASH:
                worker.crash()
                heal = worker.start
            case FaultKind.WORKER_FREEZE:
                worker.freeze()
                if fault.lasts_s > 1.5 * KEEP_ALIVE_S:
                    self.clock.after(1.5 * KEEP_ALIVE_S, partial(self._silent, worker))
                heal = worker.wake
            case FaultKind.WORKER_SLOW:
                worker.slowness = 1.0 + 30.0 * fault.strength
                heal = partial(setattr, worker, "slowness", 1.0)
            case FaultKind.WORKER_PARTITION:
                self.broker.cut(worker.name, noticed_s=1.5 * KEEP_ALIVE_S)
                worker.connection(False)
                heal = partial(self.broker.heal, worker.name)
            case FaultKind.WORKER_DRAIN:
                worker.session.drain(self.clock.now_s)
                heal = partial(self._replace, worker)
            case FaultKind.EDGE_CRASH:
                if not edge.alive:
                    return
                self.judge.edge_died(edge.crash())
                self.broker.close(edge.site)
                heal = edge.start
            case FaultKind.EDGE_PARTITION:
                if not edge.alive:
                    return
                self.broker.cut(edge.site, noticed_s=1.5 * KEEP_ALIVE_S)
                edge.connection(False)
                heal = partial(self.broker.heal, edge.site)
            case FaultKind.BROKER_RESTART:
                if not self.broker.up:
                    return
                self.broker.kill()
                heal = self._broker_back
            case FaultKind.BAD_WIRE:
                self._wire.loss = 0.3 * fault.strength
                self._wire.duplicate = 0.3 * fault.strength
                self._wire.reorder = 0.2 * fault.strength
                heal = self._wire_back
        self.clock.after(min(fault.lasts_s, _LONGEST_FAULT_S), heal)

    def _aimed_at(self, fault: Fault) -> WorkerActor:
        """Half of the faults hit the worker that has most to lose."""
        running = [worker for worker in self.workers if worker.alive and not worker.frozen]
        if fault.strength < 0.5 or not running:
            return self.workers[fault.target % len(self.workers)]
        return max(running, key=lambda worker: worker.session.unfinished())

    def _over(self) -> None:
        self._active_faults -= 1
        self._calm_since_s = self.clock.now_s

    def _calm_since(self) -> float:
        """Since when nothing is broken and the fleet keeps up with its work; infinite while that is not so."""
        return float("inf") if self._active_faults or not self._all_fit else self._calm_since_s

    def _check_calm(self) -> None:
        idle = all(edge.backlog() <= 2 for edge in self.edges) and all(
            worker.session.unfinished() < min(_IDLE_FRAMES, worker.settings.capacity_frames) for worker in self.workers
        )
        if not idle:
            self._calm_since_s = self.clock.now_s

    def _silent(self, worker: WorkerActor) -> None:
        if worker.alive and worker.frozen:
            self.broker.close(worker.name)

    def _replace(self, worker: WorkerActor) -> None:
        if worker.alive:
            worker.crash()
        worker.start()

    def _broker_back(self) -> None:
        self.broker.restart()

    def _wire_back(self) -> None:
        self._wire.loss = self._wire.duplicate = self._wire.reorder = 0.0

    # ---- checks -----------------------------------------------------------------------------------------------------

    def _observe(self, topic: str, message: Message) -> None:
        self.judge.published(message, self.clock.now_s, self._calm_since())
        if self._trace is not None:
            self._line(f"{topic}: {message!r}")

    def _terminal(self, site: str, terminal: Terminal) -> None:
        edge = next(edge for edge in self.edges if edge.site == site)
        self.judge.edge_decided(site, edge.boots, terminal, self.clock.now_s)
        self._line(f"{site} decides {terminal.query_id}: {terminal.outcome} {terminal.reason}")

    def _query(self, site: str, query_id: str, deadline_s: float, ad_hoc: bool) -> None:
        self._asked += 1
        self.judge.asked(site, query_id, self.clock.now_s, deadline_s, ad_hoc=ad_hoc)
        self._line(f"{site} takes on {query_id}")

    def _linked_since_s(self, site: str) -> float:
        return next(edge.linked_since_s for edge in self.edges if edge.site == site)

    def _problem(self, rule: str, problem: str) -> None:
        self.judge.problem(rule, self.clock.now_s, "", problem)

    def _check(self) -> None:
        now_s = self.clock.now_s
        self.judge.check_time(now_s)
        self._check_calm()
        for worker in self.workers:
            if worker.alive:
                self.judge.check_bound(now_s, worker.name, worker.session.unfinished(), worker.settings.capacity_frames)
        for edge in self.edges:
            if edge.alive:
                counters = edge.session.counters
                counted = counters["latents_sent_again_reopen"] + counters["latents_sent_again_refine"]
                sent = edge.counters["latents_sent_again"] - edge.counters["latents_sent_again_before"]
                if sent > counted:
                    self._problem("latents sent twice without a reason", f"{edge.site}: {sent} sent, {counted} counted")

    def _check_leftovers(self) -> None:
        for edge in self.edges:
            if edge.alive and edge.session.unfinished():
                self._problem("queries left at an edge", f"{edge.site}: {edge.session.unfinished()}")
        for worker in self.workers:
            if worker.alive and not worker.frozen and worker.session.unfinished():
                self._problem("frames left at a worker", f"{worker.name}: {worker.session.unfinished()}")

    def _line(self, text: str) -> None:
        if self._trace is not None:
            self._trace.append(f"{self.clock.now_s:9.3f}  {text}")

    def _report(self) -> EpisodeReport:
        counters: Counter[str] = Counter()
        for worker in self.workers:
            counters.update({f"worker_{name}": count for name, count in worker.session.counters.items()})
        for edge in self.edges:
            counters.update({f"edge_{name}": count for name, count in edge.session.counters.items()})
        counters.update({f"broker_{name}": count for name, count in self.broker.counters.items()})
        counters["died_with_edge"] = self.judge.with_edge
        counters["repeats"] = self.judge.reducer.repeats
        counters["conflicts"] = self.judge.reducer.conflicts
        return EpisodeReport(
            self.seed,
            self.clock.handled,
            self.clock.now_s,
            self._asked,
            self.judge.outcomes,
            self.judge.violations,
            Counter(str(fault.kind) for fault in self._faults),
            counters,
            list(self._trace or ()),
        )
