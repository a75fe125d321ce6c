"""The client's machine: what it asks, reads and gives up, and what it tells why."""

from __future__ import annotations

import pytest

from pipeline.protocol import client_topics, fleet_view
from pipeline.protocol.client_ports import Ending, Subscribe, WatchEnded
from pipeline.protocol.client_session import WORKERS_UNSEEN, ClientSession
from pipeline.protocol.client_topics import EDGES, WORKERS
from pipeline.protocol.fleet_view import FleetView
from pipeline.protocol.ports import Delivery, Publish, Unsubscribe
from pipeline.protocol.settings import ClientProtocolSettings
from schemas import topics
from schemas.errors import StateError, TooManyQuestionsError, TopicError
from schemas.messages import Receipt, Status
from schemas.types import FrameId, Outcome
from tests.protocol.client_driver import EDGE, ME, WORKER, Driver, answer, outcome, public, question, reply

GATE = {topics.reply_filter(ME, "gate"), topics.answer_topic("gate"), topics.outcome_topic("gate")}


def asked(*statuses: Status, auto: bool = True, check: bool = True) -> Driver:
    """One question to camera gate."""
    driver = Driver().start(*(statuses or (EDGE, WORKER)))
    driver.auto = auto
    driver.session.ask("gate", question(), driver.now_s, check=check)
    driver.step()
    return driver


# ---- asking ---------------------------------------------------------------------------------------------------------


def test_a_question_is_published_as_edges_read_it() -> None:
    driver = asked()
    (ask,) = driver.asks
    assert (ask.topic, ask.qos, ask.retain, ask.label) == ("lb/v2/ask/gate/alice", 1, False, "ask")
    assert ask.response_topic == "lb/v2/reply/alice/gate/q-1"
    assert (ask.correlation_data, ask.expiry_s, ask.message) == (b"q-1", 10, question())
    assert driver.filters == {EDGES, WORKERS, *GATE}


def test_it_is_asked_when_its_topics_are_granted_not_before() -> None:
    driver = asked(auto=False)
    subscriptions = [output for output in driver.pending if isinstance(output, Subscribe)]
    assert {output.subscription.filter for output in subscriptions} == GATE
    for output in subscriptions:
        assert driver.asks == []
        driver.settle(output)
        driver.step()
    assert len(driver.asks) == 1


def test_what_is_asked_before_the_connection_needs_no_further_subscription() -> None:
    driver = Driver()
    driver.session.ask("gate", question(), driver.now_s, check=False)
    driver.auto = False
    driver.start()
    assert {EDGES, *GATE} <= driver.filters
    assert [type(output) for output in driver.pending] == [Subscribe, Publish]


def test_a_camera_that_nobody_serves_is_not_asked_and_named_with_the_others() -> None:
    driver = Driver().start(EDGE, WORKER)
    driver.session.ask("nosuch", question(), driver.now_s)
    driver.step()
    driver.at(100.9)
    assert driver.ended == []
    driver.at(101.0)
    (ended,) = driver.ended
    assert ended.ending is Ending.CAMERA_UNKNOWN
    assert ended.reason == "no edge that is online serves camera nosuch; cameras on this broker: gate, yard"
    # The statuses are known by now.
    driver.session.ask("nowhere", question(), driver.now_s)
    driver.step()
    assert [ended.camera for ended in driver.ended] == ["nosuch", "nowhere"]
    assert driver.asks == []


def test_an_edge_that_comes_in_time_is_asked() -> None:
    driver = Driver().start()
    driver.session.ask("gate", question(), driver.now_s)
    driver.at(100.9)
    driver.status(EDGE)
    driver.at(150.0)
    assert len(driver.asks) == 1
    assert [ended.ending for ended in driver.ended] == [Ending.NO_OUTCOME]


def test_without_a_check_it_is_asked_at_once() -> None:
    driver = Driver().start()
    driver.session.ask("gate", question(), driver.now_s, check=False)
    driver.step()
    assert len(driver.asks) == 1


def test_a_broker_that_is_slow_to_grant_its_topics_makes_no_camera_unknown() -> None:
    driver = asked(auto=False)
    driver.at(105.0)
    assert (driver.asks, driver.ended) == ([], [])
    for output in list(driver.pending):
        driver.settle(output)
    driver.step()
    assert len(driver.asks) == 1


