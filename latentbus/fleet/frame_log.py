"""Reads the frame log of an edge process, while it is written or afterwards: see :mod:`edge_nodes.frame_log`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from schemas.types import FrameId


class FrameLogReader:
    """Reads each whole line once.

    Args:
        path: the file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new_records(self) -> Iterator[dict[str, Any]]:
        """Records that were written since the last call; ``frame`` is a frame id, or None."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            written = stream.read()
        # The last line may be half written, for good when its process was killed.
        complete = written[: written.rfind(b"\n") + 1]
        self._offset += len(complete)
        for line in complete.splitlines():
            record = json.loads(line)
            if record.get("frame") is not None:
                boot, _, sequence = record["frame"].partition("-")
                record["frame"] = FrameId(int(boot, 16), int(sequence))
            yield record
