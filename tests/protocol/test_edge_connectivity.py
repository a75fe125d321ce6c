"""What a reconnect, a birth and a last will tell both sides; each only shortens a wait."""

from __future__ import annotations

import pytest

from pipeline.protocol.departures import TrafficClass
from pipeline.protocol.edge_frame import EdgeStage
from pipeline.protocol.edge_frames import EdgeFrames
from pipeline.protocol.effects import PassAnswer
from pipeline.protocol.ports import Delivery
from pipeline.protocol.settings import EdgeProtocolSettings
from schemas.messages import Accept, Chunk, Open, Refine, Status
from schemas.types import FrameId
from tests.protocol.fake_latents import FakeLatent
from tests.protocol.harness import FINGERPRINT, POOL, Fleet, scores_at
from tests.protocol.questions import asked, ref

GRACE_S = EdgeProtocolSettings().grace_s
LEASE_S = EdgeProtocolSettings().base_lease_s


class Edge:
    """An edge with one frame that has left the uplink at 0."""

    def __init__(self, attempts: int = 3) -> None:
        settings = EdgeProtocolSettings(attempts=attempts)
        self.frames = EdgeFrames(settings, site="north", pool=POOL, boot=1, fingerprint=FINGERPRINT)
        self.frame = self.frames.offer("gate", FakeLatent(), 4, [asked("q0", 100.0)], 0.0)
        (self.departure,) = self.frames.take_departures()
        assert self.departure.traffic_class is TrafficClass.OPEN
        self.departure.stamp(0.0)

    def lost(self, now_s: float) -> None:
        """The connection breaks before the broker's word on the open."""
        assert self.departure.done is not None
        self.departure.done(Delivery.CONNECTION_LOST, now_s)

    def stage(self) -> EdgeStage:
        return self.frames.undecided()[0].stage

    def claim(self, now_s: float, lease_s: float = 60.0) -> None:
        accept = Accept(worker="w0", frame=self.frame, attempt=1, lease_ms=round(1000 * lease_s))
        self.frames.receive_control("gate", accept, now_s)
        assert self.stage() is EdgeStage.OWNED

    def reconnect(self, down_s: float, up_s: float) -> None:
        self.frames.connection(False, down_s)
        self.frames.connection(True, up_s)

    def reopened(self, now_s: float) -> Open | None:
        """What leaves now."""
        self.frames.tick(now_s)
        opens = [
            departure for departure in self.frames.take_departures() if departure.traffic_class is TrafficClass.OPEN
        ]
        message = opens[0].stamp(now_s) if opens else None
        assert message is None or isinstance(message, Open)
        return message


def worker(online: bool = True, *, boot: int = 1, name: str = "w0", pool: str | None = POOL) -> Status:
    return Status(kind="worker", id=name, boot=boot, online=online, pool=pool)


@pytest.mark.parametrize("owned", [False, True])
def test_no_lease_is_judged_without_a_connection_and_one_grace_period_after_it(owned: bool) -> None:
    edge = Edge()
    if owned:
        edge.claim(0.5)
    edge.frames.connection(False, 1.0)
    edge.frames.tick(80.0)
    assert edge.stage() is (EdgeStage.OWNED if owned else EdgeStage.OPENED)
    edge.frames.connection(True, 80.0)
    edge.frames.tick(80.0 + 0.9 * GRACE_S)
    assert edge.stage() is not EdgeStage.BACKOFF
    edge.frames.tick(80.0 + 1.1 * GRACE_S)
    assert edge.stage() is EdgeStage.BACKOFF


def test_an_owner_that_speaks_after_the_reconnect_keeps_its_lease() -> None:
    edge = Edge()
    edge.claim(0.5)
    edge.reconnect(1.0, 2.0)
    edge.claim(2.0 + 0.5 * GRACE_S, lease_s=10.0)
    edge.frames.tick(2.0 + 2 * GRACE_S)
    assert edge.stage() is EdgeStage.OWNED


def test_the_end_of_a_back_off_does_not_wait_for_the_grace_period() -> None:
    edge = Edge()
    edge.frames.tick(LEASE_S)
    assert edge.stage() is EdgeStage.BACKOFF
    edge.reconnect(LEASE_S + 0.1, LEASE_S + 2.0)
    assert edge.reopened(LEASE_S + 2.0) is not None


def test_an_open_that_the_broker_has_not_acknowledged_goes_again_with_the_next_connection() -> None:
    edge = Edge()
    edge.frames.connection(False, 0.1)
    edge.lost(0.1)
    assert edge.reopened(0.1) is None
    edge.frames.connection(True, 0.4)
    again = edge.reopened(0.4)
    assert again is not None
    assert again.attempt == 2
    assert edge.frames.counters["open_lost"] == 1


def test_the_last_attempt_waits_for_its_lease_although_its_open_may_be_lost() -> None:
    edge = Edge(attempts=1)
    edge.frames.connection(False, 0.1)
    edge.lost(0.1)
    edge.frames.connection(True, 0.4)
    assert edge.frames.unfinished() == 1
    edge.claim(0.5)


