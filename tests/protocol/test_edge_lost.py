"""A worker speaks in the place of an edge that is gone, and only then."""

from __future__ import annotations

import random
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.protocol.reasons import EDGE_LOST
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_caches import Edges
from schemas.messages import Answer, Chunk, Status
from schemas.types import FrameId, Outcome
from tests.protocol.harness import POOL, Fleet, finals, scores_at

MARGIN_S = WorkerProtocolSettings().finalise_margin_s


def final_answers(fleet: Fleet) -> list[Answer]:
    return [message for message in finals(fleet.messages(Answer)) if isinstance(message, Answer)]


def test_an_answer_at_hand_is_degraded_at_the_deadline() -> None:
    fleet = Fleet(score=scores_at(0.5))
    fleet.drop = lambda topic, message: isinstance(message, Chunk)
    fleet.edge_status(online=True, cameras=("gate", "yard"))
    fleet.ask("q0", deadline_s=5.0)
    fleet.run(1.0)
    fleet.kill_edge()
    fleet.run(5.0 - MARGIN_S - 0.01)
    assert final_answers(fleet) == [], "the edge may come back until then"
    fleet.run(60.0)
    (answer,) = final_answers(fleet)
    assert (answer.outcome, answer.reason, answer.text) == (Outcome.DEGRADED, EDGE_LOST, "answer at 4")
    assert fleet.workers["w0"].session.unfinished() == 0


def test_without_any_answer_it_is_failed() -> None:
    fleet = Fleet()
    fleet.workers["w0"].pass_s = 100.0
    fleet.ask("q0", "q1", deadline_s=5.0)
    fleet.run(1.0)
    fleet.kill_edge()
    fleet.run(60.0)
    answers = final_answers(fleet)
    assert [(a.outcome, a.reason, a.text) for a in answers] == [(Outcome.FAILED, EDGE_LOST, "")] * 2


def test_a_safe_answer_is_said_as_always() -> None:
    fleet = Fleet(score=scores_at(0.99))
    fleet.workers["w0"].pass_s = 1.0
    fleet.ask("q0", deadline_s=5.0)
    fleet.run(0.5)
    fleet.kill_edge()
    fleet.run(60.0)
    (answer,) = final_answers(fleet)
    assert (answer.outcome, answer.reason) == (Outcome.ANSWERED, "")


def test_while_the_edge_is_there_it_has_the_word() -> None:
    fleet = Fleet()
    fleet.workers["w0"].pass_s = 100.0
    fleet.edge_status(online=True, cameras=("gate",))
    fleet.ask("q0", deadline_s=5.0)
    fleet.run(60.0)
    assert final_answers(fleet) == []
    assert list(fleet.outcomes().values()) == ["expired"]


def test_an_edge_that_is_back_by_the_deadline_has_the_word_again() -> None:
    fleet = Fleet()
    fleet.workers["w0"].pass_s = 100.0
    fleet.ask("q0", deadline_s=5.0)
    fleet.run(1.0)
    fleet.edge_status(online=False)
    fleet.run(2.0)
    fleet.edge_status(online=True, cameras=("gate",))
    fleet.run(60.0)
    assert final_answers(fleet) == []
    assert list(fleet.outcomes().values()) == ["expired"]


def test_a_stale_will_does_not_count() -> None:
    fleet = Fleet()
    fleet.workers["w0"].pass_s = 100.0
    fleet.edge_status(boot=7, online=True, cameras=("gate",))
    fleet.ask("q0", deadline_s=5.0)
    fleet.run(1.0)
    fleet.edge_status(boot=6, online=False)
    fleet.run(60.0)
    assert final_answers(fleet) == []


def test_after_a_restart_standing_questions_of_the_old_process_are_lost_and_ad_hoc_ones_are_not() -> None:
    fleet = Fleet()
    fleet.workers["w0"].pass_s = 100.0
    fleet.edge_status(boot=7, online=True, cameras=("gate",))
    fleet.ask("q0", deadline_s=5.0)
    fleet.ask("a1", ad_hoc=True, camera="gate", deadline_s=5.0)
    fleet.run(1.0)
    fleet.start_edge(boot=8)
    fleet.edge_status(boot=8, online=True, cameras=("gate",))
    fleet.ask("a1", ad_hoc=True, camera="gate", deadline_s=4.0)
    fleet.run(60.0)
    assert [(a.query_id, a.reason) for a in final_answers(fleet)] == [("gate/00000007-0/q0", EDGE_LOST)]
    assert fleet.outcomes() == {"gate/@me/a1": "expired"}, "its new process says so"
    assert fleet.reducer.conflicts == 0


