"""A client session with a clock of its own, and messages as edges and workers send them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.protocol.client_ports import (
    AnswerRead,
    ClientOutput,
    QueryEnded,
    Subscribe,
    WatchEnded,
)
from pipeline.protocol.client_session import ClientSession
from pipeline.protocol.ports import Acknowledge, Delivery, Problem, Publish, Received, Unsubscribe
from pipeline.protocol.settings import ClientProtocolSettings
from schemas import topics, wire
from schemas.identity import ad_hoc_query_id, owner_of, standing_query_id
from schemas.messages import Answer, Ask, JsonMessage, QueryOutcome, Status
from schemas.types import FrameId, Outcome

ME = "alice"
FRAME = FrameId(1, 0)
EDGE = Status(kind="edge", id="north", boot=1, online=True, pool="p", fingerprint="00000001", cameras=("gate", "yard"))
WORKER = Status(kind="worker", id="w1", boot=1, online=True, pool="p", fingerprint="00000001", capacity=8)


def question(query_id: str = "q-1", text: str = "a car?", deadline_ms: int = 10_000) -> Ask:
    return Ask(query_id=query_id, text=text, deadline_ms=deadline_ms)


def answer(
    outcome: Outcome | None = None,
    text: str = "yes",
    *,
    latents: int = 4,
    camera: str = "gate",
    query: str = "q-1",
    client: str | None = ME,
    frame: FrameId = FRAME,
    attempt: int = 1,
) -> Answer:
    """An answer to a client's question, or to a standing one of site north."""
    return Answer.model_validate(
        {
            "query_id": ad_hoc_query_id(camera, client, query) if client else standing_query_id(camera, frame, query),
            "owner": owner_of("client", client) if client else owner_of("site", "north"),
            "camera": camera,
            "frame": frame,
            "attempt": attempt,
            "question_id": query,
            "worker": "w1",
            "outcome": outcome,
            "text": text,
            "score": 0.5,
            "latents": latents,
            "payload_bytes": 10,
            "looks": 1,
        }
    )


def outcome(
    outcome: Outcome = Outcome.EXPIRED, reason: str = "deadline", *, camera: str = "gate", query: str = "q-1"
) -> QueryOutcome:
    """An outcome of the edge, of a question of this client."""
    return QueryOutcome.model_validate(
        {
            "query_id": ad_hoc_query_id(camera, ME, query),
            "owner": owner_of("client", ME),
            "camera": camera,
            "frame": FRAME,
            "question_id": query,
            "outcome": outcome,
            "reason": reason,
        }
    )


def public(message: Answer | QueryOutcome) -> str:
    """The topic that anybody may read it on."""
    topic = topics.answer_topic if isinstance(message, Answer) else topics.outcome_topic
    return topic(message.camera)


def reply(message: Answer | QueryOutcome) -> str:
    """The topic of its client's own."""
    return topics.reply_topic(ME, message.camera, message.question_id)


@dataclass
class Driver:
    """Feeds a session, and keeps what it gives.

    Attributes:
        refuse: filters that the broker refuses.
        auto: answer each subscription at once, and each publish as the broker would.
    """

    settings: ClientProtocolSettings = field(default_factory=ClientProtocolSettings)
    refuse: set[str] = field(default_factory=set)
    auto: bool = True
    now_s: float = 100.0
    whole_fleet: bool = False

    def __post_init__(self) -> None:
        self.session = ClientSession(ME, self.settings, whole_fleet=self.whole_fleet)
        self.asks: list[Publish] = []
        self.read: list[AnswerRead] = []
        self.ended: list[QueryEnded] = []
        self.unread: list[WatchEnded] = []
        self.problems: list[Problem] = []
        self.acknowledged: list[int] = []
        self.pending: list[Publish | Subscribe] = []
        self.filters: set[str] = set()
        self.tokens: Counter[int] = Counter()

    def start(self, *statuses: Status) -> Driver:
        """Connect; the broker sends the statuses that it retains."""
        self.filters |= {entry.filter for entry in self.session.subscriptions()}
        self.connect()
        for status in statuses:
            self.status(status)
        return self

    def connect(self) -> None:
        self.session.connection(True, self.now_s)
        self.step()

    def disconnect(self) -> None:
        self.session.connection(False, self.now_s)
        pending, self.pending = self.pending, []
        for output in pending:
            self.settle(output, Delivery.CONNECTION_LOST)
        self.step()

    def status(self, status: Status) -> None:
        self.give(topics.status_topic(status.kind, status.id), status, retained=True)

    def give(
        self, topic: str, message: JsonMessage | bytes, *, retained: bool = False, token: int | None = None
    ) -> None:
        """A publish came."""
        payload = message if isinstance(message, bytes) else wire.encode(message)
        self.session.receive(Received(topic, payload, retained=retained, token=token), self.now_s)
        self.step()

    def say(self, *messages: Answer | QueryOutcome) -> None:
        """Each message comes on the reply topic and on the public one."""
        for message in messages:
            self.give(reply(message), message)
            self.give(public(message), message)

    def at(self, now_s: float) -> None:
        """Time passes, as a shell sees it: polled whenever the session wants it."""
        while (wake_s := self.session.next_wake_s()) is not None and wake_s <= now_s:
            self.now_s = max(self.now_s, wake_s)
            self.step()
        self.now_s = now_s
        self.step()

    def step(self) -> None:
        """Carry out what the session gives until it gives nothing."""
        while outputs := self.session.poll(self.now_s):
            for output in outputs:
                self.take(output)

    def take(self, output: ClientOutput) -> None:
        match output:
            case Publish() | Subscribe():
                self.tokens[output.token] += 1
                if isinstance(output, Publish):
                    self.asks.append(output)
                else:
                    self.filters.add(output.subscription.filter)
                self.pending.append(output)
                if self.auto:
                    self.pending.remove(output)
                    self.settle(output)
            case Unsubscribe():
                self.filters.discard(output.filter)
                self.session.unsubscribed(output.filter, self.now_s)
            case AnswerRead():
                self.read.append(output)
            case QueryEnded():
                self.ended.append(output)
            case WatchEnded():
                self.unread.append(output)
            case Problem():
                self.problems.append(output)
            case Acknowledge():
                self.acknowledged += output.tokens

    def settle(self, output: Publish | Subscribe, delivery: Delivery = Delivery.DELIVERED) -> None:
        """What became of a publish or subscription."""
        if isinstance(output, Publish):
            self.session.published(output.token, delivery, self.now_s)
            return
        if output.subscription.filter in self.refuse:
            delivery = Delivery.REFUSED
        self.session.subscribed(output.token, delivery, self.now_s)
        if not delivery.arrived:
            self.filters.discard(output.subscription.filter)

    def latents(self) -> Sequence[int]:
        return [read.message.latents for read in self.read if read.mine]
