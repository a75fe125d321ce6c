"""What readers of a client have not taken yet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from schemas.messages import Answer, QueryOutcome

MAX_UNREAD_ANSWERS: Final = 4_096
"""Answers that one reader has not taken; the oldest is dropped for a further one. A terminal answer is the newest."""

Told: TypeAlias = Answer | QueryOutcome
"""An answer, provisional or terminal, or a terminal outcome without one."""


@dataclass(slots=True)
class Mailbox:
    """What one reader has not taken yet."""

    _messages: deque[Told] = field(default_factory=deque)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _ended: bool = False
    _error: Exception | None = None

    def put(self, message: Told) -> bool:
        """Add a message; false when an older one was dropped for it."""
        self._messages.append(message)
        self._arrived.set()
        if len(self._messages) <= MAX_UNREAD_ANSWERS:
            return True
        self._messages.popleft()
        return False

    def end(self, error: Exception | None = None) -> None:
        """Nothing more comes; the reader takes what is there, then the error."""
        if not self._ended:
            self._ended, self._error = True, error
            self._arrived.set()

    async def messages(self) -> AsyncGenerator[Told, None]:
        """Take each message as it comes, up to the end."""
        while True:
            while self._messages:
                yield self._messages.popleft()
            if self._error is not None:
                raise self._error
            if self._ended:
                return
            self._arrived.clear()
            await self._arrived.wait()


@dataclass(eq=False, slots=True)
class Watcher:
    """A reader of cameras; of all where they are None."""

    cameras: frozenset[str] | None
    mailbox: Mailbox = field(default_factory=Mailbox)
