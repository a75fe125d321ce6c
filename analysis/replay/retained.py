"""What the broker retained when a part of a log begins: the key frames, without which later frames do not decode."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from analysis.version_one import ROOT, is_version_one
from pipeline.recording.message import LoggedMessage
from pipeline.recording.reader import LogSet
from schemas import topics
from schemas.errors import WireError
from schemas.topics import Family, Topic


def retained_key_frames(
    logs: LogSet, before_ns: int, selected: Callable[[str], bool] = lambda _topic: True
) -> list[LoggedMessage]:
    """The last key frame of each camera and pool before a moment, as it was recorded. Blocking.

    The log is read from its start, unless none of the topics is in it.

    Args:
        logs: the log.
        before_ns: the moment, in log time.
        selected: says of a topic whether its messages are wanted.

    Returns:
        In the order in which they were published. One that was deleted is not among them.

    Raises:
        RecordingError: a chunk of the log is damaged.
    """
    wanted = {topic for topic in _key_topics(logs.topics()) if selected(topic)}
    found: dict[str, LoggedMessage] = {}
    if wanted:
        for message in logs.messages(stop_ns=before_ns, topics=wanted.__contains__):
            found.pop(message.topic, None)
            if message.payload:
                found[message.topic] = message
    return list(found.values())


def cameras_without_keys(recorded: Iterable[str], selected: Callable[[str], bool]) -> list[str]:
    """Cameras whose open messages are selected, and whose key frames are in the log and not selected.

    Args:
        recorded: topics of the log.
        selected: says of a topic whether its messages are wanted.
    """
    return sorted(
        {
            parsed.name("camera")
            for topic, parsed in _key_topics(recorded).items()
            if not selected(topic) and selected(topic.replace(f"/{Family.KEY}/", f"/{Family.OPEN}/", 1))
        }
    )


def _key_topics(recorded: Iterable[str]) -> dict[str, Topic]:
    found: dict[str, Topic] = {}
    for topic in recorded:
        try:
            # The levels of a key frame's topic are the same in every version.
            parsed = topics.parse(f"{topics.ROOT}/{topic.removeprefix(ROOT)}" if is_version_one(topic) else topic)
        except WireError:
            continue  # a log holds whatever was on the broker
        if parsed.family is Family.KEY:
            found[topic] = parsed
    return found
