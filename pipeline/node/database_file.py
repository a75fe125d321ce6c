"""A file with one SQLite table that survives power cuts, damage and full disks. Blocking; one thread at a time.

What is committed is on the medium. A file that is damaged, or of another version, is set aside and a new one begun, so
that it never keeps a site dark.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import structlog

from pipeline.node.disk_reserve import DiskReserve
from pipeline.node.set_aside import set_aside
from schemas.errors import ArtifactError

T = TypeVar("T")

PIECES_A_WRITE: Final = 4
"""Of the reserve, for one write on a full disk: whoever filled it may be quicker."""
_DAMAGE = ("malformed", "corrupt", "not a database", "no such column", "no such table", "Could not decode")


@dataclass(frozen=True, slots=True)
class TableFile:
    """What such a file holds.

    Attributes:
        what: for the log, for example *the journal of ad-hoc questions*.
        table: name of the table.
        columns: in their order.
        schema: statements that make table and indexes.
        version: of the table; a file of another one is set aside.
        added: columns that each version has more than the one before, where that is all: such a file is gone on with.
    """

    what: str
    table: str
    columns: tuple[str, ...]
    schema: str
    version: int
    added: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    def in_memory(self) -> sqlite3.Connection:
        """A table that nothing survives."""
        return self._open(":memory:")

    def open(
        self, path: Path, *, reserve_bytes: int, counters: Counter[str], log: structlog.stdlib.BoundLogger
    ) -> tuple[sqlite3.Connection, DiskReserve]:
        """The table of a file, made with its folder if need be, and room beside it for what a full disk must take.

        Args:
            path: the file.
            reserve_bytes: of that room; opening may take some of it.
            counters: ``files_set_aside`` is counted there.
            log: told what is wrong with the file.

        Raises:
            ArtifactError: the file can be neither read nor replaced.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            reserve = DiskReserve(path.with_suffix(".reserve"), reserve_bytes)
            reserve.fill()
            # What an earlier process left has to be read, and to end.
            reserve.room_to_open()
            problem = ""
            try:
                version = _version(str(path))
                if version in (0, self.version) or self._upgrade(str(path), version):
                    return self._open(str(path)), reserve
                suffix, problem = f"v{version}", "is of another version"
            except sqlite3.OperationalError as error:
                # Locked, read-only, full, a failing device: the file itself may be good.
                if not any(word in str(error) for word in _DAMAGE):
                    raise
                suffix, problem = "damaged", "is damaged"
            except (sqlite3.DatabaseError, ValueError, TypeError, OverflowError):
                suffix, problem = "damaged", "is damaged"
            aside = set_aside(path, suffix)
            counters["files_set_aside"] += 1
            log.error(f"{self.what} {problem}: starting a new one", kept_as=str(aside))
            return self._open(str(path)), reserve
        except (OSError, sqlite3.Error) as error:
            raise ArtifactError(str(path), f"cannot be opened: {error}; give a writable edge.state_dir") from error

    def _upgrade(self, path: str, version: int) -> bool:
        """Add the columns that a file of an earlier version lacks, all at once; whether that is all it lacks."""
        later = range(version + 1, self.version + 1)
        if not later or not all(number in self.added for number in later):
            return False
        columns = [column for number in later for column in self.added[number]]
        added = " ".join(f"ALTER TABLE {self.table} ADD COLUMN {column};" for column in columns)
        with closing(sqlite3.connect(path, timeout=5.0)) as database:
            database.executescript(f"BEGIN; {added} PRAGMA user_version = {self.version}; COMMIT;")
        return True

    def _open(self, path: str) -> sqlite3.Connection:
        database = sqlite3.connect(path, check_same_thread=False, timeout=5.0)
        database.text_factory = _text
        try:
            database.execute("PRAGMA journal_mode = WAL")
            # Committed means on disk, power cut or not.
            database.execute("PRAGMA synchronous = FULL")
            if database.execute("PRAGMA user_version").fetchone() == (0,):
                database.executescript(f"BEGIN; {self.schema} PRAGMA user_version = {self.version}; COMMIT;")
            (found,) = database.execute("PRAGMA integrity_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(found)
            if {row[1] for row in database.execute(f"PRAGMA table_info({self.table})")} != set(self.columns):
                raise sqlite3.DatabaseError("the table has other columns")
            for _ in database.execute(f"SELECT * FROM {self.table}"):  # noqa: S608
                pass
        except BaseException:
            database.close()
            raise
        return database


def write_with_reserve(write: Callable[[], T], reserve: DiskReserve | None, counters: Counter[str]) -> T:
    """Write what must be written, in the room that is kept for a full disk if need be.

    Args:
        write: a transaction; what it raises rolls it back.
        reserve: that room.
        counters: ``reserve_pieces_used`` is counted there.

    Raises:
        sqlite3.Error: it could not be written, not even there.
    """
    for _ in range(PIECES_A_WRITE):
        try:
            return write()
        except sqlite3.OperationalError as error:
            freed = is_full(error) and reserve is not None and reserve.give_up()
            counters["reserve_pieces_used"] += freed
            if not freed:
                raise
    return write()


def is_full(error: Exception) -> bool:
    """Whether a write failed because the disk, or the file by its bound, has no room."""
    return isinstance(error, sqlite3.Error) and error.sqlite_errorcode == sqlite3.SQLITE_FULL


def _version(path: str) -> int:
    """Version of the table in a file; 0 when there is none yet."""
    with closing(sqlite3.connect(path, timeout=5.0)) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
    return int(version)


def _text(data: bytes) -> str:
    # One text that is none must not keep the others from being read; its row is dropped when it is understood.
    return data.decode("utf-8", errors="surrogateescape")
