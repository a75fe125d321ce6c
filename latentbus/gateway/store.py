"""The history behind its thread: nothing waits for the disk but who asks for it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

from latentbus.gateway.errors import UnavailableError
from latentbus.gateway.history import FILE, History
from latentbus.gateway.models import AnswerView
from pipeline.config.gateway_settings import HistorySettings
from pipeline.config.logs import get_logger
from pipeline.node.work_thread import WorkThread
from schemas.errors import HistoryError, StateError

P = ParamSpec("P")
T = TypeVar("T")

REQUEST_TIMEOUT_S: Final = 10.0
"""Longest wait of a request for the disk."""
MAX_TEXTS: Final = 8_192
"""Texts of questions that were asked here and whose outcome is not stored yet."""

_log = get_logger(__name__)


class Store:
    """Calls of the history, one after the other, in a thread of its own.

    Args:
        folder: of its file; None keeps it in memory.
        bounds: age and size.

    Attributes:
        problem: why outcomes are not stored at this moment; None while they are.
        lost: outcomes that could not be stored.
        figures: counters and sizes, as the last call left them.
    """

    def __init__(self, folder: Path | None, bounds: HistorySettings) -> None:
        self.problem: str | None = None
        self.lost = 0
        self.figures: dict[str, float] = {}
        self._path = None if folder is None else folder / FILE
        self._bounds = bounds
        self._thread = WorkThread("history")
        self._history: History | None = None
        self._texts: OrderedDict[str, str] = OrderedDict()
        self._unstored: OrderedDict[str, str] = OrderedDict()
        self._storing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open the file.

        Raises:
            HistoryError: it can be neither read nor replaced.
        """
        self._history = await self._thread.call(History, self._path, self._bounds)

    async def close(self) -> None:
        """Close the file after all calls."""
        if self._storing is not None:
            await asyncio.wait({self._storing})
        history = self._history
        await self._thread.close(None if history is None else history.close)

    async def call(self, method: Callable[Concatenate[History, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method of the history.

        Raises:
            HistoryError: it failed.
        """
        history = self._history
        if history is None:
            raise HistoryError(str(self._path), "is not open")

        def work() -> T:
            try:
                return method(history, *args, **kwargs)
            finally:
                self.figures = {**history.counters, "size_bytes": history.size_bytes()}

        return await self._thread.call(work)

    async def request(self, method: Callable[Concatenate[History, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The same for somebody who does not wait for ever.

        Raises:
            UnavailableError: it failed, or took too long.
        """
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                return await self.call(method, *args, **kwargs)
        except HistoryError as error:
            raise UnavailableError(f"the history cannot be read: {error.problem}") from None
        except TimeoutError:
            raise UnavailableError("the disk of the history does not answer", retry_after_s=30.0) from None

    async def add(self, outcomes: Sequence[AnswerView]) -> None:
        """Store outcomes; what cannot be stored is counted, and the reason is kept in :attr:`problem`."""
        try:
            await self.call(History.add, outcomes)
        except HistoryError as first:
            try:
                # A damaged file was replaced just now.
                await self.call(History.add, outcomes)
            except HistoryError as error:
                self.lost += len(outcomes)
                if self.problem is None:
                    _log.error("outcomes cannot be stored", problem=error.problem, first=first.problem)
                self.problem = error.problem
                return
        if self.problem is not None:
            _log.info("outcomes are stored again", lost=self.lost)
        self.problem = None
        for outcome in outcomes:
            self._texts.pop(outcome.query_id, None)

    def remember_text(self, query_id: str, question: str) -> None:
        """A question is about to be asked; its text is on disk soon, together with others."""
        self._texts[query_id] = self._unstored[query_id] = question
        if len(self._texts) > MAX_TEXTS:
            self._texts.popitem(last=False)
        if len(self._unstored) > MAX_TEXTS:
            self._unstored.popitem(last=False)
        if self._storing is None or self._storing.done():
            self._storing = asyncio.create_task(self._store_texts(), name="texts")

    async def _store_texts(self) -> None:
        while self._unstored:
            texts, self._unstored = self._unstored, OrderedDict()
            try:
                await self.call(History.asked, texts)
            except (HistoryError, StateError) as error:
                _log.debug("texts of questions are not stored", problem=str(error))

    def text(self, query_id: str) -> str | None:
        """Text of a question that this process has asked and whose outcome is not stored yet."""
        return self._texts.get(query_id)

    async def texts(self, query_ids: Sequence[str]) -> Mapping[str, str]:
        """Texts of questions that this process, or an earlier one, has asked."""
        missing = [query_id for query_id in query_ids if query_id not in self._texts]
        found = {query_id: self._texts[query_id] for query_id in query_ids if query_id in self._texts}
        if missing:
            try:
                found |= await self.call(History.questions, missing)
            except HistoryError as error:
                _log.debug("texts of questions cannot be read", problem=error.problem)
        return found
