"""Deliberate faults between an edge, its disk and its frames: whose latents, which deadline, what is stored when."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipeline.node.ask_journal import AskJournal
from pipeline.protocol.ad_hoc_questions import AdHocQuestions
from pipeline.protocol.ask_intake import AskIntake
from pipeline.protocol.edge_frame import EdgeFrame
from pipeline.protocol.edge_frames import EdgeFrames
from pipeline.protocol.effects import AskedQuery, GivenKey, Latent
from pipeline.protocol.journal_requests import StoredAsk
from pipeline.protocol.ports import Received
from schemas.messages import Ask
from schemas.types import FrameId
from simulation.mutation import Mutation, nothing

# Mutations reach inside on purpose.
_offer = EdgeFrames.offer
_payload = EdgeFrame.payload
_receive = AskIntake.receive
_understood = AskJournal._understood  # noqa: SLF001
_take = AdHocQuestions.take


def _latent_of_the_frame_before(
    self: EdgeFrames, camera: str, latent: Latent, base_latents: int, *args: Any, **kwargs: Any
) -> FrameId:
    others = [frame.latent for frame in self.undecided() if frame.camera == camera]
    given_key: GivenKey[Latent] | None = kwargs.pop("given_key", None)
    if others:
        latent, given_key = others[-1], None
    return _offer(self, camera, latent, base_latents, *args, given_key=given_key, **kwargs)


def _from_the_beginning(self: EdgeFrame, start: int, stop: int) -> bytes:
    return _payload(self, 0, stop - start)


def _acknowledged_at_once(
    self: AskIntake, received: Received, camera: str, client: str, ask: Ask, now_s: float
) -> None:
    _receive(self, received, camera, client, ask, now_s)
    self._acknowledge(received.token)


def _text_of_another_row(self: AskJournal, row: Any) -> StoredAsk:
    stored = _understood(self, row)
    others = self._database.execute("SELECT text FROM ask WHERE query_id != ?", (stored.query_id,))
    text = next((found for (found,) in others), stored.ask.text)
    return replace(stored, ask=stored.ask.model_copy(update={"text": text}))


def _whole_deadline_again(self: AskJournal, row: Any) -> StoredAsk:
    stored = _understood(self, row)
    return replace(stored, remaining_s=stored.ask.deadline_ms / 1000)


def _deadline_from_the_frame(self: AdHocQuestions, camera: str, limit: int) -> list[AskedQuery]:
    return [replace(query, deadline_s=query.deadline_s + 5.0) for query in _take(self, camera, limit)]


DISK_MUTATIONS: tuple[Mutation, ...] = (
    Mutation("the latent of the frame before is sent", 1, EdgeFrames, "offer", _latent_of_the_frame_before),
    Mutation("a chunk has the latents from the beginning", 1, EdgeFrame, "payload", _from_the_beginning),
    Mutation("a question without a frame has no deadline", 1, AdHocQuestions, "tick", nothing),
    Mutation("a question's deadline counts from its frame", 1, AdHocQuestions, "take", _deadline_from_the_frame),
    Mutation("an ask is acknowledged before it is stored", 1, AskIntake, "receive", _acknowledged_at_once),
    Mutation("a row of the journal has another row's text", 1, AskJournal, "_understood", _text_of_another_row),
    Mutation("a row of the journal has its whole deadline again", 1, AskJournal, "_understood", _whole_deadline_again),
)
