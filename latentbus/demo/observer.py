"""What the demo reads: answers and outcomes from the broker, frames and bytes from the edge's frame log."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

from latentbus.demo.ledger import Ledger
from pipeline.bus.base import ConnectionChange, Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.logs import OncePerKind, get_logger
from pipeline.config.settings import BrokerSettings
from schemas import topics, wire
from schemas.errors import WireError
from schemas.messages import Answer, QueryOutcome, Status
from schemas.topics import Family

_log = get_logger(__name__)


class Observer:
    """An ordinary MQTT client beside the fleet; nothing in the fleet knows of it.

    Args:
        broker: where to connect.
        ledger: what it writes to.

    Attributes:
        online: processes that say they are up, as ``worker/w1``.
    """

    def __init__(self, broker: BrokerSettings, ledger: Ledger) -> None:
        self.online: set[str] = set()
        self.bus = MqttBus(
            broker,
            client_id="demo",
            subscriptions=[
                Subscription(topics.family_filter(family), qos=1)
                for family in (Family.ANSWER, Family.OUTCOME, Family.STATUS)
            ],
        )
        self._ledger = ledger
        self._dropped = OncePerKind(_log)
        self._changed = asyncio.Condition()

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            for event in await self.bus.receive_batch():
                if not isinstance(event, ConnectionChange):
                    self._take(event)
            async with self._changed:
                self._changed.notify_all()

    async def wait_online(self, names: set[str]) -> None:
        """Wait until these processes are up."""
        async with self._changed:
            await self._changed.wait_for(lambda: names <= self.online)

    async def wait_change(self) -> None:
        """Wait until something more was received."""
        async with self._changed:
            await self._changed.wait()

    async def wait_decided(self, timeout_s: float) -> None:
        """Wait until every query that the books know has its outcome; what is missing after that stays missing."""
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: not self._ledger.undecided())
        except TimeoutError:
            _log.warning("queries without outcome", count=self._ledger.undecided())

    def _take(self, inbound: Inbound) -> None:
        try:
            message = wire.decode(topics.parse(inbound.topic).family, inbound.payload)
        except WireError as error:
            self._dropped.remote_error("demo", error)
            return
        finally:
            self.bus.acknowledge(inbound)
        if isinstance(message, Answer | QueryOutcome):
            self._ledger.received(message, time.monotonic())
        elif isinstance(message, Status):
            name = f"{message.kind}/{message.id}"
            (self.online.add if message.online else self.online.discard)(name)


class FrameLogTail:
    """Follows the frame log of a running edge, see :mod:`edge_nodes.frame_log` for its lines.

    Args:
        path: the file; it need not exist yet.
        ledger: what it writes to.
    """

    def __init__(self, path: Path, ledger: Ledger) -> None:
        self._path = path
        self._ledger = ledger
        self._offset = 0

    def poll(self) -> None:
        """Take in the lines that were written since the last call."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            written = stream.read()
        # The last line may be half written.
        complete = written[: written.rfind(b"\n") + 1]
        self._offset += len(complete)
        for line in complete.splitlines():
            self._apply(json.loads(line))

    def _apply(self, record: dict[str, Any]) -> None:
        match record["kind"]:
            case "frame":
                self._ledger.frame_opened(
                    record["camera"],
                    record["frame"],
                    index=record["index"],
                    captured_s=record["captured_s"],
                    # The key of a standing query ends in its question; an ad-hoc one is its own question.
                    question_ids={query_id: query_id.rsplit("/", 1)[-1] for query_id in record["query_ids"]},
                )
            case "sent":
                self._ledger.sent(
                    record["camera"],
                    record["frame"],
                    wire_bytes=record["wire_bytes"],
                    payload_bytes=record["latent_bytes"],
                )
