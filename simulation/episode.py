"""One episode: a small fleet with its workload and faults, as a plan says, under the eyes of the invariant checker."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

from pipeline.protocol.ad_hoc_questions import NO_FRAME_SEQUENCE
from pipeline.protocol.effects import Decision
from pipeline.protocol.reasons import NOT_HELD
from pipeline.protocol.worker_work import WorkCosts
from schemas import topics
from schemas.messages import Answer, Message, QueryOutcome, Question, Status
from schemas.types import UNKNOWN_AGE
from simulation.bounds import edge_buffers, edge_leaks, worker_buffers, worker_leaks
from simulation.broker import BrokerModel, Deleted
from simulation.clock import VirtualClock
from simulation.content import FINGERPRINT, LADDER, SimulatedModel
from simulation.edge_actor import EdgeActor
from simulation.edge_ledger import EdgeLedger
from simulation.injector import GONE_S, Injector
from simulation.invariant_checker import EdgeState, InvariantChecker, Violation
from simulation.links import LinkFaults
from simulation.plan import LONGEST_DEADLINE_S, AskPlan, ChangePlan, EpisodePlan, FramePlan, SitePlan, WorkerPlan
from simulation.query_ledger import QueryLedger
from simulation.questions import CROWD, CROWD_QUESTION, published
from simulation.specs import EdgeCallbacks, EdgeSpec, WorkerCallbacks, WorkerSpec
from simulation.trace import Trace, frame_key
from simulation.worker_actor import WorkerActor
from simulation.worker_ledger import WorkerLedger

POOL = "main"
_VISUAL_TOKENS = 64
_SILENCE_S = 10.0
"""At the very end nobody has anything to say."""
_GRACE_S = 5.0
_QUIET_S = GONE_S + LONGEST_DEADLINE_S + _GRACE_S + _SILENCE_S
"""Long enough for a question that waited at the broker while its edge was gone, the longest fault: its deadline counts
from its arrival."""
_LONGEST_BACKLOG_S = 200.0
"""A client that floods a site on a thin uplink may ask 64 questions at once: an end and a reply of 600 bytes each."""
_HISTORY_S = 40.0
"""From the last stored frame to the last word about it: a slow worker may speak when another one has answered."""
_SILENT_KEEPALIVES = 1.5
"""MQTT 5, 3.1.2.10."""
_WILL_S = 2.0
"""Until every healthy worker has read an edge's last will; what it let go of before, it let go of in good faith."""
_IDLE_FRAMES = 4
_EVENTS_AT_ONE_TIME = 20_000


@dataclass(frozen=True, slots=True)
class EpisodeReport:
    """What an episode came to.

    Attributes:
        seed: of its plan.
        healthy: whether nothing broke, so that most queries had to be answered.
        events: deliveries, losses, timers and faults that sessions handled.
        virtual_s: virtual time that passed.
        asked: queries that edges took on.
        outcomes: terminals by kind, after the reducer.
        violations: broken invariants.
        faults: faults by kind.
        counters: of sessions and broker.
        trace: what happened, when asked for.
    """

    seed: int
    healthy: bool
    events: int
    virtual_s: float
    asked: int
    outcomes: Counter[str]
    violations: list[Violation]
    faults: Counter[str]
    counters: Counter[str]
    trace: Trace | None = field(default=None, repr=False)


