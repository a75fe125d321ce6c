"""The four shells of an edge session keep one contract; one script gives the same publishes and decisions in each."""

from __future__ import annotations

import asyncio
import random
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from analysis.replay.plan import ReplayFrame, ReplayQuery, SitePlan
from edge_nodes.pool_problems import PoolProblems
from edge_nodes.shell import EdgeShell
from edge_nodes.site import Site
from edge_nodes.sources import CapturedFrame
from latentbus.replay.virtual_site import VirtualSite
from pipeline.bus.base import ConnectionChange, Inbound
from pipeline.config.logs import get_logger
from pipeline.node.ask_journal import AskJournal
from pipeline.node.containment import Containment
from pipeline.protocol.settings import EdgeProtocolSettings
from pipeline.protocol.site_settings import SiteSettings
from schemas import topics, wire
from schemas.identity import standing_query_id
from schemas.messages import Accept, Answer, Ask, Busy, Question, Refine, Reject, RejectReason, Status
from schemas.types import FrameId, Outcome
from simulation import edge_actor
from simulation.broker import BrokerModel
from simulation.clock import VirtualClock
from simulation.content import FINGERPRINT
from simulation.links import LinkFaults
from simulation.specs import EdgeCallbacks, EdgeSpec
from tests.edge.support import RecordingBus, TurnedClock, settle
from tests.protocol import harness
from tests.protocol.fake_latents import FakeLatent
from tests.protocol.questions import SITE, asked, content
from tests.protocol.shell_contract import (
    EDGE_CONTRACT,
    Hear,
    Link,
    Offer,
    RecordingEdge,
    Script,
    Shell,
    Step,
    check_heard,
    decided,
    said,
)

POOL, CAMERA = "main", "gate"
BOOT = zlib.crc32(f"{SITE}/1".encode())
QUESTION = Question(site=SITE, question_id="q0", text=content("q0").text, deadline_ms=6_000, set_by="settings")
RECONNECT_S = 0.5
PACKET_ID = 10**6
"""Brokers use one again as soon as it is acknowledged."""
PLAY = SiteSettings(SITE, POOL, asked_of={CAMERA: ("q0",)}, questions={"q0": QUESTION}, uplink_kbps=1e9)


def session() -> RecordingEdge:
    return RecordingEdge(EdgeProtocolSettings(), PLAY, boot=BOOT, fingerprint=FINGERPRINT)


# ---- the script -----------------------------------------------------------------------------------------------------


def frame(number: int) -> FrameId:
    return FrameId(BOOT, number)


def offer(time_s: float) -> Offer:
    return Offer(time_s, CAMERA, FakeLatent(), 4, (asked("q0", time_s + 6.0),))


def control(time_s: float, message: Accept | Refine | Busy | Reject) -> Hear:
    return Hear(time_s, topics.control_topic(CAMERA), message)


def worker_is(time_s: float, *, online: bool, retained: bool = False) -> Hear:
    status = Status(kind="worker", id="w0", boot=1, online=online, pool=POOL)
    return Hear(time_s, topics.status_topic("worker", "w0"), status, retained=retained)


def answer(time_s: float, number: int) -> Hear:
    message = Answer(
        query_id=standing_query_id(CAMERA, frame(number), "q0"), owner=f"site/{SITE}", camera=CAMERA,
        frame=frame(number), attempt=1, question_id="q0", worker="w0", outcome=Outcome.ANSWERED, text="yes",
        score=0.9, latents=8, payload_bytes=9, looks=1,
    )  # fmt: skip
    return Hear(time_s, topics.answer_topic(CAMERA), message)


def ask(time_s: float, query_id: str) -> Hear:
    """One that the broker retains."""
    reply = topics.reply_topic("me", CAMERA, query_id)
    message = Ask(query_id=query_id, text="?", deadline_ms=1_000)
    return Hear(time_s, topics.ask_topic(CAMERA, "me"), message, qos=1, retained=True, response_topic=reply)


