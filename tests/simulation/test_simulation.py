"""The simulator: reproducible, clean on the real machines, and sharp enough to find what was broken on purpose."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from pipeline.protocol.edge_frame import EDGE_TRANSITIONS
from pipeline.protocol.worker_frame import WorkerEvent, WorkerStage
from pipeline.protocol.worker_routing import subscriptions
from schemas import topics
from schemas.messages import Ask, KeyFrame, Message, Open, QueryRef, Status
from schemas.types import FrameId
from simulation import episode
from simulation.broker import IN_FLIGHT, NO_SUBSCRIBERS, QUEUED, BrokerModel
from simulation.clock import VirtualClock
from simulation.draw_plan import draw_plan
from simulation.episode import Episode
from simulation.faults import Fault, FaultKind
from simulation.injector import GONE_S
from simulation.links import LinkFaults
from simulation.mutation import Mutation
from simulation.mutations import MUTATIONS, detect
from simulation.plan import AskPlan
from simulation.questions import standing
from simulation.run import record_moves, simulate
from simulation.shrink import shrink

OPEN = Open(
    frame=FrameId(1, 0),
    attempt=1,
    site="site",
    fingerprint=b"sim1",
    queries=(QueryRef("q0", 1000, standing("site", "q0").digest),),
    stop=8,
    payload=b"latents",
)
KEY = KeyFrame(frame=FrameId(1, 0), fingerprint=b"sim1", payload=b"all latents")


class Sink:
    """A client that keeps what it gets and acknowledges when told to."""

    def __init__(self) -> None:
        self.got: list[tuple[str, Message, int | None]] = []
        self.retained: list[bool] = []
        self.connections: list[bool] = []

    def receive(self, topic: str, message: Message, token: int | None, retained: bool = False) -> None:
        self.got.append((topic, message, token))
        self.retained.append(retained)

    def connection(self, connected: bool) -> None:
        self.connections.append(connected)

    def opens(self) -> int:
        return sum(isinstance(message, Open) for _, message, _ in self.got)


def _broker(workers: int) -> tuple[VirtualClock, BrokerModel, list[Sink]]:
    clock = VirtualClock()
    broker = BrokerModel(clock, random.Random(1), LinkFaults())
    sinks = [Sink() for _ in range(workers)]
    for index, sink in enumerate(sinks):
        name = f"w{index}"
        _connect_worker(broker, name, sink)
    return clock, broker, sinks


def _connect_worker(broker: BrokerModel, name: str, sink: Sink) -> None:
    """A worker connects and is born."""
    topic = topics.status_topic("worker", name)
    online, offline = (Status(kind="worker", id=name, boot=1, online=online, pool="main") for online in (True, False))
    broker.connect_worker(name, sink, subscriptions(name, "main"), (topic, offline))
    broker.publish(name, topic, online, qos=1, retain=True)


def _edge_will() -> tuple[str, Message]:
    """Topic and last will of an edge."""
    offline = Status(kind="edge", id="site", boot=1, online=False, pool="main")
    return topics.status_topic("edge", "site"), offline


def _settle(clock: VirtualClock) -> None:
    while clock.step():
        pass


def test_a_seed_replays_to_the_same_bytes() -> None:
    first, second = (json.dumps(simulate(seed=3, events=4_000).to_json()) for _ in range(2))
    assert first == second
    assert first != json.dumps(simulate(seed=4, events=4_000).to_json())


def test_a_question_that_waited_while_its_edge_was_gone_has_time_for_its_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found by ten million events: a fault of 45 s, then a deadline of 40 s, outlasted the watch over the episode."""
    plan = draw_plan(7_000_001)
    site, worker = plan.sites[0], plan.workers[0]
    ask = Ask(query_id="late", text="late?", deadline_ms=40_000)
    plan = replace(
        plan,
        workers=(worker,),
        edge=replace(plan.edge, attempts=255),
        asks=(AskPlan(plan.duration_s - 0.5, site.cameras[0], "alice", ask),),
        faults=(
            Fault(0.1, FaultKind.WORKER_FREEZE, worker.name, 500.0, 0.0),
            Fault(plan.duration_s - 1.0, FaultKind.EDGE_GONE, site.name, 5.0, 0.0),
        ),
    )
    assert Episode(plan).run().violations == []
    monkeypatch.setattr(episode, "_QUIET_S", GONE_S + 30.0)
    assert Episode(plan).run().violations != []


