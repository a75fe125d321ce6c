"""Questions as clients publish them, and the name to ask under."""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Final

from latentbus.options.arguments import made_of
from schemas.errors import ConfigError
from schemas.messages import Ask, check_options
from schemas.types import NAME_PATTERN, AnswerType, FrameId

_PARAMETERS: Final = {
    "query_id": "query_id",
    "text": "text",
    "deadline_ms": "deadline_s",
    "options": "options",
    "ago_ms": "ago_s",
    "frame": "frame",
}


def client_name(identity: str | None) -> str:
    """The name to ask under: that of the identity, or a drawn one where that cannot stand in a topic.

    A secured broker gives each identity its own ask and reply topics.
    """
    return identity if identity and re.fullmatch(NAME_PATTERN, identity) else f"ask-{secrets.token_hex(4)}"


def ask_of(
    text: str,
    answer_type: AnswerType = AnswerType.TEXT,
    *,
    deadline_s: float = 30.0,
    query_id: str | None = None,
    options: Sequence[str] = (),
    ago_s: float | None = None,
    frame: FrameId | str | None = None,
    named: Mapping[str, str] = _PARAMETERS,
) -> Ask:
    """A question as it is published.

    Args:
        text: the question.
        answer_type: what the answer may look like.
        deadline_s: time to the terminal outcome.
        query_id: id of the question among those of this client to this camera; drawn unless given.
        options: answers to choose from, for answer type ``choice``.
        ago_s: ask the newest kept frame that is at least so old, in place of the next one.
        frame: ask this frame, which an earlier answer names, in place of the next one.
        named: what the user calls each field of the message.

    Raises:
        ConfigError: this cannot be asked.
    """
    if not math.isfinite(deadline_s):
        raise ConfigError(named["deadline_ms"], f"{deadline_s} is no finite number")
    try:
        check_options(answer_type, tuple(options))
    except ValueError as error:
        raise ConfigError(named["options"], str(error)) from None
    if ago_s is not None and not math.isfinite(ago_s):
        raise ConfigError(named["ago_ms"], f"{ago_s} is no finite number")
    if ago_s is not None and frame is not None:
        raise ConfigError(named["ago_ms"], f"leave it out, or {named['frame']}: each of them says which frame is meant")
    try:
        asked_of = FrameId.parse(frame) if isinstance(frame, str) else frame
    except ValueError as error:
        raise ConfigError(named["frame"], str(error)) from None
    return made_of(
        Ask,
        named,
        query_id=f"ask-{secrets.token_hex(6)}" if query_id is None else query_id,
        text=text,
        answer_type=answer_type,
        options=tuple(options),
        deadline_ms=round(deadline_s * 1000),
        ago_ms=None if ago_s is None else round(ago_s * 1000),
        frame=asked_of,
    )