@pytest.mark.parametrize("refused", sorted(GATE))
def test_a_client_that_may_not_read_a_camera_is_told(refused: str) -> None:
    driver = Driver(refuse={refused}).start(EDGE)
    driver.session.ask("gate", question(), driver.now_s)
    driver.session.ask("gate", question("q-2"), driver.now_s)
    driver.step()
    assert [ended.ending for ended in driver.ended] == [Ending.BROKER_REFUSES] * 2
    assert driver.asks == []
    assert driver.filters == {EDGES, WORKERS}


def test_a_publish_that_the_broker_refuses_ends_the_question() -> None:
    driver = asked(auto=False)
    driver.auto = True
    for output in list(driver.pending):
        driver.settle(output)
    driver.auto = False
    driver.step()
    driver.settle(driver.pending[-1], Delivery.REFUSED)
    driver.step()
    assert [ended.ending for ended in driver.ended] == [Ending.BROKER_REFUSES]


def test_after_a_reconnect_every_open_question_is_asked_again_with_the_same_bytes() -> None:
    driver = asked()
    driver.session.ask("yard", question("q-2"), driver.now_s)
    driver.step()
    driver.say(answer(Outcome.ANSWERED))
    driver.disconnect()
    driver.at(105.0)
    driver.connect()
    first, second, again = driver.asks
    assert (first.topic, second.topic) == ("lb/v2/ask/gate/alice", "lb/v2/ask/yard/alice")
    assert (again.topic, again.payload, again.response_topic) == (second.topic, second.payload, second.response_topic)
    assert again.token != second.token
    driver.say(answer(Outcome.ANSWERED, camera="yard", query="q-2"))
    assert len(driver.ended) == 2


def test_a_publish_without_an_answer_is_tried_again_while_connected() -> None:
    driver = asked(auto=False)
    for output in list(driver.pending):
        driver.settle(output)
    driver.step()
    driver.settle(driver.pending[-1], Delivery.CONNECTION_LOST)
    driver.step()
    driver.at(100.9)
    assert len(driver.asks) == 1
    driver.at(101.0)
    assert len(driver.asks) == 2


def test_the_word_on_a_publish_of_the_connection_before_is_ignored() -> None:
    driver = asked(auto=False)
    for output in list(driver.pending):
        driver.settle(output)
    driver.step()
    (old,) = driver.asks
    driver.session.connection(False, driver.now_s)
    driver.session.connection(True, driver.now_s)
    driver.step()
    assert len(driver.asks) == 2
    driver.settle(old, Delivery.CONNECTION_LOST)
    driver.at(103.0)
    assert len(driver.asks) == 2
    with pytest.raises(StateError):
        driver.session.published(old.token, Delivery.DELIVERED, driver.now_s)


def test_few_publishes_are_under_way_at_a_time() -> None:
    driver = Driver(ClientProtocolSettings(max_under_way=4)).start(EDGE)
    driver.session.ask("gate", question("first"), driver.now_s)
    driver.step()
    driver.auto = False
    for number in range(20):
        driver.session.ask("gate", question(f"q-{number}"), driver.now_s)
    driver.step()
    assert driver.session.sizes()["under_way"] == 4
    while driver.pending:
        driver.settle(driver.pending.pop(0))
        driver.step()
        assert driver.session.sizes()["under_way"] <= 4
    assert [ask.correlation_data for ask in driver.asks[1:]] == [f"q-{number}".encode() for number in range(20)]


def test_the_number_of_questions_is_bounded() -> None:
    driver = Driver(ClientProtocolSettings(max_questions=2)).start(EDGE)
    for number in range(2):
        driver.session.ask("gate", question(f"q-{number}"), driver.now_s)
    with pytest.raises(TooManyQuestionsError) as raised:
        driver.session.ask("gate", question("q-2"), driver.now_s)
    assert raised.value.limit == 2
    driver.step()
    driver.say(answer(Outcome.ANSWERED, query="q-0"))
    driver.session.ask("gate", question("q-2"), driver.now_s)


def test_what_cannot_be_asked_is_refused_at_once() -> None:
    driver = asked()
    with pytest.raises(StateError, match="is asked already"):
        driver.session.ask("gate", question(), driver.now_s)
    with pytest.raises(TopicError):
        driver.session.ask("Front Door", question(), driver.now_s)
    assert driver.session.unfinished() == 1


# ---- answers --------------------------------------------------------------------------------------------------------


