"""One edge session on a turned clock, with a broker that takes everything and a journal in memory."""

from __future__ import annotations

from collections import Counter
from typing import TypeVar

from pipeline.node.ask_journal import AskJournal
from pipeline.protocol.client_budgets import ClientBudget
from pipeline.protocol.edge_session import EdgeOutput, EdgeSession
from pipeline.protocol.effects import Decision, HeldFrameAsked, HistoryOffered, KeyFrameLost, TakeFrame
from pipeline.protocol.event_requests import (
    EraseKeptEvents,
    EventRequest,
    KeepEventFrame,
    ListKeptEvents,
    ReadEventFrame,
)
from pipeline.protocol.frame_ring import RingSettings
from pipeline.protocol.ports import Acknowledge, Contained, Delivery, Heard, Notice, Problem, Publish, Received, Sent
from pipeline.protocol.settings import EdgeProtocolSettings
from pipeline.protocol.site_settings import SiteSettings
from pipeline.protocol.store_requests import DropFrames, PutFrame, ReadFrame, ReadStored
from pipeline.protocol.store_settings import StorePolicy, StoreSettings
from pipeline.protocol.uplink_budget import StoreSpending
from schemas import wire
from schemas.messages import Message, Question
from simulation.frame_disk import FrameRows

M = TypeVar("M", bound=Message)
FINGERPRINT = b"\x01\x02\x03\x04"


class EdgeDriver:
    """A shell without a world.

    Attributes:
        published: topic, payload and quality of service of what has left.
        acknowledged: tokens, in order.
        deliveries: what becomes of the next publishes; all others are delivered.
    """

    def __init__(
        self,
        *,
        cameras: tuple[str, ...] = ("gate",),
        uplink_kbps: float | None = None,
        budget: ClientBudget | None = None,
        budgets: dict[str, ClientBudget] | None = None,
        journal: AskJournal | None = None,
        settings: EdgeProtocolSettings | None = None,
        site: str = "depot",
        now_s: float = 1000.0,
        boot: int = 1,
        questions: tuple[Question, ...] = (),
        store: StoreSettings | None = None,
        frames: FrameRows | None = None,
        ring: RingSettings | None = None,
        site_settings: SiteSettings | None = None,
    ) -> None:
        self.now_s = now_s
        self.session = EdgeSession(
            settings or EdgeProtocolSettings(),
            site_settings
            or SiteSettings(
                site=site,
                pool="main",
                asked_of=dict.fromkeys(cameras, tuple(question.question_id for question in questions)),
                questions={question.question_id: question for question in questions},
                uplink_kbps=uplink_kbps,
                client_budget=budget or ClientBudget(),
                client_budgets=budgets or {},
                store=store or StoreSettings(StorePolicy.OFF),
                ring=ring or RingSettings(),
            ),
            boot=boot,
            fingerprint=FINGERPRINT,
            now_s=now_s,
        )
        self.journal = journal or AskJournal(None)
        self.frames = FrameRows(lambda: self.now_s) if frames is None else frames
        self.history: list[HistoryOffered] = []
        self.published: list[tuple[str, bytes, int]] = []
        self.publishes: list[Publish] = []
        self.acknowledged: list[int] = []
        self.deliveries: list[Delivery] = []
        self.sent: list[Sent] = []
        self.decisions: list[Decision] = []
        self.frames_wanted: list[str] = []
        self.problems: Counter[str] = Counter()
        self.notices: list[Notice] = []
        self.heard: list[Message] = []
        self.asked_again: list[HeldFrameAsked] = []
        self.lost_keys: list[KeyFrameLost] = []
        self._token = 0

    def connect(self) -> None:
        """The connection comes; the edge reads its own status back."""
        self.session.connection(True, self.now_s)
        self.pump()

    def receive(
        self,
        topic: str,
        payload: bytes | Message,
        *,
        qos: int = 1,
        retained: bool = False,
        response_topic: str | None = None,
        correlation_data: bytes | None = None,
    ) -> int | None:
        """A publish arrives; returns its token."""
        token = None
        if qos:
            self._token += 1
            token = self._token
        data = payload if isinstance(payload, bytes) else wire.encode(payload)
        self.session.receive(
            Received(
                topic,
                data,
                retained=retained,
                response_topic=response_topic,
                correlation_data=correlation_data,
                token=token,
            ),
            self.now_s,
        )
        self.pump()
        return token

    def messages(self, kind: type[M]) -> list[M]:
        """Messages of a kind that have left."""
        return [publish.message for publish in self.publishes if isinstance(publish.message, kind)]

    def turn_to(self, time_s: float) -> None:
        """Let time pass; every wake-up is kept."""
        while (due_s := self.session.next_wake_s()) is not None and due_s <= time_s:
            self.now_s = max(self.now_s, due_s)
            self.pump()
        self.now_s = max(self.now_s, time_s)

    def pump(self) -> None:
        while outputs := self.session.poll(self.now_s):
            for output in outputs:
                self._carry_out(output)

    def perform_event(self, request: EventRequest) -> None:
        raise AssertionError(f"no events are kept here: {request}")

    def _carry_out(self, output: EdgeOutput) -> None:
        match output:
            case Publish():
                delivery = self.deliveries.pop(0) if self.deliveries else Delivery.DELIVERED
                if delivery.arrived:
                    self.published.append((output.topic, output.payload, output.qos))
                    self.publishes.append(output)
                self.session.published(output.token, delivery, self.now_s)
            case Acknowledge():
                self.acknowledged += output.tokens
                self.session.acknowledged(len(output.tokens), self.now_s)
            case Sent():
                self.sent.append(output)
            case Decision():
                self.decisions.append(output)
            case TakeFrame():
                self.frames_wanted.append(output.camera)
            case Problem():
                reason = getattr(output.error, "reason", None)
                self.problems[output.kind if reason is None else f"{output.kind}/{reason}"] += 1
            case Notice():
                self.notices.append(output)
            case Heard():
                self.heard.append(output.message)
            case HeldFrameAsked():
                self.asked_again.append(output)
            case KeyFrameLost():
                self.lost_keys.append(output)
            case Contained():
                raise output.error
            case KeepEventFrame() | ListKeptEvents() | ReadEventFrame() | EraseKeptEvents():
                self.perform_event(output)
            case StoreSpending():
                pass
            case ReadStored() | PutFrame() | ReadFrame() | DropFrames():
                self.session.frame_stored(output.token, self.frames.perform(output), self.now_s)
            case HistoryOffered():
                self.history.append(output)
            case _:
                self.session.stored(output.token, self.journal.perform(output), self.now_s)
