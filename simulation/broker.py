"""A model of an MQTT 5 broker with exactly the behaviours that were measured on Mosquitto and that shape the protocol.

- A share group is dealt per message, round-robin, blind to load and to whether a member still lives.
- A member whose connection is gone takes what it had not acknowledged with it: clean sessions lose it.
- Per client, 20 messages at QoS 1 are in flight and 1,000 wait; what comes on top is dropped in silence, and the
  publisher is told "success" all the same.
- A persistent session gets what it missed after its reconnect, marked as duplicates.
- Reason code 16 says that nobody subscribes, unless a recorder subscribes to everything.
- What is retained comes to who subscribes, before anything that is published later. A broker that is killed has lost
  what came after its last snapshot: no status, since every process says its own again, but key frames.
- A last will is published when the broker notices that a connection is gone: at once when it was closed, after one
  and a half keep-alives when it fell silent, and when another connection takes the name over. A broker that is killed
  publishes none: retained "online" goes stale.
"""

from __future__ import annotations

import random
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, Protocol

from pipeline.protocol.ports import Subscription
from schemas import topics
from schemas.messages import Message
from simulation.clock import VirtualClock
from simulation.links import Link, LinkFaults

IN_FLIGHT = 20
"""Mosquitto's ``max_inflight_messages``."""
QUEUED = 1000
"""Mosquitto's ``max_queued_messages``."""
NO_SUBSCRIBERS = 16
_SHARE = re.compile(r"\$share/([^/]+)/")


class Deleted(Message):
    """An empty retained payload: what stood at the topic is gone."""

    limit_bytes: ClassVar[int] = 0


class Client(Protocol):
    """A process as the broker sees it."""

    def receive(self, topic: str, message: Message, token: int | None, retained: bool = False) -> None:
        """A message arrives; at QoS 1 it carries a token to acknowledge. The broker may have retained it."""
        ...

    def connection(self, connected: bool) -> None:
        """The process notices that its connection came or went."""
        ...


@dataclass(frozen=True, slots=True)
class _Delivery:
    """A message on its way to a client."""

    topic: str
    message: Message
    retained: bool = False


@dataclass(slots=True)
class _Session:
    client: Client
    link: Link
    persistent: bool
    will: tuple[str, Message] | None
    up: bool = True
    reachable: bool = True
    generation: int = 0
    in_flight: dict[int, _Delivery] = field(default_factory=dict)
    queue: deque[_Delivery] = field(default_factory=deque)
    arrives_s: float = 0.0
    held: list[tuple[_Delivery, int | None]] = field(default_factory=list)


