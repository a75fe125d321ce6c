"""How a training or a measurement runs: settings that everything in this package shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Progress = Callable[[str], None]
"""Is called with a line of text now and then."""


def silent(line: str) -> None:
    """Progress that nobody reads."""


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How a run works.

    Attributes:
        cache_dir: Frames, tokens, answers and checkpoints; can be deleted afterwards.
        seed: Of everything random.
        threads: CPU threads, and rendering processes.
        device: Where models learn, and answer where a command says so; everything else runs on the CPU.
        resume: Continue from the checkpoints of the same run; otherwise they are dropped.
        progress: Called with a line of text now and then.
    """

    cache_dir: Path
    seed: int = 0
    threads: int = 2
    device: str = "cpu"
    resume: bool = True
    progress: Progress = print
