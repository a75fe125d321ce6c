"""Frames on disk while there is no link: what a :class:`~pipeline.protocol.frame_store.FrameStore` wants done.

Blocking; one thread at a time. Latents are stored as the codec makes them, not encrypted. Each row has a checksum: what
is read is what was written, or nothing.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import structlog

from pipeline.codec.bitstream import decode_chunk
from pipeline.codec.latent import EncodedLatent
from pipeline.codec.tables import FrequencyTables
from pipeline.config.logs import get_logger
from pipeline.node.database_file import TableFile, is_full, write_with_reserve
from pipeline.node.disk_reserve import PIECE_BYTES, DiskReserve
from pipeline.protocol.store_requests import (
    Damaged,
    DiskFailed,
    Done,
    DropFrames,
    Found,
    FrameRead,
    PutFrame,
    ReadFrame,
    ReadStored,
    StoredFrame,
    StoredQuestion,
    StoreRequest,
    StoreResult,
)
from schemas.errors import ArtifactError, LatentbusError

_log = get_logger(__name__)

RESERVE_BYTES: Final = 4 * PIECE_BYTES
"""Room on the disk for deleting frames where it is full."""
LOG_PAGES: Final = 128
"""SQLite's log of changes is written back from so many pages on: half a megabyte."""
PAGE_BYTES: Final = 4096
FILE_TIMES: Final = 2
"""The file may have so many times the bytes of its latents: a row that does not fill its pages leaves some of them."""

_VERSION = 1
_COLUMNS = (
    "entry_id", "camera", "questions", "fingerprint", "base_latents", "latent_count", "boot", "captured_s", "payload",
    "checksum",
)  # fmt: skip
_SCHEMA = """
CREATE TABLE frame (
    entry_id INTEGER PRIMARY KEY,      -- a later frame has a larger one
    camera TEXT NOT NULL,
    questions TEXT NOT NULL,           -- JSON: [id, digest in hexadecimal] of each
    fingerprint BLOB NOT NULL,         -- first 4 bytes, of the codec of the latent
    base_latents INTEGER NOT NULL,
    latent_count INTEGER NOT NULL,
    boot TEXT NOT NULL,                -- name of the time since the machine was switched on
    captured_s REAL NOT NULL,          -- within it
    payload BLOB NOT NULL,             -- all latents, one chunk
    checksum INTEGER NOT NULL          -- CRC-32 of all the others
) STRICT;
"""
_FILE: Final = TableFile("the file of stored frames", "frame", _COLUMNS, _SCHEMA, _VERSION)
_Row = tuple[int, str, str, bytes, int, int, str, float, bytes, int]


class Machine(Protocol):
    """A clock that outlives a process."""

    @property
    def boot(self) -> str:
        """Name of the time since it was switched on."""
        ...

    def now_s(self) -> float:
        """Seconds within it."""
        ...


