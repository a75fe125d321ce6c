"""One MQTT 5 connection over aiomqtt and paho: the only file that knows them.

What the libraries leave open is closed here, each seen on aiomqtt 2.5 and paho 2.2 and covered by a test:

- aiomqtt acknowledges before the process has read: paho's manual acknowledgement is on, in the order of arrival.
- aiomqtt's iterator starts a task a message and loses one when it is cancelled: an own ``queue_type`` hands over at
  once.
- aiomqtt drops the reason code of a PUBACK: it is the result of :meth:`MqttLink.send`.
- paho sends unacknowledged publishes again on reconnect, behind the process' back: a link is one connection, never
  opened again.
- paho ignores the server's Receive Maximum and Maximum Packet Size: both are read from the CONNACK and kept.
- A connection that breaks before the CONNACK is noticed by aiomqtt at a timeout only: here at once.
- paho leaves the socket of a failed TLS handshake open: it closes itself.
- paho and aiomqtt take 60 us for a small message: one without properties is read here.
- aiomqtt may register a write callback for a socket that was closed meanwhile: here the socket is looked at when it
  runs.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import aiomqtt
from paho.mqtt.client import MQTT_ERR_SUCCESS, Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from pipeline.bus.base import Inbound, MqttProperties, Qos, Subscription, Will
from pipeline.bus.buffer import AcknowledgeWindow, SendWindow
from schemas.errors import BusError, ConnectionLostError, NotAuthorizedError, PublishRefusedError, StateError

FIRST_ERROR_CODE = 128
"""MQTT 5 reason codes from here on are errors (MQTT 5.0 section 2.4)."""
NOT_AUTHORIZED_CODES = frozenset({134, 135})
"""Bad user name or password; not authorized."""
NO_SUBSCRIBERS_CODE = 16
KEEP_ALIVE_CODE = 141
MAX_PACKET_BYTES = 268_435_460
"""Largest MQTT packet, and the default of a server that names no Maximum Packet Size."""
READ_PACKETS = 64
"""Packets read before the rest of the process gets its turn; about 2 ms."""
DISCONNECT_TIMEOUT_S = 1.0
"""Time for the DISCONNECT packet to leave; a socket that takes longer is not worth a slow shutdown."""

_Result = TypeVar("_Result")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """Everything that one connection needs.

    Attributes:
        host: name or address of the broker.
        port: its TCP port.
        client_id: MQTT client identifier.
        username: user name, if any.
        password: password, if any.
        tls_context: TLS, or None for plain TCP.
        keepalive_s: MQTT keep alive.
        will: last will, if any.
        receive_maximum: QoS 1 messages that the broker may have sent without an acknowledgement.
        outgoing_messages: publishes that may be under way, for QoS 0 and 1 each.
        outgoing_bytes: their packets, for QoS 0 and 1 each.
        packet_bytes: largest packet that the broker may send.
        clean_start: ask the broker to forget an older session.
        session_expiry_s: how long the broker keeps the session after the connection.
        timeout_s: longest wait for the TCP connection, the CONNACK and each SUBACK.
        all_properties: read every MQTT 5 property of what arrives.
        end_session: let the broker forget the session with a goodbye.
    """

    host: str
    port: int
    client_id: str
    username: str | None
    password: str | None
    tls_context: ssl.SSLContext | None
    keepalive_s: int
    will: Will | None
    receive_maximum: int
    outgoing_messages: int
    outgoing_bytes: int
    packet_bytes: int
    clean_start: bool
    session_expiry_s: int
    timeout_s: float
    all_properties: bool = False
    end_session: bool = False


def _properties(packet_type: int) -> Properties:
    return Properties(packet_type)  # type: ignore[no-untyped-call]


def publish_properties(values: MqttProperties) -> Properties | None:
    """Properties of a publish as the client library takes them, None when there are none."""
    named = {
        "PayloadFormatIndicator": values.payload_format,
        "MessageExpiryInterval": values.expiry_s,
        "ContentType": values.content_type,
        "ResponseTopic": values.response_topic,
        "CorrelationData": values.correlation_data,
        "UserProperty": list(values.user) or None,
    }
    given = {name: value for name, value in named.items() if value is not None}
    if not given:
        return None
    properties = _properties(PacketTypes.PUBLISH)
    for name, value in given.items():
        setattr(properties, name, value)
    return properties


def received_properties(properties: Properties | None) -> MqttProperties | None:
    """Properties of a message that arrived, None when there are none."""
    # The library's own ways to look at them cost as much as reading the packet.
    values: dict[str, Any] = {} if properties is None else vars(properties)
    found = MqttProperties(
        payload_format=values.get("PayloadFormatIndicator"),
        expiry_s=values.get("MessageExpiryInterval"),
        content_type=values.get("ContentType"),
        response_topic=values.get("ResponseTopic"),
        correlation_data=values.get("CorrelationData"),
        user=tuple((name, value) for name, value in values.get("UserProperty", ())),
    )
    return None if found == _NO_PROPERTIES else found


_NO_PROPERTIES = MqttProperties()


@dataclass(frozen=True, slots=True)
class _Publish:
    """A publish under way: who waits for it, and the room that it takes."""

    outcome: asyncio.Future[int | None]
    window: SendWindow
    packet_bytes: int

    def decide(self, code: int | None) -> None:
        """Its reason code is known, or (None) the connection is gone."""
        self.window.release(self.packet_bytes)
        if not self.outcome.done():
            self.outcome.set_result(code)


class MqttLink(aiomqtt.Client):
    """One connection, from :meth:`open` to :meth:`close`; it is never opened again.

    Args:
        settings: see :class:`LinkSettings`.
        generation: number of this connection, put on every message that it delivers.
        deliver: takes each message, on the event loop; it must not raise.
    """

    def __init__(self, settings: LinkSettings, *, generation: int, deliver: Callable[[Inbound], None]) -> None:
        self._library_log = _LibraryLog()
        if settings.tls_context is not None:
            settings.tls_context.sslsocket_class = _ClosingSSLSocket
        connect = _properties(PacketTypes.CONNECT)
        connect.ReceiveMaximum = settings.receive_maximum
        connect.MaximumPacketSize = settings.packet_bytes
        if settings.session_expiry_s:
            connect.SessionExpiryInterval = settings.session_expiry_s
        super().__init__(
            settings.host,
            settings.port,
            username=settings.username,
            password=settings.password,
            logger=self._library_log,
            identifier=settings.client_id,
            queue_type=_queue_type(self._receive),
            protocol=aiomqtt.ProtocolVersion.V5,
            will=_paho_will(settings.will),
            timeout=settings.timeout_s,
            keepalive=settings.keepalive_s,
            clean_start=settings.clean_start,
            properties=connect,
            tls_context=settings.tls_context,
        )
        self._settings = settings
        self.generation = generation
        self._deliver = deliver
        self._acknowledgements = AcknowledgeWindow()
        self._windows = [SendWindow(settings.outgoing_messages, settings.outgoing_bytes) for _qos in (0, 1)]
        self._publishes: dict[int, _Publish] = {}
        self._client.manual_ack_set(True)
        self._client.max_inflight_messages_set(0)  # the bus keeps the server's Receive Maximum, with a queue it can see
        self._client.connect_timeout = settings.timeout_s
        # Private, and only a short cut: a version of paho that does not look here goes its own way.
        self._read_publish = self._client._handle_publish  # noqa: SLF001
        self._client._handle_publish = self._receive_plain  # type: ignore[method-assign]  # noqa: SLF001
        self._progress = 0
        self._goodbye = ""
        self.session_present = False
        self.server_packet_bytes = MAX_PACKET_BYTES

    @property
    def unacknowledged(self) -> int:
        """QoS 1 messages received and not yet acknowledged."""
        return len(self._acknowledgements)

    @property
    def outgoing_messages(self) -> int:
        """Publishes handed to the socket and not yet done."""
        return sum(window.messages for window in self._windows)

    @property
    def outgoing_bytes(self) -> int:
        """Their packets."""
        return sum(window.size_bytes for window in self._windows)

    @property
    def waiting_publishes(self) -> int:
        """Publishes that wait for room."""
        return sum(window.waiting for window in self._windows)

    async def open(self) -> None:
        """Connect, and wait for the broker's CONNACK.

        Raises:
            NotAuthorizedError: the broker does not know this identity.
            ConnectionLostError: no connection for another reason.
        """
        connecting = asyncio.get_running_loop().run_in_executor(None, self._client_connect)
        try:
            try:
                await asyncio.shield(connecting)
            except asyncio.CancelledError:
                # The thread cannot be stopped, and what it opens must be closed.
                await asyncio.wait({connecting})
                raise
            sock = self._client.socket()
            if isinstance(sock, socket.socket):
                # A small packet must not wait for the acknowledgement of the one before it.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (OSError, ValueError) as error:
            raise ConnectionLostError(str(error)) from error
        await asyncio.wait({self._connected}, timeout=self._settings.timeout_s)
        if not self._connected.done():
            raise ConnectionLostError(f"no CONNACK within {self._settings.timeout_s} s")
        refusal = self._connected.exception()
        if refusal is not None:
            raise _bus_error(refusal, f"the connection of client {self._settings.client_id}")

    async def close(self) -> None:
        """Say goodbye if the connection stands, then free everything.

        Whoever waits for a publish learns that its fate is unknown.
        """
        try:
            established = self._connected.done() and self._connected.exception() is None
            if established and not self._disconnected.done() and self._say_goodbye() == MQTT_ERR_SUCCESS:
                await asyncio.wait({self._disconnected}, timeout=DISCONNECT_TIMEOUT_S)
        finally:
            self._free()
        if self._misc_task is not None:
            await asyncio.wait({self._misc_task})

    def _say_goodbye(self) -> int:
        if not (self._settings.end_session and self._settings.session_expiry_s):
            return self._client.disconnect()
        goodbye = _properties(PacketTypes.DISCONNECT)
        goodbye.SessionExpiryInterval = 0
        return self._client.disconnect(properties=goodbye)

    def _free(self) -> None:
        sock = self._client.socket()
        if sock is not None and (descriptor := sock.fileno()) >= 0:
            self._loop.remove_reader(descriptor)
            self._loop.remove_writer(descriptor)
            sock.close()
        if self._misc_task is not None:
            self._misc_task.cancel()
        for window in self._windows:
            window.close()
        lost, self._publishes = self._publishes, {}
        for publish in lost.values():
            publish.decide(None)
        for state in (self._connected, self._disconnected):
            if state.done():
                state.exception()  # seen: asyncio would log it otherwise

    async def wait_lost(self) -> str:
        """Wait until the connection is gone; the reason in words."""
        await asyncio.wait({self._disconnected})
        error = self._disconnected.exception()
        return self._goodbye or ("the connection broke" if error is None else str(error))

    async def subscribe_all(self, subscriptions: Sequence[Subscription]) -> None:
        """Subscribe, in one packet.

        Raises:
            NotAuthorizedError: the broker refused one of them.
            PublishRefusedError: it refused one for another reason.
            ConnectionLostError: no answer.
        """
        if not subscriptions:
            return
        options = [
            (
                entry.filter,
                SubscribeOptions(
                    qos=entry.qos,
                    noLocal=entry.no_local,
                    retainAsPublished=entry.retain_as_published,
                    retainHandling=SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE
                    if entry.retained
                    else SubscribeOptions.RETAIN_DO_NOT_SEND,
                ),
            )
            for entry in subscriptions
        ]
        codes: Sequence[int | ReasonCode] = await self._unless_lost(self.subscribe(options))
        for entry, code in zip(subscriptions, codes, strict=True):
            value = code.value if isinstance(code, ReasonCode) else code
            if value >= FIRST_ERROR_CODE:
                raise _refusal(entry.filter, value, str(code))

    async def unsubscribe_one(self, topic_filter: str) -> None:
        """Unsubscribe from a filter.

        Raises:
            ConnectionLostError: no answer.
        """
        await self._unless_lost(self.unsubscribe(topic_filter))

    async def send(
        self, topic: str, payload: bytes, qos: Qos, retain: bool, properties: Properties | None, packet_bytes: int
    ) -> int:
        """Publish when there is room for it, in line with others of the same QoS.

        Args:
            topic: topic name.
            payload: its payload.
            qos: 0 or 1.
            retain: let the broker retain it.
            properties: see :func:`publish_properties`.
            packet_bytes: size of the whole packet.

        Returns:
            The reason code when it has left (QoS 0, always 0) or was acknowledged (QoS 1).

        Raises:
            StateError: the topic is none that one can publish to.
            ConnectionLostError: the connection went away; with QoS 1 its fate is unknown.
        """
        window = self._windows[qos]
        await window.acquire(packet_bytes)
        try:
            info = self._client.publish(topic, payload, qos, retain, properties)
        except ValueError as error:
            window.release(packet_bytes)
            raise StateError(f"{topic!r}: {error}") from error
        if info.rc != MQTT_ERR_SUCCESS:
            window.release(packet_bytes)
            raise ConnectionLostError("the connection is gone; nothing was sent")
        # The room stays taken until the packet is done, also when nobody waits for that any more.
        publish = _Publish(self._loop.create_future(), window, packet_bytes)
        self._publishes[info.mid] = publish
        code = await publish.outcome
        if code is None:
            raise ConnectionLostError(
                "the connection went away before the broker answered; the fate of this publish is unknown"
            )
        return code

    def acknowledge(self, packet_id: int) -> int | None:
        """Settle a QoS 1 message; acknowledgements leave in the order of arrival.

        Returns:
            How many acknowledgements left because of it; None when this one was settled before or the connection is
            gone.
        """
        due = self._acknowledgements.settle(packet_id)
        if due is None:
            return None
        for due_id in due:
            if self._client.ack(due_id, 1) != MQTT_ERR_SUCCESS:
                return None
        return len(due)

    async def _unless_lost(self, call: Awaitable[_Result]) -> _Result:
        answer = asyncio.ensure_future(call)
        either: set[asyncio.Future[Any]] = {answer, self._disconnected}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ConnectionLostError("the connection went away before the broker answered")
            return answer.result()
        except aiomqtt.MqttError as error:
            raise ConnectionLostError(str(error)) from error
        except ValueError as error:
            raise StateError(str(error)) from error
        finally:
            answer.cancel()

    def _receive_plain(self) -> MQTTErrorCode:
        """Read a PUBLISH packet without properties (MQTT 5.0 section 3.3); any other is left to paho.

        paho spends three quarters of its time for a message on properties that are not there, on a condition that
        nobody waits for, and on a log line that nobody reads.
        """
        packet = self._client._in_packet  # noqa: SLF001
        body: bytearray = packet["packet"]
        flags: int = packet["command"]
        qos = flags >> 1 & 3
        topic_end = 2 + int.from_bytes(body[:2], "big")
        at = topic_end + 2 if qos else topic_end
        if qos > 1 or topic_end == 2 or at >= len(body) or body[at]:
            return self._read_publish()
        try:
            topic = body[2:topic_end].decode()
        except UnicodeDecodeError:
            return self._read_publish()
        packet_id = int.from_bytes(body[topic_end:at], "big")
        self._progress += 1
        if qos:
            self._acknowledgements.received(packet_id)
        self._deliver(
            Inbound(
                topic=topic,
                payload=bytes(memoryview(body)[at + 1 :]),
                qos=qos,
                retain=bool(flags & 1),
                response_topic=None,
                correlation_data=None,
                generation=self.generation,
                packet_id=packet_id,
                received_s=time.monotonic(),
            )
        )
        return MQTT_ERR_SUCCESS

    def _receive(self, message: aiomqtt.Message) -> None:
        properties = message.properties
        self._progress += 1
        if message.qos:
            self._acknowledgements.received(message.mid)
        self._deliver(
            Inbound(
                topic=message.topic.value,
                payload=message.payload,
                qos=message.qos,
                retain=message.retain,
                response_topic=getattr(properties, "ResponseTopic", None),
                correlation_data=getattr(properties, "CorrelationData", None),
                generation=self.generation,
                packet_id=message.mid,
                received_s=time.monotonic(),  # uvloop's own clock stands still during an iteration
                properties=received_properties(properties) if self._settings.all_properties else None,
            )
        )

    # What follows overrides callbacks of aiomqtt; their signatures are paho's.

    def _on_connect(
        self,
        client: Client,
        userdata: Any,
        flags: ConnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        self.session_present = flags.session_present
        receive_maximum = getattr(properties, "ReceiveMaximum", 65_535)
        self._windows[1].limit(min(receive_maximum, self._settings.outgoing_messages))
        self.server_packet_bytes = getattr(properties, "MaximumPacketSize", self.server_packet_bytes)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self,
        client: Client,
        userdata: Any,
        flags: DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        if self._goodbye:
            pass  # paho tells twice; the first time it knows why
        elif flags.is_disconnect_packet_from_server:
            self._goodbye = f"the broker disconnected: {reason_code} (reason code {reason_code.value})"
        elif reason_code.value == KEEP_ALIVE_CODE:
            self._goodbye = f"no answer from the broker within the keep alive of {self._settings.keepalive_s} s"
        else:
            # The reason code is paho's translation of a socket error and says nothing; the error is in its log.
            self._goodbye = f"the connection broke: {self._library_log.last}".removesuffix(": ")
        if not self._connected.done():
            self._connected.set_exception(aiomqtt.MqttError(f"{self._goodbye} (before the CONNACK)"))
        super()._on_disconnect(client, userdata, flags, reason_code, properties)

    def _on_publish(
        self,
        client: Client,  # noqa: ARG002
        userdata: Any,  # noqa: ARG002
        mid: int,
        reason_code: ReasonCode,
        properties: Properties,  # noqa: ARG002
    ) -> None:
        self._progress += 1
        publish = self._publishes.pop(mid, None)
        if publish is not None:
            publish.decide(reason_code.value)

    def _on_socket_open(self, client: Client, userdata: Any, sock: Any) -> None:  # noqa: ARG002
        self._loop.call_soon_threadsafe(self._start, client, sock)

    def _start(self, client: Client, sock: Any) -> None:
        if sock.fileno() >= 0:
            self._loop.add_reader(sock.fileno(), self._read, client, sock)
            self._misc_task = self._loop.create_task(self._misc_loop(), name=f"mqtt-keep-alive[{self.identifier}]")

    def _read(self, client: Client, sock: Any) -> None:
        # paho reads one packet a call, and a turn of the loop costs as much as the packet: go on while packets come.
        for _ in range(READ_PACKETS):
            before = self._progress
            try:
                client.loop_read()
            except Exception as error:  # noqa: BLE001 - whatever a malformed packet raises in paho ends the connection
                if not self._disconnected.done():
                    self._disconnected.set_exception(error)
                return
            if sock.fileno() < 0:
                return
            if self._progress == before and not _decrypted(sock):
                return
        if _decrypted(sock):
            self._loop.call_soon(self._read_on, client, sock)  # what TLS holds already does not wake the loop

    def _read_on(self, client: Client, sock: Any) -> None:
        if sock.fileno() >= 0:
            self._read(client, sock)

    def _on_socket_register_write(self, client: Client, userdata: Any, sock: Any) -> None:  # noqa: ARG002
        # Also called from the thread that connects. Writing straight away saves two epoll calls a packet; only a socket
        # that is full needs to be watched.
        self._loop.call_soon_threadsafe(self._write, client, sock)

    def _write(self, client: Client, sock: Any) -> None:
        if sock.fileno() < 0:
            return
        try:
            client.loop_write()
        except (OSError, ValueError) as error:
            if not self._disconnected.done():
                self._disconnected.set_exception(error)
            return
        if client.want_write() and sock.fileno() >= 0:
            self._loop.add_writer(sock.fileno(), self._write, client, sock)

    def _on_socket_unregister_write(self, client: Client, userdata: Any, sock: Any) -> None:  # noqa: ARG002
        if sock.fileno() >= 0:
            self._loop.remove_writer(sock.fileno())


class _LibraryLog(logging.Logger):
    """Keeps what the libraries log about a connection, for the reason of its end."""

    def __init__(self) -> None:
        super().__init__(f"{__name__}.libraries", logging.WARNING)
        self.last = ""

    def handle(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage()
        _logger.debug("%s", self.last)


class _ClosingSSLSocket(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except (OSError, ValueError):
            self.close()
            raise


def _decrypted(sock: Any) -> bool:
    return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0


def _queue_type(receive: Callable[[aiomqtt.Message], None]) -> type[asyncio.Queue[aiomqtt.Message]]:
    class Handover(asyncio.Queue[aiomqtt.Message]):
        """Hands each message over in paho's callback; nothing ever waits in it."""

        def put_nowait(self, item: aiomqtt.Message) -> None:
            receive(item)

    return Handover


def _paho_will(will: Will | None) -> aiomqtt.Will | None:
    if will is None:
        return None
    properties = _properties(PacketTypes.WILLMESSAGE)
    if will.delay_s:
        properties.WillDelayInterval = will.delay_s
    return aiomqtt.Will(will.topic, will.payload, will.qos, will.retain, properties)


def _refusal(topic: str, code: int, reason: str) -> NotAuthorizedError | PublishRefusedError:
    return NotAuthorizedError(topic, code) if code in NOT_AUTHORIZED_CODES else PublishRefusedError(topic, code, reason)


def refusal_of_publish(topic: str, code: int) -> NotAuthorizedError | PublishRefusedError:
    """The error for a PUBACK with an error code."""
    return _refusal(topic, code, str(ReasonCode(PacketTypes.PUBACK, identifier=code)))


def _bus_error(error: BaseException, what: str) -> BusError:
    code = getattr(error, "rc", None)
    if isinstance(code, ReasonCode) and code.value in NOT_AUTHORIZED_CODES:
        return NotAuthorizedError(what, code.value)
    return ConnectionLostError(str(error))
