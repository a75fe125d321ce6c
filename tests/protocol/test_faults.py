"""Seeded faults around the real machines: every query ends once, in time, and nothing is left behind."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.protocol.edge_frame import EDGE_TRANSITIONS, EdgeFrame
from pipeline.protocol.ports import Received
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_frame import WORKER_TRANSITIONS, WorkerEvent, WorkerFrame, WorkerStage
from pipeline.protocol.worker_work import WorkCosts
from schemas.messages import Ask, KeyFrame
from schemas.topics import ask_topic, key_topic
from schemas.types import FrameId
from schemas.wire import encode
from tests.protocol.harness import FINGERPRINT, POOL, Fleet

LONGEST_DEADLINE_S = 25.0
LAST_OFFER_S = 12.0

ONLY_BY_SCENARIO = {
    (WorkerStage.INFERRING, WorkerEvent.OVERTAKEN),
}
"""Moves that these faults do not reach; test_sessions.py makes each of them."""


def _faulty_fleet(seed: int) -> Fleet:
    """A fleet whose wire loses, delays, doubles and reorders, and whose workers are slow, die, freeze or do not fit.

    Some cameras have key frames, which workers miss now and then, or keep damaged.
    """
    draw = random.Random(seed)
    fleet = Fleet(
        workers=draw.randint(0, 3),
        score=lambda prefix: draw.random(),
        worker_settings=WorkerProtocolSettings(capacity_frames=draw.choice([2, 1024])),
        know_questions=draw.random() < 0.8,
        costs=WorkCosts(1, lambda _text, _kind: 1, 2),
        max_work=random.Random(f"{seed}/work").choice([2.0, 4.0, math.inf]),
    )
    if draw.random() < 0.2:
        fleet.add_worker("stranger", lambda prefix: 1.0, fingerprint=b"\xff\xff\xff\xff")
    for worker in fleet.workers.values():
        worker.pass_s = draw.choice([0.02, 0.5, 4.0])
    loss, doubled, slow = draw.choice([0.0, 0.1, 0.4]), draw.choice([0.0, 0.3]), draw.choice([0.02, 0.5, 5.0])
    uplink = draw.choice([0.0, 0.0, 1.0, 4.0])
    fleet.says_no_subscribers = draw.random() < 0.5
    fleet.uplink_s = lambda: draw.random() * uplink
    fleet.drop = lambda topic, message: draw.random() < loss
    fleet.duplicate = lambda topic, message: draw.random() < doubled
    fleet.delay_s = lambda topic, message: draw.random() * slow
    deadline_s = draw.choice([2.0, 8.0, LONGEST_DEADLINE_S])
    keys = _Keys(random.Random(f"{seed}/keys"))
    fleet.loses_key = lambda name: keys.draw.random() < keys.loss
    for index in range(draw.randint(1, 12)):
        questions = draw.sample(["q0", "q1", "q2"], draw.randint(1, 3))
        camera = draw.choice(["gate", "yard"])
        fleet.at(index * draw.random(), partial(_ask, fleet, questions, camera, deadline_s, keys))
    past = random.Random(f"{seed}/past")
    for number in range(past.choice([0, 4, 12])):
        fleet.at(past.random() * LAST_OFFER_S, partial(_ask_of_the_past, fleet, f"a{number}", deadline_s, past))
    for name in draw.sample(sorted(fleet.workers), draw.randint(0, min(2, len(fleet.workers)))):
        start_s = draw.random() * 5
        if draw.random() < 0.5:
            fleet.at(start_s, partial(fleet.kill, name, will=draw.random() < 0.5))
        else:
            fleet.at(start_s, partial(fleet.freeze, name))
            fleet.at(start_s + draw.random() * 10, partial(fleet.wake, name))
    if draw.random() < 0.3:
        down_s = draw.random() * 3
        fleet.at(down_s, lambda: fleet.edge_connection(False))
        fleet.at(down_s + 2, lambda: fleet.edge_connection(True))
        fleet.at(down_s + 2, lambda: fleet.edge_status(online=True, cameras=("gate", "yard")))
        if draw.random() < 0.5:  # it was the broker that was away, for all
            for name in fleet.workers:
                fleet.at(down_s + 1.5 + draw.random(), partial(fleet.worker_is_back, name))
    return fleet


class _Keys:
    """Key frames of a fleet, drawn apart from its other faults."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.share = draw.choice([0.0, 0.3, 0.6])
        self.loss = draw.choice([0.0, 0.3])
        self.damage = draw.choice([0.0, 0.5])
        self.latest: dict[str, FrameId] = {}


