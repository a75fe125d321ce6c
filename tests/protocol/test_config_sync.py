"""The config topic of a site: taken as a whole or refused as a whole, answered, and kept by the broker."""

from __future__ import annotations

from typing import Any

from edge_nodes.session_settings import site_settings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.protocol.config_sync import CORRECTIONS
from schemas import topics
from schemas.messages import Question, Receipt, SiteConfig, Status
from tests.protocol.edge_driver import EdgeDriver

TOPIC = topics.config_topic("depot")
REPLY = topics.receipt_topic("boss", "depot", "change")
QUESTIONS: dict[str, Any] = {"car": {"text": "A car?"}, "dog": {"text": "A dog?", "interval_s": 10}}


def settings(**more: Any) -> EdgeSettings:
    camera = {"source": "test:1", "questions": list(more.get("questions", QUESTIONS)), "interval_s": 1}
    profiles = {"night": {"questions": ["dog"]}}
    given = {"site": "depot", "cameras": {"gate": camera}, "questions": QUESTIONS, "profiles": profiles}
    return EdgeSettings.model_validate({**given, **more})


def driver(**more: Any) -> EdgeDriver:
    edge = EdgeDriver(site_settings=site_settings(settings(**more)))
    edge.connect()
    settle(edge)
    return edge


def settle(edge: EdgeDriver) -> None:
    """The edge reads its own status back: everything that is retained has come."""
    edge.receive(topics.status_topic("edge", "depot"), edge.messages(Status)[-1])


def say(edge: EdgeDriver, said: SiteConfig | bytes) -> Receipt:
    edge.now_s += 60.0
    edge.receive(TOPIC, said, response_topic=REPLY, correlation_data=b"7")
    return edge.messages(Receipt)[-1]


def config(**fields: Any) -> SiteConfig:
    return SiteConfig.model_validate({"site": "depot", **fields})


def asked(edge: EdgeDriver) -> list[str]:
    queries = edge.session.take_queries("gate", edge.now_s, standing=True)
    return [query.question_id for query in queries]


def kept(edge: EdgeDriver) -> list[bytes]:
    """What the edge has published on the topic."""
    return [payload for topic, payload, _ in edge.published if topic == TOPIC]


def test_an_operator_switches_the_profile_by_one_message_and_hears_of_it() -> None:
    edge = driver()
    assert asked(edge) == ["car", "dog"]
    receipt = say(edge, config(profile="night"))
    assert (receipt.accepted, receipt.about, receipt.reason) == (True, "config", "profile night")
    assert asked(edge) == ["dog"]
    receipt = say(edge, b"")
    assert (receipt.accepted, receipt.reason) == (True, "as the settings say")
    assert asked(edge) == ["car", "dog"]
    assert kept(edge) == [], "the broker has it as the operator said it"


def test_what_is_wrong_in_part_changes_nothing_and_is_put_right_on_the_broker() -> None:
    edge = driver()
    good = config(profile="night", question_intervals_s={"dog": 2.0})
    say(edge, good)
    receipt = say(edge, config(profile="home", question_intervals_s={"dog": 5.0}))
    assert not receipt.accepted
    assert receipt.reason == "nothing was changed: no profile home in the settings; there are night"
    assert edge.session.asking.config == good
    assert kept(edge) == [good.model_dump_json().encode()]
    wrong = (
        b"{",
        b'{"site": "depot", "sources": {"gate": "rtsp://x"}}',
        b'{"site": "north"}',
        b'{"site": "depot", "snoozed_cameras": {"gate": "tomorrow"}}',
    )
    for payload in wrong:
        assert not say(edge, payload).accepted
    assert edge.session.asking.config == good
    assert len(kept(edge)) == 5


def test_own_words_that_come_back_do_not_undo_what_came_between() -> None:
    edge = driver()
    first, second = config(question_intervals_s={"car": 3.0}), config(question_intervals_s={"car": 7.0})
    say(edge, first)
    say(edge, b"{")
    say(edge, second)
    edge.receive(TOPIC, first)  # what the edge has put back, read after what the operator said meanwhile
    assert edge.session.asking.config == second
    assert kept(edge) == [first.model_dump_json().encode(), second.model_dump_json().encode()]
    edge.receive(TOPIC, second)
    assert (len(kept(edge)), edge.session.asking.config) == (2, second)


def test_corrections_are_bounded() -> None:
    edge = driver()
    for _ in range(3 * CORRECTIONS):
        edge.receive(TOPIC, b"{")
    assert len(kept(edge)) == CORRECTIONS


def test_what_is_retained_holds_after_a_restart_without_a_receipt() -> None:
    edge = EdgeDriver(site_settings=site_settings(settings()))
    edge.connect()
    edge.receive(TOPIC, config(profile="night"), retained=True, response_topic=REPLY, correlation_data=b"7")
    settle(edge)
    assert asked(edge) == ["dog"]
    assert edge.messages(Receipt) == []


def test_a_broker_that_has_forgotten_is_told_again() -> None:
    edge = driver()
    said = config(profile="night")
    say(edge, said)
    edge.session.connection(False, edge.now_s)
    edge.session.connection(True, edge.now_s, generation=2)
    edge.pump()
    settle(edge)
    assert kept(edge) == [said.model_dump_json().encode()]
    assert asked(edge) == ["dog"]


def test_settings_that_are_read_again_are_asked_and_published_at_once() -> None:
    edge = driver()
    changes = edge.session.asking_changes
    questions = {"car": {"text": "A red car?"}, "cow": {"text": "A cow?"}}
    camera = {"source": "test:1", "questions": ["car", "cow"], "interval_s": 5, "priority": 3}
    edge.publishes.clear()
    after = settings(questions=questions, cameras={"gate": camera}, profiles={})
    edge.session.reconfigure(site_settings(after), None)
    edge.pump()
    assert asked(edge) == ["car", "cow"]
    assert edge.session.interval_s("gate") == 5.0
    assert edge.session.asking_changes > changes
    published = {publish.topic.rpartition("/")[2]: publish.payload for publish in edge.publishes}
    assert set(published) == {"car", "cow", "dog"}
    assert published["dog"] == b"", "asked no more"
    assert [message.text for message in edge.messages(Question) if message.question_id == "car"] == ["A red car?"]


def test_the_question_of_an_operator_goes_before_settings_that_are_read_again() -> None:
    edge = driver()
    theirs = Question(site="depot", question_id="car", text="A bus?", cameras=("gate",))
    edge.receive(topics.question_topic("depot", "car"), theirs)
    edge.session.reconfigure(site_settings(settings()), None)
    queries = edge.session.take_queries("gate", edge.now_s, standing=True)
    assert "A bus?" in [query.question.text for query in queries]


def test_a_camera_takes_no_more_of_the_uplink_than_its_share() -> None:
    camera = {"source": "test:1", "questions": ["car"], "uplink_share": 0.1}
    edge = driver(uplink_kbps=80, cameras={"gate": camera})
    session, now_s = edge.session, edge.now_s
    assert session.takes_standing("gate", now_s)
    session.shares.charge("gate", 500, now_s)  # half a second of 8 kbps
    assert not session.takes_standing("gate", now_s + 0.4)
    assert session.takes_standing("gate", now_s + 0.51)
    assert session.shares.skipped["gate"] == 1
