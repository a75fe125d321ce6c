"""One MQTT 5 connection over aiomqtt and paho.

What the libraries leave open is closed here and in :mod:`pipeline.bus.mqtt_socket`, each seen on aiomqtt 2.5 and paho
2.2 and covered by a test:

- aiomqtt acknowledges before the process has read: paho's manual acknowledgement is on, in the order of arrival.
- aiomqtt drops the reason code of a PUBACK: it is the result of :meth:`MqttLink.send`.
- paho sends unacknowledged publishes again on reconnect, behind the process' back: a link is one connection, never
  opened again.
- paho ignores the server's Receive Maximum and Maximum Packet Size: both are read from the CONNACK and kept.
- A connection that breaks before the CONNACK is noticed by aiomqtt at a timeout only: here at once.
- paho and aiomqtt take 60 us for a small message: one without properties is read here.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import aiomqtt
from paho.mqtt.client import MQTT_ERR_SUCCESS, Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from pipeline.bus.base import BrokerAbilities, Inbound, Qos, Subscription
from pipeline.bus.buffer import AcknowledgeWindow, SendWindow
from pipeline.bus.endings import (
    TAKEN_OVER_CODE,
    plain_client_refused,
    tls_client_refused,
    tls_failure,
    told_by_broker,
    unreachable,
)
from pipeline.bus.mqtt_socket import SocketClient
from pipeline.bus.mqtt_terms import (
    FIRST_ERROR_CODE,
    MAX_PACKET_BYTES,
    LinkSettings,
    abilities_of,
    connect_error,
    ending_session,
    received_properties,
    refusal,
    subscribe_options,
    with_alias,
)
from pipeline.bus.reconnecting import Ending
from pipeline.protocol.topic_aliases import TopicAliases
from schemas.errors import ConnectionLostError, StateError
from schemas.wire_cost import TOPIC_ALIAS_BYTES, publish_packet_bytes

KEEP_ALIVE_CODE = 141
DISCONNECT_TIMEOUT_S = 1.0
"""Time for the DISCONNECT packet to leave; a socket that takes longer is not worth a slow shutdown."""

_Result = TypeVar("_Result")
_PUBACK = 0x40
"""First byte of the packet (MQTT 5.0 section 3.4.1)."""


@dataclass(frozen=True, slots=True)
class _Publish:
    """A publish under way: who waits for it, and the room that it takes."""

    outcome: asyncio.Future[int | None]
    window: SendWindow
    room_bytes: int

    def decide(self, code: int | None) -> None:
        """Its reason code is known, or (None) the connection is gone."""
        self.window.release(self.room_bytes)
        if not self.outcome.done():
            self.outcome.set_result(code)


class MqttLink(SocketClient):
    """One connection, from :meth:`open` to :meth:`close`; it is never opened again.

    Args:
        settings: see :class:`LinkSettings`.
        generation: number of this connection, put on every message that it delivers.
        deliver: takes each message, on the event loop; it must not raise.
    """

    def __init__(self, settings: LinkSettings, *, generation: int, deliver: Callable[[Inbound], None]) -> None:
        super().__init__(settings, self._receive)
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
        self._goodbye: ConnectionLostError | None = None
        self.ending = Ending.OTHER
        self.session_present = False
        self.certificate_end_s: float | None = None
        self.abilities = BrokerAbilities()
        self.server_packet_bytes = MAX_PACKET_BYTES
        self.topic_aliases = 0
        self._aliases = TopicAliases()

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
            if isinstance(sock, ssl.SSLSocket):
                ends = (sock.getpeercert() or {}).get("notAfter")
                self.certificate_end_s = ssl.cert_time_to_seconds(ends) if isinstance(ends, str) else None
        except (OSError, ValueError) as error:
            failed = None if self._settings.tls_context is None else tls_failure(error)
            raise failed or ConnectionLostError(unreachable(error)) from error
        await asyncio.wait({self._connected}, timeout=self._settings.timeout_s)
        if not self._connected.done():
            raise ConnectionLostError(f"no CONNACK within {self._settings.timeout_s} s")
        refused = self._connected.exception()
        if refused is not None:
            # A CONNACK that refuses has a reason code of its own; the connection ends after it.
            if self._goodbye is None or isinstance(refused, aiomqtt.MqttCodeError):
                raise connect_error(refused, self._settings.client_id)
            raise self._goodbye

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
        return self._client.disconnect(properties=ending_session())

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

    async def wait_lost(self) -> ConnectionLostError:
        """Wait until the connection is gone; the reason. :attr:`ending` is known then."""
        await asyncio.wait({self._disconnected})
        error = self._disconnected.exception()
        return self._goodbye or ConnectionLostError("the connection broke" if error is None else str(error))

    async def subscribe_all(self, subscriptions: Sequence[Subscription]) -> None:
        """Subscribe, in one packet.

        Raises:
            NotAuthorizedError: the broker refused one of them.
            PublishRefusedError: it refused one for another reason.
            ConnectionLostError: no answer.
        """
        if not subscriptions:
            return
        options = [(entry.filter, subscribe_options(entry)) for entry in subscriptions]
        codes: Sequence[int | ReasonCode] = await self._unless_lost(self.subscribe(options))
        for entry, code in zip(subscriptions, codes, strict=True):
            value = code.value if isinstance(code, ReasonCode) else code
            if value >= FIRST_ERROR_CODE:
                raise refusal(entry.filter, value, str(code))

    async def unsubscribe_one(self, topic_filter: str) -> None:
        """Unsubscribe from a filter.

        Raises:
            ConnectionLostError: no answer.
        """
        await self._unless_lost(self.unsubscribe(topic_filter))

    def largest_packet_bytes(self, topic: str, payload_bytes: int, qos: Qos, property_bytes: int) -> int:
        """Largest size that a publish may have on this connection: its name written out, and an alias defined."""
        property_bytes += TOPIC_ALIAS_BYTES if self.topic_aliases else 0
        return publish_packet_bytes(topic, payload_bytes, qos, property_bytes=property_bytes)

    async def send(
        self, topic: str, payload: bytes, qos: Qos, retain: bool, properties: Properties | None, property_bytes: int
    ) -> tuple[int, int]:
        """Publish when there is room for it, in line with others of the same QoS.

        Args:
            topic: topic name.
            payload: its payload.
            qos: 0 or 1.
            retain: let the broker retain it.
            properties: see :func:`pipeline.bus.mqtt_terms.publish_properties`.
            property_bytes: their size.

        Returns:
            The reason code when it has left (QoS 0, always 0) or was acknowledged (QoS 1), and the size of its packet.

        Raises:
            StateError: the topic is none that one can publish to.
            ConnectionLostError: the connection went away; with QoS 1 its fate is unknown.
        """
        window = self._windows[qos]
        room_bytes = self.largest_packet_bytes(topic, len(payload), qos, property_bytes)
        await window.acquire(room_bytes)
        try:
            # Spelled when it is written and not before: an alias must not overtake the publish that defines it.
            name, alias = self._aliases.spell(topic)
            if alias is not None:
                properties = with_alias(properties, alias)
                property_bytes += TOPIC_ALIAS_BYTES
            info = self._client.publish(name, payload, qos, retain, properties)
        except ValueError as error:
            self._not_sent(window, room_bytes)
            raise StateError(f"{topic!r}: {error}") from error
        if info.rc != MQTT_ERR_SUCCESS:
            self._not_sent(window, room_bytes)
            raise ConnectionLostError("the connection is gone; nothing was sent")
        # The room stays taken until the packet is done, also when nobody waits for that any more.
        publish = _Publish(self._loop.create_future(), window, room_bytes)
        self._publishes[info.mid] = publish
        code = await publish.outcome
        if code is None:
            raise ConnectionLostError(
                "the connection went away before the broker answered; the fate of this publish is unknown"
            )
        return code, publish_packet_bytes(name, len(payload), qos, property_bytes=property_bytes)

    def _not_sent(self, window: SendWindow, room_bytes: int) -> None:
        window.release(room_bytes)
        self._aliases = TopicAliases()  # the broker may lack one that this publish was to define

    def acknowledge(self, packet_id: int) -> int | None:
        """Settle a QoS 1 message; acknowledgements leave in the order of arrival.

        Returns:
            How many acknowledgements left because of it; None when this one was settled before or the connection is
            gone.
        """
        due = self._acknowledgements.settle(packet_id)
        if due is None:
            return None
        if len(due) == 1:
            return 1 if self._client.ack(due[0], 1) == MQTT_ERR_SUCCESS else None
        if due:
            # Several in one write: as records and segments of their own they would cost twenty times as much.
            packets = b"".join(struct.pack("!BBH", _PUBACK, 2, due_id) for due_id in due)
            if self._client._packet_queue(_PUBACK, packets, due[-1], 1) != MQTT_ERR_SUCCESS:  # noqa: SLF001
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
        self.made_progress()
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
        self.made_progress()
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
        abilities = self.abilities = abilities_of(properties)
        self._windows[1].limit(min(abilities.receive_maximum, self._settings.outgoing_messages))
        self.server_packet_bytes = abilities.packet_bytes or self.server_packet_bytes
        if self._settings.topic_aliases:
            self.topic_aliases = abilities.topic_aliases
            self._aliases = TopicAliases(self.topic_aliases)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self,
        client: Client,
        userdata: Any,
        flags: DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        if self._goodbye is None:  # paho tells twice; the first time it knows why
            self._goodbye = self._reason(flags, reason_code)
        if not self._connected.done():
            # It is `_goodbye` that is raised for it.
            self._connected.set_exception(aiomqtt.MqttError(str(self._goodbye)))
        super()._on_disconnect(client, userdata, flags, reason_code, properties)

    def _reason(self, flags: DisconnectFlags, code: ReasonCode) -> ConnectionLostError:
        if flags.is_disconnect_packet_from_server:
            if code.value == TAKEN_OVER_CODE:
                self.ending = Ending.TAKEN_OVER
            return told_by_broker("the broker disconnected", code.value, str(code), self._settings.client_id)
        if code.value == KEEP_ALIVE_CODE:
            return ConnectionLostError(
                f"no answer from the broker within the keep alive of {self._settings.keepalive_s} s"
            )
        # The reason code is paho's translation of a socket error and says nothing; the error is in its log.
        said = self.paho_log.last
        problem = f"the connection broke: {said}".removesuffix(": ")
        failure = self.socket_failure
        if isinstance(failure, ssl.SSLError) and not isinstance(failure, ssl.SSLEOFError):
            return tls_failure(failure) or ConnectionLostError(problem)
        hung_up = not said or failure is not None or os.strerror(errno.ECONNRESET) in said
        if hung_up and not self._connected.done():
            refused = plain_client_refused if self._settings.tls_context is None else tls_client_refused
            return refused(said or "end of the connection")
        if hung_up:
            self.ending = Ending.SILENT
        return ConnectionLostError(problem if self._connected.done() else f"{problem} (before the CONNACK)")

    def _on_publish(
        self,
        client: Client,  # noqa: ARG002
        userdata: Any,  # noqa: ARG002
        mid: int,
        reason_code: ReasonCode,
        properties: Properties,  # noqa: ARG002
    ) -> None:
        self.made_progress()
        publish = self._publishes.pop(mid, None)
        if publish is not None:
            publish.decide(reason_code.value)