def _ask(fleet: Fleet, questions: list[str], camera: str, deadline_s: float, keys: _Keys) -> None:
    as_key = keys.draw.random() < keys.share
    given = keys.latest.get(camera) if not as_key and keys.draw.random() < 0.8 else None
    fleet.key_frames_fail = keys.draw.random() < 0.1
    frame = fleet.ask(*questions, camera=camera, deadline_s=deadline_s, as_key=as_key, given=given)
    if as_key:
        keys.latest[camera] = frame
        if keys.draw.random() < keys.damage:
            damaged = KeyFrame(frame=frame, fingerprint=FINGERPRINT, payload=b"damaged")
            arrives = partial(fleet._deliver, key_topic(POOL, camera), encode(damaged))
            fleet.at(fleet.now_s + keys.draw.random(), arrives)


def _ask_of_the_past(fleet: Fleet, query_id: str, deadline_s: float, draw: random.Random) -> None:
    """A client asks about a frame that was taken before; some workers do not hear of its text."""
    camera = draw.choice(["gate", "yard"])
    held = [kept.frame for kept in fleet.edge.ring.of(camera)]
    moment = {"frame": draw.choice(held)} if held and draw.random() < 0.8 else {"ago_ms": draw.choice([0, 2_000])}
    ask = Ask.model_validate(
        {"query_id": query_id, "text": f"{query_id}?", "deadline_ms": round(1000 * deadline_s), **moment}
    )
    topic = ask_topic(camera, "alice")
    for worker in fleet.workers.values():
        if worker.alive and not worker.frozen and draw.random() < 0.7:
            fleet.tell(worker, topic, ask, qos=1)
    fleet.edge.receive(Received(topic, encode(ask), token=next(fleet._order)), fleet.now_s)
    fleet.settle()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_every_query_ends_once_and_in_time(seed: int) -> None:
    fleet = _faulty_fleet(seed)
    fleet.run(60.0)
    fleet.outcomes()
    assert fleet.edge.unfinished() == 0
    assert max(fleet.decided_s, default=0.0) <= LAST_OFFER_S + LONGEST_DEADLINE_S + 0.01
    for worker in fleet.workers.values():
        if worker.alive:
            assert worker.session.unfinished() == 0, list(worker.frames._frames)
            assert worker.frames._frames.held_bytes == 0


@pytest.mark.parametrize("seed", range(20))
def test_a_seed_replays_exactly(seed: int) -> None:
    first, second = _faulty_fleet(seed), _faulty_fleet(seed)
    first.run(60.0)
    second.run(60.0)
    assert first.sent == second.sent
    assert first.edge.counters == second.edge.counters


def test_fixed_seeds_visit_every_row_of_both_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    visited: set[object] = set()
    for frame_class in (EdgeFrame, WorkerFrame):
        move = frame_class.move

        def spy(self: object, event: object, move: Callable[..., None] = move) -> None:
            visited.add((getattr(self, "stage", None), event))
            move(self, event)

        monkeypatch.setattr(frame_class, "move", spy)
    for seed in range(800):
        _faulty_fleet(seed).run(60.0)
    assert {*EDGE_TRANSITIONS, *WORKER_TRANSITIONS} - visited <= ONLY_BY_SCENARIO
