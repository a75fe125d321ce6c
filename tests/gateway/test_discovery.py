"""What Home Assistant is told: entities by the kind of answer, nothing twice, and what is gone taken back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from latentbus.gateway.discovery import MAX_ENTITIES, PATIENCE_S, Discovery, state_of
from latentbus.gateway.state import FleetState
from pipeline.protocol.fleet_view import FleetView
from schemas import home_assistant as topics
from schemas.messages import Question, Status
from schemas.types import AnswerType, Outcome
from tests.gateway.views import view

EDGE = Status(kind="edge", id="north", boot=1, online=True, pool="p", fingerprint="00000001", cameras=("gate", "yard"))
GATE = topics.config_topic("gate")
CAR = topics.state_topic("gate", "car")
ONLINE = topics.availability_topic("gate")


def asked(question_id: str = "car", *cameras: str, **given: Any) -> Question:
    fields = {"text": "Is there a car?", "answer_type": AnswerType.YES_NO, "cameras": cameras or ("gate",), **given}
    return Question(site="north", question_id=question_id, **fields)


class House:
    """A discovery, and a broker that takes all that it says."""

    def __init__(self, *questions: Question, edges: tuple[Status, ...] = (EDGE,), **given: Any) -> None:
        self.fleet = FleetView()
        for edge in edges:
            self.fleet.observe(edge)
        self.ask(*questions)
        self.state = FleetState(self.fleet)
        self.broker: dict[str, bytes] = {}
        self.now_s = 0.0
        self.discovery = self.made(**given)

    def made(self, **given: Any) -> Discovery:
        topic = "lb/v2/status/gateway/web"
        return Discovery(self.fleet, self.state, gateway_topic=topic, version="1.2", **given)

    def restarted(self, **given: Any) -> None:
        """Another process, which reads what the broker retains."""
        self.discovery = self.made(**given)
        for topic, payload in self.broker.items():
            self.discovery.found(topic, payload)

    def ask(self, *questions: Question) -> None:
        for question in questions:
            self.fleet.observe_question("north", question.question_id, question)

    def said(self, after_s: float = 1.0) -> dict[str, bytes]:
        """What is published at the next look."""
        self.now_s += after_s
        messages = [message for message in self.discovery.due(self.now_s) if message is not None]
        for message in messages:
            self.discovery.published(message)
            if message.payload:
                self.broker[message.topic] = message.payload
            else:
                del self.broker[message.topic]
        return {message.topic: message.payload for message in messages}

    def config(self, camera: str = "gate") -> Any:
        return json.loads(self.broker[topics.config_topic(camera)])

    def shown(self, question_id: str = "car") -> Any:
        return json.loads(self.broker[topics.state_topic("gate", question_id)])


def test_a_device_for_a_camera_and_an_entity_for_a_question() -> None:
    house = House(asked())
    said = house.said()
    assert list(said) == [CAR, ONLINE, GATE, topics.availability_topic("yard")]
    config = house.config()
    assert config["dev"] == {
        "ids": ["latentbus-gate"],
        "name": "gate",
        "mf": "Latentbus",
        "mdl": "camera of site north",
    }
    assert config["o"] == {"name": "Latentbus", "sw": "1.2"}
    assert [entry["t"] for entry in config["avty"]] == [ONLINE, "lb/v2/status/gateway/web"]
    assert config["cmps"] == {
        "car binary_sensor": {
            "p": "binary_sensor",
            "uniq_id": "latentbus-gate-car-binary_sensor",
            "name": "Is there a car?",
            "stat_t": CAR,
            "val_tpl": "{{ value_json.state }}",
            "json_attr_t": CAR,
            "pl_on": "yes",
            "pl_off": "no",
        }
    }
    assert house.broker[ONLINE] == b"online"
    assert house.shown()["state"] is None
    assert house.said() == {}


@pytest.mark.parametrize(
    ("given", "text", "state", "config"),
    [
        ({"answer_type": AnswerType.YES_NO}, "Yes", "yes", {"p": "binary_sensor", "pl_on": "yes"}),
        ({"answer_type": AnswerType.YES_NO}, "perhaps", None, {"p": "binary_sensor"}),
        ({"answer_type": AnswerType.COUNT}, "3", 3, {"p": "sensor", "stat_cla": "measurement"}),
        ({"answer_type": AnswerType.COUNT}, "many", None, {"p": "sensor"}),
        ({"answer_type": AnswerType.CHOICE, "options": ("open", "shut")}, "open", "open", {"dev_cla": "enum"}),
        ({"answer_type": AnswerType.CHOICE, "options": ("open", "shut")}, "ajar", None, {"ops": ["open", "shut"]}),
        ({"answer_type": AnswerType.TEXT}, "x" * 300, "x" * 255, {"p": "sensor"}),
        ({"answer_type": AnswerType.WORD}, "red", "red", {"p": "sensor"}),
    ],
)
def test_states_are_of_the_kind_that_home_assistant_takes(
    given: dict[str, Any], text: str, state: object, config: dict[str, object]
) -> None:
    house = House(asked(**given))
    house.state.observe(view(1, text), 1.0)
    house.said()
    assert house.shown()["state"] == state
    assert house.shown()["answer"] == text
    [entity] = house.config()["cmps"].values()
    assert config.items() <= entity.items()


def test_attributes_say_what_the_answer_cost() -> None:
    house = House(asked())
    house.state.observe(view(1), 1.0)
    assert set(house.said()) >= {CAR}
    shown = house.shown()
    assert (shown["bytes"], shown["latents"], shown["latents_total"], shown["confidence"]) == (41, 9, 48, 0.9)
    house.state.observe(view(2, "", outcome=Outcome.EXPIRED, reason="deadline while opened"), 2.0)
    assert set(house.said()) == {CAR}
    later = house.shown()
    assert (later["state"], later["outcome"], later["reason"]) == ("yes", "expired", "deadline while opened")


def test_an_edge_that_is_offline_makes_its_cameras_unavailable_and_removes_nothing() -> None:
    house = House(asked())
    house.said()
    house.fleet.observe(EDGE.model_copy(update={"online": False, "cameras": ()}))
    assert house.said() == {ONLINE: b"offline", topics.availability_topic("yard"): b"offline"}
    assert house.said(10 * PATIENCE_S) == {}


def test_a_question_that_goes_is_removed_after_a_while() -> None:
    house = House(asked(), asked("people", text="How many people?", answer_type=AnswerType.COUNT))
    house.said()
    house.fleet.observe_question("north", "car", None)
    assert house.said() == {}
    assert set(house.said(PATIENCE_S)) == {CAR, GATE}
    assert CAR not in house.broker
    # Named with its platform alone, which is how Home Assistant is told to remove it.
    assert house.config()["cmps"]["car binary_sensor"] == {"p": "binary_sensor"}
    assert set(house.config()["cmps"]) == {"car binary_sensor", "people sensor"}
    house.ask(asked())
    assert set(house.said()) == {CAR, GATE}
    assert "uniq_id" in house.config()["cmps"]["car binary_sensor"]


def test_another_kind_of_answer_is_another_entity() -> None:
    house = House(asked())
    house.said()
    house.ask(asked(answer_type=AnswerType.COUNT))
    house.said()
    house.said(PATIENCE_S)
    assert house.config()["cmps"]["car binary_sensor"] == {"p": "binary_sensor"}
    assert house.config()["cmps"]["car sensor"]["stat_cla"] == "measurement"
    assert CAR in house.broker


def test_a_paused_question_stays_and_says_so() -> None:
    house = House(asked())
    house.said()
    house.ask(asked().model_copy(update={"cameras": ()}))
    assert set(house.said()) == {CAR}
    assert house.said(2 * PATIENCE_S) == {}
    assert house.shown()["asked"] is False


def test_a_question_of_the_settings_is_shown_once_it_was_answered() -> None:
    house = House(asked().model_copy(update={"cameras": None}))
    assert CAR not in house.said()
    house.state.observe(view(1), 1.0)
    assert CAR in house.said()


def test_a_camera_that_goes_is_removed_with_all_its_topics() -> None:
    house = House(asked())
    house.said()
    house.fleet.observe(EDGE.model_copy(update={"cameras": ("yard",)}))
    assert house.said() == {}
    gone = house.said(PATIENCE_S)
    assert gone == {GATE: b"", CAR: b"", ONLINE: b""}
    assert next(iter(gone)) == GATE
    assert set(house.broker) == {topics.availability_topic("yard")}


def test_what_is_not_heard_while_the_broker_is_away_is_not_gone() -> None:
    house = House(asked())
    house.said()
    house.fleet.observe(EDGE.model_copy(update={"cameras": ("yard",)}))
    house.said()
    house.discovery.deaf()
    assert house.said(PATIENCE_S) == {}
    assert GATE in house.said(PATIENCE_S)


def test_a_restart_says_nothing_twice_and_removes_what_went_meanwhile() -> None:
    house = House(asked(), asked("people", text="How many people?", answer_type=AnswerType.COUNT))
    house.said()
    house.fleet.observe_question("north", "people", None)
    house.restarted()
    assert house.said() == {}
    assert set(house.said(PATIENCE_S)) == {topics.state_topic("gate", "people"), GATE}
    house.fleet.observe(EDGE.model_copy(update={"cameras": ("yard",)}))
    house.restarted()
    house.said()
    assert set(house.said(PATIENCE_S)) == {GATE, CAR, ONLINE}


def test_switched_off_it_takes_everything_back() -> None:
    house = House(asked())
    house.said()
    house.restarted(enabled=False)
    house.said()
    house.said(PATIENCE_S)
    assert house.broker == {}


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[]", b"{}", b'{"cmps": []}', b'{"cmps": {"a": 1}}', b'{"cmps": {"a": {}}}', b"\xff"]
)
def test_what_somebody_else_left_there_does_no_harm(payload: bytes) -> None:
    house = House(asked())
    for topic in ("homeassistant/device/lamp/config", GATE, "homeassistant/device/latentbus-Not A Name/config"):
        house.discovery.found(topic, payload)
    said = house.said()
    assert {GATE, CAR} <= set(said)
    assert "homeassistant/device/lamp/config" not in said


def test_a_camera_with_too_many_questions_shows_as_many_as_fit_a_packet() -> None:
    house = House(*(asked(f"question-with-a-long-name-{n:05d}", text="w" * 400) for n in range(MAX_ENTITIES + 1)))
    house.said()
    assert len(house.config()["cmps"]) == MAX_ENTITIES
    assert len(house.broker[GATE]) < 32_000
    assert house.discovery.too_many == {"gate": MAX_ENTITIES + 1}


def test_texts_are_data() -> None:
    text = '</script> {{ 7 * 7 }} \n\n "quoted" \u202e'
    house = House(asked(text=text))
    house.said()
    [entity] = house.config()["cmps"].values()
    assert entity["name"] == " ".join(text.split())
    assert house.shown()["question"] == text


def test_a_question_without_an_answer_is_unknown() -> None:
    assert state_of(asked(), None, None) == {
        "state": None,
        "question": "Is there a car?",
        "asked": True,
        "outcome": None,
        "reason": "",
    }
