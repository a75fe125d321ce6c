"""The bus on MQTT 5: one connection that is made again whenever it breaks.

Each connection is a new client with a new *generation* number. That is what keeps the promises below without knowing
what a library remembers:

- A publish has one fate: a result, a refusal, or :class:`ConnectionLostError`, after which nothing is sent again behind
  the process' back. Whoever wants it repeated publishes again.
- An acknowledgement goes to the connection that delivered its message or nowhere. After a reconnect the same packet
  identifier may mean another message.
- Subscriptions are made again before the process hears that it is connected, and no message of a connection comes
  before that.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from pipeline.bus.backoff import Backoff
from pipeline.bus.base import (
    BrokerAbilities,
    BusStatistics,
    ConnectionChange,
    Inbound,
    MqttProperties,
    PublishResult,
    Qos,
    QueueLimits,
    Subscription,
    Traffic,
    Will,
)
from pipeline.bus.buffer import QOS0_SHARE, InboundBuffer
from pipeline.bus.endings import perhaps_taken_over
from pipeline.bus.mqtt_link import MqttLink
from pipeline.bus.mqtt_terms import (
    FIRST_ERROR_CODE,
    NO_SUBSCRIBERS_CODE,
    LinkSettings,
    publish_properties,
    refusal_of_publish,
)
from pipeline.bus.reconnecting import TAKEOVER_BACKOFF, Ending, Reconnecting
from pipeline.bus.tls import tls_context_of
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.logs import OncePerKind, get_logger
from schemas.errors import (
    BusError,
    ConfigError,
    ConnectionLostError,
    LocalError,
    NotAuthorizedError,
    OversizeError,
    StateError,
)
from schemas.topics import label_of
from schemas.wire_cost import publish_packet_bytes, publish_property_bytes

_log = get_logger(__name__)


class MqttBus:
    """A connection to an MQTT 5 broker; see :class:`pipeline.bus.base.Bus` for its use.

    As an async context manager it keeps itself connected from entry to exit; entered once. A process that wants its
    *offline* status published on a planned exit publishes it before: a broker publishes the will only when a client
    vanishes.

    Args:
        settings: broker, identity, TLS.
        client_id: unique among the clients of the broker: a second client with the same id throws the first one out.
        subscriptions: filters to receive; made again on each connection.
        will: last will, if any.
        receive_maximum: QoS 1 messages that the broker may deliver before one is acknowledged: the back-pressure.
        clean_start: let the broker forget an older session at the first connection.
        session_expiry_s: how long the broker keeps the session of a connection that broke, in seconds. 0 for members of
            a share
            group: the broker deals messages to a sleeping member, where nobody sees them.
        queue_limits: bounds of all buffers.
        backoff: waits between connection attempts.
        takeover_backoff: waits after another process has taken the client id.
        connect_timeout_s: longest wait for the TCP connection, the CONNACK and each SUBACK.
        all_properties: read every MQTT 5 property of what arrives, see :attr:`Inbound.properties`.
        end_session: let the broker forget the session when this bus is left in good order.
        topic_aliases: spell the topics of publishes by alias, as far as the broker grants it: fewer bytes for somewhat
            more work.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        client_id: str,
        subscriptions: Sequence[Subscription] = (),
        will: Will | None = None,
        receive_maximum: int = 128,
        clean_start: bool = True,
        session_expiry_s: int = 0,
        queue_limits: QueueLimits | None = None,
        backoff: Backoff | None = None,
        takeover_backoff: Backoff = TAKEOVER_BACKOFF,
        connect_timeout_s: float = 10.0,
        all_properties: bool = False,
        end_session: bool = False,
        topic_aliases: bool = False,
    ) -> None:
        limits = queue_limits or QueueLimits()
        reserved = int((1 - QOS0_SHARE) * limits.incoming_messages)
        if not 1 <= receive_maximum <= reserved:
            raise ValueError(
                f"receive_maximum {receive_maximum} is not in 1 to {reserved}, the part of the queue kept for QoS 1"
            )
        self._settings = settings
        self._client_id = client_id
        self._subscriptions = {entry.filter: entry for entry in subscriptions}
        self._will = will
        self._receive_maximum = receive_maximum
        self._clean_start = clean_start
        self._session_expiry_s = session_expiry_s
        self._limits = limits
        self._backoff = backoff or Backoff()
        self._takeover_backoff = takeover_backoff
        self._connect_timeout_s = connect_timeout_s
        self._all_properties = all_properties
        self._end_session = end_session
        self._topic_aliases = topic_aliases
        self._buffer = InboundBuffer(limits.incoming_messages, limits.incoming_bytes)
        self._generation = 0
        self._link: MqttLink | None = None
        self._ready: MqttLink | None = None
        self._problem: LocalError | None = None
        self._changed = asyncio.Event()
        self._counters: Counter[str] = Counter()
        self._traffic = Traffic()
        self._problems = OncePerKind(_log)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start connecting, in the background.

        Raises:
            ConfigError: the TLS files cannot be loaded.
            StateError: entered before.
        """
        if self._task is not None:
            raise StateError("a bus is entered once")
        if self._settings.tls is not None:
            await asyncio.to_thread(tls_context_of, self._settings.tls)
        self._task = asyncio.create_task(self._run(), name=f"bus[{self._client_id}]")
        self._task.add_done_callback(self._ended)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Disconnect. What was received can still be taken, nothing more can be published.

        Raises:
            Exception: the connection task ended by a bug, and nothing else went wrong.
        """
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            if exc is None and not self._task.cancelled() and (bug := self._task.exception()) is not None:
                raise bug

    @property
    def traffic(self) -> Traffic:
        """See :class:`pipeline.bus.base.Bus`."""
        return self._traffic

    async def wait_connected(self, timeout_s: float) -> None:
        """Wait until the connection is up and every subscription granted.

        Raises:
            NotAuthorizedError: the broker refuses this identity or one of its subscriptions. The bus goes on trying.
            ConnectionLostError: not within ``timeout_s``; the message has the last problem.
            TlsError: the same, and it was a matter of TLS: certificates, or a port that does not speak it.
            SessionTakenOverError: the same, and another process uses this client id.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while self._ready is None:
                    if isinstance(self._problem, NotAuthorizedError):
                        raise self._problem
                    if self._task is None or self._task.done():
                        raise ConnectionLostError("the bus is closed")
                    await self._changed.wait()
        except TimeoutError:
            raise self._not_connected(f"no connection within {timeout_s} s") from None

    @property
    def abilities(self) -> BrokerAbilities | None:
        """What the broker says of itself; None while it is not connected."""
        return None if self._ready is None else self._ready.abilities

    async def receive_batch(self, max_count: int = 256) -> list[Inbound | ConnectionChange]:
        """Wait for at least one event, then take up to ``max_count``, in order.

        Cancelling it loses nothing. One task reads.

        Raises:
            StateError: another task is reading.
            ConnectionLostError: the bus was left and everything was taken.
        """
        return await self._buffer.take(max_count)

    def acknowledge(self, inbound: Inbound) -> bool:
        """Release a QoS 1 message.

        Each one must be acknowledged, also a bad one: it holds a place of the receive window, and later
        acknowledgements wait for it, because they go out in the order of arrival.

        Returns:
            False when nothing will be sent: its connection is gone, or it was acknowledged before. True for QoS 0,
            which needs none.
        """
        if inbound.qos == 0:
            return True
        link = self._link
        sent = None
        if link is not None and link.generation == inbound.generation:
            sent = link.acknowledge(inbound.packet_id)
        if sent is None:
            self._counters["stale_acknowledgements"] += 1
            return False
        self._counters["acknowledged_messages"] += sent
        return True

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: Qos = 0,
        retain: bool = False,
        response_topic: str | None = None,
        correlation_data: bytes | None = None,
        expiry_s: int | None = None,
        content_type: str | None = None,
        payload_format: int | None = None,
        user_properties: Sequence[tuple[str, str]] = (),
        timeout_s: float = 10.0,
    ) -> PublishResult:
        """Publish; QoS 0 returns when the packet is in the socket, QoS 1 when the broker has answered.

        A success says nothing about processing: brokers drop silently what does not fit a subscriber's queue.

        Args:
            topic: topic name.
            payload: at most the packet limit with topic and headers; empty with ``retain`` deletes the retained
                message.
            qos: 0 or 1.
            retain: let the broker retain it.
            response_topic: where the reply shall go.
            correlation_data: what shall come back with the reply.
            expiry_s: time after which the broker drops it undelivered, in whole seconds.
            content_type: MIME type of the payload.
            payload_format: 1 says that the payload is UTF-8.
            user_properties: names and values that the receivers get with it, in order.
            timeout_s: longest wait for room, the socket and the broker's answer together, in seconds.

        Raises:
            OversizeError: larger than this bus or the broker takes; nothing was sent.
            NotAuthorizedError: the broker refuses it to this identity.
            PublishRefusedError: the broker refuses it for another reason.
            ConnectionLostError: not connected, the connection went away, or the time was over; with QoS 1 its fate is
                unknown.
            StateError: the topic has wildcards or is too long.
        """
        link = self._ready
        if link is None:
            raise self._not_connected("not connected")
        properties = publish_properties(
            MqttProperties(
                payload_format, expiry_s, content_type, response_topic, correlation_data, tuple(user_properties)
            )
        )
        property_bytes = publish_property_bytes(
            response_topic=response_topic,
            correlation_data=correlation_data,
            expiry_s=expiry_s,
            content_type=content_type,
            payload_format=payload_format,
            user_properties=user_properties,
        )
        packet_bytes = link.largest_packet_bytes(topic, len(payload), qos, property_bytes)
        limit_bytes = min(self._limits.packet_bytes, link.server_packet_bytes)
        if packet_bytes > limit_bytes:
            raise OversizeError(topic, packet_bytes, limit_bytes)
        try:
            async with asyncio.timeout(timeout_s):
                code, packet_bytes = await link.send(topic, payload, qos, retain, properties, property_bytes)
        except TimeoutError:
            self._counters["failed_publishes"] += 1
            raise ConnectionLostError(
                f"no answer to a publish on {topic!r} within {timeout_s} s; its fate is unknown"
            ) from None
        except ConnectionLostError:
            self._counters["failed_publishes"] += 1
            raise
        if code:
            self._traffic.reason_codes["puback", str(code)] += 1
        if code >= FIRST_ERROR_CODE:
            self._counters["refused_publishes"] += 1
            raise refusal_of_publish(topic, code)
        no_subscribers = code == NO_SUBSCRIBERS_CODE
        self._counters["published_messages"] += 1
        self._counters["published_bytes"] += packet_bytes
        kind = label_of(topic)
        self._traffic.sent_messages[kind] += 1
        self._traffic.sent_bytes[kind] += packet_bytes
        self._counters["no_subscriber_publishes"] += no_subscribers
        return PublishResult(no_subscribers)

    async def subscribe(self, subscription: Subscription, timeout_s: float = 10.0) -> None:
        """Add a subscription, kept across reconnects; while disconnected it is made with the next connection.

        Raises:
            NotAuthorizedError: the broker refuses it; it is not kept.
            PublishRefusedError: the broker refuses it for another reason; it is not kept.
            ConnectionLostError: no answer within ``timeout_s``; it is kept.
        """
        self._subscriptions[subscription.filter] = subscription
        if self._ready is None:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready.subscribe_all([subscription])
        except TimeoutError:
            raise ConnectionLostError(f"no answer to a subscription within {timeout_s} s") from None
        except ConnectionLostError:
            raise
        except LocalError:
            self._subscriptions.pop(subscription.filter, None)
            raise

    async def unsubscribe(self, topic_filter: str, timeout_s: float = 10.0) -> None:
        """Remove a subscription; messages that the broker sent before it heard of this may still come.

        Raises:
            ConnectionLostError: no answer within ``timeout_s``; it is removed for the next connection all the same.
        """
        self._subscriptions.pop(topic_filter, None)
        if self._ready is None:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready.unsubscribe_one(topic_filter)
        except TimeoutError:
            raise ConnectionLostError(f"no answer to an unsubscription within {timeout_s} s") from None

    def statistics(self) -> BusStatistics:
        """Counters since the start, and the state of the buffers now."""
        count = self._counters
        link = self._link
        return BusStatistics(
            connected=self._ready is not None,
            generation=self._generation,
            connections=count["connections"],
            connection_failures=count["connection_failures"],
            received_messages=count["received_messages"],
            received_bytes=count["received_bytes"],
            acknowledged_messages=count["acknowledged_messages"],
            stale_acknowledgements=count["stale_acknowledgements"],
            dropped_qos0_messages=count["dropped_qos0_messages"],
            dropped_qos1_messages=count["dropped_qos1_messages"],
            discarded_messages=count["discarded_messages"],
            published_messages=count["published_messages"],
            published_bytes=count["published_bytes"],
            no_subscriber_publishes=count["no_subscriber_publishes"],
            refused_publishes=count["refused_publishes"],
            failed_publishes=count["failed_publishes"],
            incoming_messages=self._buffer.messages,
            incoming_bytes=self._buffer.size_bytes,
            unacknowledged_messages=0 if link is None else link.unacknowledged,
            outgoing_messages=0 if link is None else link.outgoing_messages,
            outgoing_bytes=0 if link is None else link.outgoing_bytes,
            waiting_publishes=0 if link is None else link.waiting_publishes,
        )

    async def _run(self) -> None:
        waits = Reconnecting(self._backoff, self._takeover_backoff)
        loop = asyncio.get_running_loop()
        while True:
            link = None
            try:
                link = await self._connect()
                connected_s = loop.time()
                self._problem = await link.wait_lost()
                taken = waits.lost(link.ending, loop.time() - connected_s)
                if taken and link.ending is not Ending.TAKEN_OVER:
                    self._problem = perhaps_taken_over(self._client_id, waits.silent_ends)
                delay_s = waits.delay_s(taken, random.random())
            except (BusError, ConfigError, StateError) as error:
                self._problem = error
                delay_s = waits.attempt_failed(random.random())
            finally:
                await self._disconnect(link is not None)
            _log.warning(
                "not connected",
                broker=f"{self._settings.host}:{self._settings.port}",
                client_id=self._client_id,
                problem=str(self._problem),
                failures=waits.failures,
                retry_s=round(delay_s, 3),
            )
            await asyncio.sleep(delay_s)

    async def _connect(self) -> MqttLink:
        """Open a connection and make every subscription; only then is it ready."""
        self._generation += 1
        tls = self._settings.tls
        # Loaded for each connection, so that renewed certificates need no restart.
        context = None if tls is None else await asyncio.to_thread(tls_context_of, tls)
        link = self._link = MqttLink(self._link_settings(context), generation=self._generation, deliver=self._deliver)
        self._buffer.hold()
        await link.open()
        made: dict[str, Subscription] = {}
        while missing := [entry for entry in self._subscriptions.values() if made.get(entry.filter) != entry]:
            await link.subscribe_all(missing)
            made.update((entry.filter, entry) for entry in missing)
        self._ready = link
        self._problem = None
        self._clean_start = self._session_expiry_s == 0
        self._counters["connections"] += 1
        reason = "session resumed" if link.session_present else "new session"
        self._buffer.release(
            ConnectionChange(
                True,
                link.generation,
                reason,
                link.session_present,
                topic_aliases=link.topic_aliases,
                certificate_end_s=link.certificate_end_s,
            )
        )
        self._notify()
        _log.info(
            "connected",
            broker=f"{self._settings.host}:{self._settings.port}",
            client_id=self._client_id,
            generation=link.generation,
            session=reason,
        )
        return link

    async def _disconnect(self, was_ready: bool) -> None:
        """Leave the present connection, whatever state it is in."""
        link, self._link, self._ready = self._link, None, None
        self._counters["discarded_messages"] += self._buffer.discard()
        if was_ready:
            code = self._reason_code("disconnect")
            self._buffer.lost(ConnectionChange(False, self._generation, str(self._problem or "left"), reason_code=code))
        else:
            self._counters["connection_failures"] += 1
            self._reason_code("connack")
        self._notify()
        if link is not None:
            await link.close()

    def _reason_code(self, packet: str) -> int | None:
        """The code with which the broker ended or refused the connection, counted."""
        problem = self._problem
        code = problem.reason_code if isinstance(problem, ConnectionLostError | NotAuthorizedError) else None
        if code is not None:
            self._traffic.reason_codes[packet, str(code)] += 1
        return code

    def _link_settings(self, context: ssl.SSLContext | None) -> LinkSettings:
        password = self._settings.password
        will = self._will and replace(self._will, correlation_data=b"%d" % self._generation)
        return LinkSettings(
            host=self._settings.host,
            port=self._settings.port,
            client_id=self._client_id,
            username=self._settings.username,
            password=None if password is None else password.get_secret_value(),
            tls_context=context,
            keepalive_s=self._settings.keepalive_s,
            will=will,
            receive_maximum=self._receive_maximum,
            outgoing_messages=self._limits.outgoing_messages,
            outgoing_bytes=self._limits.outgoing_bytes,
            packet_bytes=self._limits.packet_bytes,
            clean_start=self._clean_start,
            session_expiry_s=self._session_expiry_s,
            timeout_s=self._connect_timeout_s,
            all_properties=self._all_properties,
            end_session=self._end_session,
            topic_aliases=self._topic_aliases,
        )

    def _deliver(self, message: Inbound) -> None:
        if self._buffer.put(message):
            self._counters["received_messages"] += 1
            self._counters["received_bytes"] += len(message.topic) + len(message.payload)
            kind = label_of(message.topic)
            property_bytes = publish_property_bytes(
                response_topic=message.response_topic, correlation_data=message.correlation_data
            )
            self._traffic.received_messages[kind] += 1
            self._traffic.received_bytes[kind] += publish_packet_bytes(
                message.topic, len(message.payload), message.qos, property_bytes=property_bytes
            )
            return
        self._counters["dropped_qos1_messages" if message.qos else "dropped_qos0_messages"] += 1
        if message.qos and self._link is not None:
            # Unacknowledged it would hold a place of the window until the next reconnect; its sender repeats it.
            self._link.acknowledge(message.packet_id)
        kind = f"incoming queue full/qos{message.qos}"
        self._problems.report(kind, "it came faster than it was read", topic=message.topic)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        self._buffer.close(error)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _not_connected(self, what: str) -> ConnectionLostError:
        where = f"{what} to {self._settings.host}:{self._settings.port}"
        if isinstance(self._problem, ConnectionLostError):
            return self._problem.within(where)
        return ConnectionLostError(where if self._problem is None else f"{where}: {self._problem}")
