"""Renames cameras in recorded messages, in topics and wherever a payload names its camera."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from analysis.version_one import ROOT as VERSION_ONE_ROOT
from analysis.version_one import changed_version_one, is_version_one, parse_version_one, read_version_one
from pipeline.recording.message import LoggedMessage, MqttProperties
from schemas import topics, wire
from schemas.errors import ConfigError, WireError
from schemas.identity import ad_hoc_query_id, standing_query_id
from schemas.messages import Answer, Message, QueryOutcome, Question, Status
from schemas.topics import LEVELS
from schemas.types import NAME_PATTERN


def parse_camera_map(pairs: Iterable[str], option: str = "--remap-camera") -> dict[str, str]:
    """Read pairs ``old=new``.

    Raises:
        ConfigError: one is no pair of camera names, or two are renamed to one.
    """
    cameras: dict[str, str] = {}
    for pair in pairs:
        old, equals, new = pair.partition("=")
        if not equals or not all(re.fullmatch(NAME_PATTERN, name) for name in (old, new)):
            raise ConfigError(option, f"{pair!r} is not OLD=NEW with two camera names")
        if old in cameras:
            raise ConfigError(option, f"camera {old} is renamed twice")
        cameras[old] = new
    if len(set(cameras.values())) < len(cameras):
        raise ConfigError(option, "two cameras get the same name")
    return cameras


class CameraRemap:
    """Renames cameras in messages as they were logged.

    Args:
        cameras: new name by old name.

    Attributes:
        not_understood: messages of ours about a renamed camera whose payload does not decode, by topic family: their
            topic is rewritten, their payload is as recorded.
    """

    def __init__(self, cameras: Mapping[str, str]) -> None:
        self.not_understood: Counter[str] = Counter()
        self._cameras = dict(cameras)

    def __call__(self, logged: LoggedMessage) -> LoggedMessage:
        """The message with new names; topics that are not ours stay as they are."""
        if not self._cameras:
            return logged
        try:
            if is_version_one(logged.topic):
                return self._version_one(logged)
            topic = topics.parse(logged.topic)
        except WireError:
            return logged
        renamed = self._topic(topic)
        logged = replace(logged, properties=self._properties(logged.properties))
        try:
            _, message = wire.decode_publish(logged.topic, logged.payload)
            changed = None if message is None else self._renamed(message)
            payload = logged.payload if changed is None else wire.encode(changed)
        except WireError:
            if renamed != logged.topic:
                self.not_understood[topic.family] += 1
            payload = logged.payload
        return replace(logged, topic=renamed, payload=payload)

    def _topic(self, topic: topics.Topic) -> str:
        names = [
            self._cameras.get(name, name) if level == "camera" else name
            for level, name in zip(LEVELS[topic.family], topic.names, strict=True)
        ]
        return "/".join((topics.ROOT, topic.family, *names))

    def _properties(self, properties: MqttProperties | None) -> MqttProperties | None:
        """An ask names its camera in its response topic as well."""
        if properties is None or properties.response_topic is None:
            return properties
        try:
            return replace(properties, response_topic=self._topic(topics.parse(properties.response_topic)))
        except WireError:
            return properties

    def _version_one(self, logged: LoggedMessage) -> LoggedMessage:
        """The same for a message of wire version 1, which stays one.

        Raises:
            TopicError: not a topic of version 1.
        """
        family, names = parse_version_one(logged.topic)
        renamed = {level: self._cameras.get(name, name) if level == "camera" else name for level, name in names.items()}
        topic = "/".join((f"{VERSION_ONE_ROOT}{family}", *renamed.values()))
        try:
            old = read_version_one(logged.topic, logged.payload)
        except WireError:
            if topic != logged.topic:
                self.not_understood[family] += 1
            return replace(logged, topic=topic)
        changes: dict[str, Any] = {}
        camera, cameras, query_id = (old.fields.get(name) for name in ("camera", "cameras", "query_id"))
        if isinstance(camera, str) and camera in self._cameras:
            changes["camera"] = self._cameras[camera]
            if isinstance(query_id, str) and query_id.startswith(f"{camera}/"):
                changes["query_id"] = f"{self._cameras[camera]}{query_id.removeprefix(camera)}"
        if isinstance(cameras, list):
            changes["cameras"] = [self._cameras.get(str(name), name) for name in cameras]
        return replace(logged, topic=topic, payload=changed_version_one(old, logged.payload, changes))

    def _renamed(self, message: Message) -> Message | None:
        """The message with the new name of its camera; None when it names none that changes."""
        changes: dict[str, Any] = {}
        if isinstance(message, Status | Question):
            if message.cameras is None:
                return None
            changes["cameras"] = tuple(self._cameras.get(name, name) for name in message.cameras)
            if changes["cameras"] == message.cameras:
                return None
        else:
            camera = getattr(message, "camera", None)
            if camera not in self._cameras:
                return None
            changes["camera"] = self._cameras[camera]
            if isinstance(message, Answer | QueryOutcome):
                changes["query_id"] = _query_id(message, changes["camera"])
        return message.model_copy(update=changes)


def _query_id(message: Answer | QueryOutcome, camera: str) -> str:
    if message.ad_hoc:
        return ad_hoc_query_id(camera, message.owner.removeprefix("client/"), message.question_id)
    return standing_query_id(camera, message.frame, message.question_id)