class BrokerModel:
    """One broker and the connections to it.

    Args:
        clock: virtual clock.
        draw: random numbers of the wire.
        faults: what every wire does to messages at first.

    Attributes:
        counters: deliveries, losses and drops by reason.
        observers: called with every publish that the broker accepts.
        on_fate: called with what becomes of a message whose fate says something: dealt to whom, lost.
        recorder: somebody subscribes to everything, which hides reason code 16.
        up: whether the broker runs.
        late_wills_s: last wills come so much later at most, as over a bridge.
    """

    def __init__(self, clock: VirtualClock, draw: random.Random, faults: LinkFaults) -> None:
        self.counters: Counter[str] = Counter()
        self.observers: list[Callable[[str, Message], None]] = []
        self.on_fate: Callable[[str, str, Message], None] | None = None
        self.recorder = False
        self.up = True
        self.late_wills_s = 0.0
        self._clock = clock
        self._draw = draw
        self._faults = faults
        self._seed = draw.getrandbits(64)
        self._links: dict[str, Link] = {}
        self._sessions: dict[str, _Session] = {}
        self._cameras: dict[str, str] = {}
        self._members: dict[str, list[str]] = {}
        self._edges: list[str] = []
        self._workers: list[str] = []
        self._retained: dict[str, Message] = {}
        self._cut: set[str] = set()
        self._token = 0

    # ---- connections ------------------------------------------------------------------------------------------------

    def connect_edge(self, name: str, client: Client, cameras: tuple[str, ...], birth: Message, will: Message) -> None:
        """An edge connects: persistent session, for ad-hoc questions that come while it is away."""
        topic = topics.status_topic("edge", name)
        self._connect(name, client, persistent=True, will=(topic, will))
        self._cameras.update(dict.fromkeys(cameras, name))
        if name not in self._edges:
            self._edges.append(name)
        self._send_retained(name)
        self.publish(name, topic, birth, qos=1, retain=True)

    def connect_worker(
        self, name: str, client: Client, subscriptions: Iterable[Subscription], will: tuple[str, Message]
    ) -> None:
        """A worker connects and joins the share group of its pool, if it subscribes to one: clean session."""
        self._connect(name, client, persistent=False, will=will)
        for subscription in subscriptions:
            if (share := _SHARE.match(subscription.filter)) is not None:
                members = self._members.setdefault(share[1], [])
                if name not in members:
                    members.append(name)
        if name not in self._workers:
            self._workers.append(name)
        self._send_retained(name)

    def _connect(self, name: str, client: Client, *, persistent: bool, will: tuple[str, Message]) -> None:
        old = self._sessions.get(name)
        session = _Session(client, self._link(name), persistent, will)
        if old is not None:
            if old.up and not persistent:
                # The name is taken over by a process that was started again before anybody missed the old one. With a
                # session that goes on, Mosquitto drops the will.
                self._publish_will(name, old)
            session.generation = old.generation + 1
            if persistent:
                # What was in flight comes first, again.
                session.queue.extend(old.in_flight.values())
                session.queue.extend(old.queue)
                self.counters["redelivered"] += len(old.in_flight)
        self._sessions[name] = session
        self._fill(name, session)

    def _link(self, name: str) -> Link:
        link = self._links.get(name)
        if link is None:
            link = self._links[name] = Link(replace(self._faults), random.Random(f"{self._seed}/{name}"))
        return link

    def link_faults(self, name: str) -> LinkFaults:
        """What the wire to a client does to messages; may be changed."""
        return self._link(name).faults

    def leave_group(self, name: str) -> None:
        """A worker unsubscribes from its share group and keeps its connection."""
        for members in self._members.values():
            if name in members:
                members.remove(name)

    def disconnect(self, name: str) -> None:
        """A client says goodbye: no will is published, a persistent session is kept."""
        session = self._sessions.get(name)
        if session is not None:
            session.will = None
            session.reachable = False
            self._notice(name, session.generation)

    def close(self, name: str, *, noticed_s: float = 0.0) -> None:
        """A process is gone: its socket closes, or falls silent and is noticed later."""
        session = self._sessions.get(name)
        if session is None:
            return
        session.reachable = False
        self._clock.after(noticed_s, partial(self._notice, name, session.generation))

    def cut(self, name: str, *, noticed_s: float) -> None:
        """The network between a client and the broker breaks; the broker notices later, and nobody gets through."""
        self._cut.add(name)
        self.close(name, noticed_s=noticed_s)

    def heal(self, name: str) -> None:
        """The network is back; a connection that nobody has noticed to be gone goes on."""
        self._cut.discard(name)
        session = self._sessions.get(name)
        if session is not None and session.up:
            session.reachable = True
            held, session.held = session.held, []
            for delivery, token in held:
                self._arrive(name, session.generation, delivery, token)

    def reachable(self, name: str) -> bool:
        """Whether a client could connect now."""
        return self.up and name not in self._cut

    def is_up(self, name: str) -> bool:
        """Whether this client's connection works."""
        session = self._sessions.get(name)
        return self.up and session is not None and session.up and session.reachable

    def _notice(self, name: str, generation: int) -> None:
        session = self._sessions.get(name)
        if session is None or session.generation != generation or not session.up or session.reachable:
            return
        session.up = False
        if not session.persistent:
            self.counters["lost_with_member"] += len(session.in_flight) + len(session.queue)
            session.in_flight.clear()
            session.queue.clear()
            self.leave_group(name)
        if self.up:
            self._publish_will(name, session)

    def _publish_will(self, name: str, session: _Session) -> None:
        if session.will is not None:
            say = partial(self._say_will, name, *session.will)
            if self.late_wills_s:
                self._clock.after(self._draw.random() * self.late_wills_s, say)
            else:
                say()

    def _say_will(self, name: str, topic: str, will: Message) -> None:
        if self.up:
            self.publish(name, topic, will, qos=1, retain=True)

    def kill(self, *, forgets: bool = False) -> None:
        """The broker dies: connections and clean sessions are gone, no will is published, what is retained stays.

        Args:
            forgets: its last snapshot is older than the key frames and questions.
        """
        self.up = False
        if forgets:
            for topic in [topic for topic in self._retained if topic.split("/")[2] in ("key", "question")]:
                del self._retained[topic]
        for session in self._sessions.values():
            session.up = False
            session.generation += 1
            if not session.persistent:
                self.counters["lost_with_broker"] += len(session.in_flight) + len(session.queue)
                session.in_flight.clear()
                session.queue.clear()
        self._members.clear()
        for name, session in list(self._sessions.items()):
            self._clock.after(self._draw.random() * 0.2, partial(self._tell_lost, name, session.generation))

    def _tell_lost(self, name: str, generation: int) -> None:
        session = self._sessions[name]
        if session.generation == generation and not session.up:
            session.client.connection(False)

    def restart(self) -> None:
        """The broker is back; clients reconnect by themselves."""
        self.up = True

    # ---- messages ---------------------------------------------------------------------------------------------------

    def publish(self, sender: str, topic: str, message: Message, *, qos: int, retain: bool = False) -> int:
        """A message has arrived at the broker; returns the reason code of its PUBACK."""
        if isinstance(message, Deleted):
            self._retained.pop(topic, None)
        elif retain:
            self._retained[topic] = message
        for observer in self.observers:
            observer(topic, message)
        _, _, family, *names = topic.split("/")
        matched = 0
        if family == "open":
            members = self._members.get(names[0])
            if members:
                member = members.pop(0)
                members.append(member)
                self._tell_fate(f"dealt to {member}", topic, message)
                matched = self._deliver(member, topic, message, qos)
        elif family in ("chunk", "handover"):
            matched = self._deliver(names[0], topic, message, qos) if names[0] in self._sessions else 0
        elif family in ("control", "answer", "ask"):
            edge = self._cameras.get(names[0])
            if edge is not None:
                matched = self._deliver(edge, topic, message, qos if family == "ask" else 0)
            for name in self._workers if family == "ask" else ():
                matched += self._deliver(name, topic, message, qos)
        elif family in ("key", "question"):
            if family == "question" and names[0] in self._edges and names[0] != sender:
                matched += self._deliver(names[0], topic, message, 0)
            for name in self._workers if not isinstance(message, Deleted) else ():  # of which workers make nothing
                matched += self._deliver(name, topic, message, qos)
        elif family == "load":
            for name in self._workers:
                if name != sender:
                    matched += self._deliver(name, topic, message, 0)
        elif family == "status":
            # Edges read of workers, workers of both.
            for name in (*self._edges, *self._workers) if names[0] == "worker" else self._workers:
                if name != sender:
                    matched += self._deliver(name, topic, message, 0)
        self.counters["published"] += 1
        return 0 if matched or self.recorder else NO_SUBSCRIBERS

    def acknowledge(self, name: str, token: int) -> None:
        """A client acknowledges a QoS 1 message; one of an earlier connection is unknown here."""
        session = self._sessions.get(name)
        if session is not None and session.in_flight.pop(token, None) is not None:
            self._fill(name, session)

    def _deliver(self, name: str, topic: str, message: Message, qos: int, *, retained: bool = False) -> int:
        session = self._sessions.get(name)
        if session is None:
            return 0
        delivery = _Delivery(topic, message, retained)
        if not session.up:
            if not session.persistent:
                return 0
            if qos and len(session.queue) < QUEUED:
                session.queue.append(delivery)
            return 1
        if qos == 0:
            if session.link.draw.random() < session.link.faults.loss:
                self.counters["lost_qos0"] += 1
                self._tell_fate(f"lost on its way to {name}", topic, message)
            else:
                self._send(name, session, delivery, None)
        elif len(session.queue) >= QUEUED:
            self.counters["dropped_silently"] += 1
        else:
            session.queue.append(delivery)
            self._fill(name, session)
        return 1

    def _fill(self, name: str, session: _Session) -> None:
        while session.up and session.queue and len(session.in_flight) < IN_FLIGHT:
            delivery = session.queue.popleft()
            self._token += 1
            session.in_flight[self._token] = delivery
            self._send(name, session, delivery, self._token)
            if session.link.draw.random() < session.link.faults.duplicate:
                self.counters["duplicated"] += 1
                self._send(name, session, delivery, self._token)

    def _send(self, name: str, session: _Session, delivery: _Delivery, token: int | None) -> None:
        draw, faults = session.link.draw, session.link.faults
        delay_s = 0.001 + draw.expovariate(1.0) * faults.delay_s + faults.extra_s
        arrives_s = self._clock.now_s + delay_s
        if draw.random() < faults.reorder:
            self.counters["reordered"] += 1
            arrives_s += draw.random()
        else:
            # One connection is one TCP stream.
            arrives_s = session.arrives_s = max(arrives_s, session.arrives_s)
        self._clock.at(arrives_s, partial(self._arrive, name, session.generation, delivery, token))

    def _arrive(self, name: str, generation: int, delivery: _Delivery, token: int | None) -> None:
        session = self._sessions[name]
        if session.generation == generation and session.up and name in self._cut:
            session.held.append((delivery, token))  # TCP sends it again when the network is back
            return
        if session.generation != generation or not session.up or not session.reachable:
            self.counters["lost_with_connection"] += 1
            self._tell_fate(f"lost with the connection of {name}", delivery.topic, delivery.message)
            return
        self._clock.handled += 1
        session.client.receive(delivery.topic, delivery.message, token, delivery.retained)

    def _tell_fate(self, fate: str, topic: str, message: Message) -> None:
        if self.on_fate is not None:
            self.on_fate(fate, topic, message)

    def _send_retained(self, name: str) -> None:
        session = self._sessions[name]
        for topic, message in self._retained.items():
            _, _, family, kind, owner = topic.split("/")
            if family in ("key", "question"):
                if name in self._workers:
                    self._deliver(name, topic, message, 1, retained=True)
                elif family == "question" and kind == name:
                    self._send(name, session, _Delivery(topic, message, retained=True), None)
            elif owner != name and (kind == "worker" or name in self._workers):
                self._send(name, session, _Delivery(topic, message, retained=True), None)
