"""Hypothesis strategies for every message: any value that the schemas admit."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from schemas.identity import DIGEST_BYTES, ad_hoc_query_id, owner_of, standing_query_id
from schemas.limits import (
    MAX_ANSWER_CHARS,
    MAX_CHOICE_OPTIONS,
    MAX_EVENT_FRAMES,
    MAX_LATENT_PAYLOAD_BYTES,
    MAX_LATENTS,
    MAX_OPTION_CHARS,
    MAX_QUERIES_PER_FRAME,
    MAX_QUESTION_CHARS,
)
from schemas.messages import (
    Accept,
    Answer,
    Ask,
    Busy,
    Chunk,
    Condition,
    EraseEvents,
    EventEntry,
    EventLatents,
    EventList,
    EventPicture,
    FetchEvent,
    FetchPictures,
    FollowUp,
    Handover,
    KeyFrame,
    ListEvents,
    Message,
    NeedText,
    Open,
    QueryOutcome,
    QueryRef,
    Question,
    Receipt,
    Refine,
    Reject,
    RejectReason,
    Revoke,
    SiteConfig,
    Status,
    Text,
)
from schemas.types import MAX_AGE_MS, UNKNOWN_AGE, AnswerType, FrameId, Outcome, UplinkStage
from schemas.utc_time import utc_text

uint32 = st.integers(0, 2**32 - 1)
_LOWER = "abcdefghijklmnopqrstuvwxyz0123456789"
names = st.builds(str.__add__, st.sampled_from(_LOWER), st.text(_LOWER + "_-", max_size=31))
frames = st.builds(FrameId, uint32, uint32)
query_ids = st.builds(standing_query_id, names, frames, names) | st.builds(ad_hoc_query_id, names, names, names)
owners = st.builds(owner_of, st.sampled_from(["site", "client"]), names)
digests = st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES)
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
refs = st.builds(QueryRef, names, milliseconds, digests, st.none() | names)
many_refs = st.just(
    tuple(QueryRef(f"{n:032d}", 86_400_000, b"\xff" * DIGEST_BYTES, "c" * 32) for n in range(MAX_QUERIES_PER_FRAME))
)
queries = (
    st.lists(refs, min_size=1, max_size=5, unique_by=lambda ref: (ref.question_id, ref.client)).map(tuple) | many_refs
)
keys = st.none() | uint32
ages = st.none() | st.just(UNKNOWN_AGE) | st.integers(0, MAX_AGE_MS)
prefix_lengths = st.integers(1, MAX_LATENTS)
cameras = st.lists(names, max_size=4).map(tuple) | st.just(("n" * 32,) * 128)


_longest_options = st.sampled_from(["\x01", "🚚"]).map(
    lambda filler: tuple(f"{filler * (MAX_OPTION_CHARS - 1)}{letter}" for letter in _LOWER[:MAX_CHOICE_OPTIONS])
)
_options = (
    st.lists(
        said.filter(lambda text: len(text) <= MAX_OPTION_CHARS),
        min_size=2,
        max_size=4,
        unique_by=lambda option: option.strip().casefold(),
    ).map(tuple)
    | _longest_options
)


@st.composite
def _asked(draw: st.DrawFn, /, message: type[Question | Ask | Text], **fields: st.SearchStrategy[Any]) -> Message:
    answer_type = draw(st.sampled_from(AnswerType))
    options = draw(_options) if answer_type is AnswerType.CHOICE else ()
    drawn = {name: draw(strategy) for name, strategy in fields.items()}
    return message.model_validate(
        {"text": draw(question_texts), "answer_type": answer_type, "options": options, **drawn}
    )


@st.composite
def _ranged(draw: st.DrawFn, /, message: type[Chunk | Refine], **fields: st.SearchStrategy[Any]) -> Message:
    stop = draw(prefix_lengths)
    start = draw(st.integers(0, stop - 1))
    return message.model_validate({"start": start, "stop": stop, **{name: draw(s) for name, s in fields.items()}})


_open = {
    "frame": frames,
    "attempt": attempts,
    "site": names,
    "fingerprint": fingerprints,
    "queries": queries,
    "stop": prefix_lengths,
    "payload": payloads,
    "key": keys,
    "age_ms": ages,
}
_control = {"worker": names, "frame": frames, "attempt": attempts}

moments = st.integers(946_684_800, 4_000_000_000).map(utc_text)
MOST_INTERVALS = {f"{number:032d}": 1 / 3 + number for number in range(64)}
MOST_SNOOZES = {f"{number:032d}": "2026-11-30T18:00:00Z" for number in range(48)}
LARGEST_EVENT = EventEntry(
    event=FrameId(2**32 - 1, 2**32 - 1),
    question_id="q" * 32,
    text="\x01" * 32,
    age_ms=MAX_AGE_MS,
    frames=MAX_EVENT_FRAMES,
    pictures=MAX_EVENT_FRAMES,
    size_bytes=2**32 - 1,
)

BY_MESSAGE: dict[type[Message], st.SearchStrategy[Message]] = {
    Open: st.builds(Open, **_open),
    Chunk: _ranged(Chunk, camera=names, frame=frames, attempt=attempts, payload=payloads, key=keys),
    KeyFrame: st.builds(KeyFrame, frame=frames, fingerprint=fingerprints, payload=payloads),
    FollowUp: st.builds(FollowUp, frame=frames, attempt=attempts, queries=queries, age_ms=milliseconds),
    Revoke: st.builds(Revoke, camera=names, frame=frames, attempt=attempts),
    Text: _asked(Text, camera=names, owner=owners, question_id=names, risk=st.none() | probabilities),
    Handover: st.builds(Handover, camera=names, hops=st.integers(1, 8), **_open),
    Accept: st.builds(Accept, **_control, lease_ms=leases),
    Refine: _ranged(Refine, **_control, lease_ms=leases),
    Busy: st.builds(Busy, **_control, retry_after_ms=milliseconds),
    Reject: st.builds(Reject, **_control, reason=st.sampled_from(RejectReason), fingerprint=fingerprints),
    NeedText: st.builds(NeedText, **_control, digests=st.lists(digests, min_size=1, max_size=16).map(tuple)),
    Answer: st.builds(
        Answer,
        query_id=query_ids,
        owner=owners,
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
        age_ms=ages,
        reason=reasons,
    ),
    QueryOutcome: st.builds(
        QueryOutcome,
        query_id=query_ids,
        owner=owners,
        camera=names,
        frame=frames,
        question_id=names,
        outcome=st.sampled_from([Outcome.EXPIRED, Outcome.SUPERSEDED, Outcome.FAILED, Outcome.UNCHANGED]),
        age_ms=ages,
        reason=reasons,
    ),
    Question: _asked(
        Question,
        site=names,
        question_id=names,
        deadline_ms=milliseconds,
        risk=st.none() | probabilities,
        cameras=st.none() | cameras,
        set_by=st.sampled_from(["operator", "settings"]),
    ),
    SiteConfig: st.builds(
        SiteConfig,
        site=names,
        profile=st.none() | names,
        camera_intervals_s=st.dictionaries(names, st.floats(0.02, 86_400), max_size=3) | st.just(MOST_INTERVALS),
        question_intervals_s=st.dictionaries(names, st.floats(0.02, 86_400), max_size=3) | st.just(MOST_INTERVALS),
        snoozed_cameras=st.dictionaries(names, moments, max_size=3) | st.just(MOST_SNOOZES),
        snoozed_alerts=st.dictionaries(names, moments, max_size=3) | st.just(MOST_SNOOZES),
    ),
    Ask: _asked(Ask, query_id=names, deadline_ms=milliseconds, ago_ms=st.none() | milliseconds)
    | _asked(Ask, query_id=names, deadline_ms=milliseconds, frame=st.none() | frames),
    ListEvents: st.builds(ListEvents, request_id=names, before=st.none() | frames),
    FetchEvent: st.builds(FetchEvent, request_id=names, event=frames, skip=st.integers(0, MAX_EVENT_FRAMES)),
    FetchPictures: st.builds(
        FetchPictures, request_id=names, pictures_of=frames, skip=st.integers(0, MAX_EVENT_FRAMES)
    ),
    EraseEvents: st.builds(
        EraseEvents,
        request_id=names,
        event=st.none() | frames,
        older_than_ms=st.integers(0, MAX_AGE_MS),
        younger_than_ms=st.none() | st.integers(0, MAX_AGE_MS),
    ),
    EventList: st.builds(
        EventList,
        camera=names,
        events=st.lists(
            st.builds(
                EventEntry,
                event=frames,
                question_id=names,
                text=st.text(characters, max_size=32) | st.just("\x01" * 32),
                age_ms=st.integers(0, MAX_AGE_MS) | st.just("unknown"),
                frames=st.integers(1, MAX_EVENT_FRAMES),
                pictures=st.integers(0, MAX_EVENT_FRAMES),
                size_bytes=uint32,
            ),
            max_size=3,
        ).map(tuple)
        | st.just((LARGEST_EVENT,) * 24),
        more=st.booleans(),
    ),
    EventLatents: st.builds(
        EventLatents,
        event=frames,
        frame=frames,
        index=st.integers(0, MAX_EVENT_FRAMES - 1),
        count=st.integers(1, MAX_EVENT_FRAMES),
        offset_ms=st.integers(-MAX_AGE_MS, MAX_AGE_MS),
        fingerprint=fingerprints,
        payload=payloads,
    ),
    EventPicture: st.builds(
        EventPicture,
        event=frames,
        frame=frames,
        index=st.integers(0, MAX_EVENT_FRAMES - 1),
        count=st.integers(1, MAX_EVENT_FRAMES),
        offset_ms=st.integers(-MAX_AGE_MS, MAX_AGE_MS),
        part=st.integers(0, 63),
        parts=st.integers(1, 64),
        payload=payloads,
    ),
    Receipt: st.builds(
        Receipt,
        site=names,
        about=st.text(characters, max_size=32) | st.just("\x01" * 32),
        accepted=st.booleans(),
        reason=st.text(characters, max_size=20) | st.just("\x01" * 300),
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
        cameras=cameras,
        uplink=st.sampled_from(UplinkStage),
        conditions=st.lists(st.builds(Condition, kind=names, about=st.just("") | names), max_size=3).map(tuple),
        versions=st.lists(uint32, min_size=1, max_size=8).map(tuple),
    ),
}
"""A strategy for each message class."""
