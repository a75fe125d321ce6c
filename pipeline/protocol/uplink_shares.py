"""The part of the uplink that one camera may use for its standing questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from pipeline.protocol.bucket import UplinkBucket


class UplinkShares:
    """Shares by camera. A camera without one takes what there is.

    Args:
        rate_kbps: of the uplink in 1000 bits a second; None has no limit, and then nothing is limited.
        shares: by camera, above 0 and at most 1.

    Attributes:
        skipped: slots left out, by camera.
    """

    def __init__(self, rate_kbps: float | None, shares: Mapping[str, float]) -> None:
        self.skipped: Counter[str] = Counter()
        rate = rate_kbps or 0.0
        self._buckets = {camera: UplinkBucket(rate * share) for camera, share in shares.items()} if rate else {}

    def charge(self, camera: str | None, size_bytes: int, now_s: float) -> None:
        """A message of a camera has left."""
        bucket = self._buckets.get(camera or "")
        if bucket is not None:
            bucket.charge(size_bytes, now_s)

    def takes(self, camera: str, now_s: float) -> bool:
        """Whether the standing questions of a slot are asked: what the camera has sent is within its share."""
        bucket = self._buckets.get(camera)
        within = bucket is None or bucket.backlog_s(now_s) <= 0
        self.skipped[camera] += not within
        return within
