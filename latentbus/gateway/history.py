"""Outcomes, alerts and gaps on disk: SQLite, bounded by age and size. Blocking; one thread at a time.

Every outcome is stored once, the first of its query. What was stored survives a process that is killed; of a machine
that loses power the last seconds may be missing (``synchronous = NORMAL``).
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from latentbus.gateway.models import AlertView, AnswerView, GapView
from pipeline.config.gateway_settings import HistorySettings
from pipeline.config.logs import get_logger
from pipeline.node.set_aside import set_aside
from schemas.errors import HistoryError

_log = get_logger(__name__)

FILE: Final = "history.sqlite"
MAX_ALERTS_KEPT: Final = 10_000
MAX_GAPS_KEPT: Final = 1_000
TRIM_EVERY_ROWS: Final = 500
"""Outcomes between two looks at age and size."""
QUERY_LIMIT_S: Final = 2.0
"""A search that takes longer is broken off."""
_PROGRESS_STEPS: Final = 20_000
_DAY_S: Final = 86_400.0
_MB: Final = 1_000_000
_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE outcome (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    query_id TEXT NOT NULL UNIQUE,
    at REAL NOT NULL,                  -- wall clock of this host
    camera TEXT NOT NULL,
    question_id TEXT NOT NULL,
    outcome TEXT NOT NULL,
    ad_hoc INTEGER NOT NULL,
    text TEXT NOT NULL,
    question TEXT,
    view TEXT NOT NULL                 -- JSON of AnswerView
) STRICT;
CREATE INDEX outcome_camera ON outcome (camera, seq);
CREATE INDEX outcome_at ON outcome (at);
CREATE TABLE asked (query_id TEXT PRIMARY KEY, question TEXT NOT NULL, at REAL NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE alert (id INTEGER PRIMARY KEY AUTOINCREMENT, ended REAL, view TEXT NOT NULL) STRICT;
CREATE TABLE gap (id INTEGER PRIMARY KEY, began REAL NOT NULL, ended REAL NOT NULL, kept INTEGER NOT NULL,
                  reason TEXT NOT NULL) STRICT;
CREATE TABLE heard (only INTEGER PRIMARY KEY CHECK (only = 0), at REAL NOT NULL) STRICT;
"""
_DAMAGE: Final = ("malformed", "not a database", "corrupt")


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for in the history; None leaves a condition out.

    Attributes:
        camera: name of a camera.
        question: id of a question.
        outcome: how it ended.
        text: part of question or answer, upper and lower case of ASCII alike.
        since: received at this time or later, in seconds since 1970.
        until: received before this time.
        before: older than the outcome of this number.
        limit: how many at most.
        cameras: cameras that may be seen; empty for all.
    """

    camera: str | None = None
    question: str | None = None
    outcome: str | None = None
    text: str | None = None
    since: float | None = None
    until: float | None = None
    before: int | None = None
    limit: int = 100
    cameras: frozenset[str] = frozenset()

    def conditions(self) -> tuple[str, list[object]]:
        """As SQL, with its values."""
        found: list[str] = []
        values: list[object] = []
        for name, column in (
            ("camera", "camera = ?"),
            ("question", "question_id = ?"),
            ("outcome", "outcome = ?"),
            ("since", "at >= ?"),
            ("until", "at < ?"),
            ("before", "seq < ?"),
        ):
            value = getattr(self, name)
            if value is not None:
                found.append(column)
                values.append(value)
        if self.text is not None:
            escaped = self.text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            found.append("(text LIKE ? ESCAPE '\\' OR question LIKE ? ESCAPE '\\')")
            values += [f"%{escaped}%"] * 2
        if self.cameras:
            found.append(f"camera IN ({', '.join('?' * len(self.cameras))})")
            values += sorted(self.cameras)
        return " AND ".join(found) or "1", values


class History:
    """What the gateway remembers.

    Args:
        path: the file, made with its folder if need be; None keeps everything in memory only. A file that is damaged,
            or of another version, is set aside, and a new one begun.
        bounds: age and size.
        wall_s: wall clock in seconds.

    Attributes:
        counters: outcomes stored, repeats, deletions, files that were set aside.

    Raises:
        HistoryError: the file can be neither read nor replaced.
    """

    def __init__(self, path: Path | None, bounds: HistorySettings, *, wall_s: Callable[[], float] = time.time) -> None:
        self._path = path
        self._bounds = bounds
        self._wall_s = wall_s
        self._since_trim = 0
        self.counters: Counter[str] = Counter()
        self._database = _open(":memory:") if path is None else self._opened(path)
        self.trim()

    # ---- outcomes ---------------------------------------------------------------------------------------------------

    def add(self, outcomes: Sequence[AnswerView]) -> int:
        """Store outcomes; the first of a query stays.

        Returns:
            How many are new.

        Raises:
            HistoryError: they could not be stored.
        """
        rows = [
            (one.query_id, one.at, one.camera, one.question_id, str(one.outcome), one.ad_hoc, one.text, one.question,
             one.model_dump_json(exclude_defaults=True))
            for one in outcomes
        ]  # fmt: skip
        with self._transaction():
            before = self._database.total_changes
            self._database.executemany(
                "INSERT INTO outcome (query_id, at, camera, question_id, outcome, ad_hoc, text, question, view)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (query_id) DO NOTHING",
                rows,
            )
            new = self._database.total_changes - before
            self._heard()
        self.counters["stored"] += new
        self.counters["repeated"] += len(rows) - new
        self._since_trim += new
        if self._since_trim >= TRIM_EVERY_ROWS:
            self.trim()
        return new

    def search(self, search: Search) -> tuple[list[tuple[int, AnswerView]], list[GapView]]:
        """Outcomes with their numbers, the newest first, and the gaps among them.

        Raises:
            HistoryError: the file cannot be read, or it takes too long.
        """
        where, values = search.conditions()
        with self._reading():
            rows = self._database.execute(
                f"SELECT seq, view FROM outcome WHERE {where} ORDER BY seq DESC LIMIT ?",  # noqa: S608 - our columns
                (*values, search.limit),
            ).fetchall()
            found = [(int(seq), AnswerView.model_validate_json(view)) for seq, view in rows]
            full = len(found) == search.limit
            oldest = found[-1][1].at if full else search.since or 0.0
            newest = found[0][1].at if search.before is not None and found else search.until or float("inf")
            gaps = [gap for gap in self._gaps(MAX_GAPS_KEPT) if gap.ended >= oldest and gap.began <= newest]
        return found, gaps

    def latest(self, per_question: int, max_rows: int) -> list[AnswerView]:
        """The latest outcomes of each question of each camera, the oldest first.

        Args:
            per_question: how many of each; those that were asked once count as one question.
            max_rows: outcomes that are looked at.
        """
        with self._reading():
            rows = self._database.execute(
                "SELECT view FROM (SELECT seq, view, ROW_NUMBER() OVER (PARTITION BY camera,"
                " CASE ad_hoc WHEN 1 THEN '' ELSE question_id END ORDER BY seq DESC) AS number"
                " FROM (SELECT * FROM outcome ORDER BY seq DESC LIMIT ?)) WHERE number <= ? ORDER BY seq",
                (max_rows, per_question),
            ).fetchall()
            return [AnswerView.model_validate_json(view) for (view,) in rows]

    def find(self, query_id: str) -> AnswerView | None:
        """The outcome of a query."""
        with self._reading():
            row = self._database.execute("SELECT view FROM outcome WHERE query_id = ?", (query_id,)).fetchone()
            return None if row is None else AnswerView.model_validate_json(row[0])

    def count(self) -> int:
        """Outcomes that are stored."""
        (found,) = self._database.execute("SELECT COUNT(*) FROM outcome").fetchone()
        return int(found)

    # ---- questions that were asked here -----------------------------------------------------------------------------

    def asked(self, questions: Mapping[str, str]) -> None:
        """Texts of questions that are asked, by query: should this process end, their outcomes still have them."""
        now_s = self._wall_s()
        with self._transaction():
            self._database.executemany(
                "INSERT OR REPLACE INTO asked VALUES (?, ?, ?)", [(*entry, now_s) for entry in questions.items()]
            )

    def questions(self, query_ids: Iterable[str]) -> dict[str, str]:
        """Texts of questions that were asked here."""
        with self._reading():
            found = {}
            for query_id in query_ids:
                row = self._database.execute("SELECT question FROM asked WHERE query_id = ?", (query_id,)).fetchone()
                if row is not None:
                    found[query_id] = str(row[0])
            return found

    # ---- alerts -----------------------------------------------------------------------------------------------------

    def add_alert(self, alert: AlertView) -> AlertView:
        """Store an alert that begins, under a number of its own."""
        with self._transaction():
            number = self._database.execute("INSERT INTO alert (view) VALUES ('')").lastrowid
            stored = alert.model_copy(update={"id": number})
            self._database.execute("UPDATE alert SET view = ? WHERE id = ?", (stored.model_dump_json(), number))
            self._database.execute(
                "DELETE FROM alert WHERE id <= ? AND ended IS NOT NULL", ((number or 0) - MAX_ALERTS_KEPT,)
            )
        return stored

    def end_alert(self, alert: AlertView) -> None:
        """Store that an alert has ended."""
        with self._transaction():
            self._database.execute(
                "UPDATE alert SET view = ?, ended = ? WHERE id = ?", (alert.model_dump_json(), alert.ended, alert.id)
            )

    def alerts(self, limit: int, *, before: int | None = None) -> list[AlertView]:
        """Alerts that go on, then those that have ended, each the newest first."""
        with self._reading():
            rows = self._database.execute(
                "SELECT view FROM alert WHERE id < ? ORDER BY ended IS NOT NULL, id DESC LIMIT ?",
                (2**62 if before is None else before, limit),
            ).fetchall()
            return [AlertView.model_validate_json(view) for (view,) in rows]

    # ---- when the broker was heard ----------------------------------------------------------------------------------

    def heard(self) -> None:
        """The broker is there at this moment."""
        with self._transaction():
            self._heard()

    def last_heard(self) -> float | None:
        """When it was there last, in seconds since 1970; None if never."""
        with self._reading():
            row = self._database.execute("SELECT at FROM heard").fetchone()
            return None if row is None else float(row[0])

    def add_gap(self, gap: GapView) -> None:
        """Store a time in which it was not heard."""
        with self._transaction():
            self._database.execute(
                "INSERT INTO gap (began, ended, kept, reason) VALUES (?, ?, ?, ?)",
                (gap.began, gap.ended, gap.kept, gap.reason),
            )
            self._database.execute("DELETE FROM gap WHERE id <= (SELECT MAX(id) FROM gap) - ?", (MAX_GAPS_KEPT,))

    def gaps(self, limit: int) -> list[GapView]:
        """The latest gaps, the newest first."""
        with self._reading():
            return self._gaps(limit)

    # ---- bounds -----------------------------------------------------------------------------------------------------

    def size_bytes(self) -> int:
        """Size of what is stored."""
        (pages,), (free,), (page_bytes,) = (
            self._database.execute(f"PRAGMA {name}").fetchone()
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * page_bytes)

    def trim(self) -> None:
        """Delete what is too old, then the oldest of what is too much.

        Raises:
            HistoryError: it could not be deleted.
        """
        self._since_trim = 0
        oldest = self._wall_s() - self._bounds.max_days * _DAY_S
        with self._transaction():
            self._delete("DELETE FROM outcome WHERE at < ?", (oldest,), "too_old")
            self._database.execute("DELETE FROM asked WHERE at < ?", (oldest,))
            while self.size_bytes() > self._bounds.max_mb * _MB:
                many = max(100, self.count() // 20)
                self._database.execute(
                    "DELETE FROM asked WHERE query_id IN (SELECT query_id FROM asked ORDER BY at LIMIT ?)", (many,)
                )
                if not self._delete(
                    "DELETE FROM outcome WHERE seq IN (SELECT seq FROM outcome ORDER BY seq LIMIT ?)",
                    (many,),
                    "too_many",
                ):
                    break
        self._database.execute("PRAGMA incremental_vacuum")

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _delete(self, statement: str, values: tuple[object, ...], reason: str) -> int:
        deleted = self._database.execute(statement, values).rowcount
        self.counters[f"deleted_{reason}"] += deleted
        return deleted

    def _gaps(self, limit: int) -> list[GapView]:
        rows = self._database.execute(
            "SELECT began, ended, kept, reason FROM gap ORDER BY id DESC LIMIT ?", (limit,)
        ).fetchall()
        return [
            GapView(began=began, ended=ended, kept=bool(kept), reason=reason) for began, ended, kept, reason in rows
        ]

    def _heard(self) -> None:
        self._database.execute(
            "INSERT INTO heard VALUES (0, ?) ON CONFLICT (only) DO UPDATE SET at = excluded.at", (self._wall_s(),)
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            with self._database:
                self._database.execute("BEGIN IMMEDIATE")
                yield
        except sqlite3.Error as error:
            raise self._error(error) from error

    @contextmanager
    def _reading(self) -> Iterator[None]:
        limit_s = time.monotonic() + QUERY_LIMIT_S
        self._database.set_progress_handler(lambda: time.monotonic() > limit_s, _PROGRESS_STEPS)
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                raise HistoryError(self._where, f"the search takes more than {QUERY_LIMIT_S:g} s: narrow it") from None
            raise self._error(error) from error
        except (sqlite3.Error, ValueError) as error:
            raise self._error(error) from error
        finally:
            self._database.set_progress_handler(None, 0)

    @property
    def _where(self) -> str:
        return ":memory:" if self._path is None else str(self._path)

    def _error(self, error: Exception) -> HistoryError:
        """What went wrong; a file that turns out to be damaged is replaced, so that the next call works."""
        if self._path is not None and any(word in str(error) for word in _DAMAGE):
            try:
                self._database.close()
                self._database = self._replaced(self._path, "damaged", str(error))
            except (OSError, sqlite3.Error) as worse:
                return HistoryError(self._where, f"damaged, and cannot be replaced: {worse}")
        return HistoryError(self._where, str(error))

    def _opened(self, path: Path) -> sqlite3.Connection:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                return _open(str(path))
            except sqlite3.OperationalError as error:
                # Locked, read-only, full: the file itself may be good.
                if not any(word in str(error) for word in _DAMAGE):
                    raise
                return self._replaced(path, "damaged", str(error))
            except sqlite3.DatabaseError as error:
                return self._replaced(path, "damaged", str(error))
        except (OSError, sqlite3.Error) as error:
            raise HistoryError(str(path), f"cannot be opened: {error}; give a writable gateway.state_dir") from error

    def _replaced(self, path: Path, suffix: str, problem: str) -> sqlite3.Connection:
        aside = set_aside(path, suffix)
        self.counters["files_set_aside"] += 1
        _log.error("the history is damaged: starting a new one", problem=problem, kept_as=str(aside))
        return _open(str(path))


def _open(path: str) -> sqlite3.Connection:
    """Open a file, and make its tables if it is new.

    Raises:
        sqlite3.DatabaseError: it is damaged, of another version, or cannot be used.
    """
    database = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5.0)
    try:
        database.execute("PRAGMA auto_vacuum = INCREMENTAL")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA journal_size_limit = 16000000")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == 0:
            database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
        elif version != _VERSION:
            raise sqlite3.DatabaseError(f"version {version} of the history is not known here")
        (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found)
    except BaseException:
        database.close()
        raise
    return database


def search_of(given: dict[str, Any]) -> Search:
    """A search of checked values; those that are None are left out."""
    known = {field.name for field in fields(Search)}
    return Search(**{name: value for name, value in given.items() if name in known and value is not None})
