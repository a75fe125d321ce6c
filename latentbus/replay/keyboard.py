"""Keys of a replay: pause, step, rate, quit. Only where standard input is a terminal."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, auto
from typing import Final


class Key(Enum):
    """What can be asked for while a log is played."""

    PAUSE = auto()
    STEP = auto()
    FASTER = auto()
    SLOWER = auto()
    QUIT = auto()


KEYS: Final[dict[bytes, Key]] = {
    b" ": Key.PAUSE,
    b"s": Key.STEP,
    b"\x1b[C": Key.STEP,
    b"+": Key.FASTER,
    b"=": Key.FASTER,
    b"-": Key.SLOWER,
    b"q": Key.QUIT,
}
"""``\\x1b[C`` is the right arrow, ``=`` the plus without shift."""
HELP: Final = "space pause, right or s one message, + - rate, q quit"


def parse_keys(data: bytes) -> Iterator[Key]:
    """Keys in what a terminal sent; what is none of ours is skipped."""
    while data:
        code = next((code for code in KEYS if data.startswith(code)), None)
        if code is None:
            # A key of several bytes begins with escape and ends with a letter.
            end = next((i + 1 for i, byte in enumerate(data) if i > 1 and chr(byte).isalpha()), len(data))
            data = data[end if data.startswith(b"\x1b[") else 1 :]
        else:
            data = data[len(code) :]
            yield KEYS[code]


@contextmanager
def listening(press: Callable[[Key], None]) -> Iterator[bool]:
    """Hand on the keys that are pressed, while the context lasts.

    Yields:
        Whether there is a keyboard: standard input is a terminal, and this process is in its foreground.
    """
    if not sys.stdin.isatty():
        yield False
        return
    descriptor = sys.stdin.fileno()
    if os.tcgetpgrp(descriptor) != os.getpgrp():
        yield False  # changing the terminal from the background would stop the process
        return
    loop = asyncio.get_running_loop()
    before = termios.tcgetattr(descriptor)

    def on_readable() -> None:
        for key in parse_keys(os.read(descriptor, 256)):
            press(key)

    tty.setcbreak(descriptor)  # Ctrl-C still sends its signal
    loop.add_reader(descriptor, on_readable)
    try:
        yield True
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
