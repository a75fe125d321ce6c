"""How fast a large log opens cold, and whether a cut one gives back everything that is whole."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from analysis.recover import recover
from pipeline.recording.message import LoggedMessage
from pipeline.recording.reader import LogReader
from pipeline.recording.recorder import FLUSH_S
from pipeline.recording.series import LogSeries, SeriesOptions
from schemas.errors import ConfigError, RecordingError

MESSAGES_A_SECOND: Final = 1_000
"""Of the generated log: its flush timer makes chunks of 250 messages."""
CAMERAS: Final = 40
CUT_EVERY_BYTES: Final = 1_000
_START_NS: Final = 1_750_000_000_000_000_000
_NOISE_BYTES: Final = 4_194_304
_PROGRESS_MESSAGES: Final = 50_000
_COMPARED_CUTS: Final = 50
"""Of so many cuts, one is read back message by message; of the others the messages are counted."""


def write_log(
    path: Path, size_bytes: int, payload_bytes: int, progress: Callable[[float], None], *, close: bool = True
) -> int:
    """Write a log as the recorder does: flushed by its timer, put into large chunks when it is closed.

    The times of the messages are made up, so that hours of log take a minute; payloads do not compress.

    Args:
        path: the file.
        size_bytes: at least so large.
        payload_bytes: of each message.
        progress: told the share that is written.
        close: close it; else it is left as a crash would leave it, in the small chunks of the timer.

    Returns:
        Messages in it.
    """
    draw = random.Random(1)
    noise = draw.randbytes(_NOISE_BYTES)
    series = LogSeries(path, SeriesOptions())
    number = 0
    flush_every = round(FLUSH_S * MESSAGES_A_SECOND)
    step_ns = 1_000_000_000 // MESSAGES_A_SECOND
    # Chunks are compressed: what cannot be compressed is as large in the file.
    while number * payload_bytes < size_bytes:
        offset = draw.randrange(_NOISE_BYTES - payload_bytes)
        payload = noise[offset : offset + payload_bytes]
        topic = f"lb/v2/open/main/cam{number % CAMERAS}"
        series.write(LoggedMessage(_START_NS + number * step_ns, topic, payload, 1, False, None, number))
        number += 1
        if number % flush_every == 0:
            series.flush()
        if number % _PROGRESS_MESSAGES == 0:
            progress(min(1.0, number * payload_bytes / size_bytes))
    series.flush()
    if close:
        series.close()
    else:
        series.abandon()
    progress(1.0)
    return number


@dataclass(frozen=True, slots=True)
class SeekTimes:
    """Times from opening a log to the first message at a random time of it.

    Attributes:
        cold_ms: with the file out of the page cache, ascending.
        warm_ms: opened once more, ascending.
        dropped: share of the file that the system really had dropped, as far as it tells; None where it does not.
    """

    cold_ms: list[float]
    warm_ms: list[float]
    dropped: float | None


def seek_times(path: Path, probes: int, progress: Callable[[float], None]) -> SeekTimes:
    """Open a log at random times, cold and warm.

    Raises:
        ConfigError: the system cannot drop a file from its page cache.
    """
    draw = random.Random(2)
    with LogReader(path) as reader:
        first_ns, last_ns = reader.start_ns, reader.stop_ns
    cold, warm, dropped = [], [], []
    for probe in range(probes):
        at_ns = draw.randrange(first_ns, last_ns)
        dropped.append(_drop(path))
        cold.append(_first_message_ms(path, at_ns))
        warm.append(_first_message_ms(path, at_ns))
        progress((probe + 1) / probes)
    known = [share for share in dropped if share is not None]
    return SeekTimes(sorted(cold), sorted(warm), min(known) if known else None)


def _first_message_ms(path: Path, at_ns: int) -> float:
    begun_s = time.perf_counter()
    with LogReader(path) as reader:
        message = next(reader.messages(start_ns=at_ns))
        took_ms = (time.perf_counter() - begun_s) * 1000
    if message.time_ns < at_ns:
        raise AssertionError(f"a message from before {at_ns}")
    return took_ms


def _drop(path: Path) -> float | None:
    """Take a file out of the page cache; the share of it that is out."""
    if not hasattr(os, "posix_fadvise"):
        raise ConfigError("bench", "this system cannot drop a file from its page cache: run it on Linux")
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return _share_out_of_cache(path)


def _share_out_of_cache(path: Path) -> float | None:
    """Share of a file's pages that are not in memory (mincore), None where the system does not tell."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "mincore"):
        return None
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as mapped,
    ):
        pages = -(-len(mapped) // mmap.PAGESIZE)
        resident = (ctypes.c_ubyte * pages)()
        view = ctypes.c_char.from_buffer(mapped)
        try:
            failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(len(mapped)), resident)
        finally:
            del view
    return None if failed else 1 - sum(page & 1 for page in resident) / pages


@dataclass(frozen=True, slots=True)
class RecoverResult:
    """What came of cutting a log.

    Attributes:
        cuts: places at which it was cut.
        wrong: those after which something was missing, or was not what had been recorded.
        seconds: time of all recoveries.
    """

    cuts: int
    wrong: list[int]
    seconds: float


def recover_everywhere(path: Path, folder: Path, progress: Callable[[float], None]) -> RecoverResult:
    """Cut a log at every 1,000th byte and recover each time; what whole chunks hold must come back, and no more.

    Args:
        path: the log.
        folder: for the cut file and what is recovered from it.
        progress: told the share that is done.
    """
    whole_until = _messages_by_end(path)
    with LogReader(path) as reader:
        expected = [(message.time_ns, message.payload) for message in reader.messages()]
    cut, target = folder / "cut.mcap", folder / "recovered.mcap"
    cut.write_bytes(path.read_bytes())
    size_bytes = cut.stat().st_size
    cuts = list(range(size_bytes - size_bytes % CUT_EVERY_BYTES, 0, -CUT_EVERY_BYTES))
    wrong, begun_s = [], time.perf_counter()
    for number, at in enumerate(cuts):
        os.truncate(cut, at)
        count = max((messages for end, messages in whole_until if end <= at), default=0)
        try:
            found = recover(cut, target).messages
        except RecordingError:
            found = 0  # not even the header is there
        good = found == count
        if good and count and number % _COMPARED_CUTS == 0:
            with LogReader(target) as reader:
                good = [(message.time_ns, message.payload) for message in reader.messages()] == expected[:count]
        if not good:
            wrong.append(at)
        target.unlink(missing_ok=True)
        if number % 20 == 0:
            progress(number / len(cuts))
    progress(1.0)
    return RecoverResult(len(cuts), wrong, time.perf_counter() - begun_s)


def _messages_by_end(path: Path) -> list[tuple[int, int]]:
    """For each chunk of a log: where it ends, and how many messages there are until then."""
    ends, total = [], 0
    with LogReader(path) as reader:
        for chunk in reader.index.chunks:
            end = chunk.head.offset + chunk.head.length
            total += sum(1 for _ in reader.messages(start_ns=chunk.first_ns, stop_ns=chunk.last_ns + 1))
            ends.append((end, total))
    return ends