@pytest.mark.parametrize("number", [7_000_015, 7_000_064])
def test_a_worker_is_not_to_speak_for_an_edge_whose_will_it_has_not_read(number: int) -> None:
    """Found by ten million events: it let go of a frame while the will was on its way."""
    report = Episode(draw_plan(number)).run()
    assert report.violations == []
    assert report.counters["let_go_before_will"] > 0


@pytest.mark.parametrize("seed", [7, 1, None])
def test_the_real_machines_break_no_invariant(seed: int | None) -> None:
    seed = random.SystemRandom().randrange(1, 1_000_000) if seed is None else seed
    print(f"seed {seed}")
    report = simulate(seed=seed, events=20_000)
    assert report.to_json()["violated"] == [], f"replay with seed {seed}"
    assert len(report.transitions_unvisited) < len(EDGE_TRANSITIONS)


def test_a_worker_that_claims_a_frame_and_turns_it_away_leaves_it_to_the_next() -> None:
    """It may be hostile: the attempt is given latents to twice, one worker after the other."""
    assert Episode(draw_plan(41_302_000_011)).run().violations == []


def test_a_refusal_that_waited_for_a_thin_uplink_ends_nothing() -> None:
    """A full disk refuses a question; it is asked again and answered before the refusal has left."""
    assert Episode(draw_plan(920_014_000_007)).run().violations == []


def test_an_answer_that_is_repeated_after_a_revoke_goes_on_with_nothing() -> None:
    """The edge came back and asks again; the worker decided the question before it was told."""
    assert Episode(draw_plan(500_038_000_009)).run().violations == []


def test_a_mark_that_a_disk_refused_is_no_second_end() -> None:
    """An outcome of an earlier process is told, and the disk does not take that at first."""
    assert Episode(draw_plan(600_009_000_006)).run().violations == []


def test_frames_that_a_link_cut_sends_back_to_their_store_are_within_its_bound() -> None:
    """Two were under way, and others were stored meanwhile."""
    assert Episode(draw_plan(2_000_017)).run().violations == []


def test_outcomes_that_a_restart_decides_together_wait_for_one_another() -> None:
    """Three questions about frames that nobody keeps, on a thin uplink; each outcome is read in its turn."""
    assert Episode(draw_plan(7_003_689)).run().violations == []


def test_a_hostile_worker_may_hold_a_frame_beyond_its_last_word() -> None:
    """It claimed a frame with a lease of a minute; the last question of the frame expires meanwhile."""
    assert Episode(draw_plan(19_000_013)).run().violations == []


def test_where_nothing_breaks_and_nothing_is_short_most_queries_are_answered() -> None:
    plans = [plan for number in range(1_600) if (plan := draw_plan(7_000_000 + number)).healthy]
    reports = [Episode(plan).run() for plan in plans]
    assert len(reports) >= 5
    assert all(report.healthy and report.violations == [] for report in reports)
    answered = sum(report.outcomes["answered"] for report in reports)
    assert answered > 0.8 * sum(report.asked for report in reports)


@pytest.mark.parametrize("number", [7_000_388, 7_000_711])
def test_a_frame_comes_back_with_more_latents_to_a_worker_that_still_reads_it(number: int) -> None:
    plan = draw_plan(number)
    with record_moves() as visited:
        report = Episode(plan).run()
    assert report.violations == []
    assert (WorkerStage.INFERRING, WorkerEvent.OVERTAKEN) in visited
    assert len(plan.sites) == 1
    assert {worker.name for worker in plan.workers} == {"w0", "w1"}


