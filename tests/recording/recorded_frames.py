"""A log of frames with real latents, written by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pipeline.codec.latent import EncodedLatent
from pipeline.codec.prediction import CONTEXTS
from pipeline.codec.tables import FrequencyTables
from pipeline.recording.message import LoggedMessage
from pipeline.recording.stored_latent import StoredLatent, encode_stored_latent, latent_topic
from schemas import topics, wire
from schemas.identity import QuestionContent, owner_of
from schemas.messages import Ask, Chunk, KeyFrame, Message, Open, QueryRef, Question, Status
from schemas.types import AnswerType, FrameId

START_NS = 1_700_000_000_000_000_000
FINGERPRINT = b"\x01\x02\x03\x04"
BOOT = 0xB001
LATENTS, DIM = 8, 16
SITE, CLIENT = "north", "phone"


def ref(question_id: str, remaining_ms: int, text: str = "", *, ad_hoc: bool = False) -> QueryRef:
    """A query as an open message names it; with its text the digest is the right one."""
    owner = owner_of("client", CLIENT) if ad_hoc else owner_of("site", SITE)
    answer_type = AnswerType.COUNT if ad_hoc else AnswerType.YES_NO
    digest = QuestionContent(owner, question_id, text, answer_type).digest
    return QueryRef(question_id, remaining_ms, digest, CLIENT if ad_hoc else None)


def symbols_of(seed: int, frames: int = 1) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    """Symbols [frames, K, d], mostly small."""
    drawn = np.random.default_rng(seed).laplace(0, 1.5, (frames, LATENTS, DIM))
    return np.rint(drawn).astype(np.int32)


TABLES = FrequencyTables.fit(symbols_of(1, 64), support=6)
_LITTLE_AND_MUCH = np.array([[[8_000], [20_000]], [[45_000], [15_000]]], dtype=np.uint16)
PREDICTING = FrequencyTables(TABLES.frequencies, np.tile(_LITTLE_AND_MUCH, (1, 1, CONTEXTS)))
"""The same tables of a codec that can code frames given a key frame: little has changed since, or much."""


@dataclass
class FrameLog:
    """Messages of frames, at times in seconds of the log."""

    fingerprint: bytes = FINGERPRINT
    boot: int = BOOT
    tables: FrequencyTables = TABLES
    messages: list[LoggedMessage] = field(default_factory=list)

    def put(self, at_s: float, topic: str, message: Message | bytes, *, qos: int = 0, retain: bool = False) -> None:
        payload = message if isinstance(message, bytes) else wire.encode(message)
        self.messages.append(LoggedMessage(START_NS + round(at_s * 1e9), topic, payload, qos, retain))

    def latent(self, sequence: int) -> EncodedLatent:
        """The latent of a frame: drawn from its sequence number."""
        return EncodedLatent(symbols_of(1000 + sequence)[0], self.tables)

    def coded(self, sequence: int, key: int | None) -> EncodedLatent:
        """The latent of a frame as it is coded given another one."""
        return self.latent(sequence) if key is None else self.latent(sequence).given(self.latent(key).as_key())

    def key_frame(self, at_s: float, camera: str, sequence: int) -> None:
        payload = self.latent(sequence).payload(0, LATENTS)
        message = KeyFrame(frame=FrameId(self.boot, sequence), fingerprint=self.fingerprint, payload=payload)
        self.put(at_s, topics.key_topic("main", camera), message, qos=1, retain=True)

    def edge(self, site: str, *cameras: str, at_s: float = 0.0) -> None:
        status = Status(kind="edge", id=site, boot=self.boot, online=True, pool="main", cameras=cameras)
        self.put(at_s, topics.status_topic("edge", site), status, qos=1, retain=True)

    def question(
        self, question_id: str, text: str, *, at_s: float = 0.0, deadline_ms: int = 10_000,
        answer_type: AnswerType = AnswerType.YES_NO,
    ) -> None:  # fmt: skip
        question = Question(
            site=SITE, question_id=question_id, text=text, answer_type=answer_type, deadline_ms=deadline_ms
        )
        self.put(at_s, topics.question_topic(SITE, question_id), question, qos=1, retain=True)

    def ask(self, at_s: float, camera: str, query_id: str, text: str, *, client: str = CLIENT) -> None:
        ask = Ask(query_id=query_id, text=text, answer_type=AnswerType.COUNT, deadline_ms=20_000)
        self.put(at_s, topics.ask_topic(camera, client), ask, qos=1)

    def open(
        self, at_s: float, camera: str, sequence: int, *refs: QueryRef, stop: int = 3, attempt: int = 1,
        pool: str = "main", key: int | None = None,
    ) -> None:  # fmt: skip
        message = Open(
            frame=FrameId(self.boot, sequence), attempt=attempt, site=SITE, fingerprint=self.fingerprint, queries=refs,
            stop=stop, payload=self.coded(sequence, key).payload(0, stop), key=key,
        )  # fmt: skip
        self.put(at_s, topics.open_topic(pool, camera), message, qos=1)

    def chunk(self, at_s: float, camera: str, sequence: int, start: int, stop: int, *, key: int | None = None) -> None:
        message = Chunk(
            camera=camera, frame=FrameId(self.boot, sequence), attempt=1, start=start, stop=stop,
            payload=self.coded(sequence, key).payload(start, stop), key=key,
        )  # fmt: skip
        self.put(at_s, topics.chunk_topic("w1", camera), message)

    def store_latent(self, at_s: float, camera: str, sequence: int, base: int = 3) -> None:
        whole = self.latent(sequence).payload(0, LATENTS)
        stored = StoredLatent(camera, FrameId(self.boot, sequence), base, LATENTS, whole)
        self.put(at_s, latent_topic(camera), encode_stored_latent(stored))
