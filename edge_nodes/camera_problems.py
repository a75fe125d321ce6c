"""What goes wrong at the cameras of a site: counted by kind, logged once for each new mistake."""

from __future__ import annotations

from collections import Counter, OrderedDict
from pathlib import Path
from traceback import extract_tb
from typing import Any, Final

from edge_nodes.sources import redacted
from pipeline.config.logs import get_logger
from schemas.errors import LatentbusError, SourceError

_log = get_logger(__name__)

MAX_MISTAKES: Final = 16
"""Mistakes of one camera that are told apart; the one that was made longest ago is forgotten."""


class CameraProblems:
    """Counts and logs.

    A mistake is logged when it is new and when it was made ten, a hundred... times.

    Attributes:
        counts: by camera and kind: ``lost`` (it could not be opened or read), ``open_blocked``, ``read_blocked``,
            ``close_blocked``, ``close``, ``frame`` (a frame that could not be encoded).
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._mistakes: dict[str, OrderedDict[tuple[str, str], int]] = {}

    def report(self, camera: str, kind: str, error: BaseException, **context: Any) -> None:
        """Count one mistake.

        Args:
            camera: where.
            kind: what it is, see :attr:`counts`.
            error: what it says; of one that is not ours the log tells where in the code it arose.
            context: further fields of the log line.
        """
        self.counts[camera, kind] += 1
        mistakes = self._mistakes.setdefault(camera, OrderedDict())
        ours = isinstance(error, LatentbusError)
        problem = redacted(str(error) if ours else f"{type(error).__name__}: {error}")
        count = mistakes.pop((kind, problem), 0) + 1
        mistakes[kind, problem] = count
        if len(mistakes) > MAX_MISTAKES:
            mistakes.popitem(last=False)
        if count == 10 ** (len(str(count)) - 1):
            words = _WORDS.get(kind, "camera blocked")
            reason = {"reason": str(error.reason)} if isinstance(error, SourceError) else {}
            fields = {**reason, **_place(error), **context}
            _log.error(words, camera=camera, kind=kind, problem=problem, count=count, **fields)

    def forget(self, camera: str) -> None:
        """The camera was well for a while: what happens now is new."""
        self._mistakes.pop(camera, None)


_WORDS: Final = {"lost": "camera lost", "close": "camera not closed", "frame": "frame dropped"}


def _place(error: BaseException) -> dict[str, str]:
    """Where a foreign error arose. Its traceback would show messages, and in them passwords of sources."""
    foreign = error.__cause__ if isinstance(error, LatentbusError) else error
    if foreign is None or isinstance(foreign, OSError | LatentbusError):
        return {}
    frames = extract_tb(foreign.__traceback__)
    return {"where": f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"} if frames else {}
