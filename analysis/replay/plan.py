"""What virtual cameras do: frames to offer when, asked what, with which latents, under which names.

Frames go under new boot ids and ad-hoc queries under new query ids, so that no worker's memory of the recorded run
answers for it; the maps between old and new are kept in :class:`NameMaps` for who compares.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from analysis.latents import RecordedLatent
from analysis.replay.selection import TimeRange
from pipeline.codec.tables import FrequencyTables
from pipeline.protocol.effects import AskedQuery
from schemas.identity import QuestionContent
from schemas.messages import Ask, Question
from schemas.types import FrameId

REPLAY_CLIENT: Final = "replay"
"""Client that asks the recorded ad-hoc questions again: theirs is another's name, and answers would go there."""


@dataclass(frozen=True, slots=True)
class ReplayQuery:
    """A query to ask again.

    Attributes:
        question: the question, owned by its virtual site or by :data:`REPLAY_CLIENT`.
        deadline_s: log time from the frame to the terminal outcome.
    """

    question: QuestionContent
    deadline_s: float

    @property
    def question_id(self) -> str:
        """Id of the standing question, or the new id of an ad-hoc one."""
        return self.question.question_id

    @property
    def ad_hoc(self) -> bool:
        """Asked once by a client."""
        return self.question.ad_hoc

    def asked(self, captured_s: float, rate: float) -> AskedQuery:
        """The query for a session.

        Args:
            captured_s: when the frame is taken, on the edge's monotonic clock.
            rate: log seconds in a second.
        """
        return AskedQuery(self.question, captured_s + self.deadline_s / rate)


@dataclass(frozen=True, slots=True)
class ReplayFrame:
    """A frame to offer again.

    Attributes:
        time_ns: log time at which it was taken.
        site: its virtual site.
        camera: its camera, under the new name.
        frame: its new id: a new boot, the recorded sequence number.
        latent: what the log holds of its latent.
        base_latents: prefix that opens it.
        queries: what is asked of it.
    """

    time_ns: int
    site: str
    camera: str
    frame: FrameId
    latent: RecordedLatent
    base_latents: int
    queries: tuple[ReplayQuery, ...]


@dataclass(frozen=True, slots=True)
class ReplayAsk:
    """An ad-hoc question of a client, for the workers to remember.

    Attributes:
        time_ns: log time at which it was asked.
        site: virtual site of its camera.
        camera: its camera, under the new name.
        ask: the message, under its new query id.
    """

    time_ns: int
    site: str
    camera: str
    ask: Ask


@dataclass(frozen=True, slots=True)
class ReplayQuestion:
    """A standing question was set, or changed.

    Attributes:
        time_ns: log time.
        site: virtual site that publishes it.
        question: the question, of the virtual site.
    """

    time_ns: int
    site: str
    question: Question


ReplayItem = ReplayFrame | ReplayAsk | ReplayQuestion


@dataclass(slots=True)
class Shortfalls:
    """What of the log cannot be replayed, and why.

    Attributes:
        frames_without_latents: nothing of the latent is in the log: opened before it began, or only answered in it.
        frames_damaged: the latents do not decode.
        why_damaged: what is wrong with the first of them, empty without any.
        frames_too_short: fewer latents in the log than the base prefix that was asked for.
        frames_without_text: not one question of the frame has a text in the log.
        queries_without_text: texts that are not in the log, queries by question id.
        latents_partly: frames of which the log holds a prefix only; enough unless a worker asks for more.
    """

    frames_without_latents: int = 0
    frames_damaged: int = 0
    why_damaged: str = ""
    frames_too_short: int = 0
    frames_without_text: int = 0
    queries_without_text: Counter[str] = field(default_factory=Counter)
    latents_partly: int = 0


@dataclass(slots=True)
class NameMaps:
    """New names of a replay by the recorded ones.

    Attributes:
        boots: boot ids of edges.
        query_ids: keys of ad-hoc queries.
        cameras: cameras that were renamed.
    """

    boots: dict[int, int] = field(default_factory=dict)
    query_ids: dict[str, str] = field(default_factory=dict)
    cameras: dict[str, str] = field(default_factory=dict)

    def metadata(self) -> dict[str, str]:
        """As the metadata record ``replay`` of a log holds them: JSON objects, boots in hexadecimal."""
        return {
            "boots": json.dumps({f"{old:08x}": f"{new:08x}" for old, new in self.boots.items()}),
            "query_ids": json.dumps(self.query_ids),
            "cameras": json.dumps(self.cameras),
        }


@dataclass(frozen=True, slots=True)
class SitePlan:
    """A virtual site.

    Attributes:
        name: its name.
        boot: boot id of its status messages, that of its first frames.
        pool: pool that it opens frames to.
        cameras: its cameras, under their new names.
        questions: ids of the standing questions that it asks.
    """

    name: str
    boot: int
    pool: str
    cameras: tuple[str, ...]
    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What virtual cameras do.

    Attributes:
        items: in the order of log time; questions before the frames that ask them.
        sites: virtual sites by name.
        maps: new names by recorded ones.
        shortfalls: what the log lacks.
    """

    items: tuple[ReplayItem, ...]
    sites: dict[str, SitePlan]
    maps: NameMaps
    shortfalls: Shortfalls

    @property
    def frames(self) -> int:
        """Frames to offer."""
        return sum(isinstance(item, ReplayFrame) for item in self.items)


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What a plan is made for.

    Attributes:
        tables: tables of the codec that the log was recorded with.
        fingerprint: first 4 bytes of that codec's fingerprint.
        time_range: log time in which frames are taken.
        selected: which frames, by the topic of their open message.
        cameras: new names of cameras by recorded ones.
        pool: pool to open all frames to; None is the recorded one.
        site: one site for all cameras, under this name; None is one for each recorded site.
        base_latents: prefix that opens each frame; None is the recorded one.
    """

    tables: FrequencyTables
    fingerprint: bytes
    time_range: TimeRange
    selected: Callable[[str], bool] = lambda _topic: True
    cameras: Mapping[str, str] = field(default_factory=dict)
    pool: str | None = None
    site: str | None = None
    base_latents: int | None = None
