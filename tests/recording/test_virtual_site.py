"""Virtual cameras without a broker: the session that plays recorded frames, and the site around it."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial

import pytest

from analysis.latents import RecordedLatent
from analysis.replay.plan import ReplayFrame, ReplayQuery, SitePlan
from latentbus.replay.in_flight import Room, room
from latentbus.replay.keyboard import Key
from latentbus.replay.player import Player
from latentbus.replay.virtual_site import VirtualSite, same_question, virtual_session
from pipeline.bus.base import ConnectionChange, Inbound
from pipeline.protocol.edge_frames import EdgeFrames
from pipeline.protocol.effects import AskedQuery, Decision
from pipeline.protocol.settings import EdgeProtocolSettings
from schemas import topics, wire
from schemas.errors import StateError
from schemas.identity import QuestionContent, standing_query_id
from schemas.messages import (
    Answer,
    Chunk,
    Message,
    NeedText,
    Open,
    QueryOutcome,
    Question,
    Refine,
    Revoke,
    Status,
    Text,
)
from schemas.types import AnswerType, FrameId, Outcome
from tests.edge.support import RecordingBus, SkippingClock
from tests.recording.recorded_frames import FINGERPRINT, LATENTS, TABLES, symbols_of

FRAME = FrameId(0xF000, 41)
CAR = QuestionContent("site/replay-north", "car", "Is there a car?", AnswerType.YES_NO)
SITE = SitePlan("replay-north", 0xF000, "main", ("gate",), ("car",))


def latent(available: int) -> RecordedLatent:
    symbols = symbols_of(3)[0]
    symbols[available:] = 0
    return RecordedLatent("gate", FrameId(7, 41), symbols, available, TABLES)


def refine(start: int, stop: int, *, worker: str = "w1", attempt: int = 1) -> Refine:
    return Refine(worker=worker, frame=FRAME, attempt=attempt, start=start, stop=stop, lease_ms=3_000)


# ---- the session ----------------------------------------------------------------------------------------------------


def opened_frames(available: int) -> EdgeFrames:
    frames = EdgeFrames(EdgeProtocolSettings(), site=SITE.name, pool="main", boot=1, fingerprint=FINGERPRINT)
    query = AskedQuery(CAR, 10.0)
    assert frames.offer("gate", latent(available), 3, [query], 0.0, frame=FRAME) == FRAME
    (departure,) = frames.take_departures()
    message = departure.stamp(0.0)
    assert isinstance(message, Open)
    assert message.frame == FRAME
    return frames


def test_a_session_keeps_the_id_that_it_is_given_and_counts_its_own_on() -> None:
    frames = opened_frames(5)
    query = AskedQuery(CAR, 10.0)
    with pytest.raises(StateError, match="runs already"):
        frames.offer("gate", latent(5), 3, [query], 0.0, frame=FRAME)
    assert frames.offer("gate", latent(5), 3, [query], 0.0) == FrameId(1, 0)
    assert frames.offer("gate", latent(5), 3, [query], 0.0) == FrameId(1, 1)


def test_recorded_latents_are_sent_and_missing_ones_end_the_frame_at_once() -> None:
    frames = opened_frames(5)
    frames.receive_control("gate", refine(3, 5), 1.0)
    (sent,) = frames.take_departures()
    chunk = sent.stamp(1.0)
    assert isinstance(chunk, Chunk)
    assert chunk.payload == latent(5).payload(3, 5)

    frames.receive_control("gate", refine(5, 8), 2.0)
    (ended,), (revoke,) = frames.take_decisions(), frames.take_departures()
    assert (ended.outcome, ended.reason) == (Outcome.FAILED, "recording lacks latents 5..8")
    assert ended.publish is not None
    assert revoke.stamp(2.0) == Revoke(camera="gate", frame=FRAME, attempt=1)
    assert (frames.unfinished(), frames.counters["latents_not_recorded"], frames.counters["refines"]) == (0, 1, 1)


def test_only_the_owner_can_ask_for_what_is_missing() -> None:
    frames = opened_frames(5)
    frames.receive_control("gate", refine(3, 5), 1.0)
    for stranger in (refine(5, 8, worker="w2"), refine(5, 8, attempt=3)):
        frames.receive_control("gate", stranger, 2.0)
    assert frames.unfinished() == 1
    assert frames.counters["latents_not_recorded"] == 0


# ---- the site -------------------------------------------------------------------------------------------------------


class Rig:
    """A virtual site on a bus that remembers, with what it published taken apart."""

    def __init__(self, *, uplink_kbps: float | None = None) -> None:
        self.clock = SkippingClock()
        self.bus = RecordingBus()
        self.outcomes: Counter[Outcome] = Counter()
        session = virtual_session(SITE, fingerprint=FINGERPRINT, uplink_kbps=uplink_kbps, clock=self.clock)
        self.site = VirtualSite(SITE, session, self.bus, self.clock, ended=self._ended)
        self.site.receive(ConnectionChange(True, 1, "test"))

    def _ended(self, decision: Decision) -> None:
        self.outcomes[decision.outcome] += 1

    def hear(self, topic: str, message: Message) -> None:
        self.site.receive(Inbound(topic, wire.encode(message), 0, False, None, None, 1, 0, 0.0))

    def offer(self, sequence: int, available: int = LATENTS) -> FrameId:
        frame = FrameId(0xF000, sequence)
        query = ReplayQuery(CAR, 10.0)
        self.site.offer(
            ReplayFrame(0, SITE.name, "gate", frame, latent(available), 3, (query,)), self.clock.now_s(), 2.0, {}
        )
        return frame

    def answer(self, frame: FrameId) -> None:
        self.hear(
            topics.answer_topic("gate"),
            Answer(
                query_id=standing_query_id("gate", frame, "car"), owner=CAR.owner, camera="gate", frame=frame,
                attempt=1, question_id="car", worker="w1", outcome=Outcome.ANSWERED, text="yes", score=0.9, latents=3,
                payload_bytes=9, looks=1,
            ),
        )  # fmt: skip

    def said(self, kind: type[Message]) -> list[Message]:
        decoded = [wire.decode_publish(topic, payload)[1] for topic, payload, _ in self.bus.published]
        return [message for message in decoded if isinstance(message, kind)]


async def test_a_site_opens_frames_sends_what_is_asked_and_says_who_it_is() -> None:
    rig = Rig()
    running = asyncio.create_task(rig.site.send())
    frame = rig.offer(41)
    await rig.site.left("gate")
    rig.hear(topics.control_topic("gate"), refine(3, 8))
    rig.hear(topics.control_topic("gate"), NeedText(worker="w1", frame=frame, attempt=1, digests=(CAR.digest,)))
    await rig.site.until(rig.site.session.idle)  # what is not wanted any more when it could leave is withdrawn
    rig.answer(frame)
    await rig.site.finished()
    await rig.site.leave("the end")
    running.cancel()

    (opened,) = rig.said(Open)
    assert isinstance(opened, Open)
    assert opened.payload == latent(8).payload(0, 3)
    assert opened.queries[0].remaining_ms == 5_000, "ten seconds at twice the speed"
    (chunk,) = rig.said(Chunk)
    assert isinstance(chunk, Chunk)
    assert (chunk.start, chunk.stop, chunk.payload) == (3, 8, latent(8).payload(3, 8))
    (text,) = rig.said(Text)
    assert isinstance(text, Text)
    assert text.text == "Is there a car?"
    statuses = rig.said(Status)
    assert [(status.id, status.online, status.cameras) for status in statuses if isinstance(status, Status)] == [
        ("replay-north", True, ("gate",)), ("replay-north", False, ("gate",))
    ]  # fmt: skip
    assert rig.outcomes == {Outcome.ANSWERED: 1}


async def test_what_is_under_way_at_the_end_is_said_to_have_failed() -> None:
    rig = Rig()
    running = asyncio.create_task(rig.site.send())
    rig.offer(41)
    await rig.site.leave("the replay was stopped")
    running.cancel()
    (outcome,) = rig.said(QueryOutcome)
    assert isinstance(outcome, QueryOutcome)
    assert (outcome.outcome, outcome.reason) == (Outcome.FAILED, "the replay was stopped")


async def test_a_camera_has_room_while_few_of_its_frames_are_under_way() -> None:
    rig = Rig()
    running = asyncio.create_task(rig.site.send())
    frames = []
    for number in range(3):
        await asyncio.wait_for(rig.site.room("gate", Room(2, None)), 5)
        frames.append(rig.offer(number))
        await rig.site.left("gate")
    waiting = asyncio.create_task(rig.site.room("gate", Room(2, None)))
    await asyncio.sleep(0)
    assert not waiting.done()
    rig.answer(frames[0])
    await asyncio.wait_for(waiting, 5)
    running.cancel()
    assert rig.outcomes == {Outcome.ANSWERED: 1}, "nothing was superseded for the speed of the replay"


async def test_all_cameras_together_have_room_for_what_the_workers_can_take() -> None:
    rig = Rig()
    running = asyncio.create_task(rig.site.send())
    frame = rig.offer(0)
    await rig.site.left("gate")
    waiting = asyncio.create_task(rig.site.room("yard", Room(3, 0)))
    await asyncio.sleep(0)
    assert not waiting.done()
    rig.answer(frame)
    await asyncio.wait_for(waiting, 5)
    running.cancel()


def test_room_shrinks_as_deadlines_do() -> None:
    fleet = partial(room, 3, workers=2, sites=1, cameras=4)
    assert fleet(speed=1.0) == Room(7 * 3, None)
    assert fleet(speed=2.0) == Room(3 * 3, 15 * 3)
    # Two frames of each worker, and one of each camera: none of them can be superseded.
    assert fleet(speed=10.0) == fleet(speed=1_000.0) == Room(0, 3 * 3)
    # A single camera keeps the workers busy alone.
    assert room(3, speed=10.0, workers=2, sites=1, cameras=1) == Room(3, 3 * 3)
    # Sites share the workers, and each has room for a frame whatever there is.
    assert room(3, speed=10.0, workers=2, sites=2, cameras=4) == Room(0, 3)
    assert room(3, speed=10.0, workers=0, sites=9, cameras=4) == Room(0, 0)


async def test_a_question_is_published_only_if_the_broker_has_another_one() -> None:
    rig = Rig()
    running = asyncio.create_task(rig.site.send())
    asked = Question(site=SITE.name, question_id="car", text="Is there a car?", answer_type=AnswerType.YES_NO)
    rig.hear(topics.question_topic(SITE.name, "car"), asked.model_copy(update={"risk": 0.1}))
    await rig.site.publish_question(asked)
    assert rig.said(Question) == []
    other = asked.model_copy(update={"text": "Is there a bus?"})
    await rig.site.publish_question(other)
    running.cancel()
    assert rig.said(Question) == [other]
    assert not same_question(None, asked)


async def test_a_player_waits_obeys_and_ends() -> None:
    player = Player(1.0, paused=True)
    player.begin(0)
    turn = asyncio.create_task(player.turn(10**12))
    await asyncio.sleep(0)
    assert not turn.done()
    player.press(Key.STEP)
    assert await asyncio.wait_for(turn, 5) is not None
    assert player.position_ns == 10**12
    turn = asyncio.create_task(player.turn(2 * 10**12))
    player.press(Key.QUIT)
    assert await asyncio.wait_for(turn, 5) is None
    assert not await player.unless_ended(asyncio.sleep(3600))
    assert player.ended
