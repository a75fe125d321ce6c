"""Small logs written by hand: the messages of a frame's life, at times of one's choice."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pipeline.recording.message import LoggedMessage, MqttProperties
from schemas import topics
from schemas.identity import DIGEST_BYTES, QuestionContent, ad_hoc_query_id, owner_of, standing_query_id
from schemas.messages import Answer, Ask, Chunk, Message, Open, QueryOutcome, QueryRef, Question, Refine, Revoke, Status
from schemas.types import AnswerType, FrameId, Outcome
from schemas.wire import encode

START_NS = 1_700_000_000_000_000_000
FINGERPRINT = bytes.fromhex("c0ffee01")
BOOT = 0x1A2B3C4D
OPEN_PAYLOAD = bytes(range(16))
SITE, CLIENT = "north", "phone"
CHUNK_PAYLOAD = bytes(range(100, 140))


@dataclass
class FleetLog:
    """Messages in the order in which they are put."""

    boot: int = BOOT
    fingerprint: bytes = FINGERPRINT
    messages: list[LoggedMessage] = field(default_factory=list)
    asked: dict[str, QuestionContent] = field(default_factory=dict)

    def put(
        self,
        at_s: float,
        topic: str,
        message: Message | bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        properties: MqttProperties | None = None,
    ) -> None:
        payload = message if isinstance(message, bytes) else encode(message)
        time_ns = START_NS + round(at_s * 1e9)
        sequence = len(self.messages)
        self.messages.append(LoggedMessage(time_ns, topic, payload, qos, retain, properties, sequence))

    def sorted(self) -> list[LoggedMessage]:
        ordered = sorted(self.messages, key=lambda message: message.time_ns)
        return [replace(message, sequence=number) for number, message in enumerate(ordered)]

    def question(
        self, question_id: str, text: str, *, answer_type: AnswerType = AnswerType.YES_NO, deadline_ms: int = 8_000
    ) -> None:
        message = Question(
            site=SITE, question_id=question_id, text=text, answer_type=answer_type, deadline_ms=deadline_ms
        )
        self.asked[question_id] = message.content()
        self.put(0.0, topics.question_topic(SITE, question_id), message, qos=1, retain=True)

    def ask(self, at_s: float, camera: str, query_id: str, text: str) -> None:
        message = Ask(query_id=query_id, text=text, answer_type=AnswerType.COUNT, deadline_ms=20_000)
        properties = MqttProperties(
            response_topic=topics.reply_topic(CLIENT, camera, query_id), correlation_data=b"\x01\x02\x03\x04"
        )
        self.asked[query_id] = message.content(CLIENT)
        self.put(at_s, topics.ask_topic(camera, CLIENT), message, qos=1, properties=properties)

    def edge(self, site: str, *cameras: str) -> None:
        message = Status(kind="edge", id=site, boot=self.boot, online=True, pool="main", cameras=cameras)
        self.put(0.0, topics.status_topic("edge", site), message, qos=1, retain=True)

    def worker(self, name: str) -> None:
        message = Status(
            kind="worker", id=name, boot=7, online=True, pool="main", fingerprint=self.fingerprint.hex(), capacity=8
        )
        self.put(0.0, topics.status_topic("worker", name), message, qos=1, retain=True)

    def frame(self, sequence: int) -> FrameId:
        return FrameId(self.boot, sequence)

    def ref(self, question_id: str, *, ad_hoc: bool = False) -> QueryRef:
        known = self.asked.get(question_id)
        digest = bytes(DIGEST_BYTES) if known is None else known.digest
        return QueryRef(question_id, 7_500, digest, CLIENT if ad_hoc else None)

    def open(
        self, at_s: float, camera: str, sequence: int, *question_ids: str, ad_hoc: bool = False, attempt: int = 1
    ) -> None:
        message = Open(
            frame=self.frame(sequence),
            attempt=attempt,
            site=SITE,
            fingerprint=self.fingerprint,
            queries=tuple(self.ref(question_id, ad_hoc=ad_hoc) for question_id in question_ids),
            stop=8,
            payload=OPEN_PAYLOAD,
        )
        self.put(at_s, topics.open_topic("main", camera), message, qos=1)

    def refine(self, at_s: float, camera: str, sequence: int, *, worker: str = "w1") -> None:
        """A request and, 20 ms later, its chunk."""
        frame = self.frame(sequence)
        request = Refine(worker=worker, frame=frame, attempt=1, start=8, stop=24, lease_ms=3_000)
        self.put(at_s, topics.control_topic(camera), request)
        chunk = Chunk(camera=camera, frame=frame, attempt=1, start=8, stop=24, payload=CHUNK_PAYLOAD)
        self.put(at_s + 0.02, topics.chunk_topic(worker, camera), chunk)

    def revoke(self, at_s: float, camera: str, sequence: int, worker: str) -> None:
        message = Revoke(camera=camera, frame=self.frame(sequence), attempt=1)
        self.put(at_s, topics.chunk_topic(worker, camera), message)

    def answer(
        self,
        at_s: float,
        camera: str,
        sequence: int,
        question_id: str,
        text: str,
        *,
        outcome: Outcome | None = Outcome.ANSWERED,
        score: float = 0.9,
        latents: int = 8,
        ad_hoc: bool = False,
        reason: str = "",
    ) -> Answer:
        frame = self.frame(sequence)
        message = Answer(
            query_id=ad_hoc_query_id(camera, CLIENT, question_id)
            if ad_hoc
            else standing_query_id(camera, frame, question_id),
            owner=owner_of("client", CLIENT) if ad_hoc else owner_of("site", SITE),
            camera=camera,
            frame=frame,
            attempt=1,
            question_id=question_id,
            worker="w1",
            outcome=outcome,  # type: ignore[arg-type]
            text=text,
            score=score,
            latents=latents,
            payload_bytes=16 if latents == 8 else 56,
            looks=1 if latents == 8 else 2,
            reason=reason,
        )
        self.put(at_s, topics.answer_topic(camera), message, qos=0 if outcome is None else 1)
        return message

    def outcome(self, at_s: float, camera: str, sequence: int, question_id: str, outcome: Outcome) -> None:
        frame = self.frame(sequence)
        message = QueryOutcome(
            query_id=standing_query_id(camera, frame, question_id),
            owner=owner_of("site", SITE),
            camera=camera,
            frame=frame,
            question_id=question_id,
            outcome=outcome,  # type: ignore[arg-type]
            reason="why not",
        )
        self.put(at_s, topics.outcome_topic(camera), message, qos=1)


def demo_log(*, boot: int = BOOT, fingerprint: bytes = FINGERPRINT, ask_id: str = "ask-7f") -> FleetLog:
    """Two cameras, three frames, a refined answer, an ad-hoc question, an expiry."""
    log = FleetLog(boot, fingerprint)
    log.edge("north", "gate", "yard")
    log.worker("w1")
    log.question("car", "Is there a red car?")
    log.question("count", "How many people wait?", answer_type=AnswerType.COUNT)
    log.open(1.0, "gate", 1, "car", "count")
    log.answer(1.1, "gate", 1, "car", "yes", score=0.97)
    log.answer(1.1, "gate", 1, "count", "2", outcome=None, score=0.4)
    log.refine(1.11, "gate", 1)
    log.answer(1.3, "gate", 1, "count", "three", score=0.8, latents=24)
    log.ask(1.5, "yard", ask_id, "Who parks at the ramp?")
    log.open(1.6, "yard", 1, ask_id, ad_hoc=True)
    log.answer(1.8, "yard", 1, ask_id, "nobody at all", ad_hoc=True, latents=24)
    log.open(2.0, "gate", 2, "car")
    log.outcome(9.5, "gate", 2, "car", Outcome.EXPIRED)
    return log
