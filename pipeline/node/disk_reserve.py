"""Room on a disk for what must still be written when the disk is full."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from pipeline.protocol.journal_requests import MAX_OPEN_ASKS

PIECE_BYTES: Final = 32 * 1024
"""What is given up at a time: enough for the end of one question with the longest answer (12 to 28 KB in SQLite's log),
and not more, since whoever filled the disk may take what is free."""
PIECES_TO_OPEN: Final = 4
"""What opening the journal may take: SQLite's log and the index of it."""
RESERVE_BYTES: Final = (MAX_OPEN_ASKS + PIECES_TO_OPEN) * PIECE_BYTES
"""A piece for each question that a site may have open, and those."""


class DiskReserve:
    """A file that holds blocks of a disk, and gives them back from its end, a piece at a time.

    Args:
        path: the file; left as an earlier process has it.
        size_bytes: when it is whole.
    """

    def __init__(self, path: Path, size_bytes: int = RESERVE_BYTES) -> None:
        self._path = path
        self._whole_bytes = size_bytes
        self._begun = path.exists()
        self._bytes = path.stat().st_size if self._begun else 0

    @property
    def used(self) -> bool:
        """Whether some of it was given up and not taken back."""
        return self._begun and self._bytes < self._whole_bytes

    def fill(self) -> bool:
        """Make it whole; False when the disk has no room for that, or cannot hold blocks for a file."""
        if self._bytes >= self._whole_bytes:
            return True
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                self._allocate(handle)
            finally:
                os.close(handle)
        except (OSError, AttributeError):  # a platform without posix_fallocate
            if not self._begun:
                self._path.unlink(missing_ok=True)
            return False
        self._begun, self._bytes = True, self._whole_bytes
        return True

    def room_to_open(self) -> None:
        """Free what opening the journal takes, where the disk does not have it."""
        for _ in range(PIECES_TO_OPEN):
            if shutil.disk_usage(self._path.parent).free < PIECES_TO_OPEN * PIECE_BYTES:
                self.give_up()

    def give_up(self) -> bool:
        """Free a piece of the disk; False when nothing is left to free."""
        if not self._bytes:
            return False
        shorter = max(0, self._bytes - PIECE_BYTES)
        try:
            os.truncate(self._path, shorter)
        except OSError:
            self._bytes = 0  # somebody deleted it: there is nothing to free
            return False
        self._bytes = shorter
        return True

    def _allocate(self, handle: int) -> None:
        try:
            os.posix_fallocate(handle, 0, self._whole_bytes)
        except OSError:
            # Some file systems keep what they found.
            os.ftruncate(handle, self._bytes)
            raise