class Episode:
    """A fleet of a few sites and workers for about a minute of virtual time.

    Args:
        plan: everything that happens.
        trace: keep lines about what happens, for a person to read.
        stop_at_first: end with the first broken invariant.
    """

    def __init__(self, plan: EpisodePlan, *, trace: bool = False, stop_at_first: bool = False) -> None:
        self.plan = plan
        self.clock = VirtualClock()
        slowest_s = max((worker.batch_s + worker.frame_s for worker in plan.workers), default=0.0)
        passes = len(LADDER) * plan.most_passes
        self.checker = InvariantChecker(plan.worker.max_hops, passes * slowest_s, self._edge_state)
        self._query_ledger = QueryLedger(self._problem)
        tokens = not math.isinf(plan.batch_tokens)
        self._costs = WorkCosts.by_tokens(_VISUAL_TOKENS) if tokens else WorkCosts.by_frames()
        self._all_fit = plan.all_fit and not plan.budgeted
        self._trace = Trace() if trace else None
        self._stop_at_first = stop_at_first
        self._asked = 0
        self._captured_s: dict[str, float] = {}
        self._latest: dict[tuple[str, str, str], str] = {}
        self._busy_until_s = 0.0
        self._spoke_s = 0.0
        draw = random.Random(plan.seed)
        self.broker = BrokerModel(self.clock, draw, LinkFaults(delay_s=plan.delay_s))
        self.broker.recorder = plan.recorder
        self.broker.late_wills_s = plan.late_wills_s
        self.broker.observers.append(self._published)
        if trace:
            self.broker.on_fate = self._fate
        model = SimulatedModel(plan.seed, plan.easy_share)
        self.workers = {worker.name: self._worker(worker, model) for worker in plan.workers}
        self.edges = {site.name: self._edge(site) for site in plan.sites}
        self._site_of = {camera: site.name for site in plan.sites for camera in site.cameras}
        self.injector = Injector(
            self.clock,
            self.broker,
            self.workers,
            self.edges,
            noticed_s=_SILENT_KEEPALIVES * plan.keepalive_s,
            on_edge_died=self._edge_died,
            on_damage=self._damaged,
            on_problem=self._problem,
            on_line=self._line,
        )

    def _worker(self, worker: WorkerPlan, model: SimulatedModel) -> WorkerActor:
        if worker.foreign:
            self.checker.foreign_worker(worker.name)
        rule = "foreign latents decoded" if worker.foreign else "pass reads no prefix"
        spec = WorkerSpec(
            worker.name,
            POOL,
            batch_s=worker.batch_s,
            frame_s=worker.frame_s,
            settings=self.plan.worker,
            questions=published((CROWD,), (CROWD_QUESTION.question_id,)) if self.plan.crowd_known else (),
            fingerprint=b"none" if worker.foreign else FINGERPRINT,
            costs=self._costs,
            max_batch_work=self.plan.batch_tokens,
            hiccups=worker.hiccups,
        )
        callbacks = WorkerCallbacks(
            on_problem=partial(self._problem, rule, worker.name),
            on_stall=partial(self._problem, "stalled model keeps its leases", worker.name),
        )
        draw = random.Random(f"{self.plan.seed}/{worker.name}")
        ledger = partial(WorkerLedger, worker.name, self.plan.worker, self._costs, self._query_ledger, self._problem)
        return WorkerActor(self.clock, self.broker, draw, spec, model, callbacks, ledger)

    def _edge(self, site: SitePlan) -> EdgeActor:
        spec = EdgeSpec(
            site.name,
            POOL,
            site.cameras,
            uplink_kbps=site.uplink_kbps,
            settings=self.plan.edge,
            questions=site.questions,
            key_every=site.key_every,
            publishes=site.publishes,
            join_s=site.join_s,
            budget=site.budget,
            gate=site.gate,
            store=site.store,
            ring=site.ring,
        )
        callbacks = EdgeCallbacks(
            on_query=self._query,
            on_history=self._history,
            on_terminal=self._terminal,
            on_problem=self._problem,
            on_reply=partial(self._replied, site.name),
            on_forgotten=partial(self._forgotten, site.name),
        )
        ledger = EdgeLedger(site.name, self._query_ledger, self._problem, site.gate)
        return EdgeActor(self.clock, self.broker, spec, callbacks, ledger)

    # ---- run --------------------------------------------------------------------------------------------------------

    def run(self) -> EpisodeReport:
        """Run to the end: workload and faults, then quiet until everything is decided and nobody speaks."""
        for worker in self.workers.values():
            worker.start()
        for edge in self.edges.values():
            edge.start()
        for frame in self.plan.frames:
            self.clock.at(frame.time_s, partial(self._capture, frame))
        for ask in self.plan.asks:
            self.clock.at(ask.time_s, partial(self._ask, ask))
        for change in self.plan.changes:
            self.clock.at(change.time_s, partial(self._change, change))
        for fault in self.plan.faults:
            self.clock.at(fault.start_s, partial(self.injector.begin, fault))
        end_s = self.plan.duration_s + _QUIET_S
        latest_end_s = end_s + _LONGEST_BACKLOG_S
        check_s, at_one_time, last_s = 1.0, 0, 0.0
        while (next_s := self.clock.next_s()) is not None and next_s <= end_s:
            try:
                self.clock.step()
            except Exception as error:  # noqa: BLE001 - whatever a machine raises is a finding
                self._problem("a machine raised", "", f"{type(error).__name__}: {error}")
                break
            at_one_time = at_one_time + 1 if self.clock.now_s == last_s else 0
            last_s = self.clock.now_s
            if at_one_time > _EVENTS_AT_ONE_TIME:
                self._problem("live-lock", "", f"{at_one_time} events at {last_s}")
                break
            if self.clock.now_s >= check_s:
                check_s = self.clock.now_s + 1.0
                self._check()
                if any(edge.alive and edge.session.store.entries for edge in self.edges.values()):
                    end_s = min(latest_end_s, max(end_s, self.clock.now_s + _HISTORY_S))
                if any(edge.alive and edge.backlog() for edge in self.edges.values()):
                    end_s = min(latest_end_s, max(end_s, self.clock.now_s + _GRACE_S + _SILENCE_S))
            if self._stop_at_first and self.checker.violations:
                break
        if not self.checker.violations:
            self.clock.now_s = end_s
            self._check()
            self._check_end()
        return self._report()

    def _capture(self, frame: FramePlan) -> None:
        self.edges[frame.site].capture_standing(frame.camera, frame.questions)

    def _ask(self, ask: AskPlan) -> None:
        message = ask.ask
        if ask.of_kept is not None:
            edge = self.edges[self._site_of[ask.camera]]
            kept = [held.frame for held in edge.session.ring.of(ask.camera)]
            if kept:
                message = message.model_copy(update={"frame": kept[int(ask.of_kept * len(kept)) % len(kept)]})
        if self.broker.up:
            self.broker.publish(ask.client, topics.ask_topic(ask.camera, ask.client), message, qos=1)

    def _change(self, change: ChangePlan) -> None:
        if self.broker.up:
            topic = topics.question_topic(change.site, change.question_id)
            message = Deleted() if change.question is None else change.question
            self.broker.publish("operator", topic, message, qos=1, retain=True)

    # ---- what the invariant checker is told -------------------------------------------------------------------------

    def _published(self, topic: str, message: Message) -> None:
        now_s = self.clock.now_s
        if isinstance(message, Answer | QueryOutcome):
            if topic.split("/")[2] == topics.Family.REPLY:
                return  # the same again, for its client alone; or why it is refused
            if self.checker.is_refusal(message):
                self._line(f"a client is refused: {message.query_id} {message.reason}", message.query_id)
                return
            self._query_ledger.published(message)
        calm_since_s = self._calm_since_s() if isinstance(message, Answer | QueryOutcome) else math.inf
        self.checker.published(message, now_s, calm_since_s)
        if isinstance(message, Answer) and not message.ad_hoc:
            self._check_latest(message)
        self.injector.published(message)
        if not isinstance(message, Status | Question | Deleted):
            self._spoke_s = now_s
        if self._trace is not None:
            self._trace.message(now_s, topic, message)

    def _fate(self, fate: str, topic: str, message: Message) -> None:
        if self._trace is not None:
            self._trace.message(self.clock.now_s, topic, message, fate)

    def _terminal(self, site: str, decision: Decision) -> None:
        self.checker.edge_decided(site, decision, self.clock.now_s)
        met_none = decision.frame.sequence == NO_FRAME_SEQUENCE
        if met_none and decision.reason.startswith(NOT_HELD):
            self.edges[site].not_held(decision.camera, decision.query_id)
            self.checker.had_no_frame(decision.query_id)
        elif met_none and self.edges[site].asks.had_no_frame(decision.camera, decision.query_id):
            self.checker.had_no_frame(decision.query_id)
        frame = frame_key(decision.camera, decision.frame)
        self._line(
            f"{site} decides {decision.query_id}: {decision.outcome} {decision.reason}", decision.query_id, frame
        )

    def _query(self, site: str, query_id: str, deadline_s: float, ad_hoc: bool) -> None:
        self._asked += 1
        self._captured_s[query_id] = self.clock.now_s
        self.checker.asked(site, query_id, self.clock.now_s, deadline_s, ad_hoc=ad_hoc)
        # A standing query's id begins with its frame.
        frame = () if ad_hoc else (f"frame {query_id.rpartition('/')[0]}",)
        self._line(f"{site} takes on {query_id}, deadline {deadline_s:.3f}", query_id, *frame)

    def _history(self, site: str, query_id: str, deadline_s: float, captured_s: float) -> None:
        self._asked += 1
        self._captured_s[query_id] = captured_s
        self.checker.asked(site, query_id, self.clock.now_s, deadline_s, ad_hoc=False, history=True)
        self._line(f"{site} takes on {query_id} of a stored frame, deadline {deadline_s:.3f}", query_id)

    def _check_latest(self, message: Answer) -> None:
        """An answer about an old frame must not have taken the place of one about a newer frame."""
        key = (message.camera, message.owner, message.question_id)
        found = self.checker.reducer.latest(*key)
        before, self._latest[key] = self._latest.get(key), "" if found is None else found.decided.query_id
        if not before or found is None or found.decided.query_id == before:
            return
        replaced = self.checker.reducer.get(before)
        if replaced is not None and replaced.source.age_ms == UNKNOWN_AGE:
            return  # nobody can know which is newer
        boots = {query_id.split("/")[1].split("-")[0] for query_id in (before, found.decided.query_id)}
        was_s, is_s = (self._captured_s.get(query_id, -math.inf) for query_id in (before, found.decided.query_id))
        if is_s < was_s and (found.decided.history or len(boots) == 1):
            problem = f"its frame was taken at {is_s:.3f}, that of {before} at {was_s:.3f}"
            self._problem("the latest answer is older", found.decided.query_id, problem)

    def _replied(self, site: str, message: Answer | QueryOutcome) -> None:
        self.checker.replied(site, message, self.clock.now_s)
        self._line(f"{site} tells a client again: {message.query_id} {message.outcome}", message.query_id)

    def _forgotten(self, site: str, query_ids: list[str]) -> None:
        self.checker.forgotten(site, query_ids)
        self._query_ledger.forgotten(site, query_ids)

    def _damaged(self, _site: str, query_id: str) -> None:
        self.checker.excuse(query_id)
        self._query_ledger.excuse(query_id)

    def _edge_died(self, site: str, query_ids: list[str]) -> None:
        """Ask the workers which of these queries they hold: whoever holds one has to speak in its edge's place."""
        boot = self.edges[site].boot
        calm = self.injector.pool_calm_since_s() <= self.clock.now_s
        will_s = _WILL_S + self.plan.late_wills_s
        held = self._held(site, boot, self.clock.now_s + will_s) if calm else {}
        self.checker.edge_died(query_ids, held, self.clock.now_s)
        if held:
            self.clock.after(will_s, partial(self._will_is_known, site, boot, list(held)))

    def _will_is_known(self, site: str, boot: int, query_ids: list[str]) -> None:
        held = self._held(site, boot, self.clock.now_s)
        self.checker.left_before_will([query_id for query_id in query_ids if query_id not in held])

    def _held(self, site: str, boot: int, after_s: float) -> dict[str, float]:
        """Queries of an edge process that healthy workers hold, with their deadlines there, if those come later."""
        held: dict[str, float] = {}
        for worker in self.workers.values():
            if not worker.linked() or worker.draining:
                continue
            for frame in worker.session.frames():
                if self._site_of.get(frame.camera) == site and frame.frame.boot == boot:
                    held |= {
                        query_id: query.deadline_s
                        for query_id, query in frame.queries.items()
                        if query.deadline_s > after_s
                    }
        return held

    def _problem(self, rule: str, subject: str, problem: str) -> None:
        self.checker.problem(rule, self.clock.now_s, subject, problem)

    def _line(self, text: str, *about: str) -> None:
        if self._trace is not None:
            self._trace.note(self.clock.now_s, text, *about)

    def _edge_state(self, site: str) -> EdgeState:
        edge, up = self.edges[site], self.broker.is_up(site)
        linked_since_s = max(edge.linked_since_s, self.injector.reachable_since_s(site)) if up else math.inf
        linked_since_s = max(linked_since_s, edge.open_since_s)
        return EdgeState(edge.awake_since_s, linked_since_s, edge.backlog_s())

    def _calm_since_s(self) -> float:
        """Since when nothing is broken and the fleet keeps up with its work; infinite while that is not so."""
        return max(self.injector.calm_since_s(), self._busy_until_s) if self._all_fit else math.inf

    # ---- checks -----------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        now_s = self.clock.now_s
        self.checker.check_time(now_s, self.injector.pool_calm_since_s())
        running = [worker for worker in self.workers.values() if worker.alive]
        idle_frames = min(_IDLE_FRAMES, self.plan.worker.capacity_frames)
        if any(edge.backlog() > 2 for edge in self.edges.values()) or any(
            worker.session.unfinished() >= idle_frames or worker.slow_until_s > now_s for worker in running
        ):
            self._busy_until_s = now_s
        for worker in running:
            for buffer, size, bound in worker_buffers(worker.session, self.plan.worker):
                self.checker.check_bound(now_s, f"{worker.name}: {buffer}", size, bound)
            worker.check_ledger()
            for table, size in worker_leaks(worker.session):
                self._problem("a table leaks", f"{worker.name}: {table}", f"{size} with no frame")
        for edge in (edge for edge in self.edges.values() if edge.alive):
            self._check_edge(edge, now_s)

    def _check_edge(self, edge: EdgeActor, now_s: float) -> None:
        for buffer, size, bound in edge_buffers(edge.session, self.plan.edge):
            self.checker.check_bound(now_s, f"{edge.site}: {buffer}", size, bound)
        edge.stored.check(edge.session)
        for table, size in edge_leaks(edge.session):
            self._problem("a table leaks", f"{edge.site}: {table}", f"{size} more than there are queries")
        counters = edge.session.counters
        counted = counters["latents_sent_again_reopen"] + counters["latents_sent_again_refine"]
        sent = edge.counters["latents_sent_again"] - edge.counters["latents_sent_again_before"]
        if sent > counted:
            self._problem("latents sent twice without a reason", edge.site, f"{sent} sent, {counted} counted")

    def _check_end(self) -> None:
        for edge in self.edges.values():
            if edge.alive and edge.session.unfinished():
                self._problem("queries left at an edge", edge.site, str(edge.session.unfinished()))
            if edge.alive and (edge.session.store.entries or edge.disk.frames) and self._all_fit:
                there = f"{len(edge.session.store.entries)} known, {len(edge.disk.frames)} on disk"
                self._problem("stored frames left at an edge", edge.site, there)
        for worker in self.workers.values():
            if worker.alive and not worker.frozen and worker.session.unfinished():
                self._problem("frames left at a worker", worker.name, str(worker.session.unfinished()))
        if self.checker.unfinished():
            self._problem("no terminal", "", f"{self.checker.unfinished()} queries")
        if self._spoke_s > self.clock.now_s - _SILENCE_S:
            self._problem("live-lock", "", f"somebody still speaks at {self._spoke_s:.3f}")

    def _report(self) -> EpisodeReport:
        counters: Counter[str] = Counter()
        for worker in self.workers.values():
            counters.update({f"worker_{name}": count for name, count in worker.session.counters.items()})
        for edge in self.edges.values():
            counters.update({f"edge_{name}": count for name, count in edge.session.counters.items()})
            counters.update({f"edge_{name}": edge.asks.counters[name] for name in ("asked_again", "told_again")})
            gate = edge.session.gate
            counters.update({} if gate is None else {f"gate_{name}": count for name, count in gate.counters.items()})
            counters.update({f"store_{name}": count for name, count in edge.session.store.counters.items()})
            counters["edge_replied"] += edge.counters["replied"]
        counters.update({f"broker_{name}": count for name, count in self.broker.counters.items()})
        counters["died_with_edge"] = self.checker.with_edge
        counters["spoken_for_lost_edge"] = self.checker.orphans
        counters["let_go_before_will"] = self.checker.let_go
        counters["repeats"] = self.checker.reducer.repeats
        counters["conflicts"] = self.checker.reducer.conflicts
        counters["renewals"] = self.checker.reducer.renewals
        counters["renewals_unknown"] = self.checker.reducer.renewals_unknown
        return EpisodeReport(
            self.plan.seed,
            self.plan.healthy,
            self.clock.handled,
            self.clock.now_s,
            self._asked,
            self.checker.outcomes,
            self.checker.violations,
            Counter(str(fault.kind) for fault in self.plan.faults),
            counters,
            self._trace,
        )
