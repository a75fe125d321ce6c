"""What Home Assistant is told of a fleet. Pure: statuses, questions, answers and the time go in, retained messages out.

One device for each camera, described in one message (*device-based* discovery, Home Assistant 2024.11 and later), with
a sensor or binary sensor for each standing question. The broker retains what an earlier process has said: that is read
first, so that nothing is said twice, and what no longer exists is removed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from latentbus.gateway.models import AnswerView, iso
from latentbus.gateway.state import MAX_CAMERAS, FleetState
from pipeline.protocol.fleet_view import FleetView
from schemas import home_assistant as topics
from schemas.answer_value import answer_value
from schemas.messages import Question
from schemas.types import AnswerType

MAX_ENTITIES: Final = 64
"""Questions of a camera that are shown: their description must fit a packet of 32 KiB."""
MAX_REMOVED: Final = 16
"""Entities of a device that are named as removed, for a Home Assistant that was away meanwhile."""
PATIENCE_S: Final = 30.0
"""A camera or question must be missing for so long, with the broker connected, before it is removed."""
STATE_CHARS: Final = 255
_NAME_CHARS: Final = 100
_SLICE: Final = 50
"""Cameras that are looked at before others get their turn."""

Payload = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Retained:
    """A message that the broker is to retain; an empty payload deletes it."""

    topic: str
    payload: bytes


@dataclass(slots=True)
class _Entity:
    """A question of a camera.

    Attributes:
        config: as it is described.
        missing_s: since when it does not exist any more.
    """

    config: Payload
    missing_s: float | None = None


@dataclass(slots=True)
class _Device:
    """A camera as it was described last.

    Attributes:
        entities: by key.
        removed: platforms of entities that are gone, by key, the latest last.
        missing_s: since when no site has the camera.
        site: of the camera.
        changed: it must be described anew.
        description: as it was described last.
    """

    entities: dict[str, _Entity] = field(default_factory=dict)
    removed: dict[str, str] = field(default_factory=dict)
    missing_s: float | None = None
    site: str | None = None
    changed: bool = True
    description: bytes = b""


@dataclass(frozen=True, slots=True)
class _Told:
    """A state, and what it was made of."""

    question: Question
    answer: AnswerView | None
    latest: AnswerView | None
    payload: bytes


class Discovery:
    """Devices and entities of a fleet.

    Args:
        fleet: sites, cameras and standing questions.
        state: the latest answers.
        gateway_topic: where this gateway says whether it is online, as JSON.
        prefix: of Home Assistant's topics.
        version: of this software.
        enabled: false removes everything that was said before.
        patience_s: see :data:`PATIENCE_S`.

    Attributes:
        too_many: cameras with more questions than are shown, and how many they have.
    """

    def __init__(
        self,
        fleet: FleetView,
        state: FleetState,
        *,
        gateway_topic: str,
        version: str,
        prefix: str = topics.PREFIX,
        enabled: bool = True,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._fleet = fleet
        self._state = state
        self._gateway_topic = gateway_topic
        self._prefix = prefix
        self._version = version
        self._enabled = enabled
        self._patience_s = patience_s
        self._devices: dict[str, _Device] = {}
        self._retained: dict[str, bytes] = {}
        self._states: dict[str, _Told] = {}
        self.too_many: dict[str, int] = {}

    @property
    def filters(self) -> tuple[str, ...]:
        """What the broker retains of it."""
        return topics.filters(self._prefix)

    def sizes(self) -> dict[str, int]:
        """Entries of its tables."""
        return {"devices": len(self._devices), "retained": len(self._retained), "states": len(self._states)}

    # ---- what the broker has ----------------------------------------------------------------------------------------

    def found(self, topic: str, payload: bytes) -> None:
        """The broker retains this: an earlier process has said it, or somebody else."""
        levels = topic.removeprefix(f"{self._prefix}/device/").split("/")
        camera = topics.camera_of(levels[0])
        if camera is None or (camera not in self._devices and len(self._devices) >= MAX_CAMERAS):
            return
        if payload:
            self._retained.setdefault(topic, payload)
        device = self._devices.setdefault(camera, _Device())
        if topic == topics.config_topic(camera, self._prefix):
            for key, config in _components(payload).items():
                if set(config) <= {"p"}:
                    device.removed.setdefault(key, str(config.get("p", "sensor")))
                else:
                    device.entities.setdefault(key, _Entity(config))

    def published(self, message: Retained) -> None:
        """The broker has taken a message."""
        if message.payload:
            self._retained[message.topic] = message.payload
        else:
            self._retained.pop(message.topic, None)

    def deaf(self) -> None:
        """The broker is not connected: what is missing now may only not have been heard."""
        for device in self._devices.values():
            device.missing_s = None
            for entity in device.entities.values():
                entity.missing_s = None

    # ---- what it is to have -----------------------------------------------------------------------------------------

    def due(self, now_s: float) -> Iterator[Retained | None]:
        """Messages that differ from what the broker has; None now and then, to let others have their turn.

        Args:
            now_s: monotonic time.
        """
        served = {camera for edge in self._fleet.edges for camera in edge.cameras} if self._enabled else set()
        asked = self._asked(served)
        for number, camera in enumerate(sorted({*served, *self._devices})):
            if number % _SLICE == _SLICE - 1:
                yield None
            device = self._devices.get(camera)
            if device is None:
                if len(self._devices) >= MAX_CAMERAS:
                    continue
                device = self._devices[camera] = _Device()
            if camera in served:
                device.missing_s = None
                yield from self._changed(self._described(camera, device, asked.get(camera, {}), now_s))
                continue
            if device.missing_s is None:
                device.missing_s = now_s
            if now_s - device.missing_s >= self._patience_s:
                yield from self._gone(camera)

    def _asked(self, served: set[str]) -> dict[str, dict[str, Question]]:
        """Questions by camera; where only the settings of a site know the cameras, those that have answered."""
        asked: dict[str, dict[str, Question]] = {}
        for (site, question_id), question in self._fleet.questions.items():
            edge = self._fleet.edge(site)
            cameras = () if edge is None else [camera for camera in edge.cameras if camera in served]
            for camera in cameras:
                named = question.cameras
                if camera in named if named else self._is_known(camera, question_id):
                    asked.setdefault(camera, {})[question_id] = question
        return asked

    def _is_known(self, camera: str, question_id: str) -> bool:
        """Whether a question was answered for a camera, or is shown already: one that is paused stays."""
        device = self._devices.get(camera)
        shown = device is not None and any(key.startswith(f"{question_id} ") for key in device.entities)
        return shown or self._state.answers(camera, question_id)[1] is not None

    def _described(
        self, camera: str, device: _Device, asked: Mapping[str, Question], now_s: float
    ) -> Iterator[Retained]:
        """Everything about a camera, its answers before what shows them."""
        if len(asked) > MAX_ENTITIES:
            self.too_many[camera] = len(asked)
        wanted = {}
        for question_id in sorted(asked)[:MAX_ENTITIES]:
            question = asked[question_id]
            config = self._entity(camera, question)
            wanted[f"{question_id} {config['p']}"] = config
            yield self._told_state(camera, question)
        for key, config in wanted.items():
            known = device.entities.get(key)
            device.changed |= known is None or known.config != config
            device.entities[key] = _Entity(config)
            device.removed.pop(key, None)
        for key, entity in list(device.entities.items()):
            if key in wanted:
                continue
            if entity.missing_s is None:
                entity.missing_s = now_s
            if now_s - entity.missing_s < self._patience_s:
                continue
            del device.entities[key]
            device.removed[key] = str(entity.config["p"])
            device.changed = True
            question_id = key.partition(" ")[0]
            if question_id not in asked:
                topic = topics.state_topic(camera, question_id, self._prefix)
                self._states.pop(topic, None)
                yield Retained(topic, b"")
        for key in list(device.removed)[:-MAX_REMOVED]:
            del device.removed[key]
        online = b"online" if self._fleet.serves(camera) else b"offline"
        yield Retained(topics.availability_topic(camera, self._prefix), online)
        site = self._fleet.site_of(camera)
        if device.changed or device.site != site:
            device.changed, device.site = False, site
            device.description = _encoded(self._config(camera, device))
        if device.entities or device.removed:
            yield Retained(topics.config_topic(camera, self._prefix), device.description)

    def _gone(self, camera: str) -> Iterator[Retained]:
        config, own = topics.config_topic(camera, self._prefix), f"{self._prefix}/device/{topics.device_id(camera)}/"
        others = [topic for topic in self._retained if topic.startswith(own) and topic != config]
        del self._devices[camera]
        for topic in others:
            self._states.pop(topic, None)
        # The description first: else Home Assistant would show entities without a state.
        for topic in (config, *others):
            if topic in self._retained:
                yield Retained(topic, b"")

    def _changed(self, messages: Iterator[Retained]) -> Iterator[Retained]:
        for message in messages:
            if self._retained.get(message.topic, b"") != message.payload:
                yield message

    def _told_state(self, camera: str, question: Question) -> Retained:
        topic = topics.state_topic(camera, question.question_id, self._prefix)
        answer, latest = self._state.answers(camera, question.question_id)
        known = self._states.get(topic)
        if known is None or known.question is not question or known.answer is not answer or known.latest is not latest:
            payload = _encoded(state_of(question, answer, latest))
            known = self._states[topic] = _Told(question, answer, latest, payload)
        return Retained(topic, known.payload)

    def _config(self, camera: str, device: _Device) -> Payload:
        components = {key: {"p": platform} for key, platform in device.removed.items()}
        components |= {key: device.entities[key].config for key in sorted(device.entities)}
        return {
            "dev": {
                "ids": [topics.device_id(camera)],
                "name": camera,
                "mf": "Latentbus",
                "mdl": "camera" if device.site is None else f"camera of site {device.site}",
            },
            "o": {"name": "Latentbus", "sw": self._version},
            "avty": [
                {"t": topics.availability_topic(camera, self._prefix)},
                {"t": self._gateway_topic, "val_tpl": "{{ 'online' if value_json.online else 'offline' }}"},
            ],
            "avty_mode": "all",
            "cmps": components,
        }

    def _entity(self, camera: str, question: Question) -> Payload:
        """A question as an entity, in the abbreviations of Home Assistant."""
        platform = "binary_sensor" if question.answer_type is AnswerType.YES_NO else "sensor"
        topic = topics.state_topic(camera, question.question_id, self._prefix)
        config: Payload = {
            "p": platform,
            "uniq_id": f"{topics.device_id(camera)}-{question.question_id}-{platform}",
            "name": _name(question.text),
            "stat_t": topic,
            "val_tpl": "{{ value_json.state }}",
            "json_attr_t": topic,
        }
        if platform == "binary_sensor":
            config |= {"pl_on": "yes", "pl_off": "no"}
        elif question.answer_type is AnswerType.CHOICE:
            config |= {"dev_cla": "enum", "ops": list(question.options)}
        elif question.answer_type is AnswerType.COUNT:
            config["stat_cla"] = "measurement"
        return config


def state_of(question: Question, answer: AnswerView | None, latest: AnswerView | None) -> Payload:
    """State and attributes of an entity.

    Args:
        question: as it is asked.
        answer: its latest answer, if there was one.
        latest: its latest outcome, with an answer or without.
    """
    return {
        "state": None if answer is None else _value(question, answer.text),
        "question": question.text,
        "asked": question.cameras != (),
        "outcome": None if latest is None else latest.outcome,
        "reason": "" if latest is None else latest.reason,
        **_attributes(answer),
    }


def _attributes(answer: AnswerView | None) -> Payload:
    """How an answer came about: its bytes, its prefix, and what the model was sure of."""
    if answer is None:
        return {}
    return {
        "answer": answer.text,
        "confidence": answer.confidence,
        "latents": answer.latents,
        "latents_total": answer.latents_total,
        "bytes": answer.payload_bytes,
        "worker": answer.worker,
        "frame": answer.frame,
        "answered_at": iso(answer.at),
    }


def _value(question: Question, text: str) -> str | int | None:
    """An answer as Home Assistant takes it for a state; None, which is *unknown*, for one of another form."""
    value = answer_value(question.answer_type, text, question.options)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value[:STATE_CHARS] if isinstance(value, str) else value


def _name(text: str) -> str:
    """A question as the name of an entity."""
    line = " ".join(text.split())
    return line if len(line) <= _NAME_CHARS else f"{line[: _NAME_CHARS - 3]}..."


def _encoded(value: Payload) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _components(payload: bytes) -> dict[str, Payload]:
    """Entities of a description that is retained; none of one that nobody can read."""
    try:
        found = json.loads(payload)["cmps"]
        return {str(key): dict(config) for key, config in found.items() if "p" in config}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
