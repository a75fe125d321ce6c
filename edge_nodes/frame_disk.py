"""The disk of stored frames, in a thread of its own: requests are done one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edge_nodes.frame_file import FrameFile
from pipeline.node.containment import Containment
from pipeline.node.work_thread import WorkThread
from pipeline.protocol.store_requests import DiskFailed, StoreRequest, StoreResult


class FrameDisk:
    """Does what a session wants done with stored frames.

    Args:
        file: the frames.
        thread: where the disk is waited for.
        containment: takes what nobody else has handled.
        done: told what became of each request.
    """

    def __init__(
        self,
        file: FrameFile,
        thread: WorkThread,
        containment: Containment,
        done: Callable[[StoreRequest, StoreResult], None],
    ) -> None:
        self._file = file
        self._thread = thread
        self._containment = containment
        self._done = done
        self._requests: asyncio.Queue[StoreRequest] = asyncio.Queue()

    def put(self, request: StoreRequest) -> None:
        """Want something done."""
        self._requests.put_nowait(request)

    async def run(self) -> None:
        """Do what is wanted, until cancelled."""
        while True:
            request = await self._requests.get()
            try:
                result = await self._thread.call(self._file.perform, request)
            except Exception as error:  # noqa: BLE001 - a bug of ours in the file costs this request
                self._containment.note("frame file", error)
                result = DiskFailed(str(error))
            self._done(request, result)
