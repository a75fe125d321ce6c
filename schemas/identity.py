"""Whose question it is: owners, keys of queries, and the digest that pins a text.

A question belongs to whoever asks it: a standing one to its site, an ad-hoc one to the client that asked it of a
camera. What a process remembers by a question (text, answer, reply address, outcome) is keyed by the owner as well, so
that equal ids of two owners never meet. A client's name counts only where a topic level carries it, because the
broker's roles tie that level to the client; what a payload says of itself proves nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from pydantic import Field

from schemas.types import AnswerType, FrameId

DIGEST_BYTES: Final = 8
"""Length of a text's digest. A second text with the same one takes 2^64 tries; two of one's own do not matter."""

Digest = Annotated[bytes, Field(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]

OWNER_PATTERN = r"^(site|client)/[a-z0-9][a-z0-9_-]{0,31}$"
Owner = Annotated[str, Field(pattern=OWNER_PATTERN)]
"""``site/{site}`` of a standing question, ``client/{client}`` of an ad-hoc one."""


def owner_of(kind: Literal["site", "client"], name: str) -> str:
    """The owner as messages carry it."""
    return f"{kind}/{name}"


def is_ad_hoc(owner: str) -> bool:
    """Whether a client owns the question; else it is a standing one."""
    return owner.startswith("client/")


def standing_query_id(camera: str, frame: FrameId, question_id: str) -> str:
    """Key of a standing question asked of one frame; both sides derive it, the uplink does not carry it."""
    return f"{camera}/{frame}/{question_id}"


def ad_hoc_query_id(camera: str, client: str, query_id: str) -> str:
    """Key of a client's question to a camera. ``@`` is in no name, so no standing question has the same key."""
    return f"{camera}/@{client}/{query_id}"


@dataclass(frozen=True, slots=True)
class QuestionContent:
    """All of a question that decides its answer. It never changes: another text is another one, with another digest.

    Attributes:
        owner: whose it is.
        question_id: id of the standing question, or the client's id of an ad-hoc one.
        text: the question.
        answer_type: what the answer may look like.
        options: answers to choose from, when the answer type is ``choice``.
        risk: accepted chance that an early answer differs from the whole latent's; None takes the pool's.
        digest: what an open message carries in place of it; it covers every field above.
    """

    owner: str
    question_id: str
    text: str
    answer_type: AnswerType = AnswerType.TEXT
    options: tuple[str, ...] = ()
    risk: float | None = None
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        import msgpack  # here, since whatever reads settings loads this module, and --help is to be quick

        content = (self.owner, self.question_id, self.text, self.answer_type.value, self.options, self.risk)
        packed: bytes = msgpack.packb(content)
        object.__setattr__(self, "digest", hashlib.blake2b(packed, digest_size=DIGEST_BYTES).digest())

    @property
    def prompt(self) -> str:
        """What the model is asked."""
        return f"{self.text} Answer with one of: {', '.join(self.options)}." if self.options else self.text

    @property
    def ad_hoc(self) -> bool:
        """Asked once by a client; else a standing question."""
        return is_ad_hoc(self.owner)

    @property
    def client(self) -> str | None:
        """The client that owns an ad-hoc question."""
        return self.owner.removeprefix("client/") if self.ad_hoc else None

    def query_id(self, camera: str, frame: FrameId) -> str:
        """Key of the query when it is asked of a frame of this camera."""
        client = self.client
        if client is not None:
            return ad_hoc_query_id(camera, client, self.question_id)
        return standing_query_id(camera, frame, self.question_id)

    @property
    def size_bytes(self) -> int:
        """Memory that it takes, about."""
        return 200 + len(self.text.encode()) + sum(50 + len(option.encode()) for option in self.options)
