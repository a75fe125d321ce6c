"""Events on disk: what an :class:`~pipeline.protocol.event_keeper.EventKeeper` wants done.

Blocking; one thread at a time. Latents and pictures are stored as they are, not encrypted; what is erased is
overwritten with zeros. The age of a frame is known while the machine stays on: after a power cut it is not, and counts
from then on.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from pipeline.config.logs import get_logger
from pipeline.node.database_file import TableFile
from pipeline.protocol.event_requests import (
    EraseKeptEvents,
    EventDiskFailed,
    EventFrameRead,
    EventRequest,
    EventResult,
    EventsChanged,
    EventsListed,
    KeepEventFrame,
    ListKeptEvents,
    ReadEventFrame,
)
from schemas.errors import ArtifactError
from schemas.limits import MAX_EVENT_FRAMES
from schemas.messages import EventEntry
from schemas.types import MAX_AGE_MS, UNKNOWN_AGE, Age, FrameId

_log = get_logger(__name__)

_BOOT_FILE: Final = Path("/proc/sys/kernel/random/boot_id")
_VERSION = 1
_COLUMNS = (
    "row_id", "camera", "event_boot", "event_sequence", "question_id", "text", "boot", "event_s", "age_known",
    "frame_boot", "frame_sequence", "offset_ms", "fingerprint", "latents", "picture", "size_bytes",
)  # fmt: skip
_SCHEMA = """
CREATE TABLE event_frame (
    row_id INTEGER PRIMARY KEY,        -- a later one is larger
    camera TEXT NOT NULL,
    event_boot INTEGER NOT NULL,       -- the frame that made the event
    event_sequence INTEGER NOT NULL,
    question_id TEXT NOT NULL,
    text TEXT NOT NULL,
    boot TEXT NOT NULL,                -- name of the time since the machine was switched on
    event_s REAL NOT NULL,             -- when that frame was taken, within it
    age_known INTEGER NOT NULL,        -- 0 after a power cut: event_s is when the file was opened then
    frame_boot INTEGER NOT NULL,
    frame_sequence INTEGER NOT NULL,
    offset_ms INTEGER NOT NULL,
    fingerprint BLOB NOT NULL,
    latents BLOB NOT NULL,
    picture BLOB,
    size_bytes INTEGER NOT NULL
) STRICT;
CREATE INDEX of_event ON event_frame (camera, event_boot, event_sequence, offset_ms);
"""
_FILE: Final = TableFile("the file of events", "event_frame", _COLUMNS, _SCHEMA, _VERSION)
_EVENT = "camera = ? AND event_boot = ? AND event_sequence = ?"


def machine_boot() -> str:
    """Name of the time since this machine was switched on; unknown where the system does not say."""
    with suppress(OSError):
        return _BOOT_FILE.read_text().strip()
    return "unknown"


class EventFile:
    """Events of a site.

    Args:
        path: the file, made with its folder if need be; None keeps everything in memory only. A file that is damaged,
            or of another version, is set aside, and a new one begun.
        fingerprint: first 4 bytes of the fingerprint of the codec of this edge.
        max_bytes: of latents and pictures; beyond it the oldest events are dropped.
        now_s: time since the machine was switched on.
        boot: name of that time.
        log: told what is wrong with the file.

    Attributes:
        counters: events that were dropped for their bytes, rows that were dropped, files that were set aside.

    Raises:
        ArtifactError: the file can be neither read nor replaced.
    """

    def __init__(
        self,
        path: Path | None,
        fingerprint: bytes,
        *,
        max_bytes: int,
        now_s: Callable[[], float] = time.monotonic,
        boot: str | None = None,
        log: structlog.stdlib.BoundLogger = _log,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._fingerprint = fingerprint
        self._max_bytes = max_bytes
        self._now_s = now_s
        self._boot = machine_boot() if boot is None else boot
        if path is None:
            self._database = _FILE.in_memory()
        else:
            self._database, _ = _FILE.open(path, reserve_bytes=0, counters=self.counters, log=log)
        # What is erased must not lie in free pages.
        self._database.execute("PRAGMA secure_delete = ON")
        with self._database:
            self._database.execute(
                "UPDATE event_frame SET boot = ?, event_s = ?, age_known = 0 WHERE boot != ?",
                (self._boot, now_s(), self._boot),
            )
        (held,) = self._database.execute("SELECT coalesce(sum(size_bytes), 0) FROM event_frame").fetchone()
        self.held_bytes = int(held)

    @classmethod
    def open_or_in_memory(cls, path: Path | None, fingerprint: bytes, *, max_bytes: int) -> EventFile:
        """The events of a file, or of this process alone while the file cannot be opened; that is said."""
        try:
            return cls(path, fingerprint, max_bytes=max_bytes)
        except (ArtifactError, sqlite3.Error) as error:
            _log.error("events are kept in memory until the next start", problem=str(error))
            return cls(None, fingerprint, max_bytes=max_bytes)

    def perform(self, request: EventRequest) -> EventResult:
        """Do what a machine asks for; what fails is told, not raised."""
        try:
            match request:
                case KeepEventFrame():
                    return self._keep(request)
                case ListKeptEvents():
                    return self._list(request)
                case ReadEventFrame():
                    return self._read(request)
                case EraseKeptEvents():
                    return EventsChanged(self._erase(request))
        except (sqlite3.Error, OSError) as error:
            return EventDiskFailed(str(error))

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _keep(self, request: KeepEventFrame) -> EventsChanged:
        latents = request.latent.payload(0, request.latent.latent_count)
        size_bytes = len(latents) + len(request.picture or b"")
        if size_bytes > self._max_bytes:
            raise OSError(f"a frame of {size_bytes} bytes, all events may have {self._max_bytes}")
        while self.held_bytes + size_bytes > self._max_bytes and self._drop_oldest():
            pass
        with self._database:
            self._database.execute(
                f"INSERT INTO event_frame ({', '.join(_COLUMNS[1:])})"  # noqa: S608
                f" VALUES ({', '.join('?' * (len(_COLUMNS) - 1))})",
                (
                    request.camera,
                    *request.event,
                    request.question_id,
                    request.text,
                    self._boot,
                    self._now_s() - request.event_age_s,
                    1,
                    *request.frame,
                    request.offset_ms,
                    self._fingerprint,
                    latents,
                    request.picture,
                    size_bytes,
                ),
            )
        self.held_bytes += size_bytes
        return EventsChanged(1)

    def _drop_oldest(self) -> bool:
        oldest = self._database.execute(
            "SELECT camera, event_boot, event_sequence FROM event_frame ORDER BY row_id LIMIT 1"
        ).fetchone()
        if oldest is None:
            return False
        self._delete(_EVENT, oldest)
        self.counters["events_dropped"] += 1
        return True

    def _list(self, request: ListKeptEvents) -> EventsListed:
        before = 2**62
        if request.before is not None:
            (first,) = self._database.execute(
                f"SELECT min(row_id) FROM event_frame WHERE {_EVENT}",  # noqa: S608
                (request.camera, *request.before),
            ).fetchone()
            before = 0 if first is None else first
        rows = self._database.execute(
            "SELECT event_boot, event_sequence, question_id, text, event_s, age_known, count(*), count(picture),"
            " sum(size_bytes), min(row_id) AS first FROM event_frame WHERE camera = ?"
            " GROUP BY event_boot, event_sequence HAVING first < ? ORDER BY first DESC LIMIT ?",
            (request.camera, before, request.limit + 1),
        ).fetchall()
        entries = (self._entry(row) for row in rows[: request.limit])
        return EventsListed(tuple(entry for entry in entries if entry is not None), len(rows) > request.limit)

    def _entry(self, row: tuple[int, int, str, str, float, int, int, int, int, int]) -> EventEntry | None:
        boot, sequence, question_id, text, event_s, known, frames, pictures, size_bytes, _ = row
        age_ms: Age = UNKNOWN_AGE
        if known:
            age_ms = min(MAX_AGE_MS, max(0, round(1000 * (self._now_s() - event_s))))
        try:
            return EventEntry(
                event=FrameId(boot, sequence),
                question_id=question_id,
                text=text,
                age_ms=age_ms,
                frames=min(frames, MAX_EVENT_FRAMES),
                pictures=min(pictures, MAX_EVENT_FRAMES),
                size_bytes=size_bytes,
            )
        except ValueError:
            self.counters["rows_dropped"] += 1  # damage that the file does not show
            return None

    def _read(self, request: ReadEventFrame) -> EventFrameRead:
        where = f"{_EVENT} AND picture IS NOT NULL" if request.picture else _EVENT
        which = (request.camera, *request.event)
        (count,) = self._database.execute(f"SELECT count(*) FROM event_frame WHERE {where}", which).fetchone()  # noqa: S608
        row = self._database.execute(
            f"SELECT frame_boot, frame_sequence, offset_ms, fingerprint, latents, picture FROM event_frame"  # noqa: S608
            f" WHERE {where} ORDER BY offset_ms, row_id LIMIT 1 OFFSET ?",
            (*which, request.index),
        ).fetchone()
        if row is None:
            return EventFrameRead(None, min(count, MAX_EVENT_FRAMES))
        boot, sequence, offset_ms, fingerprint, latents, picture = row
        payload = picture if request.picture else latents
        return EventFrameRead(FrameId(boot, sequence), min(count, MAX_EVENT_FRAMES), offset_ms, payload, fingerprint)

    def _erase(self, request: EraseKeptEvents) -> int:
        """Rows that are named, by the age of their frame."""
        conditions, values = ["1"], list[object]()
        if request.camera is not None:
            conditions.append("camera = ?")
            values.append(request.camera)
        if request.event is not None:
            conditions.append("event_boot = ? AND event_sequence = ?")
            values += request.event
        else:
            # Of a frame whose age nobody knows it is known that it is as old as the present run of the machine.
            aged = "event_s + offset_ms / 1000.0"
            conditions.append(f"(NOT age_known OR {aged} <= ?)" if request.camera else f"{aged} <= ?")
            values.append(self._now_s() - request.older_than_s)
            if request.younger_than_s is not None:
                conditions.append(f"age_known AND {aged} >= ?")
                values.append(self._now_s() - request.younger_than_s)
        erased = self._delete(" AND ".join(conditions), tuple(values))
        if erased:
            # The log of changes holds the erased pages until it is begun anew.
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return erased

    def _delete(self, where: str, values: tuple[object, ...]) -> int:
        (size,) = self._database.execute(
            f"SELECT coalesce(sum(size_bytes), 0) FROM event_frame WHERE {where}",  # noqa: S608
            values,
        ).fetchone()
        with self._database:
            count = self._database.execute(f"DELETE FROM event_frame WHERE {where}", values).rowcount  # noqa: S608
        self.held_bytes -= int(size)
        return count