def test_answers_come_once_in_order_and_the_last_one_ends_it() -> None:
    driver = asked()
    final = answer(Outcome.ANSWERED, latents=32)
    driver.say(answer(latents=4), answer(latents=16), answer(latents=4), answer(latents=8), final, final)
    driver.say(answer(latents=32), outcome())
    assert driver.latents() == [4, 16]
    (ended,) = driver.ended
    assert (ended.ending, ended.message, ended.mine, ended.watched) == (Ending.OUTCOME, final, True, False)
    assert (driver.session.reducer.repeats, driver.session.reducer.conflicts) == (3, 2)


def test_a_new_frame_begins_anew_and_the_one_before_is_late() -> None:
    driver = asked()
    other = FrameId(9, 0)
    driver.say(answer(latents=16), answer(latents=4, frame=other), answer(latents=32), answer(latents=8, frame=other))
    driver.say(answer(latents=64, frame=FrameId(9, 1)), answer(latents=99, frame=other))
    assert [(read.message.frame.boot, read.message.latents) for read in driver.read] == [
        (1, 16), (9, 4), (9, 8), (9, 64),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "message", [answer(Outcome.ANSWERED), answer(), outcome(Outcome.FAILED, "over the budget of this client")]
)
def test_what_somebody_left_retained_is_no_answer(message: object) -> None:
    driver = asked()
    driver.give(reply(message), message, retained=True)  # type: ignore[arg-type]
    assert (driver.read, driver.ended) == ([], [])
    assert [problem.kind for problem in driver.problems] == ["client/retained"]


def test_a_refusal_by_the_budget_is_an_outcome_with_its_reason() -> None:
    driver = asked()
    refused = outcome(Outcome.FAILED, "over the budget of this client: 2 questions a second, 60 at once")
    driver.give(public(refused), refused)
    (ended,) = driver.ended
    assert (ended.ending, ended.message, ended.cause) == (Ending.OUTCOME, refused, None)


@pytest.mark.parametrize("about", ["q-1", ""])
def test_a_receipt_ends_the_question_that_its_topic_names(about: str) -> None:
    driver = asked()
    driver.session.ask("gate", question("q-2"), driver.now_s)
    driver.step()
    topic = topics.reply_topic(ME, "gate", "q-1")
    driver.give(topic, Receipt(site="north", about=about, accepted=True))
    assert driver.ended == []
    receipt = Receipt(site="north", about=about, accepted=False, reason="options: unknown key")
    driver.give(topic, receipt)
    driver.give(topic, receipt)
    (ended,) = driver.ended
    assert (ended.query_id, ended.ending) == ("gate/@alice/q-1", Ending.EDGE_REFUSES)
    assert (ended.site, ended.reason) == ("north", "options: unknown key")


def test_no_other_camera_can_end_a_question() -> None:
    driver = asked()
    driver.session.watch(["yard"])
    driver.step()
    forged = answer(Outcome.ANSWERED, "no").model_copy(update={"camera": "yard"})
    driver.give(topics.answer_topic("yard"), forged)
    foreign = answer(Outcome.ANSWERED, client="bob").model_copy(update={"owner": "client/alice"})
    driver.give(public(foreign), foreign)
    assert driver.ended == []
    assert [problem.kind for problem in driver.problems] == ["client/foreign"] * 2
    assert driver.session.reducer.get("gate/@bob/q-1") is None


def test_what_is_no_message_is_a_problem_and_acknowledged() -> None:
    driver = asked()
    driver.give(topics.answer_topic("gate"), b"{", token=7)
    driver.give("lb/v1/answer/gate", b"{}", token=8)
    driver.give("elsewhere", b"", token=9)
    assert driver.acknowledged == [7, 8, 9]
    assert [problem.kind for problem in driver.problems] == ["client/malformed", "client/version", "client/topic"]


def test_asked_again_under_its_id_the_outcome_that_is_known_comes_again() -> None:
    driver = asked()
    driver.say(answer(Outcome.ANSWERED))
    driver.session.ask("gate", question(), driver.now_s)
    driver.step()
    assert len(driver.asks) == 2
    driver.say(answer(Outcome.ANSWERED))
    assert [ended.message for ended in driver.ended] == [answer(Outcome.ANSWERED)] * 2


def test_of_a_question_that_was_dropped_nothing_is_said() -> None:
    driver = asked()
    driver.session.drop("gate/@alice/q-1", driver.now_s)
    driver.session.drop("gate/@alice/q-1", driver.now_s)
    driver.say(answer(), answer(Outcome.ANSWERED))
    driver.at(1000.0)
    assert (driver.read, driver.ended) == ([], [])
    assert driver.session.unfinished() == 0


