"""What a client knows of the whole fleet: processes, loads, texts of standing questions."""

from __future__ import annotations

import pytest

from pipeline.protocol import fleet_view
from pipeline.protocol.client_topics import CONFIGS, EDGES, LOADS, QUESTIONS, WORKERS
from schemas import topics
from schemas.messages import Question
from tests.protocol.client_driver import EDGE, WORKER, Driver

CAR = Question(site="north", question_id="car", text="Is there a car?")


def fleet(**options: bool) -> Driver:
    driver = Driver(whole_fleet=options.get("whole_fleet", True))
    driver.start(EDGE, WORKER)
    return driver


def test_loads_and_texts_are_read_where_they_are_wanted() -> None:
    assert fleet().filters == {EDGES, WORKERS, LOADS, QUESTIONS, CONFIGS}
    assert fleet(whole_fleet=False).filters == {EDGES, WORKERS}


def test_a_load_is_that_of_the_process_that_runs() -> None:
    driver = fleet()
    view = driver.session.fleet
    driver.give(topics.load_topic("p", "w1"), WORKER.model_copy(update={"parked": 5}))
    assert [(worker.id, worker.parked) for worker in view.workers] == [("w1", 5)]
    driver.give(topics.load_topic("p", "w1"), WORKER.model_copy(update={"parked": 7, "boot": 9}))
    driver.give(topics.load_topic("p", "w2"), WORKER.model_copy(update={"parked": 7, "id": "w2"}))
    assert [(worker.id, worker.parked) for worker in view.workers] == [("w1", 5)]


def test_texts_follow_what_the_broker_retains() -> None:
    driver = fleet()
    view = driver.session.fleet
    driver.give(topics.question_topic("north", "car"), CAR, retained=True)
    assert view.questions == {("north", "car"): CAR}
    driver.give(topics.question_topic("north", "car"), b"")
    assert view.questions == {}
    driver.give(topics.question_topic("north", "car"), CAR, retained=True)
    driver.disconnect()
    driver.connect()
    assert view.questions == {}, "one that was deleted meanwhile does not come again"


def test_texts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_view, "MAX_QUESTIONS", 2)
    driver = fleet()
    for name in ("a", "b", "c"):
        driver.give(topics.question_topic("north", name), CAR.model_copy(update={"question_id": name}), retained=True)
    assert [question for _, question in driver.session.fleet.questions] == ["b", "c"]
    assert driver.session.sizes()["standing_questions"] == 2


def test_what_the_broker_refuses_is_done_without_until_the_next_connection() -> None:
    driver = Driver(whole_fleet=True, refuse={LOADS, QUESTIONS, CONFIGS}).start(EDGE)
    assert driver.filters == {EDGES, WORKERS}
    assert (driver.ended, driver.unread) == ([], [])
    driver.refuse.clear()
    driver.disconnect()
    driver.connect()
    assert driver.filters == {EDGES, WORKERS, LOADS, QUESTIONS, CONFIGS}


def test_every_change_can_be_seen() -> None:
    driver = fleet()
    view, seen = driver.session.fleet, []
    for topic, message in (
        (topics.status_topic("edge", "north"), EDGE.model_copy(update={"online": False})),
        (topics.load_topic("p", "w1"), WORKER.model_copy(update={"parked": 1})),
        (topics.question_topic("north", "car"), CAR),
        (topics.status_topic("worker", "w1"), b""),
    ):
        driver.give(topic, message)
        seen.append(view.changes)
    assert seen == sorted(set(seen))
    assert (view.edges[0].online, view.edges[0].cameras, view.workers) == (False, EDGE.cameras, [])
