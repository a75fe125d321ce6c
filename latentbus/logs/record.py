"""``latentbus record``: a client of the broker that writes down what it hears and changes nothing."""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.live import Live

from latentbus.reports.safe_console import SafeConsole
from pipeline.bus.base import ConnectionChange, Inbound, QueueLimits, Subscription, Will
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.logs import get_logger
from pipeline.node.runtime import Stop
from pipeline.recording.recorder import Recorder, RecorderOptions, RecorderStatistics
from schemas import topics, wire
from schemas.counting import counted
from schemas.errors import BusError
from schemas.messages import Status

CONNECT_TIMEOUT_S = 10.0
SESSION_EXPIRY_S = 60
"""How long the broker keeps QoS 1 messages for a recorder that lost its connection."""
RECEIVE_WINDOW = 4_096
"""QoS 1 messages that the broker may deliver before one is acknowledged; its own limit is usually lower."""
RECEIVE_BATCH = 1_024
QUEUE_LIMITS = QueueLimits(
    incoming_messages=32_768, incoming_bytes=67_108_864, outgoing_bytes=33_554_432, packet_bytes=16_777_216
)
"""Bounds between broker and recorder. Packets may be larger than the fleet's, as other topics can be recorded too."""
_PROGRESS_S = 0.5

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """What is recorded.

    Attributes:
        path: the first file.
        filters: topic filters.
        recorder: how it is written.
        duration_s: time to record, in seconds; None until stopped.
        name: name of a recorder that the fleet knows: it publishes its status, and keeps its session on the broker when
            it is started again. None is a passing guest.
    """

    path: Path
    filters: tuple[str, ...]
    recorder: RecorderOptions
    duration_s: float | None = None
    name: str | None = None


class _Session:
    """One recording over one connection."""

    def __init__(self, options: RecordOptions, broker: BrokerSettings, recorder: Recorder) -> None:
        name = options.name or f"record-{secrets.token_hex(4)}"
        self._recorder = recorder
        self._status = None if options.name is None else Status(
            kind="recorder", id=options.name, boot=secrets.randbits(32), online=True
        )  # fmt: skip
        self._lost_s: float | None = None
        self._dropped = 0
        self.bus = MqttBus(
            broker,
            client_id=name,
            subscriptions=[Subscription(entry, qos=1, retain_as_published=True) for entry in options.filters],
            will=None if self._status is None else Will(*_status_publish(self._status, online=False)),
            receive_maximum=RECEIVE_WINDOW,
            # Mosquitto 2.0.11 does not keep a session that began with a clean start.
            clean_start=False,
            session_expiry_s=SESSION_EXPIRY_S,
            end_session=options.name is None,
            queue_limits=QUEUE_LIMITS,
            all_properties=True,
        )

    async def pump(self) -> None:
        """Take messages until cancelled."""
        while True:
            await self._take()

    async def rest(self) -> None:
        """Take what has arrived already."""
        while self.bus.statistics().incoming_messages:
            await self._take()

    async def goodbye(self) -> None:
        """Publish that this recorder goes."""
        await self._publish_status(online=False)

    async def _take(self) -> None:
        recorder, bus = self._recorder, self.bus
        for event in await bus.receive_batch(RECEIVE_BATCH):
            if isinstance(event, ConnectionChange):
                await self._connection_changed(event)
                continue
            self._offer(event, recorder)
            bus.acknowledge(event)
        statistics = bus.statistics()
        dropped = statistics.dropped_qos0_messages + statistics.dropped_qos1_messages
        if dropped > self._dropped:
            recorder.mark_gap("more came than this process could read", dropped - self._dropped)
            self._dropped = dropped

    @staticmethod
    def _offer(message: Inbound, recorder: Recorder) -> None:
        if topics.carries_pixels(message.topic):
            return
        recorder.offer(
            message.topic,
            message.payload,
            qos=message.qos,
            retain=message.retain,
            properties=message.properties,
            received_s=message.received_s,
        )

    async def _connection_changed(self, change: ConnectionChange) -> None:
        if not change.connected:
            self._lost_s = time.monotonic()
            return
        if self._lost_s is not None:
            kept = (
                "the broker kept what is QoS 1 and within its limits" if change.session_resumed else "nothing was kept"
            )
            self._recorder.mark_gap(f"not connected for {time.monotonic() - self._lost_s:.1f} s; {kept}")
            self._lost_s = None
        await self._publish_status(online=True)

    async def _publish_status(self, *, online: bool) -> None:
        if self._status is None:
            return
        topic, payload = _status_publish(self._status, online=online)
        try:
            await self.bus.publish(topic, payload, qos=1, retain=True)
        except BusError as error:
            _log.warning("the status of this recorder is not published", problem=str(error))


