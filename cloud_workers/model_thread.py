"""The one thread that runs the model, so that the event loop never waits for it."""

from __future__ import annotations

import functools

import torch

from pipeline.node.work_thread import WorkThread


def model_thread(threads: int | None = None) -> WorkThread:
    """A thread for the model.

    Args:
        threads: threads that torch may use within a call; None lets torch decide.
    """
    # OpenMP keeps this number per thread: it must be set in the one that computes.
    prepare = None if threads is None else functools.partial(torch.set_num_threads, threads)
    return WorkThread("model", prepare=prepare)
