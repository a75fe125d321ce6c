"""Messages that an attacker makes: valid ones that lie, and bytes that are no message."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Final

from latentbus.attack.fleet import POOL, STOLEN_CAMERA, STOLEN_EDGE, STOLEN_WORKER
from schemas import wire
from schemas.identity import QuestionContent, owner_of
from schemas.limits import MAX_OPTION_CHARS, MAX_QUESTION_CHARS
from schemas.messages import (
    Accept,
    Answer,
    Ask,
    Chunk,
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
from schemas.types import AnswerType, FrameId, Outcome

DAY_MS: Final = 86_400_000
_NO_FINGERPRINT: Final = b"\x00\x00\x00\x00"
_FRAME: Final = FrameId(0xBAD, 1)
_COSTLY: Final = "\N{NAZAR AMULET}"
"""A character that tokenizers spell byte by byte."""


def ask(
    query_id: str,
    text: str = "What is there?",
    deadline_ms: int = 10_000,
    *,
    answer_type: AnswerType = AnswerType.TEXT,
    options: tuple[str, ...] = (),
) -> bytes:
    """An ask."""
    return wire.encode(
        Ask(query_id=query_id, text=text, deadline_ms=deadline_ms, answer_type=answer_type, options=options)
    )


def costly_ask(query_id: str, deadline_ms: int, *, chars: int = MAX_QUESTION_CHARS, options: int = 0) -> bytes:
    """An ask whose every character is several tokens.

    Args:
        query_id: of the ask.
        deadline_ms: of the ask.
        chars: of its text; 500 are some 2,000 tokens.
        options: answers to choose from, each as long as is allowed; 16 are some 4,000 tokens.
    """
    text = _COSTLY * chars
    if not options:
        return ask(query_id, text, deadline_ms, answer_type=AnswerType.YES_NO)
    named = tuple(f"{number:02d}" + _COSTLY * (MAX_OPTION_CHARS - 2) for number in range(options))
    return ask(query_id, text, deadline_ms, answer_type=AnswerType.CHOICE, options=named)


def opened(sequence: int, *remaining_ms: int, fingerprint: bytes = _NO_FINGERPRINT) -> bytes:
    """An open message of the stolen site, with one question of a text that nobody knows for each deadline."""
    queries = tuple(
        QueryRef(f"u{number}", left_ms, sequence.to_bytes(4, "big") + number.to_bytes(4, "big"))
        for number, left_ms in enumerate(remaining_ms)
    )
    return wire.encode(
        Open(
            frame=FrameId(0xBAD, sequence),
            attempt=1,
            site=STOLEN_EDGE,
            fingerprint=fingerprint,
            queries=queries,
            stop=8,
            payload=b"\x5a" * 60,
        )
    )


def status(kind: str, name: str, fingerprint: bytes = _NO_FINGERPRINT, **fields: object) -> bytes:
    """A status of a process that says it is online."""
    return wire.encode(
        Status.model_validate(
            {
                "kind": kind,
                "id": name,
                "boot": 0xBAD,
                "online": True,
                "pool": POOL,
                "fingerprint": fingerprint.hex(),
                **fields,
            }
        )
    )


def every_message(camera: str, client: str, worker: str = STOLEN_WORKER) -> list[Message]:
    """One valid message of each kind that speaks of a camera and of a client's question there."""
    query_id = f"{camera}/@{client}/q1"
    content = QuestionContent(owner_of("client", client), "q1", "Is there a car?", AnswerType.YES_NO)
    ref = QueryRef("q1", 10_000, content.digest, client)
    about = {"query_id": query_id, "owner": content.owner, "camera": camera, "frame": _FRAME, "question_id": "q1"}
    return [
        Open(frame=_FRAME, attempt=1, site="north", fingerprint=_NO_FINGERPRINT, queries=(ref,), stop=8, payload=b"x"),
        Chunk(camera=camera, frame=_FRAME, attempt=1, start=0, stop=8, payload=b"x"),
        KeyFrame(frame=_FRAME, fingerprint=_NO_FINGERPRINT, payload=b"x"),
        Revoke(camera=camera, frame=_FRAME, attempt=1),
        FollowUp(frame=_FRAME, attempt=1, queries=(ref,), age_ms=1),
        Text(camera=camera, owner=content.owner, question_id="q1", text="Is it mine?", answer_type=AnswerType.YES_NO),
        Handover(
            camera=camera, hops=1, frame=_FRAME, attempt=1, site="north", fingerprint=_NO_FINGERPRINT, queries=(ref,),
            stop=8, payload=b"x",
        ),
        Accept(worker=worker, frame=_FRAME, attempt=1, lease_ms=10_000),
        Refine(worker=worker, frame=_FRAME, attempt=1, start=0, stop=8, lease_ms=10_000),
        Reject(
            worker=worker, frame=_FRAME, attempt=1, reason=RejectReason.FINGERPRINT, fingerprint=_NO_FINGERPRINT
        ),
        NeedText(worker=worker, frame=_FRAME, attempt=1, digests=(content.digest,)),
        Answer.model_validate(
            {
                **about, "attempt": 1, "worker": worker, "outcome": Outcome.ANSWERED, "text": "no", "score": 1.0,
                "latents": 8, "payload_bytes": 1, "looks": 1,
            }
        ),
        QueryOutcome.model_validate({**about, "outcome": Outcome.FAILED, "reason": "forged"}),
        Question(site="north", question_id="car", text="Is it mine?"),
        Ask(query_id="q1", text="Is it mine?"),
        SiteConfig(site="north", snoozed_cameras={camera: "2099-01-01T00:00:00Z"}),
        Receipt(site="north", about="q1", accepted=False, reason="forged"),
        Status(kind="worker", id="w1", boot=1, online=False),
        ListEvents(request_id="r1"),
        FetchEvent(request_id="r1", event=_FRAME),
        FetchPictures(request_id="r1", pictures_of=_FRAME),
        EraseEvents(request_id="r1"),
        EventList(
            camera=camera, more=False,
            events=(
                EventEntry(event=_FRAME, question_id="car", text="no", age_ms=1, frames=1, pictures=1, size_bytes=1),
            ),
        ),
        EventLatents(
            event=_FRAME, frame=_FRAME, index=0, count=1, offset_ms=0, fingerprint=_NO_FINGERPRINT, payload=b"x"
        ),
        EventPicture(
            event=_FRAME, frame=_FRAME, index=0, count=1, offset_ms=0, part=0, parts=1, payload=b"x"
        ),
    ]  # fmt: skip