# ---- giving up ------------------------------------------------------------------------------------------------------


def test_nothing_by_the_deadline_and_a_margin_is_no_outcome() -> None:
    driver = asked()
    driver.at(114.9)
    assert driver.ended == []
    driver.at(115.0)
    (ended,) = driver.ended
    assert (ended.ending, ended.limit_s, ended.cause) == (Ending.NO_OUTCOME, 15.0, None)
    driver.say(answer(Outcome.ANSWERED))
    assert len(driver.ended) == 1


def test_a_question_that_could_never_be_asked_is_given_up_as_well() -> None:
    driver = Driver()
    driver.session.ask("gate", question(), driver.now_s)
    driver.at(115.0)
    assert [ended.ending for ended in driver.ended] == [Ending.NO_OUTCOME]


def test_the_statuses_tell_why_no_answer_came() -> None:
    no_worker = "no worker of pool p, which edge north asks, is online: start one with latentbus worker"
    for statuses, ended_by, cause in (
        ([EDGE], outcome(), no_worker),
        ([EDGE], outcome(Outcome.FAILED), no_worker),
        ([EDGE, WORKER], outcome(), None),
        ([EDGE], outcome(Outcome.SUPERSEDED), None),
        ([EDGE], answer(Outcome.DEGRADED), None),
    ):
        driver = asked(*statuses)
        driver.say(ended_by)
        assert driver.ended[0].cause == cause, ended_by


def test_a_client_that_may_not_see_workers_says_so_unless_the_question_failed() -> None:
    for ended_by, cause in ((outcome(), WORKERS_UNSEEN), (outcome(Outcome.FAILED), None)):
        driver = Driver(refuse={WORKERS}).start(EDGE)
        driver.session.ask("gate", question(), driver.now_s)
        driver.step()
        driver.say(ended_by)
        assert driver.ended[0].cause == cause
        assert driver.filters == {EDGES, *GATE}


def test_a_status_that_was_deleted_and_an_old_will_count_for_nothing() -> None:
    fleet = FleetView()
    fleet.observe(EDGE)
    fleet.observe(EDGE.model_copy(update={"boot": 7, "online": False}))
    assert fleet.serves("gate")
    fleet.observe(EDGE.model_copy(update={"online": False}))
    assert not fleet.serves("gate")
    fleet.observe(EDGE)
    driver = asked()
    driver.give(topics.status_topic("edge", "north"), b"", retained=True)
    assert driver.session.fleet.cameras == []


# ---- watching -------------------------------------------------------------------------------------------------------


def test_a_watched_camera_shows_the_queries_of_everybody_once() -> None:
    driver = Driver().start()
    driver.session.watch(["gate"])
    driver.step()
    assert driver.filters == {EDGES, WORKERS, topics.answer_topic("gate"), topics.outcome_topic("gate")}
    standing = answer(Outcome.ANSWERED, client=None, query="car")
    for message in (answer(client=None, query="car"), standing, standing, answer(latents=9, client=None, query="car")):
        driver.give(public(message), message)
    elsewhere = answer(Outcome.ANSWERED, client=None, camera="dock")
    driver.give(public(elsewhere), elsewhere)
    assert [(read.message.latents, read.mine, read.watched) for read in driver.read] == [(4, False, True)]
    assert [(ended.message, ended.mine, ended.watched) for ended in driver.ended] == [(standing, False, True)]


def test_a_question_of_ones_own_on_a_watched_camera_ends_for_both_at_once() -> None:
    driver = asked()
    driver.session.watch(["gate"])
    driver.step()
    driver.say(answer(), answer(Outcome.ANSWERED))
    assert [(read.mine, read.watched) for read in driver.read] == [(True, True)]
    assert [(ended.mine, ended.watched) for ended in driver.ended] == [(True, True)]


def test_filters_are_left_when_nobody_needs_them() -> None:
    driver = asked()
    driver.session.watch(["gate", "yard"])
    driver.session.watch(["gate"])
    driver.step()
    driver.session.unwatch(["gate", "yard"])
    driver.say(answer(Outcome.ANSWERED))
    assert driver.filters == {EDGES, WORKERS, *GATE}
    driver.at(129.9)
    assert driver.filters == {EDGES, WORKERS, *GATE}, "for another question"
    driver.at(130.0)
    assert driver.filters == {EDGES, WORKERS, topics.answer_topic("gate"), topics.outcome_topic("gate")}
    driver.session.unwatch(["gate"])
    driver.step()
    assert driver.filters == {EDGES, WORKERS}


