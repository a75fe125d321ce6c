"""Requests to the journal that the disk has not answered."""

from __future__ import annotations

from collections import Counter
from typing import Final

from pipeline.protocol.disk_link import DiskLink
from pipeline.protocol.effects import TakeFrame
from pipeline.protocol.journal_requests import JournalRequest, JournalResult, NotStored

RETRY_S: Final = 10.0
"""Between two attempts to store what a disk did not take."""


class JournalLink(DiskLink[JournalRequest, JournalResult, TakeFrame]):
    """What a session wants of the journal.

    Args:
        counters: where failures are counted.
    """

    def __init__(self, counters: Counter[str]) -> None:
        super().__init__("journal", counters, RETRY_S)

    def take_frame(self, camera: str) -> None:
        """A frame of this camera is wanted, after what was requested so far."""
        self._outputs.append(TakeFrame(camera))

    def failed(self, what: str, query_id: str, result: JournalResult) -> None:
        """A request failed; see :meth:`DiskLink.count_failure`."""
        problem = result.problem if isinstance(result, NotStored) else type(result).__name__
        fix = "free space on the disk of state_dir"
        self.count_failure("not_stored", what, query=query_id, problem=problem, fix=fix)
