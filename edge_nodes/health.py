"""Whether an edge makes progress, for its watchdog and ``systemctl status``, and how its cameras are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from edge_nodes.capture import CameraCapture
from edge_nodes.encoder import EncoderThread
from edge_nodes.picture_detail import DETAIL_BAD, DETAIL_OVER
from edge_nodes.sources import SourceState
from pipeline.health.conditions import HealthKind, Sign
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


def camera_signs(site: str, captures: Mapping[str, CameraCapture]) -> Iterator[Sign]:
    """Whether cameras show anything, and anything new.

    Args:
        site: name of the site.
        captures: of its cameras, by name.
    """
    for camera, capture in captures.items():
        state, detail = capture.machine.state, capture.detail
        away = state not in (SourceState.RUNNING, SourceState.ENDED)
        yield Sign(HealthKind.CAMERA_STALLED, "site", site, away, camera)
        if detail is not None:
            even = True if detail < DETAIL_BAD else False if detail > DETAIL_OVER else None
            yield Sign(HealthKind.CAMERA_COVERED, "site", site, None if away else even, camera, f"{detail:.1f}")