def no_messages(rng: random.Random, *, each: int = 3) -> Iterator[bytes]:
    """Bytes that are no valid message of any topic, or a valid one of another.

    Args:
        rng: draws what is flipped and cut.
        each: damaged copies of each valid message.
    """
    yield from (b"", b"\x00", b"\xc1", b"null", b"{}", b"[]", b"{", b'"', b"\xff\xfe", b"\x93\x01\x02")
    yield b"\x91" * 20_000  # arrays in arrays, as msgpack and as JSON
    yield b"[" * 20_000
    yield b'{"v":' * 4_000
    yield b"\xdd\xff\xff\xff\xff"  # an array of four billion, of which nothing follows
    yield b"\xdf\xff\xff\xff\xff" + b"\xc0" * 100
    yield b"\xc6\xff\xff\xff\xff"
    yield b"9" * 16_000
    yield b'{"v":2,"query_id":"q","text":"a?","deadline_ms":' + b"9" * 5_000 + b"}"
    yield b'{"v":2,"query_id":"q","text":"a?","deadline_ms":NaN}'
    yield b'{"v":2,"query_id":"q","text":"a?","deadline_ms":1e999}'
    yield b'{"v":2,"query_id":"q","text":"\\ud800"}'
    yield b'{"v":2,"query_id":"q","text":"\\u0000\\u001b[2J"}'
    yield b'{"v":2,"query_id":"q","query_id":"r","text":"a?","text":"b?"}'
    yield b'{"v":true,"query_id":{},"text":[],"options":{"a":1}}'
    yield b'{"v":2,"query_id":"../../etc","text":"a?"}'
    yield b'{"v":2,"query_id":"q","text":"a?","answer_type":"choice","options":["a","A"]}'
    yield b"\x00" * 31_000
    yield rng.randbytes(31_000)
    for message in every_message(STOLEN_CAMERA, "mallory"):
        whole = wire.encode(message)
        yield whole
        for _ in range(each):
            cut = whole[: rng.randrange(len(whole))]
            flipped = bytearray(whole)
            for _ in range(rng.randint(1, 4)):
                flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
            yield from (cut, bytes(flipped), whole + rng.randbytes(3))
        yield from _of_another_version(whole)


def _of_another_version(whole: bytes) -> Iterator[bytes]:
    if whole.startswith(b"{"):
        fields = json.loads(whole)
        for version in (1, 3, "2", None):
            yield json.dumps({**fields, "v": version}).encode()
    else:
        for version in (1, 3):
            yield bytes([whole[0], whole[1] & 0x80 | version]) + whole[2:]