OWN_STATUS = Hear(
    0.1, topics.status_topic("edge", SITE), Status(kind="edge", id=SITE, boot=BOOT, online=True, pool=POOL)
)
SCRIPT = Script(
    (
        OWN_STATUS,
        # Answered after a refinement.
        offer(1.0),
        control(1.2, Accept(worker="w0", frame=frame(0), attempt=1, lease_ms=3_000)),
        control(1.4, Refine(worker="w0", frame=frame(0), attempt=1, start=4, stop=8, lease_ms=3_000)),
        answer(1.6, 0),
        # Nobody speaks; the connection goes and comes. A birth that the broker retains proves nothing, a new one does.
        offer(3.0),
        Link(3.2, connected=False),
        Link(3.2 + RECONNECT_S, connected=True),
        Hear(3.8, topics.question_topic(SITE, "q0"), QUESTION, qos=1, retained=True),
        replace(OWN_STATUS, time_s=3.85),
        worker_is(3.9, online=True, retained=True),
        worker_is(4.2, online=True),
        control(4.5, Busy(worker="w0", frame=frame(1), attempt=2, retry_after_ms=500)),
        # A question that meets no frame, published once with the retain flag.
        replace(ask(5.0, "a1"), retained=False),
        ask(5.1, "a2"),
        # Rejected.
        offer(20.0),
        control(
            20.2,
            Reject(worker="w0", frame=frame(2), attempt=1, reason=RejectReason.FINGERPRINT, fingerprint=bytes(4)),
        ),
        # Its owner dies.
        offer(30.0),
        control(30.2, Accept(worker="w0", frame=frame(3), attempt=1, lease_ms=30_000)),
        worker_is(30.4, online=False),
    ),
    end_s=70.0,
)


# ---- the shells -----------------------------------------------------------------------------------------------------


class OnABus(Shell[RecordingEdge]):
    """A shell over a bus, on a turned clock."""

    async def make(self, played: RecordingEdge, bus: RecordingBus, clock: TurnedClock) -> EdgeShell:
        raise NotImplementedError

    async def offer(self, shell: Any, step: Offer) -> None:
        raise NotImplementedError

    def tasks(self, shell: Any) -> list[Any]:
        return [shell.send(), shell.timers()]

    def play(self, script: Script) -> RecordingEdge:
        return asyncio.run(self._play(script))

    async def _play(self, script: Script) -> RecordingEdge:
        clock, bus, played = TurnedClock(0.0), RecordingBus(), session()
        shell = await self.make(played, bus, clock)
        tasks = [asyncio.create_task(task) for task in self.tasks(shell)]
        shell.receive(ConnectionChange(True, 1, "test"))
        for step in script.steps:
            await clock.turn_to(step.time_s)
            match step:
                case Hear():
                    data, reply = wire.encode(step.message), step.response_topic
                    shell.receive(Inbound(step.topic, data, step.qos, step.retained, reply, None, 1, 1, step.time_s))
                case Offer():
                    await self.offer(shell, step)
                case Link():
                    shell.receive(ConnectionChange(step.connected, 2, "test"))
            await settle()
        await clock.turn_to(script.end_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return played


class Inline:
    """A thread that is none, so that nothing waits for one."""

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)


class Encoder:
    """Has the next latent ready."""

    latent = FakeLatent()

    async def encode(self, _pixels: object) -> FakeLatent:
        return self.latent


class FirstPrefix:
    """The base prefix, always."""

    def choose(self, *_: Any, **__: Any) -> int:
        return 4

    def offered(self, *_: Any) -> None:
        """Nothing is learned."""

    def answered(self, *_: Any) -> None:
        """Nothing is learned."""


class Process(OnABus):
    async def make(self, played: RecordingEdge, bus: RecordingBus, clock: TurnedClock) -> Site:
        site = Site(
            played,
            bus=bus,
            encoder=Encoder(),  # type: ignore[arg-type]
            first_prefix=FirstPrefix(),  # type: ignore[arg-type]
            key_frames=None,
            journal=AskJournal(None, wall_s=clock.now_s),
            journal_thread=Inline(),  # type: ignore[arg-type]
            clock=clock,
            pool_problems=PoolProblems(POOL, FINGERPRINT.hex()),
            observers=(),
            wake_camera=lambda _camera: None,
            containment=Containment(get_logger(__name__), sleep=clock.sleep),
        )
        site.pump()
        return site

    def tasks(self, shell: Site) -> list[Any]:
        return [shell.send(), shell.timers(), shell.store()]

    async def offer(self, shell: Site, step: Offer) -> None:
        assert shell.session.has_room(step.camera)
        captured = CapturedFrame(step.camera, 0, 0.0, np.zeros((2, 2, 3), np.uint8))
        await shell.take(captured, standing=True, ring=False)


class VirtualCamera(OnABus):
    def __init__(self) -> None:
        self._frames = 0

    async def make(self, played: RecordingEdge, bus: RecordingBus, clock: TurnedClock) -> VirtualSite:
        site = VirtualSite(SitePlan(SITE, BOOT, POOL, (CAMERA,), ("q0",)), played, bus, clock)
        site.pump()
        return site

    async def offer(self, shell: VirtualSite, step: Offer) -> None:
        query = ReplayQuery(content("q0"), step.queries[0].deadline_s - step.time_s)
        recorded = ReplayFrame(0, SITE, CAMERA, frame(self._frames), step.latent, step.base_latents, (query,))  # type: ignore[arg-type]
        self._frames += 1
        shell.offer(recorded, step.time_s, 1.0, {})


