"""Whether an edge makes progress: what its watchdog is asked, and what ``systemctl status`` shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from edge_nodes.capture import CameraCapture
from edge_nodes.encoder import EncoderThread
from pipeline.node.service_manager import Health
from schemas.counting import counted

ENCODE_LIMIT_S: Final = 60.0
"""A frame that takes longer to encode never will be: boards need seconds."""
HELD_LIMIT_S: Final = 300.0
"""A source that does not come back for so long is stuck in its library."""


def edge_health(captures: Sequence[CameraCapture], encoder: EncoderThread, *, connected: bool) -> Health:
    """How an edge is.

    A camera that is away is opened again and again, which is progress. One that is stuck in its library is no reason to
    restart the site while others go on; when all are, only a restart helps.

    Args:
        captures: of the cameras.
        encoder: of the site.
        connected: whether the broker is there.
    """
    up = sum(capture.machine.up for capture in captures)
    status = f"{up} of {counted(len(captures), 'camera')} up, {'connected' if connected else 'not connected'}"
    if encoder.busy_s > ENCODE_LIMIT_S:
        return Health(status, f"a frame is being encoded for {encoder.busy_s:.0f} s")
    held_s = min((capture.held_s() for capture in captures), default=0.0)
    if held_s > HELD_LIMIT_S:
        return Health(status, f"no camera has come back from being opened or closed for {held_s:.0f} s")
    return Health(status)
