"""Field types that messages, topics and settings share."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Final, Literal, NamedTuple, TypeAlias

from pydantic import Field

from schemas.limits import MAX_LATENTS, MAX_QUESTION_CHARS

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,31}$"
"""Names that appear in topics: no slash, no wildcard, short because each publish carries them."""

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
"""Name of a camera, pool, worker, site, client or question: a topic level of at most 32 bytes."""

QUERY_ID_PATTERN = (
    r"^[a-z0-9][a-z0-9_-]{0,31}/(@[a-z0-9][a-z0-9_-]{0,31}|[0-9a-f]{8}-[0-9]{1,10})/[a-z0-9][a-z0-9_-]{0,31}$"
)
QueryId = Annotated[str, Field(pattern=QUERY_ID_PATTERN)]
"""Key of one asking of a question, unique in the fleet: ``{camera}/{frame}/{question_id}`` of a standing question,
``{camera}/@{client}/{query_id}`` of an ad-hoc one. Everything about it is idempotent on this key."""

TEXT_PATTERN = r"\S"
"""A text that says something: spaces alone are no question, though a model would answer them."""
QuestionText = Annotated[str, Field(min_length=1, max_length=MAX_QUESTION_CHARS, pattern=TEXT_PATTERN)]
"""A question, as a person would ask it."""

UInt32 = Annotated[int, Field(ge=0, le=2**32 - 1)]
_DAY_MS = 86_400_000
Milliseconds = Annotated[int, Field(ge=0, le=_DAY_MS)]
"""A duration, at most one day. Durations, never clock times, cross the wire: no two hosts' clocks are compared."""


def milliseconds(duration_s: float) -> int:
    """A duration as messages carry it; one that is longer than a day is cut."""
    return min(_DAY_MS, max(0, round(1000 * duration_s)))


UNKNOWN_AGE: Final = "unknown"
MAX_AGE_MS: Final = 2_678_400_000
"""31 days."""
Age: TypeAlias = Annotated[int, Field(ge=0, le=MAX_AGE_MS)] | Literal["unknown"]
"""Milliseconds from the capture of a frame; ``unknown`` when the device lost its clock since, as in a power cut."""

LatentIndex = Annotated[int, Field(ge=0, le=MAX_LATENTS)]
PrefixLength = Annotated[int, Field(ge=1, le=MAX_LATENTS)]
MAX_ATTEMPTS = 255
Attempt = Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)]
FingerprintPrefix = Annotated[bytes, Field(min_length=4, max_length=4)]
"""First 4 bytes of the fingerprint of model and codec: one wrong pair in 4 billion passes unnoticed."""

Probability = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


FRAME_PATTERN = r"^[0-9a-f]{8}-[0-9]{1,10}$"
"""A frame as query ids, logs and the command line name it."""


class FrameId(NamedTuple):
    """Identity of a frame within its camera.

    The boot id is drawn at process start, so that the sequence may start at zero after a restart.
    """

    boot: UInt32
    sequence: UInt32

    def __str__(self) -> str:
        return f"{self.boot:08x}-{self.sequence}"

    @classmethod
    def parse(cls, text: str) -> FrameId:
        """The frame that a text names, as ``str`` writes it.

        Raises:
            ValueError: it names none.
        """
        if not re.fullmatch(FRAME_PATTERN, text):
            raise ValueError(f"{text[:40]!r} is no frame: boot id and sequence number, as in 1a2b3c4d-17")
        boot, _, sequence = text.partition("-")
        if int(sequence) >= 2**32:
            raise ValueError(f"frame {text} has a sequence number over {2**32 - 1}")
        return cls(int(boot, 16), int(sequence))


class AnswerType(StrEnum):
    """What an answer may look like; it bounds how many tokens a worker generates."""

    YES_NO = "yes_no"
    WORD = "word"
    COUNT = "count"
    TEXT = "text"
    CHOICE = "choice"
    """One of the options that come with the question."""


class Outcome(StrEnum):
    """Terminal outcomes of a query. Exactly one counts, the first."""

    ANSWERED = "answered"
    """The stop rule calls the answer safe, or the latent is whole."""
    DEGRADED = "degraded"
    """The best answer so far, although it is not safe: the deadline came first, the pool is overloaded, the edge is
    gone, or even the whole latent gave no answer of the form that was asked for."""
    EXPIRED = "expired"
    """The deadline passed without any answer."""
    SUPERSEDED = "superseded"
    """A newer frame of the same standing question took its place before it was answered."""
    FAILED = "failed"
    """No answer is possible; the reason says why."""
    UNCHANGED = "unchanged"
    """The scene is as it was at the last answer of the same standing question, which holds on."""


class UplinkStage(StrEnum):
    """What a site leaves out as the budget of its uplink comes to its end."""

    NORMAL = "normal"
    """Nothing."""
    STRETCHED = "stretched"
    """Standing questions are asked less often."""
    AD_HOC_ONLY = "ad_hoc_only"
    """Standing questions are not asked."""
    SPENT = "spent"
    """Ad-hoc questions are refused as well."""


class SourceReason(StrEnum):
    """Why a source cannot be read, as far as it is known."""

    AUTH = "auth"
    """It refuses user name or password."""
    NOT_FOUND = "not_found"
    """No such file, host, path or device."""
    UNREACHABLE = "unreachable"
    """The host is there and refuses, or no way leads to it."""
    CODEC = "codec"
    """What it sends is no video, or of a codec or format that is not known."""
    TIMEOUT = "timeout"
    """Nothing comes."""
    TLS = "tls"
    """The connection cannot be encrypted, or its certificate is not trusted."""
    ENDED = "ended"
    """The other side ended the stream."""
    OTHER = "other"
