"""What a worker says: builds its messages and keeps them as effects until the process takes them."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.protocol.effects import SendAnswer, SendControl, SendHandover, WorkerEffect
from pipeline.protocol.worker_frame import WorkerFrame, WorkerQuery
from pipeline.protocol.worker_texts import Texts
from schemas import topics
from schemas.messages import (
    Accept,
    Answer,
    BinaryMessage,
    Busy,
    FollowUp,
    Handover,
    NeedText,
    Open,
    Refine,
    Reject,
    RejectReason,
)
from schemas.printable import as_reason
from schemas.types import Outcome

_MAX_LEASE_MS = 600_000
_MAX_RETRY_MS = 5_000
"""A worker that was slow a moment ago may not send frames away for long: the next open may go to another one."""
_TEXTS_A_REQUEST = 16
_MAX_PASSES = 1_000


class WorkerMessages:
    """One worker's outgoing messages.

    Args:
        worker: its name.
        fingerprint: first 4 bytes of its codec's fingerprint.
        texts: where the clients of ad-hoc questions want their answers.
    """

    def __init__(self, worker: str, fingerprint: bytes, texts: Texts) -> None:
        self._worker = worker
        self._fingerprint = fingerprint
        self._texts = texts
        self._effects: list[WorkerEffect] = []

    def take(self) -> list[WorkerEffect]:
        """Effects since the last call, in order."""
        effects, self._effects = self._effects, []
        return effects

    def accept(self, frame: WorkerFrame) -> None:
        """The frame is admitted, the lease starts again."""
        self._control(
            frame.camera,
            Accept(
                worker=self._worker, frame=frame.frame, attempt=frame.attempt, lease_ms=_milliseconds(frame.lease_s)
            ),
        )

    def refine(self, frame: WorkerFrame) -> None:
        """More latents, please."""
        self._control(
            frame.camera,
            Refine(
                worker=self._worker,
                frame=frame.frame,
                attempt=frame.attempt,
                start=frame.prefix,
                stop=frame.target,
                lease_ms=_milliseconds(frame.lease_s),
            ),
        )

    def not_held(self, camera: str, message: FollowUp) -> None:
        """A follow-up on a frame that is not here: open it."""
        self._control(
            camera,
            Reject(
                worker=self._worker,
                frame=message.frame,
                attempt=message.attempt,
                reason=RejectReason.FRAME,
                fingerprint=self._fingerprint,
            ),
        )

    def need_text(self, frame: WorkerFrame, digests: Sequence[bytes]) -> tuple[bytes, ...]:
        """The texts of these questions are unknown here; those that the message names."""
        named = tuple(digests[:_TEXTS_A_REQUEST])
        self._control(
            frame.camera,
            NeedText(worker=self._worker, frame=frame.frame, attempt=frame.attempt, digests=named),
        )
        return named

    def busy(self, camera: str, message: Open | WorkerFrame, retry_after_s: float) -> None:
        """No room, or no time: open the frame again later."""
        retry_after_ms = min(_MAX_RETRY_MS, max(100, _milliseconds(retry_after_s)))
        self._control(
            camera,
            Busy(worker=self._worker, frame=message.frame, attempt=message.attempt, retry_after_ms=retry_after_ms),
        )

    def reject(self, camera: str, message: Open | WorkerFrame, reason: RejectReason) -> None:
        """This pool can never answer the frame as it is."""
        self._control(
            camera,
            Reject(
                worker=self._worker,
                frame=message.frame,
                attempt=message.attempt,
                reason=reason,
                fingerprint=self._fingerprint,
            ),
        )

    def answer(
        self, frame: WorkerFrame, query_id: str, query: WorkerQuery, outcome: Outcome | None, reason: str = ""
    ) -> Answer:
        """A provisional (``outcome`` None) or terminal answer."""
        message = Answer.model_validate(
            {
                "query_id": query_id,
                "owner": query.owner,
                "camera": frame.camera,
                "frame": frame.frame,
                "attempt": frame.attempt,
                "question_id": query.question_id,
                "worker": self._worker,
                "outcome": outcome,
                "text": query.text or "",
                "score": query.score,
                "latents": query.prefix,
                "payload_bytes": frame.payload_bytes,
                "looks": min(frame.passes, _MAX_PASSES),
                "age_ms": query.age_ms,
                "reason": as_reason(reason),
            }
        )
        self.repeat(message, query)
        return message

    def repeat(self, message: Answer, query: WorkerQuery) -> None:
        """Publish an answer: a new one, or a kept one again.

        Args:
            message: the answer.
            query: its query.
        """
        asked = self._texts.ask(message.query_id, query.owner, query.ref.digest) if query.ad_hoc else None
        reply_to = query.reply_to or (asked and asked.reply_to)
        qos = 0 if message.outcome is None else 1
        self._effects.append(SendAnswer(topics.answer_topic(message.camera), message, qos, reply_to))

    def hand_over(self, peer: str, camera: str, message: Open, hops: int) -> None:
        """Pass an open message on."""
        fields = {name: getattr(message, name) for name in Open.model_fields}
        handover = Handover(camera=camera, hops=hops + 1, **fields)
        self._effects.append(SendHandover(topics.handover_topic(peer), handover))

    def hand_over_frame(self, peer: str, frame: WorkerFrame, now_s: float) -> None:
        """Pass a parked frame on that nobody has read; remaining times are stamped again."""
        first = frame.chunks[0]
        refs = tuple(
            query.ref._replace(remaining_ms=max(1, round((query.deadline_s - now_s) * 1000)))
            for query in frame.queries.values()
        )
        message = Open(
            frame=frame.frame,
            attempt=frame.attempt,
            site=frame.site,
            fingerprint=self._fingerprint,
            queries=refs,
            stop=first.stop,
            payload=first.payload,
            key=None if first.key is None else first.key.sequence,
            age_ms=frame.age_ms,
        )
        self.hand_over(peer, frame.camera, message, frame.hops)

    def _control(self, camera: str, message: BinaryMessage) -> None:
        self._effects.append(SendControl(topics.control_topic(camera), message))


def _milliseconds(seconds: float) -> int:
    return min(_MAX_LEASE_MS, max(1, round(1000 * seconds)))
