"""Hypothesis strategies for every message: any value that the schemas admit."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from schemas.limits import (
    MAX_ANSWER_CHARS,
    MAX_LATENT_PAYLOAD_BYTES,
    MAX_LATENTS,
    MAX_QUERIES_PER_FRAME,
    MAX_QUESTION_CHARS,
)
from schemas.messages import (
    Accept,
    Answer,
    Ask,
    Busy,
    Chunk,
    Gone,
    Handover,
    KeyFrame,
    Message,
    NeedText,
    Open,
    QueryOutcome,
    QueryRef,
    Question,
    Refine,
    Reject,
    RejectReason,
    Status,
    Text,
)
from schemas.types import AnswerType, FrameId, Outcome

uint32 = st.integers(0, 2**32 - 1)
_LOWER = "abcdefghijklmnopqrstuvwxyz0123456789"
names = st.builds(str.__add__, st.sampled_from(_LOWER), st.text(_LOWER + "_-", max_size=31))
query_ids = st.builds(str.__add__, st.sampled_from(_LOWER + "AZ"), st.text(_LOWER + "AZ_./-", max_size=95))
frames = st.builds(FrameId, uint32, uint32)
attempts = st.integers(1, 255)
milliseconds = st.integers(0, 86_400_000)
leases = st.integers(1, 600_000)
fingerprints = st.binary(min_size=4, max_size=4)
payloads = st.binary(min_size=1, max_size=64) | st.just(b"\xff" * MAX_LATENT_PAYLOAD_BYTES)
probabilities = st.floats(0.0, 1.0)
# Surrogates are no text: neither JSON nor msgpack can carry them as UTF-8.
characters = st.characters(exclude_categories=["Cs"])
said = st.text(characters, min_size=1, max_size=40).filter(lambda text: not text.isspace())
question_texts = said | st.just("\x01" * MAX_QUESTION_CHARS)
answer_texts = st.text(characters, max_size=40) | st.sampled_from(["\x01" * MAX_ANSWER_CHARS, "🚚" * MAX_ANSWER_CHARS])
reasons = st.text(characters, max_size=20) | st.just("\x01" * 200)
refs = st.builds(QueryRef, names, milliseconds, st.booleans())
many_refs = st.just(tuple(QueryRef(f"{n:032d}", 86_400_000, True) for n in range(MAX_QUERIES_PER_FRAME)))
queries = (
    st.lists(refs, min_size=1, max_size=5, unique_by=lambda ref: (ref.question_id, ref.ad_hoc)).map(tuple) | many_refs
)
keys = st.none() | uint32
prefix_lengths = st.integers(1, MAX_LATENTS)


@st.composite
def _ranged(draw: st.DrawFn, /, message: type[Chunk | Refine], **fields: st.SearchStrategy[Any]) -> Message:
    stop = draw(prefix_lengths)
    start = draw(st.integers(0, stop - 1))
    return message.model_validate({"start": start, "stop": stop, **{name: draw(s) for name, s in fields.items()}})


_open = {
    "frame": frames,
    "attempt": attempts,
    "fingerprint": fingerprints,
    "queries": queries,
    "stop": prefix_lengths,
    "payload": payloads,
    "key": keys,
}
_control = {"worker": names, "frame": frames, "attempt": attempts}

BY_MESSAGE: dict[type[Message], st.SearchStrategy[Message]] = {
    Open: st.builds(Open, **_open),
    Chunk: _ranged(Chunk, camera=names, frame=frames, attempt=attempts, payload=payloads, key=keys),
    KeyFrame: st.builds(KeyFrame, frame=frames, fingerprint=fingerprints, payload=payloads),
    Gone: st.builds(Gone, camera=names, frame=frames, attempt=attempts),
    Text: st.builds(
        Text, camera=names, question_id=names, text=question_texts, answer_type=st.sampled_from(AnswerType)
    ),
    Handover: st.builds(Handover, camera=names, hops=st.integers(1, 8), **_open),
    Accept: st.builds(Accept, **_control, lease_ms=leases),
    Refine: _ranged(Refine, **_control, lease_ms=leases),
    Busy: st.builds(Busy, **_control, retry_after_ms=milliseconds),
    Reject: st.builds(Reject, **_control, reason=st.sampled_from(RejectReason), fingerprint=fingerprints),
    NeedText: st.builds(NeedText, **_control, question_ids=st.lists(names, min_size=1, max_size=16).map(tuple)),
    Answer: st.builds(
        Answer,
        query_id=query_ids,
        camera=names,
        frame=frames,
        attempt=attempts,
        question_id=names,
        worker=names,
        outcome=st.sampled_from([None, Outcome.ANSWERED, Outcome.DEGRADED, Outcome.FAILED]),
        text=answer_texts,
        score=probabilities,
        latents=st.integers(0, MAX_LATENTS),
        payload_bytes=uint32,
        looks=st.integers(0, 1_000),
        reason=reasons,
    ),
    QueryOutcome: st.builds(
        QueryOutcome,
        query_id=query_ids,
        camera=names,
        frame=frames,
        question_id=names,
        outcome=st.sampled_from([Outcome.EXPIRED, Outcome.SUPERSEDED, Outcome.FAILED]),
        reason=reasons,
    ),
    Question: st.builds(
        Question,
        question_id=names,
        text=question_texts,
        answer_type=st.sampled_from(AnswerType),
        deadline_ms=milliseconds,
        risk=st.none() | probabilities,
    ),
    Ask: st.builds(
        Ask, query_id=names, text=question_texts, answer_type=st.sampled_from(AnswerType), deadline_ms=milliseconds
    ),
    Status: st.builds(
        Status,
        kind=st.sampled_from(["edge", "worker", "gateway", "recorder"]),
        id=names,
        boot=uint32,
        online=st.booleans(),
        pool=st.none() | names,
        fingerprint=st.just("") | fingerprints.map(bytes.hex),
        parked=uint32,
        capacity=uint32,
        cameras=st.lists(names, max_size=4).map(tuple) | st.just(("n" * 32,) * 128),
    ),
}
"""A strategy for each message class."""
