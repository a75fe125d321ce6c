"""How long to fuzz, and what a hostile input may cost."""

from __future__ import annotations

import os
import resource
import tracemalloc
from collections.abc import Callable

MEGABYTE = 1024 * 1024


def examples(usual: int) -> int:
    """Examples of a property: the usual number, or what ``HYPOTHESIS_MAX_EXAMPLES`` says for a long run."""
    return int(os.environ.get("HYPOTHESIS_MAX_EXAMPLES", usual))


def python_peak_bytes(action: Callable[[], object]) -> int:
    """Most memory that Python held at a time on top of what it held before."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def process_growth_bytes(action: Callable[[], object]) -> int:
    """By how much the process's peak grew; libraries that allocate on their own are seen here."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    action()
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
