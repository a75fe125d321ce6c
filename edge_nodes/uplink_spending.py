"""What was spent of the uplink's budget, on disk, and the clock that says which day it is."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, TypeAdapter, ValidationError

from pipeline.config.edge_settings import EdgeSettings, UplinkBudgetSettings
from pipeline.config.logs import get_logger
from pipeline.node.clock import Clock, wall_clock
from pipeline.node.work_thread import WorkThread
from pipeline.protocol.edge_session import EdgeSession
from pipeline.protocol.uplink_budget import BudgetSettings, PeriodSpending, StoreSpending

_log = get_logger(__name__)

_NAMES: Final = ("day", "month")
_Count = Annotated[int, Field(ge=0, le=2**63)]
_Row = tuple[_Count, _Count, _Count | None]
_ROWS: Final = TypeAdapter(dict[str, _Row])


class SpendingFile:
    """A small file that is replaced at once, so that a power cut leaves the old or the new one.

    Args:
        path: the file; its folder is made when it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = _log.bind(path=str(path))
        self._failing = False

    def read(self) -> StoreSpending | None:
        """What an earlier process has written; None when there is nothing. A damaged file is set aside."""
        try:
            rows = _ROWS.validate_json(self._path.read_bytes(), strict=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._log.error("what was spent of the uplink's budget cannot be read", problem=str(error))
            return None
        except ValidationError as error:
            self._set_aside(error)
            return None
        return StoreSpending({name: PeriodSpending(*row) for name, row in rows.items() if name in _NAMES})

    def write(self, spending: StoreSpending) -> None:
        """Replace the file. A disk that refuses is reported once, until it takes it again."""
        rows: Mapping[str, _Row] = {
            name: (period.number, period.spent_bytes, period.behind) for name, period in spending.periods.items()
        }
        temporary = self._path.with_name(f".{self._path.name}.new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as stream:
                stream.write(json.dumps(rows).encode())
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(self._path)
        except OSError as error:
            if not self._failing:
                what = "what is spent of the uplink's budget cannot be stored: a restart would forget it"
                self._log.error(what, problem=str(error))
            self._failing = True
            return
        if self._failing:
            self._log.info("what is spent of the uplink's budget is stored again")
        self._failing = False

    def _set_aside(self, error: ValidationError) -> None:
        aside = self._path.with_name(f"{self._path.name}.damaged")
        what = "what was spent of the uplink's budget is unknown: the file is damaged and was set aside"
        self._log.error(what, aside=str(aside), problem=str(error).splitlines()[0])
        try:
            self._path.replace(aside)
        except OSError as problem:
            self._log.error("the damaged file cannot be set aside", problem=str(problem))


class UplinkSpending:
    """Tells a session the time of day, and writes what it has spent.

    Args:
        session: of the site.
        file: where it is written.
        thread: where the disk is waited for.
        clock: the edge's monotonic clock.
        pump: called when the session may have something to do.
        wall: see :func:`wall_clock`.
    """

    def __init__(
        self,
        session: EdgeSession,
        file: SpendingFile,
        thread: WorkThread,
        clock: Clock,
        pump: Callable[[], None],
        *,
        wall: Callable[[], tuple[float, float]] = wall_clock,
    ) -> None:
        self._session = session
        self._file = file
        self._thread = thread
        self._clock = clock
        self._pump = pump
        self._wall = wall
        self._next: StoreSpending | None = None
        self._filled = asyncio.Event()
        self._writing = asyncio.Lock()

    async def look_once(self) -> None:
        """Look at the clock, and wait until it is time for the next look."""
        utc_s, uptime_s = self._wall()
        self._session.wall_clock(utc_s, uptime_s)
        self._pump()
        await self._clock.sleep(self._session.budget.next_look_s(utc_s))

    def store(self, spending: StoreSpending) -> None:
        """Write this; of several that wait, only the last one is."""
        self._next = spending
        self._filled.set()

    async def write(self) -> None:
        """Write what is to be stored, until cancelled."""
        while True:
            await self._filled.wait()
            await self.flush()

    async def flush(self) -> None:
        """Write what waits."""
        async with self._writing:  # one that is being written is waited for
            self._filled.clear()
            spending, self._next = self._next, None
            if spending is not None:
                await self._thread.call(self._file.write, spending)


def uplink_budget(settings: UplinkBudgetSettings | None) -> BudgetSettings | None:
    """The budget of a session, of its settings."""
    if settings is None:
        return None
    day, month = settings.day_mb, settings.month_mb
    return BudgetSettings(
        day_bytes=None if day is None else round(day * 1_000_000),
        month_bytes=None if month is None else round(month * 1_000_000),
        month_begins=settings.month_begins,
    )


def spending_file_of(edge: EdgeSettings) -> SpendingFile | None:
    """Where a site stores what it spends; None where it has no budget."""
    if edge.uplink_budget is None or edge.state_dir is None:
        return None
    return SpendingFile(edge.state_dir / f"uplink-{edge.site}.json")