def test_all_cameras_take_two_filters_and_nothing_is_missed_meanwhile() -> None:
    everything = {"lb/v2/answer/+", "lb/v2/outcome/+"}
    driver = asked()
    dock = {topics.answer_topic("dock"), topics.outcome_topic("dock")}
    driver.session.watch(["dock"])
    driver.step()
    driver.auto = False
    driver.session.watch(None)
    driver.step()
    assert driver.filters == {EDGES, WORKERS, *GATE, *dock, *everything}
    for output in list(driver.pending):
        driver.settle(output)
    driver.step()
    assert driver.filters == {EDGES, WORKERS, topics.reply_filter(ME, "gate"), *everything}
    driver.auto = True
    driver.session.unwatch(None)
    driver.step()
    assert driver.filters == {EDGES, WORKERS, *GATE, *dock}


def test_a_filter_that_is_being_left_is_subscribed_to_again_afterwards() -> None:
    session = ClientSession(ME)
    session.watch(["gate"])
    session.subscriptions()
    session.connection(True, 0.0)
    session.poll(0.0)
    session.unwatch(["gate"])
    left = [output.filter for output in session.poll(0.0) if isinstance(output, Unsubscribe)]
    assert left == [topics.answer_topic("gate"), topics.outcome_topic("gate")]
    session.watch(["gate"])
    assert session.poll(0.0) == []
    for topic_filter in left:
        session.unsubscribed(topic_filter, 0.0)
    again = session.poll(0.0)
    assert [output.subscription.filter for output in again if isinstance(output, Subscribe)] == left
    with pytest.raises(StateError):
        session.unsubscribed(left[0], 0.0)
    assert isinstance(again[0], Subscribe)
    session.subscribed(again[0].token, Delivery.DELIVERED, 0.0)
    with pytest.raises(StateError):
        session.subscribed(again[0].token, Delivery.DELIVERED, 0.0)


def test_a_watch_that_the_broker_refuses_ends_and_no_question_with_it() -> None:
    driver = Driver(refuse={"lb/v2/answer/+", topics.answer_topic("yard")}).start(EDGE)
    driver.session.ask("gate", question(), driver.now_s)
    driver.session.watch(None)
    driver.session.watch(["yard"])
    driver.step()
    assert set(driver.unread) == {WatchEnded(None), WatchEnded("yard")}
    assert driver.filters == {EDGES, WORKERS, *GATE}
    driver.say(answer(Outcome.ANSWERED))
    assert len(driver.ended) == 1


# ---- bounds ---------------------------------------------------------------------------------------------------------


def test_every_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_topics, "MAX_IDLE_CAMERAS", 3)
    monkeypatch.setattr(fleet_view, "MAX_EDGES", 3)
    monkeypatch.setattr(fleet_view, "MAX_WORKERS", 3)
    driver = Driver(ClientProtocolSettings(max_watched_queries=3, outcome_cache=3)).start()
    driver.session.watch(None)
    driver.step()
    for number in range(10):
        driver.status(EDGE.model_copy(update={"id": f"e{number}", "cameras": (f"c{number}",)}))
        driver.status(WORKER.model_copy(update={"id": f"w{number}"}))
        driver.session.ask(f"c{number}", question(), driver.now_s)
        driver.step()
        provisional = answer(client=None, query=f"s{number}")
        driver.give(public(provisional), provisional)
    assert driver.session.fleet.cameras == ["c7", "c8", "c9"]
    for number in range(10):
        driver.say(answer(Outcome.ANSWERED, camera=f"c{number}"))
    assert driver.session.sizes() | {"timers": 0} == {
        "questions": 0, "waiting": 0, "under_way": 0, "timers": 0, "watched_queries": 3, "subscribing": 0,
        "cameras_asked": 0, "cameras_idle": 3, "cameras_watched": 1, "leaving": 0, "edges": 3, "workers": 3,
        "filters": 2 + 2 + 3, "standing_questions": 0, "site_configs": 0,
    }  # fmt: skip
    driver.at(1000.0)
    assert driver.session.sizes()["cameras_idle"] == driver.session.sizes()["timers"] == 0
