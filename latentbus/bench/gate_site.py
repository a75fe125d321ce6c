"""One camera with its edge session on a virtual clock, and a pool that answers at once: what leaves, and what holds."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.codec.key_frame_policy import KeyFramePolicy
from pipeline.codec.latent import EncodedLatent
from pipeline.codec.tables import FrequencyTables
from pipeline.node.ask_journal import AskJournal
from pipeline.protocol.change_gate import ChangeGate
from pipeline.protocol.edge_session import EdgeOutput, EdgeSession
from pipeline.protocol.effects import Decision, HeldFrameAsked, KeyFrameLost, TakeFrame
from pipeline.protocol.journal_requests import ReadUnfinished
from pipeline.protocol.ports import (
    Acknowledge,
    Contained,
    Delivery,
    Heard,
    Notice,
    Problem,
    Publish,
    Received,
    Sent,
)
from pipeline.protocol.settings import EdgeProtocolSettings
from pipeline.protocol.site_settings import SiteSettings
from schemas import topics, wire
from schemas.identity import owner_of
from schemas.messages import Answer, Open, Question
from schemas.types import AnswerType, FrameId, Outcome
from schemas.wire_cost import transport_wire_bytes

SITE: Final = "north"
CAMERA: Final = "gate"
RESPONSE_S: Final = 0.3
"""From an open message to its answers."""
KEEPALIVE_S: Final = 30.0
"""Silence after which an edge pings its broker."""
PING_BYTES: Final = transport_wire_bytes(2)


@dataclass(frozen=True, slots=True)
class Watched:
    """Frames of one camera, with what they are asked and what the model answers from whole latents.

    Attributes:
        name: of the camera.
        every_s: time between two frames.
        symbols: int32 [F, K, d].
        texts: answers, str [F, Q].
        questions: texts and answer types [Q].
        noise: how often an answer differs between neighbouring frames in which nothing happens [Q].
        events: first and last frame of what happens, if that is known.
    """

    name: str
    every_s: float
    symbols: NDArray[np.int32]
    texts: NDArray[np.str_]
    questions: Sequence[tuple[str, AnswerType]]
    noise: NDArray[np.float64]
    events: Sequence[tuple[int, int]] = ()

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def duration_s(self) -> float:
        """From the first frame to one interval after the last."""
        return len(self) * self.every_s


@dataclass(slots=True)
class SiteRun:
    """What became of a camera's frames.

    Attributes:
        wire_bytes: what left, by kind of message, pings included; all headers counted.
        start_bytes: what of it left before the first frame: once, however long the camera runs.
        in_force: the answer that holds for each frame [F, Q].
        asked: whether each question was asked of each frame, bool [F, Q].
        reasons: why questions were asked, or that they were held.
    """

    wire_bytes: Counter[str]
    in_force: NDArray[np.str_]
    asked: NDArray[np.bool_]
    reasons: Counter[str] = field(default_factory=Counter)
    start_bytes: int = 0

    def bytes_an_hour(self, duration_s: float) -> float:
        """All that leaves in the first hour of a camera like this."""
        return self.start_bytes + (self.wire_bytes.total() - self.start_bytes) * 3600 / duration_s


def run_site(
    watched: Watched, tables: FrequencyTables, *, gate: ChangeGate | None = None, key_frames: bool = True
) -> SiteRun:
    """Play a camera through an edge session.

    Args:
        watched: its frames.
        tables: of the codec.
        gate: of the session.
        key_frames: code frames given an earlier one.
    """
    return _Site(watched, tables, gate, KeyFramePolicy() if key_frames else None).run()


class _Site:
    def __init__(
        self, watched: Watched, tables: FrequencyTables, gate: ChangeGate | None, policy: KeyFramePolicy | None
    ) -> None:
        self._watched, self._tables, self._policy = watched, tables, policy
        self._ids = [f"q{number}" for number in range(len(watched.questions))]
        questions = {
            question_id: Question(site=SITE, question_id=question_id, text=text, answer_type=kind, set_by="settings")
            for question_id, (text, kind) in zip(self._ids, watched.questions, strict=True)
        }
        self._session = EdgeSession(
            EdgeProtocolSettings(),
            SiteSettings(SITE, "main", {CAMERA: self._ids}, questions),
            boot=1,
            fingerprint=b"\1\2\3\4",
            gate=gate,
        )
        self._journal = AskJournal(None)
        self._now_s = 0.0
        self._numbers = itertools.count()
        self._to_come: list[tuple[float, int, Answer]] = []
        self._frames: dict[FrameId, int] = {}
        self._answered: dict[str, int] = {}
        self._sent_s = [0.0]
        shape = watched.texts.shape
        self._run = SiteRun(Counter(), watched.texts.copy(), np.zeros(shape, np.bool_))

    def run(self) -> SiteRun:
        watched, run = self._watched, self._run
        self._session.connection(True, self._now_s)
        self._pump()
        self._turn_to(watched.every_s)
        run.start_bytes = run.wire_bytes.total()
        for number in range(len(watched)):
            self._turn_to((number + 1) * watched.every_s)
            self._take(number)
        self._turn_to(watched.duration_s + watched.every_s)
        gaps_s = np.diff([*self._sent_s, self._now_s])
        run.wire_bytes["ping"] += int(np.floor(gaps_s / KEEPALIVE_S).sum()) * PING_BYTES
        if self._session.gate is not None:
            run.reasons.update(self._session.gate.counters)
        return run

    def _take(self, number: int) -> None:
        session, now_s = self._session, self._now_s
        latent = EncodedLatent(self._watched.symbols[number], self._tables)
        queries = session.take_queries(CAMERA, now_s, standing=True)
        sifted, frame = session.sift(CAMERA, latent, queries, now_s)
        for query in sifted.asked:
            self._run.asked[number, self._ids.index(query.question_id)] = True
        for question_id in sifted.held:
            place = self._ids.index(question_id)
            self._run.in_force[number, place] = self._watched.texts[self._answered[question_id], place]
        if sifted.asked:
            key = None if self._policy is None else self._policy.choose(CAMERA, latent)
            offered = session.offer(
                CAMERA, latent, latent.latent_count, sifted.asked, now_s, frame=frame, given_key=key, captured_s=now_s
            )
            if self._policy is not None:
                self._policy.offered(CAMERA, key, offered.sequence)
            self._frames[offered] = number
        self._pump()

    def _turn_to(self, time_s: float) -> None:
        while True:
            due_s = [entry[0] for entry in self._to_come[:1]]
            wake_s = self._session.next_wake_s()
            next_s = min([*due_s, *([] if wake_s is None else [wake_s])], default=None)
            if next_s is None or next_s > time_s:
                break
            self._now_s = max(self._now_s, next_s)
            while self._to_come and self._to_come[0][0] <= self._now_s:
                _, _, answer = heapq.heappop(self._to_come)
                received = Received(topics.answer_topic(CAMERA), wire.encode(answer))
                self._session.receive(received, self._now_s)
            self._pump()
        self._now_s = max(self._now_s, time_s)

    def _pump(self) -> None:
        while outputs := self._session.poll(self._now_s):
            for output in outputs:
                self._carry_out(output)

    def _carry_out(self, output: EdgeOutput) -> None:
        match output:
            case Publish():
                if isinstance(output.message, Open):
                    self._answer(output.message)
                self._session.published(output.token, Delivery.DELIVERED, self._now_s)
            case Sent():
                self._run.wire_bytes[output.label] += output.wire_bytes
                self._sent_s.append(self._now_s)
            case Acknowledge():
                self._session.acknowledged(len(output.tokens), self._now_s)
            case Decision():
                if output.outcome is Outcome.ANSWERED:
                    number = self._frames[output.frame]
                    question_id = output.question.question_id
                    self._answered[question_id] = max(number, self._answered.get(question_id, 0))
            case Contained():
                raise output.error
            case Problem():
                raise AssertionError(output.text)
            case Heard() | Notice() | KeyFrameLost() | TakeFrame() | HeldFrameAsked():
                pass
            case ReadUnfinished():
                self._session.stored(output.token, self._journal.perform(output), self._now_s)
            case _:
                raise AssertionError(f"{type(output).__name__} of a site without clients and without a store")

    def _answer(self, opened: Open) -> None:
        number = self._frames[opened.frame]
        for ref in opened.queries:
            answer = Answer(
                query_id=ref.query_id(CAMERA, opened.frame),
                owner=owner_of("site", SITE),
                camera=CAMERA,
                frame=opened.frame,
                attempt=opened.attempt,
                question_id=ref.question_id,
                worker="w0",
                outcome=Outcome.ANSWERED,
                text=str(self._watched.texts[number, self._ids.index(ref.question_id)]) or "-",
                score=1.0,
                latents=opened.stop,
                payload_bytes=len(opened.payload),
                looks=1,
            )
            heapq.heappush(self._to_come, (self._now_s + RESPONSE_S, next(self._numbers), answer))


@dataclass(frozen=True, slots=True)
class Changes:
    """Answers that change and stay so for a while, and when the one in force follows.

    Attributes:
        count: how many.
        missed: those that the answer in force never follows.
        delays_s: of the others, from the first frame of the change to its answer.
    """

    count: int
    missed: int
    delays_s: tuple[float, ...]


def changes_of(texts: NDArray[np.str_], in_force: NDArray[np.str_], every_s: float, least_frames: int = 3) -> Changes:
    """Compare what holds with what each frame would have been answered.

    Args:
        texts: answers of the frames themselves [F, Q].
        in_force: answers that hold [F, Q].
        every_s: time between two frames.
        least_frames: an answer that stays for fewer frames is no change.
    """
    count = missed = 0
    delays_s: list[float] = []
    for place in range(texts.shape[1]):
        runs = _runs(texts[:, place])
        lasting = [run for run in runs if run[1] - run[0] >= least_frames]
        for before, (start, stop) in itertools.pairwise(lasting):
            if texts[before[0], place] == texts[start, place]:
                continue
            count += 1
            followed = np.flatnonzero(in_force[start:stop, place] == texts[start, place])
            if len(followed):
                delays_s.append(float(followed[0]) * every_s + RESPONSE_S)
            else:
                missed += 1
    return Changes(count, missed, tuple(delays_s))


def _runs(texts: NDArray[np.str_]) -> list[tuple[int, int]]:
    """First frame of each run of equal answers, and one past its last."""
    edges = [0, *(np.flatnonzero(texts[1:] != texts[:-1]) + 1).tolist(), len(texts)]
    return list(itertools.pairwise(edges))


def camera_report(watched: Watched, runs: Mapping[str, SiteRun], risk: float) -> dict[str, Any]:
    """Figures of one camera.

    Args:
        watched: its frames.
        runs: of the ways ``without_gate``, ``key_frames`` and ``gate``.
        risk: of the gate.
    """
    gated, hour = runs["gate"], {name: run.bytes_an_hour(watched.duration_s) for name, run in runs.items()}
    differing = gated.in_force != watched.texts
    by_noise = float((~gated.asked * watched.noise).mean())
    changes = changes_of(watched.texts, gated.in_force, watched.every_s)
    noticed = sum(bool(gated.asked[first : last + 1].any()) for first, last in watched.events)
    delays_s = list(changes.delays_s) or [float("nan")]
    return {
        "camera": watched.name,
        "frames": len(watched),
        "questions": len(watched.questions),
        "bytes_an_hour_without": round(hour["without_gate"]),
        "bytes_an_hour_key_frames": round(hour["key_frames"]),
        "bytes_an_hour_gate": round(hour["gate"]),
        "times_fewer_than_key_frames": round(hour["key_frames"] / hour["gate"], 1),
        "frames_asked_share": round(float(gated.asked.any(axis=1).mean()), 4),
        "answers_differing": round(float(differing.mean()), 4),
        "answers_differing_by_noise": round(by_noise, 4),
        "answers_differing_by_gate": round(float(differing.mean()) - by_noise, 4),
        "risk_of_gate": risk,
        "events": len(watched.events),
        "events_not_asked": len(watched.events) - noticed,
        "answer_changes": changes.count,
        "answer_changes_missed": changes.missed,
        "change_answered_after_s_p50": round(float(np.median(delays_s)), 2) if changes.delays_s else None,
        "change_answered_after_s_max": round(float(np.max(delays_s)), 2) if changes.delays_s else None,
    }
