"""Golden wire messages: a file for each case below, so that no change of a library or of our code moves a byte unseen.

``python -m tests.schemas.golden`` writes missing files and refuses to change one: the wire format of a schema version
never changes. A new version gets new cases.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.identity import QuestionContent, ad_hoc_query_id, owner_of
from schemas.messages import (
    SCHEMA_VERSION,
    Accept,
    Answer,
    Ask,
    BinaryMessage,
    Busy,
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
from schemas.topics import (
    Family,
    answer_topic,
    ask_topic,
    chunk_topic,
    config_topic,
    control_topic,
    event_topic,
    handover_topic,
    key_topic,
    load_topic,
    open_topic,
    outcome_topic,
    question_topic,
    receipt_topic,
    reply_topic,
    request_topic,
    status_topic,
)
from schemas.types import UNKNOWN_AGE, AnswerType, FrameId, Outcome, UplinkStage
from schemas.wire import encode

FOLDER = Path(__file__).parents[1] / "golden" / "wire"

_FRAME = FrameId(boot=0x1A2B3C4D, sequence=417)
_LAST_FRAME = FrameId(boot=2**32 - 1, sequence=2**32 - 1)
_FINGERPRINT = bytes.fromhex("c0ffee01")
_LONG_NAME = "n" * 32
_SITE, _CLIENT = "harbour", "phone-3"
_OPEN_GATE = QuestionContent(owner_of("site", _SITE), "q1", "Is the gate open?", AnswerType.YES_NO, (), 0.02)
_PERSON = QuestionContent(owner_of("site", _SITE), "person", "Is somebody there?")
_ASKED = QuestionContent(owner_of("client", _CLIENT), "ask-7f", "How many cars wait?", AnswerType.COUNT)
_STATE = ("open", "half open", "geschlossen 🚪")
_STANDING: dict[str, Any] = {"query_id": _OPEN_GATE.query_id("gate", _FRAME), "owner": _OPEN_GATE.owner}
_AD_HOC: dict[str, Any] = {"query_id": ad_hoc_query_id("gate", _CLIENT, "ask-7f"), "owner": _ASKED.owner}


def _ref(question: QuestionContent, remaining_ms: int) -> QueryRef:
    return QueryRef(question.question_id, remaining_ms, question.digest, question.client)


@dataclass(frozen=True)
class Golden:
    """A message on its topic, and the file that holds its bytes."""

    name: str
    topic: str
    message: Message

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.name}.{'msgpack' if isinstance(self.message, BinaryMessage) else 'json'}"


GOLDEN: tuple[Golden, ...] = (
    Golden(
        "open_first",
        open_topic("main", "gate"),
        Open(
            frame=_FRAME,
            attempt=1,
            site=_SITE,
            fingerprint=_FINGERPRINT,
            queries=(_ref(_OPEN_GATE, 9_800), _ref(_PERSON, 400)),
            stop=8,
            payload=bytes(range(20)),
        ),
    ),
    Golden(
        "open_extreme",
        open_topic(_LONG_NAME, _LONG_NAME),
        Open(
            frame=_LAST_FRAME,
            attempt=255,
            site=_LONG_NAME,
            fingerprint=b"\x00\xff\x00\xff",
            queries=(QueryRef(_LONG_NAME, 86_400_000, b"\xff" * 8, _LONG_NAME), QueryRef("0", 0, bytes(8))),
            stop=4_096,
            payload=b"\xff" * 3,
            key=2**32 - 1,
            age_ms=86_400_000,
        ),
    ),
    Golden(
        "open_of_an_old_frame",
        open_topic("main", "gate"),
        Open(
            frame=_FRAME,
            attempt=2,
            site=_SITE,
            fingerprint=_FINGERPRINT,
            queries=(_ref(_ASKED, 25_000),),
            stop=8,
            payload=bytes(range(20)),
            age_ms=12_000,
        ),
    ),
    Golden(
        "open_of_a_frame_of_unknown_age",
        open_topic("main", "gate"),
        Open(
            frame=_FRAME,
            attempt=1,
            site=_SITE,
            fingerprint=_FINGERPRINT,
            queries=(_ref(_OPEN_GATE, 60_000),),
            stop=8,
            payload=bytes(range(20)),
            age_ms=UNKNOWN_AGE,
        ),
    ),
    Golden(
        "chunk",
        chunk_topic("w-01", "gate"),
        Chunk(camera="gate", frame=_FRAME, attempt=1, start=8, stop=24, payload=bytes(range(255, 220, -1))),
    ),
    Golden(
        "follow_up",
        chunk_topic("w-01", "gate"),
        FollowUp(frame=_FRAME, attempt=1, queries=(_ref(_ASKED, 25_000),), age_ms=5_200),
    ),
    Golden("gone", chunk_topic("w-02", "gate"), Revoke(camera="gate", frame=_FRAME, attempt=2)),
    Golden(
        "text",
        chunk_topic("w-01", "gate"),
        Text(
            camera="gate",
            owner=_OPEN_GATE.owner,
            question_id="q1",
            text="Ist das Tor geöffnet? 门开着吗",
            answer_type=AnswerType.YES_NO,
        ),
    ),
    Golden(
        "text_with_a_risk",
        chunk_topic("w-01", "gate"),
        Text(
            camera="gate",
            owner=_OPEN_GATE.owner,
            question_id="q1",
            text=_OPEN_GATE.text,
            answer_type=AnswerType.YES_NO,
            risk=0.02,
        ),
    ),
    Golden(
        "text_with_options",
        chunk_topic("w-01", "gate"),
        Text(
            camera="gate",
            owner=_ASKED.owner,
            question_id="ask-80",
            text="How is the gate?",
            answer_type=AnswerType.CHOICE,
            options=_STATE,
        ),
    ),
    Golden(
        "handover",
        handover_topic("w-02"),
        Handover(
            camera="gate",
            hops=1,
            frame=_FRAME,
            attempt=1,
            site=_SITE,
            fingerprint=_FINGERPRINT,
            queries=(_ref(_ASKED, 5_000),),
            stop=8,
            payload=bytes(range(20)),
        ),
    ),
    Golden(
        "key_frame",
        key_topic("main", "gate"),
        KeyFrame(frame=_FRAME, fingerprint=_FINGERPRINT, payload=bytes(range(40))),
    ),
    Golden(
        "open_given_key",
        open_topic("main", "gate"),
        Open(
            frame=FrameId(_FRAME.boot, _FRAME.sequence + 3),
            attempt=1,
            site=_SITE,
            fingerprint=_FINGERPRINT,
            queries=(_ref(_OPEN_GATE, 9_800),),
            stop=32,
            payload=bytes(range(12)),
            key=_FRAME.sequence,
        ),
    ),
    Golden(
        "chunk_given_key",
        chunk_topic("w-1", "gate"),
        Chunk(
            camera="gate",
            frame=FrameId(_FRAME.boot, _FRAME.sequence + 3),
            attempt=1,
            start=8,
            stop=16,
            payload=b"\x5a",
            key=_FRAME.sequence,
        ),
    ),
    Golden(
        "handover_given_key",
        handover_topic("w-2"),
        Handover(
            camera="gate",
            hops=1,
            frame=FrameId(_FRAME.boot, _FRAME.sequence + 3),
            attempt=1,
            site=_SITE,
            fingerprint=_FINGERPRINT,
            queries=(_ref(_OPEN_GATE, 9_500),),
            stop=32,
            payload=bytes(range(12)),
            key=0,
        ),
    ),
    Golden("accept", control_topic("gate"), Accept(worker="w-01", frame=_FRAME, attempt=1, lease_ms=5_000)),
    Golden(
        "refine",
        control_topic("gate"),
        Refine(worker="w-01", frame=_FRAME, attempt=1, start=8, stop=24, lease_ms=3_000),
    ),
    Golden("busy", control_topic("gate"), Busy(worker="w-01", frame=_FRAME, attempt=3, retry_after_ms=750)),
    *(
        Golden(
            f"reject_{reason.name.lower()}",
            control_topic("gate"),
            Reject(worker="w-01", frame=_FRAME, attempt=1, reason=reason, fingerprint=b"\xde\xad\xbe\xef"),
        )
        for reason in RejectReason
    ),
    Golden(
        "need_text",
        control_topic("gate"),
        NeedText(worker="w-01", frame=_FRAME, attempt=1, digests=(_OPEN_GATE.digest, _PERSON.digest)),
    ),
    Golden(
        "answer_provisional",
        answer_topic("gate"),
        Answer(
            **_STANDING,
            camera="gate",
            frame=_FRAME,
            attempt=1,
            question_id="q1",
            worker="w-01",
            text="no",
            score=0.625,
            latents=8,
            payload_bytes=20,
            looks=1,
        ),
    ),
    Golden(
        "answer_answered",
        answer_topic("gate"),
        Answer(
            **_STANDING,
            camera="gate",
            frame=_FRAME,
            attempt=1,
            question_id="q1",
            worker="w-01",
            outcome=Outcome.ANSWERED,
            text="yes",
            score=1.0,
            latents=24,
            payload_bytes=55,
            looks=2,
        ),
    ),
    Golden(
        "answer_degraded",
        reply_topic(_CLIENT, "gate", "ask-7f"),
        Answer(
            **_AD_HOC,
            camera="gate",
            frame=_LAST_FRAME,
            attempt=255,
            question_id="ask-7f",
            worker="w-01",
            outcome=Outcome.DEGRADED,
            text='zwei "Lkw"\n🚚',
            score=0.1,
            latents=4_096,
            payload_bytes=2**32 - 1,
            looks=1_000,
            age_ms=12_000,
            reason="deadline",
        ),
    ),
    Golden(
        "answer_of_a_frame_of_unknown_age",
        answer_topic("gate"),
        Answer(
            **_STANDING,
            camera="gate",
            frame=_FRAME,
            attempt=1,
            question_id="q1",
            worker="w-01",
            outcome=Outcome.ANSWERED,
            text="yes",
            score=1.0,
            latents=24,
            payload_bytes=55,
            looks=1,
            age_ms=UNKNOWN_AGE,
        ),
    ),
    Golden(
        "answer_failed",
        answer_topic("gate"),
        Answer(
            **_STANDING,
            camera="gate",
            frame=_FRAME,
            attempt=1,
            question_id="q1",
            worker="w-01",
            outcome=Outcome.FAILED,
            text="",
            score=0.0,
            latents=0,
            payload_bytes=0,
            looks=0,
            reason="bitstream: latents 0..8: does not decode",
        ),
    ),
    *(
        Golden(
            f"outcome_{outcome}",
            outcome_topic("gate"),
            QueryOutcome(**_STANDING, camera="gate", frame=_FRAME, question_id="q1", outcome=outcome, reason="why not"),
        )
        for outcome in (Outcome.EXPIRED, Outcome.SUPERSEDED, Outcome.FAILED)
    ),
    Golden(
        "outcome_unchanged",
        outcome_topic("gate"),
        QueryOutcome(
            **_STANDING, camera="gate", frame=_FRAME, question_id="q1", outcome=Outcome.UNCHANGED, age_ms=60_000
        ),
    ),
    Golden(
        "outcome_for_its_client",
        reply_topic(_CLIENT, "gate", "ask-7f"),
        QueryOutcome(**_AD_HOC, camera="gate", frame=_FRAME, question_id="ask-7f", outcome=Outcome.EXPIRED),
    ),
    Golden(
        "question",
        question_topic(_SITE, "q1"),
        Question(
            site=_SITE,
            question_id="q1",
            text="Is the gate open?",
            answer_type=AnswerType.YES_NO,
            deadline_ms=8_000,
            risk=0.02,
        ),
    ),
    Golden(
        "question_with_a_rule",
        question_topic(_SITE, "q1"),
        Question(
            site=_SITE,
            question_id="q1",
            text="How many people are there?",
            answer_type=AnswerType.COUNT,
            keep_when=(">= 3",),
        ),
    ),
    Golden(
        "question_defaults",
        question_topic(_SITE, "q2"),
        Question(site=_SITE, question_id="q2", text="What is on the belt?"),
    ),
    Golden(
        "question_of_the_settings",
        question_topic(_SITE, "q3"),
        Question(
            site=_SITE,
            question_id="q3",
            text="How is the gate?",
            answer_type=AnswerType.CHOICE,
            options=_STATE,
            cameras=("gate", "quay-2"),
            set_by="settings",
        ),
    ),
    Golden(
        "ask",
        ask_topic("gate", _CLIENT),
        Ask(query_id="ask-7f", text="How many cars wait?", answer_type=AnswerType.COUNT, deadline_ms=20_000),
    ),
    Golden(
        "ask_of_the_past",
        ask_topic("gate", _CLIENT),
        Ask(query_id="ask-80", text="Was the gate open?", answer_type=AnswerType.YES_NO, ago_ms=5_000),
    ),
    Golden(
        "ask_of_a_frame",
        ask_topic("gate", _CLIENT),
        Ask(query_id="ask-81", text="What colour is it?", frame=_FRAME),
    ),
    Golden(
        "ask_with_options",
        ask_topic("gate", _CLIENT),
        Ask(query_id="ask-80", text="How is the gate?", answer_type=AnswerType.CHOICE, options=_STATE),
    ),
    Golden(
        "outcome_not_held",
        outcome_topic("gate"),
        QueryOutcome(
            **_AD_HOC,
            camera="gate",
            frame=_FRAME,
            question_id="ask-7f",
            outcome=Outcome.FAILED,
            age_ms=12_300,
            reason="not_held: no frame of camera gate is kept that is 30 s old; the oldest that is kept is 12.3 s old",
        ),
    ),
    Golden("list_events", request_topic(Family.RING, "gate", _CLIENT), ListEvents(request_id="r-1")),
    Golden(
        "list_events_before", request_topic(Family.RING, "gate", _CLIENT), ListEvents(request_id="r-1", before=_FRAME)
    ),
    Golden(
        "fetch_event",
        request_topic(Family.RING, "gate", _CLIENT),
        FetchEvent(request_id="r-2", event=_FRAME, skip=3),
    ),
    Golden(
        "fetch_pictures",
        request_topic(Family.PICTURES, "gate", _CLIENT),
        FetchPictures(request_id="r-3", pictures_of=_FRAME),
    ),
    Golden(
        "erase_events",
        request_topic(Family.ERASE, "gate", _CLIENT),
        EraseEvents(request_id="r-4", older_than_ms=3_600_000, younger_than_ms=7_200_000),
    ),
    Golden(
        "event_list",
        event_topic(Family.EVENTS, _CLIENT, "gate", "r-1"),
        EventList(
            camera="gate",
            events=(
                EventEntry(
                    event=_FRAME, question_id="q1", text="yes", age_ms=60_000, frames=21, pictures=0, size_bytes=4_321
                ),
                EventEntry(
                    event=_LAST_FRAME, question_id="q1", text="", age_ms="unknown", frames=1, pictures=1, size_bytes=9
                ),
            ),
            more=True,
        ),
    ),
    Golden(
        "event_latents",
        event_topic(Family.CLIP, _CLIENT, "gate", "r-2"),
        EventLatents(
            event=_FRAME,
            frame=_LAST_FRAME,
            index=3,
            count=21,
            offset_ms=-7_000,
            fingerprint=_FINGERPRINT,
            payload=bytes(range(20)),
        ),
    ),
    Golden(
        "event_picture",
        event_topic(Family.PICTURE, _CLIENT, "gate", "r-3"),
        EventPicture(
            event=_FRAME, frame=_LAST_FRAME, index=0, count=1, offset_ms=0, part=1, parts=2, payload=b"\xff\xd9"
        ),
    ),
    Golden(
        "receipt_accepted",
        receipt_topic(_CLIENT, _SITE, "q1"),
        Receipt(site=_SITE, about="q1", accepted=True, reason="asked of gate and quay-2"),
    ),
    Golden(
        "receipt_refused",
        reply_topic(_CLIENT, "gate", "ask-81"),
        Receipt(site=_SITE, about="", accepted=False, reason="ask: text: String should have at most 500 characters"),
    ),
    Golden(
        "config",
        config_topic(_SITE),
        SiteConfig(
            site=_SITE,
            profile="night",
            camera_intervals_s={"gate": 10.0},
            question_intervals_s={"q1": 60.0},
            snoozed_cameras={"quay-2": "2026-11-30T18:00:00Z"},
            snoozed_alerts={"q1": "2026-12-01T06:00:00Z"},
        ),
    ),
    Golden("config_defaults", config_topic(_SITE), SiteConfig(site=_SITE)),
    Golden(
        "status_worker",
        status_topic("worker", "w-01"),
        Status(
            kind="worker",
            id="w-01",
            boot=0x1A2B3C4D,
            online=True,
            pool="main",
            fingerprint=_FINGERPRINT.hex(),
            parked=12,
            capacity=1_024,
        ),
    ),
    Golden(
        "load",
        load_topic("main", "w-01"),
        Status(
            kind="worker",
            id="w-01",
            boot=0x1A2B3C4D,
            online=True,
            pool="main",
            fingerprint=_FINGERPRINT.hex(),
            parked=700,
            capacity=1_024,
        ),
    ),
    Golden(
        "status_edge",
        status_topic("edge", _SITE),
        Status(kind="edge", id=_SITE, boot=7, online=True, pool="main", cameras=("gate", "quay-2"), versions=(2, 3)),
    ),
    Golden(
        "status_edge_without_budget",
        status_topic("edge", _SITE),
        Status(kind="edge", id=_SITE, boot=7, online=True, pool="main", cameras=("gate",), uplink=UplinkStage.SPENT),
    ),
    Golden(
        "status_will", status_topic("worker", "w-01"), Status(kind="worker", id="w-01", boot=0x1A2B3C4D, online=False)
    ),
)


def main() -> int:
    """Write the files that are missing."""
    changed = []
    for case in GOLDEN:
        data = encode(case.message)
        if not case.path.exists():
            case.path.parent.mkdir(parents=True, exist_ok=True)
            case.path.write_bytes(data)
        elif case.path.read_bytes() != data:
            changed.append(case.path.name)
    if changed:
        sys.stderr.write(f"the wire format of schema version {SCHEMA_VERSION} would change: {', '.join(changed)}\n")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