def test_what_met_an_empty_pool_after_the_broker_s_restart_goes_again_when_the_first_worker_is_back() -> None:
    edge = Edge()
    edge.reconnect(0.1, 0.2)
    assert edge.reopened(0.3) is None
    edge.frames.receive_worker_status(worker(), 0.3, retained=True)
    edge.frames.receive_worker_status(worker(pool="other"), 0.3)
    assert edge.stage() is EdgeStage.OPENED, "what was retained proves nothing, and another pool cannot help"
    edge.frames.receive_worker_status(worker(), 0.6)
    again = edge.reopened(0.6)
    assert again is not None
    edge.frames.receive_worker_status(worker(name="w1"), 0.7)
    assert edge.reopened(0.7) is None, "the pool is known to be there"


def test_a_worker_that_joins_a_pool_at_work_changes_nothing() -> None:
    edge = Edge()
    edge.frames.receive_worker_status(worker(name="w9"), 0.5)
    assert edge.stage() is EdgeStage.OPENED
    edge.reconnect(1.0, 1.1)
    edge.frames.receive_control("gate", Accept(worker="w1", frame=FrameId(1, 99), attempt=1, lease_ms=9), 1.2)
    edge.frames.receive_worker_status(worker(name="w9"), 1.3)
    assert edge.stage() is EdgeStage.OPENED, "somebody of the pool has spoken since"


@pytest.mark.parametrize(("retained", "judged_s"), [(False, 0.67 * LEASE_S), (True, LEASE_S)])
def test_a_last_will_shortens_the_wait_of_an_open_that_nobody_has_claimed(retained: bool, judged_s: float) -> None:
    edge = Edge()
    for now_s in (0.3, 0.4):  # more wills than one shorten it once
        edge.frames.receive_worker_status(worker(False), now_s, retained=retained)
    edge.frames.tick(judged_s - 0.1)
    assert edge.stage() is EdgeStage.OPENED
    edge.frames.tick(judged_s + 0.1)
    assert edge.stage() is EdgeStage.BACKOFF


def edge_status(fleet: Fleet, frame: FrameId, online: bool = True) -> Status:
    return Status(kind="edge", id="north", boot=frame.boot, online=online, pool=POOL, cameras=("gate",))


def test_a_worker_repeats_its_request_as_soon_as_the_edge_is_back() -> None:
    fleet = Fleet(score=scores_at(0.5, 0.99))
    fleet.drop = lambda topic, message: isinstance(message, Refine)
    frame = fleet.ask("q0", deadline_s=30.0)
    fleet.run(1.0)
    fleet.drop = lambda topic, message: False
    session = fleet.workers["w0"].frames
    session.receive_edge_status(edge_status(fleet, frame, online=False), fleet.now_s)
    session.receive_edge_status(edge_status(fleet, FrameId(frame.boot + 1, 0)), fleet.now_s)
    assert not session.take_effects(), "neither a will nor another edge's birth"
    session.receive_edge_status(edge_status(fleet, frame), fleet.now_s)
    fleet._settle()
    fleet.run(1.5)
    assert list(fleet.outcomes().values()) == ["answered"]


def test_a_worker_does_not_repeat_what_it_said_a_moment_ago() -> None:
    fleet = Fleet(score=scores_at(0.5, 0.99))
    fleet.drop = lambda topic, message: isinstance(message, Refine)
    frame = fleet.ask("q0", deadline_s=30.0)
    fleet.run(0.2)
    session = fleet.workers["w0"].frames
    session.receive_edge_status(edge_status(fleet, frame), fleet.now_s)
    assert not session.take_effects()
    fleet.drop = lambda topic, message: False
    fleet.run(1.0)
    assert list(fleet.outcomes().values()) == ["answered"], "but soon after, and not after the whole time-out"


def test_a_worker_whose_model_is_busy_says_accept_when_the_edge_is_back() -> None:
    fleet = Fleet(score=scores_at(0.5, 0.99))
    session = fleet.workers["w0"].frames
    never_heard, heard = FrameId(7, 0), FrameId(7, 1)
    for frame in (never_heard, heard):
        message = Open(frame=frame, attempt=1, site="north", fingerprint=FINGERPRINT,
                       queries=(ref("q0", 30_000),), stop=4,
                       payload=bytes(range(4)))  # fmt: skip
        session.receive_open("gate", message, 0.0)
    passes = {inference_pass.frame: inference_pass for inference_pass in session.passes.take(8, 0.0)}
    query = passes[heard].queries[0]
    session.passes.finish(passes[heard], [PassAnswer(query.query_id, "yes", 0.5)], 0.1)
    chunk = Chunk(camera="gate", frame=heard, attempt=1, start=4, stop=8, payload=bytes(range(4, 8)))
    session.receive_chunk("gate", chunk, 0.2)
    session.take_effects()

    session.receive_edge_status(edge_status(fleet, heard), 1.0)

    said = [effect.message for effect in session.take_effects()]
    assert [type(message) for message in said] == [Accept]
    assert isinstance(said[0], Accept)
    assert said[0].frame == heard, "an edge that never heard of this worker need not now"


def test_a_worker_whose_model_is_stalled_claims_nothing() -> None:
    fleet = Fleet()
    session = fleet.workers["w0"].frames
    frame = FrameId(7, 0)
    session.receive_open(
        "gate",
        Open(frame=frame, attempt=1, site="north", fingerprint=FINGERPRINT, queries=(ref("q0", 90_000),), stop=4,
             payload=bytes(range(4))),
        0.0,
    )  # fmt: skip
    session.passes.take(8, 0.0)
    session.tick(2.0)
    assert [type(effect.message) for effect in session.take_effects()] == [Accept], "half of the base lease is over"
    session.receive_edge_status(edge_status(fleet, frame), 60.0)
    assert session.take_effects() == []
