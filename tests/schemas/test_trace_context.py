"""The W3C Trace Context of a question: the same trace wherever it is told, and what its mark costs."""

from __future__ import annotations

import re

from schemas import topics
from schemas.messages import Answer, Ask, Open, QueryOutcome, Status
from schemas.messages.frames import QueryRef
from schemas.trace_context import TRACEPARENT, TRACEPARENT_WIRE_BYTES, trace_properties
from schemas.types import FrameId, Outcome
from schemas.wire_cost import publish_property_bytes

FRAME = FrameId(7, 3)
# https://www.w3.org/TR/trace-context/#traceparent-header-field-values
FORM = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-01")


def opened(*refs: QueryRef) -> Open:
    return Open(frame=FRAME, attempt=1, site="north", fingerprint=b"abcd", queries=refs, stop=2, payload=b"x")


def answer(query_id: str, owner: str) -> Answer:
    return Answer(
        query_id=query_id,
        owner=owner,
        camera="gate",
        frame=FRAME,
        attempt=1,
        question_id=query_id.rpartition("/")[2],
        text="yes",
        score=0.9,
        latents=2,
        payload_bytes=1,
        looks=1,
        worker="w1",
        outcome=Outcome.ANSWERED,
    )


def parts(topic: str, message: Ask | Open | Answer | QueryOutcome) -> tuple[str, str]:
    ((name, value),) = trace_properties(topic, message)
    assert name == TRACEPARENT
    assert FORM.fullmatch(value), value
    _, trace, span, _ = value.split("-")
    return trace, span


STANDING = QueryRef("car", 1_000, b"12345678")
AD_HOC = QueryRef("q1", 1_000, b"12345678", "ann")
OPEN_TOPIC = topics.open_topic("main", "gate")


def test_an_ask_its_frame_and_its_answer_are_one_trace() -> None:
    ask = parts(topics.ask_topic("gate", "ann"), Ask(query_id="q1", text="Is there a car?"))
    frame = parts(OPEN_TOPIC, opened(STANDING, AD_HOC))
    told = parts(topics.answer_topic("gate"), answer("gate/@ann/q1", "client/ann"))
    assert len({ask[0], frame[0], told[0]}) == 1
    assert len({ask[1], frame[1], told[1]}) == 3, "each is a span of its own"


def test_standing_questions_of_a_frame_are_one_trace_and_those_of_the_next_another() -> None:
    frame = parts(OPEN_TOPIC, opened(STANDING))
    assert parts(topics.answer_topic("gate"), answer("gate/00000007-3/car", "site/north"))[0] == frame[0]
    later = opened(STANDING).model_copy(update={"frame": FrameId(7, 4)})
    assert parts(OPEN_TOPIC, later)[0] != frame[0]


def test_what_is_of_no_question_is_not_marked() -> None:
    status = Status(kind="edge", id="north", boot=1, online=True)
    assert trace_properties(topics.status_topic("edge", "north"), status) == ()


def test_what_a_mark_costs_is_stated() -> None:
    marks = trace_properties(OPEN_TOPIC, opened(STANDING))
    assert publish_property_bytes(user_properties=marks) == TRACEPARENT_WIRE_BYTES
