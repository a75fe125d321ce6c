"""No log keeps pixels: neither a node's own, nor that of a recorder."""

from __future__ import annotations

from typing import Any, cast

from latentbus.logs.record import RecordingProcess
from pipeline.bus.base import Bus, Inbound
from pipeline.recording.bus_tap import TappedBus
from schemas import topics
from schemas.topics import Family

PICTURE = topics.event_topic(Family.PICTURE, "olga", "gate", "r-1")
CLIP = topics.event_topic(Family.CLIP, "olga", "gate", "r-1")
