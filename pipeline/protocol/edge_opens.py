"""How a frame's open messages, and the key frame before its first one, get to the uplink."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

from pipeline.protocol.edge_frame import EdgeFrame, EdgeStage
from pipeline.protocol.edge_messages import EdgeMessages
from pipeline.protocol.expected_gain import ExpectedGain
from pipeline.protocol.ports import Delivery
from pipeline.protocol.settings import EdgeProtocolSettings
from pipeline.protocol.timers import Timers
from schemas.messages import Open
from schemas.types import FrameId

Key = tuple[str, FrameId]


class EdgeOpens:
    """Opens of all frames of an edge.

    Args:
        settings: times and bounds.
        timers: of the frames.
        messages: what the edge says.
        gain: what a message offers the uplink.
        counters: what happened, by reason.
        delivered: told what became of an open message.
        key_frame_delivered: told what became of a key frame.
    """

    def __init__(
        self,
        settings: EdgeProtocolSettings,
        timers: Timers[Key],
        messages: EdgeMessages,
        gain: ExpectedGain,
        counters: Counter[str],
        *,
        delivered: Callable[[Key, Delivery, float], None],
        key_frame_delivered: Callable[[Key, Delivery, float], None],
    ) -> None:
        self._settings = settings
        self._timers = timers
        self._messages = messages
        self._gain = gain
        self._counters = counters
        self._delivered = delivered
        self._key_frame_delivered = key_frame_delivered

    def begin(self, frame: EdgeFrame) -> None:
        """Queue the first open of a frame; that of a key frame waits until the key frame has left."""
        if frame.given_key is not None and frame.given_key.sequence is None:
            frame.key_waits = True
            self._counters["key_frames"] += 1
            self._messages.key_frame(
                frame,
                partial(self._key_frame_left, frame),
                partial(self._key_frame_delivered, (frame.camera, frame.frame)),
            )
        else:
            self._queue(frame)

    def again(self, frame: EdgeFrame) -> None:
        """Queue a further open; its worker may lack the key frame, so it stands by itself."""
        frame.stand_alone()
        self._queue(frame)

    def key_frame_lost(self, frame: EdgeFrame) -> None:
        """The key frame found no way out: the first open stands by itself, if it has not left yet."""
        if frame.attempt == 0:
            waits = frame.key_waits
            frame.stand_alone()
            if waits:
                self._queue(frame)

    def _queue(self, frame: EdgeFrame) -> None:
        self._messages.open(
            frame,
            partial(self._leaves, frame),
            partial(self._gain.open_utility, frame),
            partial(self._delivered, (frame.camera, frame.frame)),
        )

    def _key_frame_left(self, frame: EdgeFrame) -> None:
        # It may leave again after a lost connection; the open waits only once.
        if frame.key_waits and frame.queries:
            frame.key_waits = False
            self._queue(frame)

    def _leaves(self, frame: EdgeFrame, now_s: float) -> Open | None:
        if frame.stage is not EdgeStage.QUEUED or all(q.deadline_s <= now_s for q in frame.queries.values()):
            return None
        self._timers.touch((frame.camera, frame.frame))
        frame.leave(now_s, self._settings.base_lease_s)
        self._counters["opens" if frame.attempt == 1 else "reopens"] += 1
        self._counters["latents_sent_again_reopen"] += frame.send(0, frame.prefix)
        return self._messages.open_message(frame, now_s)
