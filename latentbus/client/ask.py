"""Client side of an ad-hoc question: publish it, follow its answers, end with its one outcome."""

from __future__ import annotations

import asyncio
import json
import math
import re
import secrets
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from rich.markup import escape

from latentbus.client.fleet_view import FleetView
from latentbus.options.arguments import checked_name, made_of
from latentbus.reports.safe_console import SafeConsole
from pipeline.bus.base import ConnectionChange, Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.logs import OncePerKind, get_logger
from pipeline.config.settings import BrokerSettings
from pipeline.node.runtime import Stop
from pipeline.protocol.reducer import OutcomeReducer
from schemas import topics, wire
from schemas.counting import counted
from schemas.errors import ConfigError, ConnectionLostError, NotAuthorizedError, PublishRefusedError, WireError
from schemas.identity import ad_hoc_query_id
from schemas.messages import Answer, Ask, QueryOutcome, Receipt, Status, check_options
from schemas.topics import Family
from schemas.types import NAME_PATTERN, AnswerType, Outcome

CONNECT_TIMEOUT_S = 10.0
STATUS_PATIENCE_S = 1.0
"""Wait for the statuses of edges; brokers send what they retain as soon as it is subscribed to."""
REPLY_MARGIN_S = 5.0
"""Wait beyond the deadline: the outcome of a question that nobody answered comes at the deadline, plus the way."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Asking:
    """A question that is about to be asked.

    Attributes:
        camera: name of the camera.
        message: what is published.
        client: who asks: the last level of its ask topic, and the name below which the replies come.
    """

    camera: str
    message: Ask
    client: str

    @classmethod
    def create(
        cls,
        camera: str,
        text: str,
        answer_type: AnswerType,
        *,
        deadline_s: float,
        query_id: str | None = None,
        client: str | None = None,
        options: Sequence[str] = (),
    ) -> Asking:
        """Draw the names that the question goes under.

        Args:
            camera: name of the camera.
            text: the question.
            answer_type: what the answer may look like.
            deadline_s: time to the terminal outcome.
            query_id: id of the question among those of this client; drawn unless given.
            client: who asks. A secured broker gives each identity its own ask and reply topics; without a name that
                can stand in a topic, one is drawn.
            options: answers to choose from, for answer type ``choice``.

        Raises:
            ConfigError: camera, text or query id cannot be asked.
        """
        checked_name("CAMERA", camera)
        try:
            check_options(answer_type, tuple(options))
        except ValueError as error:
            raise ConfigError("--option", str(error)) from None
        message = made_of(
            Ask,
            {"query_id": "--query-id", "text": "QUESTION", "deadline_ms": "--deadline", "options": "--option"},
            query_id=f"ask-{secrets.token_hex(6)}" if query_id is None else query_id,
            text=text,
            answer_type=answer_type,
            options=tuple(options),
            deadline_ms=round(deadline_s * 1000),
        )
        if client is None or not re.fullmatch(NAME_PATTERN, client):
            client = f"ask-{secrets.token_hex(4)}"
        return cls(camera, message, client)

    @property
    def query_id(self) -> str:
        """Key of the query in the fleet, as answers and outcomes carry it."""
        return ad_hoc_query_id(self.camera, self.client, self.message.query_id)


class QuestionClient:
    """Asks one question over a connected bus.

    Attributes:
        fleet: what edges and workers on this broker say of themselves.
    """

    def __init__(self, bus: MqttBus, asking: Asking) -> None:
        self.fleet = FleetView()
        self._connected = False
        self._bus = bus
        self._asking = asking
        self._reducer = OutcomeReducer()
        self._dropped = OncePerKind(_log)

    @staticmethod
    def subscriptions(asking: Asking) -> list[Subscription]:
        """What the bus must be subscribed to.

        A worker that started after the question was published does not know its reply topic, so the public topics are
        read as well.
        """
        return [
            Subscription(topics.reply_topic(asking.client, asking.camera, asking.message.query_id), qos=1),
            Subscription(topics.answer_topic(asking.camera), qos=1),
            Subscription(topics.outcome_topic(asking.camera), qos=1),
            Subscription(topics.family_filter(Family.STATUS).replace("/+/+", "/edge/+"), qos=0),
        ]

    async def look_round(self, patience_s: float) -> bool:
        """Read statuses until an edge says that it serves the camera.

        Args:
            patience_s: how long to wait for that.

        Returns:
            Whether one did.
        """
        try:
            await self._bus.subscribe(Subscription(topics.family_filter(Family.STATUS).replace("/+/+", "/worker/+")))
            self.fleet.workers_are_seen = True
        except (NotAuthorizedError, PublishRefusedError):
            pass  # a client of a secured fleet reads the status of edges alone
        camera = self._asking.camera
        try:
            async with asyncio.timeout(patience_s):
                while camera not in self.fleet.cameras:
                    for event in await self._bus.receive_batch():
                        if isinstance(event, ConnectionChange):
                            self._connected = event.connected
                        else:
                            self._read(event)
        except TimeoutError:
            return False
        return True

    async def answers(self) -> AsyncIterator[Answer | QueryOutcome]:
        """Ask, and yield each answer that is new; the last one is terminal.

        Asks again after each reconnect, which is harmless: camera, client and query id are its key.

        Raises:
            ConfigError: the edge cannot read the question; an older one may not know all of it.
        """
        seen: set[tuple[str, int, Outcome | None]] = set()
        if self._connected:
            await self._publish()
        while True:
            for event in await self._bus.receive_batch():
                if isinstance(event, ConnectionChange):
                    if event.connected:
                        await self._publish()
                    continue
                message = self._read(event)
                if not isinstance(message, Answer | QueryOutcome):
                    continue
                decided = self._reducer.observe(message)
                if isinstance(message, Answer):
                    key = (message.text, message.latents, message.outcome)
                    if key in seen or (message.outcome is not None and decided is None):
                        continue
                    seen.add(key)
                    yield message
                elif decided is not None:
                    yield message
                if decided is not None:
                    return

    async def _publish(self) -> None:
        asking = self._asking
        try:
            await self._bus.publish(
                topics.ask_topic(asking.camera, asking.client),
                wire.encode(asking.message),
                qos=1,
                response_topic=topics.reply_topic(asking.client, asking.camera, asking.message.query_id),
                correlation_data=asking.message.query_id.encode(),
                expiry_s=math.ceil(asking.message.deadline_ms / 1000),
            )
        except ConnectionLostError as error:
            _log.warning("asking again after the next connection", problem=str(error))

    def _read(self, inbound: Inbound) -> Answer | QueryOutcome | None:
        try:
            _, message = wire.decode_publish(inbound.topic, inbound.payload)
        except WireError as error:
            self._dropped.remote_error("client", error)
            return None
        finally:
            self._bus.acknowledge(inbound)
        if isinstance(message, Status):
            self.fleet.observe(message)
        elif inbound.retain:
            return None  # answers are never retained: this one was left there by somebody, before the question
        if isinstance(message, Receipt) and not message.accepted:
            raise ConfigError("QUESTION", f"edge {message.site} does not take it: {message.reason}")
        if isinstance(message, Answer | QueryOutcome) and message.query_id == self._asking.query_id:
            return message
        return None


async def ask_and_print(
    broker: BrokerSettings, asking: Asking, stop: Stop, *, as_json: bool, check: bool = True
) -> int:
    """Ask, print the answers as they come, and return the exit status; without an answer also what the cause may be.

    Args:
        broker: where to ask.
        asking: the question.
        stop: ends the wait.
        as_json: print messages as they are.
        check: ask only where an edge says that it serves the camera.

    Returns:
        0 answered, 1 any other outcome or none.

    Raises:
        ConfigError: no edge that is online serves the camera.
        ConnectionLostError: the broker cannot be reached.
    """
    bus = MqttBus(
        broker, client_id=f"{asking.client}-{secrets.token_hex(4)}", subscriptions=QuestionClient.subscriptions(asking)
    )
    async with bus:
        await bus.wait_connected(CONNECT_TIMEOUT_S)
        client = QuestionClient(bus, asking)
        found = await client.look_round(STATUS_PATIENCE_S)
        if check and not found:
            problem = client.fleet.problem(asking.camera)
            raise ConfigError("CAMERA", f"{problem}; --no-check asks and waits all the same")
        follow = asyncio.create_task(_print_answers(client, as_json=as_json), name="answers")
        stopped = asyncio.create_task(stop.wait(), name="stop")
        limit_s = asking.message.deadline_ms / 1000 + REPLY_MARGIN_S
        try:
            await asyncio.wait({follow, stopped}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            if follow.done():
                outcome = follow.result()
                if outcome in (Outcome.EXPIRED, Outcome.FAILED):
                    # A failed one has said why; only what the statuses show for certain is added.
                    _say_cause(client.fleet, asking.camera, certain=outcome is Outcome.FAILED)
                return 0 if outcome is Outcome.ANSWERED else 1
        finally:
            follow.cancel()
            stopped.cancel()
            await asyncio.gather(follow, stopped, return_exceptions=True)
    if not stop.requested:
        sys.stderr.write(f"latentbus: no outcome within {limit_s:.0f} s\n")
        _say_cause(client.fleet, asking.camera)
    return 1


def _say_cause(fleet: FleetView, camera: str, *, certain: bool = False) -> None:
    problem = fleet.problem(camera)
    if problem is None and not certain and not fleet.workers_are_seen:
        problem = "this identity may not read the status of workers: ask an operator whether the pool has any"
    if problem is not None:
        sys.stderr.write(f"latentbus: {problem}\n")


async def _print_answers(client: QuestionClient, *, as_json: bool) -> Outcome:
    console = SafeConsole(highlight=False)
    async for message in client.answers():
        if as_json:
            # ASCII: JSON stays JSON on a terminal that is not UTF-8.
            sys.stdout.write(json.dumps(message.model_dump(mode="json")) + "\n")
            sys.stdout.flush()
        else:
            console.print(_line(message), soft_wrap=True)
        if message.outcome is not None:
            return Outcome(message.outcome)
    raise AssertionError("the answers of a question end with its outcome")


def _line(message: Answer | QueryOutcome) -> str:
    if isinstance(message, QueryOutcome):
        return f"[red]{message.outcome}[/]  {escape(message.reason)}"
    kind = message.outcome or "provisional"
    style = {"answered": "green", "provisional": "yellow"}.get(kind, "red")
    cost = f"{counted(message.latents, 'latent')}, {counted(message.payload_bytes, 'byte')}"
    detail = f"score {message.score:.2f}, {cost}, {message.worker}"
    if message.reason:
        detail += f", {message.reason}"
    return f"[{style}]{kind}[/]  {escape(message.text or '-')}  [dim]({escape(detail)})[/]"