async def record(options: RecordOptions, broker: BrokerSettings, stop: Stop) -> int:
    """Record until the time is over or the process is stopped, and say what was recorded.

    Raises:
        RecordingError: the log cannot be written; what was written before can be recovered.
        ConnectionLostError: the broker cannot be reached.
        NotAuthorizedError: it refuses this identity or one of the filters.
    """
    recorder = Recorder(options.path, options.recorder)
    # Finished files may have to be written anew.
    closing = SafeConsole(stderr=True, quiet=not sys.stderr.isatty()).status("closing the log")
    begun_s = ended_s = time.monotonic()
    try:
        async with recorder:
            session = _Session(options, broker, recorder)
            async with session.bus:
                await session.bus.wait_connected(CONNECT_TIMEOUT_S)
                stop.set_ready()
                begun_s = time.monotonic()
                await _until_stopped(session, recorder, options, stop)
                ended_s = time.monotonic()
                await session.goodbye()
            closing.start()
    except BusError:
        if not recorder.statistics().offered_messages:
            options.path.unlink(missing_ok=True)  # an empty log is in the way of the next attempt
        raise
    finally:
        closing.stop()
    sys.stderr.write(_line(recorder.statistics(), ended_s - begun_s) + "\n")
    if recorder.failure is not None:
        raise recorder.failure
    return 0


async def _until_stopped(session: _Session, recorder: Recorder, options: RecordOptions, stop: Stop) -> None:
    pump = asyncio.create_task(session.pump(), name="pump")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    failed = asyncio.create_task(recorder.wait_failed(), name="disk")
    shown = asyncio.create_task(_show(recorder), name="progress")
    try:
        await asyncio.wait({pump, stopped, failed}, timeout=options.duration_s, return_when=asyncio.FIRST_COMPLETED)
        if pump.done():
            pump.result()
    finally:
        for task in (pump, stopped, failed, shown):
            task.cancel()
        await asyncio.gather(pump, stopped, failed, shown, return_exceptions=True)
    await session.rest()


async def _show(recorder: Recorder) -> None:
    """A line on a terminal that says what goes on."""
    console = SafeConsole(stderr=True)
    if not console.is_terminal:
        return
    begun_s, before, before_s = time.monotonic(), 0, time.monotonic()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            await asyncio.sleep(_PROGRESS_S)
            statistics, now_s = recorder.statistics(), time.monotonic()
            rate = (statistics.written_messages - before) / (now_s - before_s)
            before, before_s = statistics.written_messages, now_s
            live.update(
                f"{_line(statistics, now_s - begun_s)}, {rate:,.0f}/s now, "
                f"{statistics.queued_messages:,} wait for the disk (Ctrl-C ends)",
                refresh=True,
            )


def _line(statistics: RecorderStatistics, elapsed_s: float) -> str:
    files = "" if statistics.files == 1 else f" (file {statistics.files})"
    return (
        f"{statistics.path}{files}: {counted(statistics.written_messages, 'message')}, "
        f"{statistics.written_bytes / 1e6:,.1f} MB of payload in {elapsed_s:,.0f} s, "
        f"{statistics.dropped_messages:,} dropped"
    )


def _status_publish(status: Status, *, online: bool) -> tuple[str, bytes]:
    message = status.model_copy(update={"online": online})
    return topics.status_topic(message.kind, message.id), wire.encode(message)