@pytest.mark.parametrize("number", [7_000_080, 7_000_095])
def test_an_outcome_that_died_with_its_edge_is_told_when_the_edge_is_back(number: int) -> None:
    """The process is killed between saying that an ad-hoc question expired and the broker's word on it."""
    report = Episode(draw_plan(number)).run()
    assert report.violations == []
    assert report.counters["edge_told_again"] > 0


@pytest.mark.parametrize("name", ["no lease", "no boot id", "no stop rule", "no hop limit", "no deadline at the edge"])
def test_the_simulator_finds_what_was_broken_on_purpose(name: str) -> None:
    (mutation,) = [mutation for mutation in MUTATIONS if mutation.name.startswith(name)]
    found = detect(mutation, events=250_000)
    assert found.caught_by is not None


def test_a_mutation_ends_with_its_context() -> None:
    mutation: Mutation = MUTATIONS[0]
    original = getattr(mutation.target, mutation.attribute)
    with mutation.applied():
        assert getattr(mutation.target, mutation.attribute) is mutation.replacement
    assert getattr(mutation.target, mutation.attribute) is original


def test_a_failing_episode_shrinks_to_a_trace_that_a_person_can_read() -> None:
    (mutation,) = [mutation for mutation in MUTATIONS if mutation.name.startswith("no stop rule")]
    found = detect(mutation, events=60_000)
    assert found.episode is not None
    plan = draw_plan(found.episode)
    with mutation.applied():
        whole = Episode(plan, stop_at_first=True).run()
        shrunk = shrink(plan, max_events=100_000)
    violation = shrunk.report.violations[0]
    assert violation.rule == whole.violations[0].rule
    assert len(shrunk.plan.faults) <= 1
    assert len(shrunk.plan.workers) == 1
    assert shrunk.report.trace is not None
    lines = shrunk.report.trace.about(violation.subject)
    assert 0 < len(lines) <= 30
    assert any("opens" in line or "takes on" in line for line in lines)


def test_the_share_group_deals_in_turn_and_blind() -> None:
    clock, broker, sinks = _broker(2)
    broker.cut("w1", noticed_s=60.0)
    for _ in range(10):
        assert broker.publish("site", "lb/v2/open/main/gate", OPEN, qos=1) == 0
    _settle(clock)
    assert [sink.opens() for sink in sinks] == [5, 0]
    # TCP holds what was sent into the cut, until the broker gives the member up: it is lost with it.
    assert broker.counters["lost_with_member"] == 5


def test_a_key_frame_reaches_every_worker_and_those_that_come_later_before_any_open() -> None:
    clock, broker, sinks = _broker(2)
    edge = Sink()
    broker.connect_edge("site", edge, ("gate",), _edge_will())
    assert broker.publish("site", "lb/v2/key/main/gate", KEY, qos=1, retain=True) == 0
    broker.leave_group("w0")  # one that drains still reads what its frames may name
    late = Sink()
    _connect_worker(broker, "w2", late)
    for _ in range(2):
        broker.publish("site", "lb/v2/open/main/gate", OPEN, qos=1)
    _settle(clock)
    assert [[message for _, message, _ in sink.got if message == KEY] for sink in (*sinks, late)] == [[KEY]] * 3
    assert [message for _, message, token in late.got if token is not None] == [KEY, OPEN]
    flags = {type(message): retained for (_, message, _), retained in zip(late.got, late.retained, strict=True)}
    assert flags == {Status: True, KeyFrame: True, Open: False}
    assert not any(sinks[0].retained), "what was published after it had subscribed"
    assert not any(isinstance(message, KeyFrame) for _, message, _ in edge.got)
    assert broker.publish("site", "lb/v2/key/main/gate", KEY, qos=1, retain=True) == 0


