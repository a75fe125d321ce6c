"""Ad-hoc questions on disk: what was acknowledged to a client survives a crash of the edge.

Blocking; one thread at a time. Deadlines are stored on this host's wall clock, which only this host reads.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog

from pipeline.config.logs import get_logger
from pipeline.node.database_file import TableFile, write_with_reserve
from pipeline.node.disk_reserve import RESERVE_BYTES, DiskReserve
from pipeline.protocol.effects import ReplyTo
from pipeline.protocol.journal_requests import (
    MAX_OPEN_ASKS,
    Admission,
    Admit,
    Admitted,
    Decide,
    Decided,
    JournalRequest,
    JournalResult,
    MarkTold,
    MoveToFile,
    NotStored,
    ReadUnfinished,
    StoredAsk,
    Unfinished,
)
from schemas import topics, wire
from schemas.errors import ArtifactError, WireError
from schemas.identity import ad_hoc_query_id
from schemas.messages import Answer, Ask, QueryOutcome
from schemas.topics import Family
from schemas.types import AnswerType, FrameId

_log = get_logger(__name__)

MAX_DECIDED = 1024
"""Decided ones that are kept to answer a client that asks again."""

_VERSION = 3
_ADDED_IN_3 = ("ago_ms INTEGER", "frame TEXT")
_SCHEMA = """
CREATE TABLE ask (
    query_id TEXT PRIMARY KEY,         -- of camera, client and ask_id
    camera TEXT NOT NULL,
    client TEXT NOT NULL,
    ask_id TEXT NOT NULL,
    text TEXT NOT NULL,
    answer_type TEXT NOT NULL,
    options TEXT NOT NULL,             -- JSON
    deadline_ms INTEGER NOT NULL,
    asked_s REAL NOT NULL,             -- wall clock of this host
    reply_topic TEXT,
    correlation_data BLOB,
    terminal BLOB,                     -- JSON of Answer or QueryOutcome; null while undecided
    told INTEGER NOT NULL DEFAULT 0,   -- 1 once the terminal is known to be with the broker
    ago_ms INTEGER,                    -- it is asked of a frame that was so old when it came
    frame TEXT                         -- it is asked of this frame, boot-sequence as names and logs have it
) STRICT, WITHOUT ROWID;
CREATE INDEX undecided ON ask (asked_s) WHERE terminal IS NULL;
"""

_COLUMNS = (
    "query_id", "camera", "client", "ask_id", "text", "answer_type", "options", "deadline_ms", "asked_s", "reply_topic",
    "correlation_data", "terminal", "told", "ago_ms", "frame",
)  # fmt: skip
"""In the order of the table."""

_FILE: Final = TableFile("the journal of ad-hoc questions", "ask", _COLUMNS, _SCHEMA, _VERSION, added={3: _ADDED_IN_3})
_Row = tuple[str, str, str, str, str, str, str, int, float, str | None, bytes | None, bytes | None, int,
             int | None, str | None]  # fmt: skip


class AskJournal:
    """The ad-hoc questions of a site.

    Args:
        path: the file, made with its folder if need be; None keeps everything in memory only. A file that is damaged,
            or of another version, is set aside, and a new one begun.
        wall_s: wall clock in seconds.
        log: told what is wrong with the file.

    Attributes:
        counters: rows that were dropped, files that were set aside, pieces of the reserve that were used.

    Raises:
        ArtifactError: the file can be neither read nor replaced.
    """

    def __init__(
        self, path: Path | None, *, wall_s: Callable[[], float] = time.time, log: structlog.stdlib.BoundLogger = _log
    ) -> None:
        self._wall_s = wall_s
        self._log = log
        self._later: Path | None = None
        self.counters: Counter[str] = Counter()
        self._reserve: DiskReserve | None = None
        self._database = _FILE.in_memory() if path is None else self._opened(path)

    @classmethod
    def open_or_in_memory(cls, path: Path | None, *, wall_s: Callable[[], float] = time.time) -> AskJournal:
        """The journal of a file; one that cannot be opened now is in memory until :class:`MoveToFile` succeeds.

        A full or read-only disk must not keep a site dark; what it costs is said.
        """
        try:
            return cls(path, wall_s=wall_s)
        except ArtifactError as error:
            _log.error("ad-hoc questions are kept in memory until their file can be opened", problem=str(error))
            journal = cls(None, wall_s=wall_s)
            journal._later = path
            return journal

    def perform(self, request: JournalRequest) -> JournalResult:
        """Do what a machine asks for; what fails is told, not raised."""
        try:
            match request:
                case Admit():
                    admission, stored = self.admit(
                        request.camera,
                        request.client,
                        request.ask,
                        request.reply_to,
                        max_of_client=request.max_of_client,
                    )
                    return Admitted(admission, stored)
                case Decide():
                    return Decided(self.decide(request.query_id, request.terminal, told=request.told))
                case MarkTold():
                    self.told(request.query_id)
                    return Decided(None)
                case ReadUnfinished():
                    return Unfinished(tuple(self.unfinished()), in_memory=self._later is not None)
                case MoveToFile():
                    return self._move()
        except (sqlite3.Error, OSError) as error:
            return NotStored(str(error))

    def _move(self) -> JournalResult:
        if self._later is None:
            return Unfinished(())
        try:
            found = self.move_to(self._later)
        except ArtifactError as error:
            return NotStored(str(error))
        self._log.info("ad-hoc questions are kept on disk again", path=str(self._later))
        self._later = None
        return Unfinished(tuple(found))

    def move_to(self, path: Path) -> list[StoredAsk]:
        """Go on in a file that could not be used before; what is in memory goes there, and wins.

        Returns:
            Questions of an earlier process that the file holds and that are undecided or untold.

        Raises:
            ArtifactError: the file still cannot be used; everything stays where it is.
        """
        rows = self._database.execute("SELECT * FROM ask").fetchall()
        database = self._opened(path)
        try:
            with database:
                names, places = ", ".join(_COLUMNS), ", ".join("?" * len(_COLUMNS))
                database.executemany(f"INSERT OR REPLACE INTO ask ({names}) VALUES ({places})", rows)  # noqa: S608
        except sqlite3.Error as error:
            database.close()
            raise ArtifactError(str(path), f"cannot be written: {error}; free some space") from error
        self._database.close()
        self._database = database
        known = {row[0] for row in rows}
        return [stored for stored in self.unfinished() if stored.query_id not in known]

    def _opened(self, path: Path) -> sqlite3.Connection:
        database, self._reserve = _FILE.open(path, reserve_bytes=RESERVE_BYTES, counters=self.counters, log=self._log)
        return database

    def admit(
        self, camera: str, client: str, ask: Ask, reply_to: ReplyTo | None, *, max_of_client: int = MAX_OPEN_ASKS
    ) -> tuple[Admission, StoredAsk]:
        """Store a question; when this returns, it is on disk.

        Args:
            camera: whom it is asked of.
            client: who asks.
            ask: the question.
            reply_to: where the client wants the answer.
            max_of_client: undecided questions that this client may have.

        Raises:
            sqlite3.Error: it could not be stored. One that is known already is found all the same.
        """
        query_id = ad_hoc_query_id(camera, client, ask.query_id)
        known = self._get(query_id)
        if known is None:
            if self._reserve is not None and self._reserve.used and not self._reserve.fill():
                raise sqlite3.OperationalError("the disk is full: what is left is for the ends of earlier questions")
            stored = StoredAsk(ask, camera, client, ask.deadline_ms / 1000, reply_to, None)
            if self._count_undecided() >= MAX_OPEN_ASKS:
                return Admission.FULL, stored
            if self._count_undecided(client) >= max_of_client:
                return Admission.CLIENT_FULL, stored
            self._insert(stored)
            return Admission.NEW, stored
        if not known.ask.same_question(ask, client):
            return Admission.CONFLICT, StoredAsk(ask, camera, client, 0.0, reply_to, None)
        if reply_to is not None and reply_to != known.reply_to:
            try:
                with self._database:
                    self._database.execute(
                        "UPDATE ask SET reply_topic = ?, correlation_data = ? WHERE query_id = ?",
                        (reply_to.topic, reply_to.correlation_data, query_id),
                    )
            except sqlite3.Error:
                # It is stored, with its earlier address: that it cannot be changed is no reason to say nothing.
                self.counters["addresses_not_stored"] += 1
            known = replace(known, reply_to=reply_to)
        return Admission.RUNNING if known.terminal is None else Admission.DECIDED, known

    def decide(self, query_id: str, terminal: Answer | QueryOutcome, *, told: bool) -> StoredAsk | None:
        """Store how a question ended; the first terminal stays.

        Args:
            query_id: the question.
            terminal: its terminal message.
            told: it is with the broker already.

        Returns:
            The question, or None if it is not known, or was decided before.

        Raises:
            sqlite3.Error: it could not be stored, not even in the room that is kept for it.
        """
        return write_with_reserve(lambda: self._decide(query_id, terminal, told=told), self._reserve, self.counters)

    def _decide(self, query_id: str, terminal: Answer | QueryOutcome, *, told: bool) -> StoredAsk | None:
        with self._database:
            changed = self._database.execute(
                "UPDATE ask SET terminal = ?, told = ? WHERE query_id = ? AND terminal IS NULL",
                (wire.encode(terminal), told, query_id),
            ).rowcount
            self._database.execute(
                "DELETE FROM ask WHERE terminal IS NOT NULL AND told AND query_id NOT IN"
                " (SELECT query_id FROM ask WHERE terminal IS NOT NULL AND told ORDER BY asked_s DESC LIMIT ?)",
                (MAX_DECIDED,),
            )
        return self._get(query_id) if changed else None

    def told(self, query_id: str) -> None:
        """The terminal of a question is with the broker."""
        with self._database:
            self._database.execute("UPDATE ask SET told = 1 WHERE query_id = ?", (query_id,))

    def unfinished(self) -> list[StoredAsk]:
        """Questions that are undecided, or whose terminal the broker may not have; the oldest first."""
        rows = self._database.execute(
            "SELECT * FROM ask WHERE terminal IS NULL OR NOT told ORDER BY asked_s"
        ).fetchall()
        return [stored for row in rows if (stored := self._stored(row)) is not None]

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _insert(self, stored: StoredAsk) -> None:
        ask, reply_to = stored.ask, stored.reply_to
        with self._database:
            self._database.execute(
                # One that could not be read stands there no more.
                "INSERT OR REPLACE INTO ask (query_id, camera, client, ask_id, text, answer_type, options, deadline_ms,"
                " asked_s, reply_topic, correlation_data, ago_ms, frame)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    stored.query_id,
                    stored.camera,
                    stored.client,
                    ask.query_id,
                    ask.text,
                    ask.answer_type.value,
                    json.dumps(ask.options),
                    ask.deadline_ms,
                    self._wall_s(),
                    reply_to.topic if reply_to else None,
                    reply_to.correlation_data if reply_to else None,
                    ask.ago_ms,
                    None if ask.frame is None else str(ask.frame),
                ),
            )

    def _count_undecided(self, client: str | None = None) -> int:
        (count,) = self._database.execute(
            "SELECT count(*) FROM ask WHERE terminal IS NULL AND client = coalesce(?, client)", (client,)
        ).fetchone()
        return int(count)

    def _get(self, query_id: str) -> StoredAsk | None:
        row = self._database.execute("SELECT * FROM ask WHERE query_id = ?", (query_id,)).fetchone()
        return None if row is None else self._stored(row)

    def _stored(self, row: _Row) -> StoredAsk | None:
        """A row understood; one that does not hold what it should is dropped: it costs its own question alone."""
        try:
            return self._understood(row)
        except (ValueError, TypeError, OverflowError, RecursionError, WireError) as error:
            self.counters["rows_dropped"] += 1
            self._log.error("a row of the journal is damaged and was dropped", problem=type(error).__name__)
            with suppress(sqlite3.Error, ValueError), self._database:
                self._database.execute("DELETE FROM ask WHERE query_id = ?", (row[0],))
            return None

    def _understood(self, row: _Row) -> StoredAsk:
        (
            query_id,
            camera,
            client,
            ask_id,
            text,
            kind,
            options,
            deadline_ms,
            asked_s,
            reply_topic,
            correlation,
            end,
            _,
            ago_ms,
            frame,
        ) = row
        ask = Ask(
            query_id=ask_id,
            text=text,
            answer_type=AnswerType(kind),
            options=tuple(json.loads(options)),
            deadline_ms=deadline_ms,
            ago_ms=ago_ms,
            frame=None if frame is None else FrameId.parse(frame),
        )
        # A wall clock that was set back must not give a question more time than it was asked with.
        age_s = max(0.0, self._wall_s() - asked_s)
        reply_to = None
        if reply_topic is not None:
            topics.parse(reply_topic)
            reply_to = ReplyTo(reply_topic, correlation)
        terminal = None if end is None else _terminal(end)
        stored = StoredAsk(ask, camera, client, deadline_ms / 1000 - age_s, reply_to, terminal)
        topics.ask_topic(camera, client)
        if stored.query_id != query_id or not math.isfinite(asked_s):
            raise ValueError("the key of a row is not that of its question")
        if terminal is not None and terminal.query_id != query_id:
            raise ValueError("the outcome of a row is another question's")
        return stored


def _terminal(data: bytes) -> Answer | QueryOutcome:
    message = wire.decode(Family.REPLY, data)
    if not isinstance(message, Answer | QueryOutcome):
        raise WireError(Family.REPLY, f"{type(message).__name__} is no terminal")
    return message
