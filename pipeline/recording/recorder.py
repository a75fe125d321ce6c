"""Records without holding anybody up: a bounded queue, and a thread that writes.

Whoever has a message offers it and goes on. What does not fit into the queue is dropped, counted, and marked in the
log. The thread writes a chunk at a time and hands it to the kernel before :data:`FLUSH_S` is over, so the end of the
process costs no more than that.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.config.logs import get_logger
from pipeline.recording.message import Gap, LoggedMessage, MqttProperties
from pipeline.recording.series import LogSeries, SeriesOptions
from schemas.errors import RecordingError, StateError

FLUSH_S = 0.25
"""Time between two flushes. A crash of the process loses at most 0.5 s: this, the write itself, and a slow machine."""
MAX_QUEUED_MESSAGES = 65_536
"""Messages between the process and the disk: some seconds at full rate."""
MAX_QUEUED_BYTES = 67_108_864
"""Their topics and payloads."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RecorderOptions:
    """How a recorder works.

    Attributes:
        series: the files.
        flush_s: time between two flushes, in seconds.
        max_queued_messages: messages that may wait for the disk.
        max_queued_bytes: their topics and payloads.
        retry_s: time until the next file is tried after one could not be written, in seconds; None gives up.
        transform: changes each message before it is written, to redact it for example; runs in the writing thread.
    """

    series: SeriesOptions = field(default_factory=SeriesOptions)
    flush_s: float = FLUSH_S
    max_queued_messages: int = MAX_QUEUED_MESSAGES
    max_queued_bytes: int = MAX_QUEUED_BYTES
    retry_s: float | None = None
    transform: Callable[[LoggedMessage], LoggedMessage] | None = None


@dataclass(frozen=True, slots=True)
class RecorderStatistics:
    """What a recorder did so far.

    Attributes:
        offered_messages: messages offered.
        written_messages: messages written and flushed.
        written_bytes: their payloads.
        dropped_messages: messages that did not fit, or could not be written.
        queued_messages: messages that wait for the disk now.
        queued_bytes: their topics and payloads.
        files: files begun.
        path: the file that is being written.
        file_bytes: its size.
    """

    offered_messages: int
    written_messages: int
    written_bytes: int
    dropped_messages: int
    queued_messages: int
    queued_bytes: int
    files: int
    path: Path
    file_bytes: int


