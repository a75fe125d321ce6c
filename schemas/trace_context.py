"""W3C Trace Context of a question, for those who trace their systems: https://www.w3.org/TR/trace-context/.

The trace id follows from the query: an ask, the open message of its frame and the answers of a worker carry the same
one, though none of them was handed it. Standing questions of one frame are one trace. So a process that does not mark
its messages, because its link is thin, breaks no trace.
"""

from __future__ import annotations

import hashlib
from typing import Final

from schemas import topics
from schemas.identity import ad_hoc_query_id
from schemas.messages import Answer, Ask, Message, Open, QueryOutcome
from schemas.topics import Family

TRACEPARENT: Final = "traceparent"
"""Name of the MQTT user property, as of the HTTP header."""
TRACEPARENT_WIRE_BYTES: Final = 71
"""What it adds to a publish: identifier 1, name 2 + 11, value 2 + 55."""


def traceparent(of: str, span: str) -> str:
    """A traceparent of version 00, sampled.

    Args:
        of: what the trace is of: a query, or a frame.
        span: what of it is told.
    """
    trace_id = hashlib.sha256(of.encode()).hexdigest()[:32]
    span_id = hashlib.sha256(f"{of}\n{span}".encode()).hexdigest()[:16]
    return f"00-{trace_id}-{span_id}-01"


def trace_properties(topic: str, message: Message) -> tuple[tuple[str, str], ...]:
    """User properties that mark a message with its trace; none where it is of no question.

    Args:
        topic: where it is published.
        message: it.
    """
    match message:
        case Ask():
            parsed = topics.parse(topic)
            of = ad_hoc_query_id(parsed.name("camera"), parsed.name("client"), message.query_id)
        case Open():
            parsed = topics.parse(topic)
            if parsed.family is not Family.OPEN:
                return ()
            camera = parsed.name("camera")
            asked = [ref.query_id(camera, message.frame) for ref in message.queries if ref.ad_hoc]
            of = asked[0] if asked else f"{camera}/{message.frame}"
        case Answer() | QueryOutcome():
            of = message.query_id if message.ad_hoc else f"{message.camera}/{message.frame}"
        case _:
            return ()
    return ((TRACEPARENT, traceparent(of, topics.label_of(topic))),)