@pytest.mark.parametrize("forgets", [False, True])
def test_a_killed_broker_may_have_lost_key_frames_but_no_status(forgets: bool) -> None:
    clock, broker, _ = _broker(1)
    broker.publish("site", "lb/v2/key/main/gate", KEY, qos=1, retain=True)
    _settle(clock)
    broker.kill(forgets=forgets)
    broker.restart()
    late = Sink()
    _connect_worker(broker, "w1", late)
    _settle(clock)
    assert [message for _, message, _ in late.got if isinstance(message, KeyFrame)] == ([] if forgets else [KEY])
    assert [message.id for _, message, _ in late.got if isinstance(message, Status)] == ["w0"]


def test_a_worker_that_has_left_its_share_group_is_dealt_nothing_after_its_reconnect() -> None:
    clock, broker, sinks = _broker(2)
    offline = Status(kind="worker", id="w0", boot=1, online=False, pool="main")
    will = (topics.status_topic("worker", "w0"), offline)
    broker.leave_group("w0")
    broker.connect_worker("w0", sinks[0], subscriptions("w0", "main", draining=True), will)
    for _ in range(4):
        broker.publish("site", "lb/v2/open/main/gate", OPEN, qos=1)
    _settle(clock)
    assert [sink.opens() for sink in sinks] == [0, 4]


def test_overflow_is_silent() -> None:
    clock, broker, sinks = _broker(1)
    for _ in range(IN_FLIGHT + QUEUED + 7):
        assert broker.publish("site", "lb/v2/open/main/gate", OPEN, qos=1) == 0
    _settle(clock)
    assert sinks[0].opens() == IN_FLIGHT
    assert broker.counters["dropped_silently"] == 7


def test_a_dead_member_takes_what_it_held_and_its_will_is_published() -> None:
    clock, broker, sinks = _broker(2)
    for _ in range(4):
        broker.publish("site", "lb/v2/open/main/gate", OPEN, qos=1)
    _settle(clock)
    broker.close("w0")
    _settle(clock)
    assert broker.counters["lost_with_member"] == 2
    offline = [message for _, message, _ in sinks[1].got if isinstance(message, Status) and not message.online]
    assert [status.id for status in offline] == ["w0"]
    for _ in range(4):
        broker.publish("site", "lb/v2/open/main/gate", OPEN, qos=1)
    _settle(clock)
    assert sinks[1].opens() == 2 + 4


def test_reason_16_is_hidden_by_a_recorder() -> None:
    clock, broker, _ = _broker(0)
    assert broker.publish("site", "lb/v2/open/main/gate", OPEN, qos=1) == NO_SUBSCRIBERS
    broker.recorder = True
    assert broker.publish("site", "lb/v2/open/main/gate", OPEN, qos=1) == 0
    _settle(clock)


def test_a_persistent_session_gets_what_it_missed_and_what_it_did_not_acknowledge() -> None:
    clock, broker, _ = _broker(0)
    edge = Sink()
    broker.connect_edge("site", edge, ("gate",), _edge_will())
    broker.publish("client", "lb/v2/ask/gate/me", Ask(query_id="a1", text="?"), qos=1)
    _settle(clock)
    broker.close("site")
    _settle(clock)
    broker.publish("client", "lb/v2/ask/gate/me", Ask(query_id="a2", text="?"), qos=1)
    broker.connect_edge("site", edge, ("gate",), _edge_will())
    _settle(clock)
    assert [message.query_id for _, message, _ in edge.got if isinstance(message, Ask)] == ["a1", "a1", "a2"]


def test_a_killed_broker_publishes_no_will_and_keeps_what_was_retained() -> None:
    clock, broker, sinks = _broker(2)
    _settle(clock)
    broker.kill()
    _settle(clock)
    assert all(sink.connections == [False] for sink in sinks)
    broker.restart()
    late = Sink()
    broker.connect_edge("site", late, ("gate",), _edge_will())
    _settle(clock)
    assert all(message.online for _, message, _ in late.got if isinstance(message, Status))
    assert len(late.got) == 2
