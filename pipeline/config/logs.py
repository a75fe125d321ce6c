"""Logging of every process: structlog, JSON lines unless the output is a terminal.

Context (camera, frame, worker, query) is bound with :func:`structlog.contextvars.bound_contextvars`. What a peer can
trigger at will goes through :class:`OncePerKind`, so that no stranger can fill a disk.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from types import TracebackType
from typing import Any, Literal, Self

import structlog

from pipeline.protocol.ports import Problem
from schemas.errors import RemoteError
from schemas.printable import printable

Level = Literal["debug", "info", "warning", "error"]
MAX_KINDS = 256
"""Kinds that one :class:`OncePerKind` tells apart; later ones are counted together as ``other``."""
MAX_ABOUTS = 16
"""Things that one kind is about and that are logged one by one."""


def configure_logging(level: Level = "info", json: bool | None = None) -> None:
    """Set up structlog and the standard library's logging, both to standard error.

    Args:
        level: least severe level that is written.
        json: JSON lines; null writes them unless standard error is a terminal.
    """
    as_json = not sys.stderr.isatty() if json is None else json
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        # A logger kept from its first use would not see a later configuration; what is logged is bounded anyway.
        cache_logger_on_first_use=False,
    )
    # Tracebacks would show local variables, and with them passwords and latents.
    transformer = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    final: list[structlog.typing.Processor] = (
        [structlog.processors.ExceptionRenderer(transformer), structlog.processors.JSONRenderer()]
        if as_json
        else [
            _printable_values,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _printable_values(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Texts of peers must not steer the terminal; JSON lines escape them anyway."""
    return {key: printable(value) if isinstance(value, str) else value for key, value in event.items()}


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module: ``get_logger(__name__)``."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


class OncePerKind:
    """Logs what peers can repeat at will: the first of each kind, then each tenfold, and all counts at the end.

    Of one kind there may be several mistakes, each of which somebody has to mend: the first of each is logged as well.

    Usable as a context manager, which logs the counts on leaving.

    Attributes:
        counts: occurrences by kind; for metrics.
    """

    def __init__(self, logger: structlog.stdlib.BoundLogger) -> None:
        self.counts: Counter[str] = Counter()
        self._logger = logger
        self._told: dict[str, set[str]] = {}

    def report(self, kind: str, problem: str, *, about: str = "", **context: Any) -> None:
        """Count one occurrence, and log it if it is the first, tenth, hundredth... of its kind, or about something new.

        Args:
            kind: short label of low cardinality, for example ``open/version``.
            problem: what is wrong, in words.
            about: what it is about, for example a camera; empty where the kind says it all.
            context: further fields of the log line.
        """
        if kind not in self.counts and len(self.counts) >= MAX_KINDS:
            kind = "other"
        self.counts[kind] += 1
        count = self.counts[kind]
        told = self._told.setdefault(kind, set())
        new = about not in told and len(told) < MAX_ABOUTS
        if new:
            told.add(about)
        if new or count == 10 ** (len(str(count)) - 1):
            self._logger.warning("message dropped", kind=kind, problem=problem, count=count, **context)

    def remote_error(self, where: str, error: RemoteError, **context: Any) -> None:
        """Report a peer's error under ``where/reason``.

        Args:
            where: topic family or part of the process.
            error: the error; its ``reason`` is part of the kind.
            context: further fields of the log line.
        """
        reason = getattr(error, "reason", type(error).__name__)
        self.report(f"{where}/{reason}", str(error), about=error.about, **context)

    def take(self, problem: Problem) -> None:
        """Count and report what a protocol machine says is wrong."""
        if isinstance(problem.error, RemoteError):
            self.remote_error(problem.kind, problem.error, **problem.context)
        elif problem.logged:
            self.report(problem.kind, problem.text, about=problem.about, **problem.context)
        else:
            self.counts[problem.kind if problem.kind in self.counts or len(self.counts) < MAX_KINDS else "other"] += 1

    def summarise(self) -> None:
        """Log all counts in one line, if there are any."""
        if self.counts:
            self._logger.warning("messages dropped in all", counts=dict(self.counts))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.summarise()