class Simulator(Shell[RecordingEdge]):
    def play(self, script: Script) -> RecordingEdge:
        clock = VirtualClock()
        broker = BrokerModel(clock, random.Random(1), LinkFaults())
        broker.recorder = True  # nobody else is there, which it would say of every open message
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(edge_actor, "EdgeSession", RecordingEdge)
            actor = edge_actor.EdgeActor(
                clock,
                broker,
                EdgeSpec(SITE, POOL, (CAMERA,), uplink_kbps=1e9, questions=(QUESTION,), join_s=1e6),
                EdgeCallbacks(),
            )
            actor.start()
        acknowledged: Counter[int] = Counter()
        acknowledge = broker.acknowledge

        def written(name: str, token: int) -> None:
            acknowledged[token] += 1
            acknowledge(name, token)

        broker.acknowledge = written  # type: ignore[method-assign]
        for step in script.steps:
            match step:
                case Hear():
                    hear = (step.topic, step.message, PACKET_ID if step.qos else None, step.retained)
                    clock.at(step.time_s, lambda hear=hear: actor.receive(*hear))  # type: ignore[misc]
                case Offer():
                    clock.at(step.time_s, lambda step=step: self._offer(actor, step))  # type: ignore[misc]
                case Link(connected=False):
                    clock.at(step.time_s, lambda: actor.connection(False))
        while (next_s := clock.next_s()) is not None and next_s <= script.end_s:
            clock.step()
        assert acknowledged[PACKET_ID] == sum(step.qos for step in script.steps if isinstance(step, Hear))
        assert isinstance(actor.session, RecordingEdge)
        return actor.session

    def _offer(self, actor: edge_actor.EdgeActor, step: Offer) -> None:
        actor.capture(step.camera, step.queries, latent=step.latent, base_latents=step.base_latents)


class Harness(Shell[RecordingEdge]):
    def play(self, script: Script) -> RecordingEdge:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(harness, "EdgeSession", RecordingEdge)
            fleet = harness.Fleet(workers=0)
            fleet.edge_reads_itself = False
            played = fleet.start_edge(BOOT, site=PLAY, fingerprint=FINGERPRINT)
        assert isinstance(played, RecordingEdge)
        for step in script.steps:
            fleet.at(step.time_s, lambda step=step: self._step(fleet, step))  # type: ignore[misc]
        fleet.run(script.end_s)
        return played

    def _step(self, fleet: harness.Fleet, step: Step) -> None:
        match step:
            case Hear():
                fleet.tell_edge(
                    step.topic,
                    step.message,
                    qos=step.qos,
                    retained=step.retained,
                    response_topic=step.response_topic,
                )
            case Offer():
                fleet.edge.offer(step.camera, step.latent, step.base_latents, step.queries, fleet.now_s)
                fleet.settle()
            case Link():
                fleet.edge_connection(step.connected)


SHELLS: dict[str, Callable[[], Shell[RecordingEdge]]] = {
    "process": Process,
    "simulator": Simulator,
    "virtual camera": VirtualCamera,
    "harness": Harness,
}


@pytest.fixture(params=SHELLS)
def played(request: pytest.FixtureRequest) -> RecordingEdge:
    return SHELLS[request.param]().play(SCRIPT)


@pytest.mark.parametrize("clause", EDGE_CONTRACT)
def test_a_shell_keeps_the_contract(played: RecordingEdge, clause: Callable[[RecordingEdge], None]) -> None:
    clause(played)


def test_one_script_gives_the_same_publishes_and_decisions_in_all_four_shells() -> None:
    plays = {name: make().play(SCRIPT) for name, make in SHELLS.items()}
    process = plays["process"]
    assert [outcome for _, outcome, _ in decided(process)] == ["answered", "failed", "failed", "expired"]
    kinds = Counter(str(topics.parse(topic).family) for topic, *_ in said(process))
    assert kinds == {"status": 2, "question": 1, "open": 8, "chunk": 1, "outcome": 4, "reply": 1}
    for name, other in plays.items():
        assert decided(other) == decided(process), name
        check_heard(other, SCRIPT)
        assert said(other) == said(process), name
        assert other.counters == process.counters, name
    assert process.counters["opened_before_pool"] == 1, "the birth that was retained counts for nothing"