class Recorder:
    """Records what it is offered, from entry to exit of its context; entered once.

    Offers come from one thread.

    Args:
        path: the first file.
        options: see :class:`RecorderOptions`.
    """

    def __init__(self, path: Path, options: RecorderOptions | None = None) -> None:
        self._path = path
        self._options = options or RecorderOptions()
        self._queue: deque[LoggedMessage | Gap] = deque()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._writing: asyncio.Future[None] | None = None
        self._series: LogSeries | None = None
        # Each counter below has one thread that changes it; the others only read.
        self._sequence = 0
        self._last_ns = 0
        self._queued_bytes = 0
        self._refused = 0
        self._refusing: Gap | None = None
        self._taken_bytes = 0
        self._written = 0
        self._written_bytes = 0
        self._lost = 0
        self._unflushed: int | None = None
        self._unflushed_messages = 0
        self._failure: RecordingError | None = None
        self._failed: asyncio.Event = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        # A wall clock that is set does not move the times of a log; the monotonic one runs on from the start.
        self._epoch_ns = time.time_ns() - time.monotonic_ns()

    async def __aenter__(self) -> Self:
        """Begin the first file.

        Raises:
            RecordingError: it exists, or cannot be written.
            StateError: entered before.
        """
        if self._writing is not None:
            raise StateError("a recorder is entered once")
        self._loop = asyncio.get_running_loop()
        self._series = await asyncio.to_thread(LogSeries, self._path, self._options.series)
        thread = ThreadPoolExecutor(1, f"recorder[{self._path.name}]")
        self._writing = self._loop.run_in_executor(thread, self._run, self._series)
        thread.shutdown(wait=False)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Write what was offered, close the file, and wait until finished files are re-chunked.

        Raises:
            Exception: the writing thread ended by a bug.
        """
        self._end_refusal(max(self._epoch_ns + time.monotonic_ns(), self._last_ns))
        self._closing.set()
        self._wake.set()
        if self._writing is not None:
            # A cancelled wait must not leave a file without its summary.
            await asyncio.shield(self._writing)

    def offer(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        properties: MqttProperties | None = None,
        received_s: float | None = None,
    ) -> bool:
        """Record a message; never waits.

        Args:
            topic: its topic.
            payload: its bytes.
            qos: QoS of the delivery.
            retain: retain flag as published.
            properties: its MQTT 5 properties, if any.
            received_s: when it was received on this process' monotonic clock, in seconds; now unless given.

        Returns:
            False when it was dropped, because too much waits for the disk or the disk takes nothing.
        """
        sequence = self._sequence
        self._sequence = sequence + 1
        size_bytes = len(topic) + len(payload)
        options = self._options
        waiting = len(self._queue)
        room = (
            waiting < options.max_queued_messages
            and self._queued_bytes - self._taken_bytes + size_bytes <= options.max_queued_bytes
        )
        if not room or self._failure is not None or self._closing.is_set():
            self._refuse(sequence)
            return False
        now_ns = self._epoch_ns + (time.monotonic_ns() if received_s is None else int(received_s * 1e9))
        time_ns = self._last_ns = max(now_ns, self._last_ns)
        if self._refusing is not None:
            self._end_refusal(time_ns)
        self._queued_bytes += size_bytes
        self._queue.append(LoggedMessage(time_ns, topic, payload, qos, retain, properties, sequence))
        if waiting * 2 > options.max_queued_messages:
            self._wake.set()
        return True

    def mark_gap(self, reason: str, count: int = 0) -> None:
        """Write into the log that messages are missing here that were never offered.

        Args:
            reason: why, in words.
            count: how many; 0 when nobody can know.
        """
        first = self._sequence
        self._sequence += count
        self._refused += count
        if self._failure is None and not self._closing.is_set():
            self._last_ns = max(self._epoch_ns + time.monotonic_ns(), self._last_ns)
            self._queue.append(Gap(self._last_ns, first, count, reason))

    @property
    def failure(self) -> RecordingError | None:
        """Why nothing is written at present, if so."""
        return self._failure

    async def wait_failed(self) -> RecordingError:
        """Wait until the log cannot be written, and say why."""
        while self._failure is None:
            await self._failed.wait()
        return self._failure

    def statistics(self) -> RecorderStatistics:
        """What was done so far.

        Raises:
            StateError: not entered.
        """
        if self._series is None:
            raise StateError("the recorder was not started")
        return RecorderStatistics(
            offered_messages=self._sequence,
            written_messages=self._written,
            written_bytes=self._written_bytes,
            dropped_messages=self._refused + self._lost,
            queued_messages=len(self._queue),
            queued_bytes=self._queued_bytes - self._taken_bytes,
            files=self._series.files,
            path=self._series.path,
            file_bytes=self._series.file_bytes,
        )

    def _refuse(self, sequence: int) -> None:
        self._refused += 1
        run = self._refusing
        if run is None:
            _log.warning("recorder drops messages", path=str(self._path), queued_messages=len(self._queue))
            failure = self._failure
            reason = "more came than could be written" if failure is None else failure.problem
            self._refusing = Gap(0, sequence, 1, reason)
        else:
            self._refusing = Gap(0, run.first_sequence, run.count + 1, run.reason)

    def _end_refusal(self, time_ns: int) -> None:
        run, self._refusing = self._refusing, None
        if run is not None:
            self._queue.append(Gap(time_ns, run.first_sequence, run.count, run.reason))

    # What follows runs in the writing thread.

    def _run(self, series: LogSeries) -> None:
        while True:
            self._wake.wait(self._options.flush_s)
            self._wake.clear()
            closing = self._closing.is_set()
            try:
                self._drain(series)
                if closing:
                    series.close()
                    return
            except RecordingError as error:
                if not self._survived(series, error):
                    return
            except BaseException as bug:
                self._failure = RecordingError(str(series.path), f"the recorder has a bug: {bug!r}")
                self._tell(self._failed.set)
                series.abandon()
                raise

    def _drain(self, series: LogSeries) -> None:
        """Write and flush what waits."""
        queue, transform = self._queue, self._options.transform
        written_bytes = 0
        # Only what waits now: a flood must not put off the flush.
        for _ in range(len(queue)):
            entry = queue.popleft()
            if isinstance(entry, Gap):
                series.write_gap(entry)
                continue
            self._taken_bytes += len(entry.topic) + len(entry.payload)
            if self._unflushed is None:
                self._unflushed = entry.sequence
            self._unflushed_messages += 1
            written_bytes += len(entry.payload)
            series.write(entry if transform is None else transform(entry))
        series.flush()
        self._written += self._unflushed_messages
        self._written_bytes += written_bytes
        self._unflushed, self._unflushed_messages = None, 0

    def _survived(self, series: LogSeries, error: RecordingError) -> bool:
        """The log cannot be written: drop what waits, and try a new file from time to time if that is wanted.

        Returns:
            Whether writing goes on.
        """
        self._failure = error
        _log.error("the log cannot be written", path=error.path, problem=error.problem, retry_s=self._options.retry_s)
        self._tell(self._failed.set)
        lost = self._drop_all(error.problem)
        while self._options.retry_s is not None and not self._closing.is_set():
            self._wake.wait(self._options.retry_s)
            self._wake.clear()
            if self._closing.is_set():
                break
            try:
                series.begin_anew()
                series.write_gap(Gap(self._epoch_ns + time.monotonic_ns(), *lost))
                series.flush()
            except RecordingError:
                continue
            self._failure = None
            self._tell(self._failed.clear)
            return True
        series.abandon()
        return False

    def _tell(self, callback: Callable[[], None]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(callback)

    def _drop_all(self, problem: str) -> tuple[int, int, str]:
        """Drop what waits and what was not flushed.

        Returns:
            The sequence number of the first message, their number, and why, as a gap has them.
        """
        first, count = self._unflushed, self._unflushed_messages
        self._unflushed, self._unflushed_messages = None, 0
        for _ in range(len(self._queue)):
            entry = self._queue.popleft()
            if isinstance(entry, LoggedMessage):
                self._taken_bytes += len(entry.topic) + len(entry.payload)
                first = entry.sequence if first is None else first
                count += 1
        self._lost += count
        return self._sequence if first is None else first, count, problem
