"""What a check finds, and what is done about it. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from schemas.counting import counted
from schemas.types import SourceReason

BUSY_SHARE: Final = 0.7
"""Of the frames that the encoder can do; beyond it, an ad-hoc question waits for standing ones."""
MEMORY_RESERVE: Final = 1.25
"""Times the peak that was seen: questions, tables and caches of a running edge come on top."""
_MB: Final = 1_000_000
_MINUTE_S: Final = 60.0

FIXES: Final[Mapping[SourceReason, str]] = {
    SourceReason.AUTH: "look at user name and password in the address, or at the permissions of the file or device",
    SourceReason.NOT_FOUND: "look at host name, path, device or folder",
    SourceReason.UNREACHABLE: "look at address and port, and whether this device has a way to the camera",
    SourceReason.TLS: "look at the port, or set verify_tls: false for a camera with a certificate of its own",
    SourceReason.CODEC: "set the camera to H.264, H.265 or MJPEG",
    SourceReason.TIMEOUT: "look whether the camera sends at all; set stall_s for one that sends a picture now and then",
    SourceReason.ENDED: "look whether the camera takes another viewer",
    SourceReason.OTHER: "open the same address with ffprobe",
}
"""What is looked at for each reason why a source cannot be read."""


class Verdict(StrEnum):
    """How a part of the check went."""

    GOOD = "good"
    TIGHT = "tight"
    """It works, with little to spare."""
    WARN = "warn"
    """It works, and is not as it should be."""
    UNKNOWN = "unknown"
    """It cannot be seen from here."""
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One part of a check.

    Attributes:
        what: it.
        verdict: how it went.
        found: what was found, in words.
        fix: what to do about it; None where nothing is to be done.
        figures: what was measured, units in the names.
    """

    what: str
    verdict: Verdict
    found: str
    fix: str | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"what": self.what, "verdict": self.verdict, "found": self.found, "fix": self.fix, **self.figures}


def frames_a_minute(intervals_s: Iterable[float]) -> float:
    """Frames that cameras of these intervals ask for."""
    return sum(_MINUTE_S / interval_s for interval_s in intervals_s)


def of_encoder(precision: str, encode_ms: float, runs: int, intervals_s: Iterable[float]) -> Finding:
    """Whether the encoder keeps up with the cameras.

    Args:
        precision: of the encoder.
        encode_ms: median time of a frame, fitting included.
        runs: frames that it is the median of.
        intervals_s: of the cameras.
    """
    possible, wanted = _MINUTE_S * 1000 / encode_ms, frames_a_minute(intervals_s)
    found = (
        f"{precision}: {encode_ms:.1f} ms a frame (median of {runs}), {possible:,.0f} frames a minute; "
        f"the cameras ask for {wanted:,.0f}"
    )
    figures = {
        "precision": precision,
        "encode_ms_p50": round(encode_ms, 2),
        "frames_per_minute": round(possible, 1),
        "frames_per_minute_wanted": round(wanted, 1),
    }
    fix = "lengthen interval_s of the cameras, or try precision: int8 and more threads"
    if wanted > possible:
        return Finding("encoder", Verdict.BAD, found, fix, figures)
    if wanted > BUSY_SHARE * possible:
        return Finding("encoder", Verdict.TIGHT, found, fix, figures)
    return Finding("encoder", Verdict.GOOD, found, None, figures)


def of_memory(peak_bytes: int, available_bytes: int | None, cameras: int) -> Finding:
    """Whether the memory suffices.

    Args:
        peak_bytes: most that this process had, with encoder and all cameras open.
        available_bytes: what there was for it, at its start and in its limits; None where the system does not tell.
        cameras: that were open.
    """
    found = f"{peak_bytes / _MB:,.0f} MB at most, with the encoder and {counted(cameras, 'camera')}"
    figures: dict[str, Any] = {"rss_peak_bytes": peak_bytes, "available_bytes": available_bytes}
    if available_bytes is None:
        return Finding("memory", Verdict.GOOD, f"{found}; this system does not tell how much is free", None, figures)
    found = f"{found}; {available_bytes / _MB:,.0f} MB are free"
    if peak_bytes > available_bytes:
        return Finding("memory", Verdict.BAD, found, "fewer cameras, or smaller streams of them", figures)
    if MEMORY_RESERVE * peak_bytes > available_bytes:
        fix = "leave some room: fewer cameras, smaller streams, or fewer other programs"
        return Finding("memory", Verdict.TIGHT, found, fix, figures)
    return Finding("memory", Verdict.GOOD, found, None, figures)
