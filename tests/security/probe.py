"""A bare MQTT client that reports every reason code: what an intruder would use."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

WAIT_S = 20.0
NOT_AUTHORIZED = 135
PAYLOAD_KEY = "from"


class Probe:
    """One connection. Entering it connects; :attr:`connected` says with what result.

    Args:
        port: of the broker on the loopback interface.
        folder: with ca.crt, device.crt and device.key; None connects without TLS.
        client_id: MQTT client identifier; that of the folder unless given.
        will: topic of a last will.
    """

    def __init__(
        self, port: int, folder: Path | None, *, client_id: str | None = None, will: str | None = None
    ) -> None:
        self.name = client_id or (folder.name if folder else "anonymous")
        self._port = port
        self._changed = threading.Condition()
        self._acknowledged: dict[int, int] = {}
        self._granted: dict[int, list[int]] = {}
        self.connected: int | None = None
        self.disconnected = False
        self.received: list[tuple[str, str]] = []
        """Topic of each message and name of its sender."""
        self._client = Client(
            CallbackAPIVersion.VERSION2, client_id=self.name, protocol=MQTTv5, reconnect_on_failure=False
        )
        if folder is not None:
            context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
            if (folder / "device.crt").exists():
                context.load_cert_chain(folder / "device.crt", folder / "device.key")
            self._client.tls_set_context(context)
        if will is not None:
            self._client.will_set(will, self._payload(), qos=1)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_publish = self._on_publish
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message

    def __enter__(self) -> Self:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        self.wait(lambda: self.connected is not None or self.disconnected)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def vanish(self) -> None:
        """Break the connection as a power cut does."""
        self._client.loop_stop()
        sock = self._client.socket()
        assert sock is not None
        sock.close()

    def publish(self, topics: Iterable[str], *, retain: bool = False) -> dict[str, int]:
        """Publish to each topic at QoS 1; reason code by topic."""
        sent = {topic: self._client.publish(topic, self._payload(), qos=1, retain=retain).mid for topic in topics}
        self.wait(lambda: self.disconnected or set(sent.values()) <= self._acknowledged.keys())
        return {topic: self._acknowledged[mid] for topic, mid in sent.items()}

    def subscribe(self, filters: Iterable[str]) -> dict[str, int]:
        """Subscribe to each filter at QoS 1; reason code by filter."""
        wanted = list(filters)
        _, mid = self._client.subscribe([(entry, SubscribeOptions(qos=1)) for entry in wanted])
        assert mid is not None
        self.wait(lambda: self.disconnected or mid in self._granted)
        return dict(zip(wanted, self._granted[mid], strict=True))

    def wait(self, condition: Any) -> None:
        """Wait for something to be true of this probe."""
        with self._changed:
            assert self._changed.wait_for(condition, WAIT_S), f"{self.name}: nothing happened"

    def _payload(self) -> bytes:
        # Also a valid, empty request to the dynamic-security plug-in.
        return json.dumps({"commands": [], PAYLOAD_KEY: self.name}).encode()

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, code: ReasonCode, _properties: Any) -> None:
        with self._changed:
            self.connected = code.value
            self._changed.notify_all()

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, _code: ReasonCode, _properties: Any) -> None:
        with self._changed:
            self.disconnected = True
            self._changed.notify_all()

    def _on_publish(self, _client: Any, _data: Any, mid: int, code: ReasonCode, _properties: Any) -> None:
        with self._changed:
            self._acknowledged[mid] = code.value
            self._changed.notify_all()

    def _on_subscribe(self, _client: Any, _data: Any, mid: int, codes: list[ReasonCode], _properties: Any) -> None:
        with self._changed:
            self._granted[mid] = [code.value for code in codes]
            self._changed.notify_all()

    def _on_message(self, _client: Any, _data: Any, message: MQTTMessage) -> None:
        with self._changed:
            sender = json.loads(message.payload).get(PAYLOAD_KEY, "") if message.payload else ""
            self.received.append((message.topic, sender))
            self._changed.notify_all()


def granted(codes: Mapping[str, int]) -> set[str]:
    """Topics or filters that the broker took; every other one must have been refused as not authorized."""
    assert {code for code in codes.values() if code >= 128} <= {NOT_AUTHORIZED}, codes
    return {topic for topic, code in codes.items() if code < 128}