class FrameFile:
    """Stored frames of a site.

    Args:
        path: the file, made with its folder if need be; None keeps everything in memory only. A file that is damaged,
            or of another version, is set aside, and a new one begun.
        tables: of the codec that this edge has.
        machine: its clock.
        max_bytes: of the latents; bounds the file.
        log: told what is wrong with the file.

    Attributes:
        counters: rows that were dropped, files that were set aside, pieces of the reserve that were used.

    Raises:
        ArtifactError: the file can be neither read nor replaced.
    """

    def __init__(
        self,
        path: Path | None,
        tables: FrequencyTables,
        machine: Machine,
        *,
        max_bytes: int,
        log: structlog.stdlib.BoundLogger = _log,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._tables = tables
        self._machine = machine
        self._log = log
        self._reserve: DiskReserve | None = None
        if path is None:
            self._database = _FILE.in_memory()
        else:
            self._database, self._reserve = _FILE.open(
                path, reserve_bytes=RESERVE_BYTES, counters=self.counters, log=log
            )
            self._database.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        self._database.execute(f"PRAGMA max_page_count = {16 + FILE_TIMES * max_bytes // PAGE_BYTES}")

    @classmethod
    def open_or_in_memory(
        cls, path: Path | None, tables: FrequencyTables, machine: Machine, *, max_bytes: int
    ) -> FrameFile:
        """The frames of a file, or of this process alone while the file cannot be opened; that is said."""
        try:
            return cls(path, tables, machine, max_bytes=max_bytes)
        except ArtifactError as error:
            _log.error("frames are kept in memory until the next start", problem=str(error))
            return cls(None, tables, machine, max_bytes=max_bytes)

    def perform(self, request: StoreRequest) -> StoreResult:
        """Do what a machine asks for; what fails is told, not raised."""
        try:
            match request:
                case ReadStored():
                    return self._found()
                case PutFrame():
                    self._put(request)
                case ReadFrame():
                    return self._read(request.entry_id)
                case DropFrames():
                    write_with_reserve(lambda: self._drop(request.entry_ids), self._reserve, self.counters)
        except (sqlite3.Error, OSError, OverflowError) as error:
            return DiskFailed(str(error), full=is_full(error))
        return Done()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _found(self) -> Found:
        frames, damaged = [], []
        for row in self._database.execute("SELECT * FROM frame ORDER BY entry_id"):
            try:
                frames.append(self._understood(row))
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
                damaged.append(row[0])
        if damaged:
            self.counters["rows_dropped"] += len(damaged)
            self._log.error("rows of the file of stored frames are damaged and were dropped", rows=len(damaged))
            with suppress(sqlite3.Error):
                self._drop(damaged)
        return Found(tuple(frames), len(damaged))

    def _put(self, request: PutFrame) -> None:
        if self._reserve is not None:
            self._reserve.fill()
        stored = request.stored
        questions = json.dumps([[question.question_id, question.digest.hex()] for question in stored.questions])
        row = (
            stored.entry_id,
            stored.camera,
            questions,
            stored.fingerprint,
            stored.base_latents,
            request.latent_count,
            self._machine.boot,
            self._machine.now_s() - (stored.age_s or 0.0),
            request.payload,
        )
        with self._database:
            self._database.executemany("DELETE FROM frame WHERE entry_id = ?", ((i,) for i in request.replaces))
            self._database.execute(
                "INSERT OR REPLACE INTO frame VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, _checksum(row))
            )

    def _read(self, entry_id: int) -> FrameRead | Damaged:
        row: _Row | None = self._database.execute("SELECT * FROM frame WHERE entry_id = ?", (entry_id,)).fetchone()
        if row is None:
            return Damaged("it is not in the file")
        try:
            stored, latent_count, payload = self._understood(row), row[5], row[8]
            if latent_count != self._tables.latent_count:
                return Damaged(f"{latent_count} latents, the codec has {self._tables.latent_count}")
            symbols = decode_chunk(payload, 0, latent_count, self._tables, None)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError, LatentbusError) as error:
            return Damaged(f"{type(error).__name__}: {error}")
        return FrameRead(EncodedLatent(symbols, self._tables), stored.age_s)

    def _drop(self, entry_ids: Iterable[int]) -> None:
        with self._database:
            self._database.executemany("DELETE FROM frame WHERE entry_id = ?", ((i,) for i in entry_ids))

    def _understood(self, row: _Row) -> StoredFrame:
        """A row as it was written.

        Raises:
            ValueError: it is not.
        """
        entry_id, camera, questions, fingerprint, base_latents, _, boot, captured_s, payload, checksum = row
        if checksum != _checksum(row[:-1]):
            raise ValueError("the checksum does not match")
        pairs = tuple(
            StoredQuestion(question_id, bytes.fromhex(digest)) for question_id, digest in json.loads(questions)
        )
        age_s = max(0.0, self._machine.now_s() - captured_s) if boot == self._machine.boot else None
        return StoredFrame(entry_id, camera, pairs, fingerprint, base_latents, len(payload), age_s)


def _checksum(row: tuple[object, ...]) -> int:
    checksum = 0
    for value in row:
        data = value if isinstance(value, bytes) else repr(value).encode(errors="surrogateescape")
        checksum = zlib.crc32(data, zlib.crc32(len(data).to_bytes(4, "big"), checksum))
    return checksum