@pytest.mark.parametrize("followed", [False, True], ids=["last will", "another boot"])
def test_no_other_site_can_say_that_an_edge_is_gone(followed: bool) -> None:
    fleet = Fleet()
    fleet.workers["w0"].pass_s = 100.0
    fleet.edge_status(online=True, cameras=("gate",))
    fleet.ask("q0", deadline_s=5.0)
    fleet.run(1.0)
    session = fleet.workers["w0"].frames
    (frame,) = session.frames()

    def south(boot: int, *, online: bool) -> None:
        # The boot id of another edge stands in each of its answers.
        status = Status(kind="edge", id="south", boot=boot, online=online, pool=POOL, cameras=("gate",))
        session.receive_edge_status(status, fleet.now_s)

    south(frame.frame.boot, online=True)
    if followed:
        south(frame.frame.boot ^ 1, online=True)
    else:
        south(frame.frame.boot, online=False)
    fleet.run(60.0)
    assert final_answers(fleet) == []
    assert list(fleet.outcomes().values()) == ["expired"]


def test_edges_are_told_apart_by_boot_id_and_camera() -> None:
    edges = Edges()

    def status(site: str, boot: int, *cameras: str, online: bool) -> None:
        edges.learn(Status(kind="edge", id=site, boot=boot, online=online, pool=POOL, cameras=cameras))

    status("north", 1, "gate", online=True)
    status("south", 1, "yard", online=True)
    status("north", 1, online=False)
    assert edges.lost("north", "gate", FrameId(1, 5), ad_hoc=True)
    assert not edges.lost("south", "yard", FrameId(1, 5), ad_hoc=True), "another site that drew the same boot id"
    assert not edges.lost("north", "gate", FrameId(2, 0), ad_hoc=True)
    status("north", 2, "gate", online=True)
    assert edges.lost("north", "gate", FrameId(1, 5), ad_hoc=False)
    assert not edges.lost("north", "gate", FrameId(1, 5), ad_hoc=True), "the new process has it from disk"
    status("north", 1, online=False)
    assert edges.stale_wills == 1
    assert not edges.lost("north", "gate", FrameId(2, 0), ad_hoc=False)


def test_what_is_known_of_edges_is_bounded() -> None:
    edges = Edges()
    for boot in range(20_000):
        edges.learn(Status(kind="edge", id=f"e{boot}", boot=boot, online=boot % 2 == 0, cameras=("gate",)))
    assert len(edges._known) <= 4096
    assert len(edges._over) <= 16_384


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_with_faults_around_it_every_query_that_a_worker_holds_ends_by_its_deadline(seed: int) -> None:
    draw = random.Random(seed)
    fleet = Fleet(workers=draw.randint(1, 3), score=lambda prefix: draw.random())
    for worker in fleet.workers.values():
        worker.pass_s = draw.choice([0.02, 0.5, 4.0])
    loss = draw.choice([0.0, 0.2])
    fleet.drop = lambda topic, message: draw.random() < loss
    fleet.delay_s = lambda topic, message: draw.random() * 0.2
    if draw.random() < 0.5:
        fleet.edge_status(online=True, cameras=("gate", "yard"))
    for index in range(draw.randint(1, 8)):
        camera, deadline_s = draw.choice(["gate", "yard"]), draw.choice([2.0, 9.0])
        fleet.at(index * 0.2, partial(_ask, fleet, camera, deadline_s))
    fleet.run(draw.random() * 3)
    fleet.kill_edge()
    held = {
        query_id: query.deadline_s
        for worker in fleet.workers.values()
        for frame in worker.session.frames()
        for query_id, query in frame.queries.items()
    }
    fleet.run(max([fleet.now_s, *held.values()]) + 0.01)
    for query_id in held:
        assert fleet.reducer.get(query_id) is not None, f"nobody said what became of {query_id}"
    fleet.run(60.0)  # what was still on the wire has come and gone
    assert all(worker.session.unfinished() == 0 for worker in fleet.workers.values())


def _ask(fleet: Fleet, camera: str, deadline_s: float) -> None:
    if fleet.edge_alive:
        fleet.ask("q0", "q1", camera=camera, deadline_s=deadline_s)


@pytest.mark.parametrize("online", [True, False])
def test_a_worker_status_says_nothing_about_edges(online: bool) -> None:
    fleet = Fleet()
    fleet.workers["w0"].frames.receive_status(Status(kind="worker", id="north", boot=7, online=online))
    assert not fleet.workers["w0"].frames._progress.edges.lost("north", "gate", FrameId(7, 0), ad_hoc=False)
