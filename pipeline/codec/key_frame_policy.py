"""Which key frame each frame is coded given, and which frames become key frames. Pure: no clock, no I/O.

A key frame costs a message of its own and pays back on the frames after it, as long as the camera sees the same scene.
Nobody knows how long that will be. So the edge keeps a candidate, an earlier frame that was not published, and adds up
what frames would have saved given it; when that reaches a share of the price, the present frame becomes the key frame.
That is the rent-or-buy rule of online algorithms (Karlin et al., 1988): it never pays much more than the best choice in
hindsight. A camera whose last key frame did not pay for itself has to save up more for the next one
(docs/decisions/0013-temporal-redundancy.md).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from pipeline.codec.latent import EncodedLatent
from pipeline.codec.prediction import KeyFramePrediction
from pipeline.codec.wire_bytes import key_frame_wire_bytes
from pipeline.protocol.effects import GivenKey

LEAST_SHARE: Final = 0.5
"""Of a key frame's price, what must have been saved in thought before it is paid."""
MOST_SHARE: Final = 4.0
MAX_CAMERAS: Final = 1_024
"""Cameras that are remembered; the one that was silent longest is forgotten first."""


@dataclass(slots=True)
class _Camera:
    key: tuple[int, KeyFramePrediction] | None = None
    candidate: KeyFramePrediction | None = None
    missed_bytes: float = 0.0
    share: float = LEAST_SHARE
    balance_bytes: float = 0.0
    made: KeyFramePrediction | None = None


class KeyFramePolicy:
    """Key frames of an edge's cameras."""

    def __init__(self) -> None:
        self._cameras: OrderedDict[str, _Camera] = OrderedDict()

    def choose(self, camera: str, latent: EncodedLatent) -> GivenKey[EncodedLatent] | None:
        """How a camera's next frame is coded; None codes it by itself.

        Args:
            camera: its camera.
            latent: of the frame, coded by itself.
        """
        if not latent.can_be_key:
            return None
        state = self._cameras.pop(camera, None) or _Camera()
        self._cameras[camera] = state
        if len(self._cameras) > MAX_CAMERAS:
            self._cameras.popitem(last=False)
        whole_bytes = _whole_bytes(latent)
        given = None if state.key is None else latent.given(state.key[1])
        now_bytes = whole_bytes if given is None else min(whole_bytes, _whole_bytes(given))
        state.balance_bytes += whole_bytes - now_bytes
        if state.candidate is None or (state.key is not None and state.candidate is state.key[1]):
            tried_bytes = now_bytes
        else:
            tried_bytes = min(whole_bytes, _whole_bytes(latent.given(state.candidate)))
        state.missed_bytes = max(0.0, state.missed_bytes + now_bytes - tried_bytes)
        # The frame itself needs almost nothing more once it is a key frame.
        price_bytes = key_frame_wire_bytes(whole_bytes) - now_bytes
        if state.missed_bytes > state.share * price_bytes:
            self._settle(state)
            state.balance_bytes, state.missed_bytes = -price_bytes, 0.0
            state.made = state.candidate = latent.as_key()
            return GivenKey(latent.given(state.made), None)
        if state.candidate is None or tried_bytes >= now_bytes:
            state.candidate, state.missed_bytes = latent.as_key(), 0.0
        if state.key is None or given is None or now_bytes >= whole_bytes:
            return None
        return GivenKey(given, state.key[0])

    def offered(self, camera: str, choice: GivenKey[EncodedLatent] | None, sequence: int) -> None:
        """A frame goes out under this number; if it was to be a key frame, it is the camera's from now on."""
        state = self._cameras.get(camera)
        if state is not None and choice is not None and choice.sequence is None and state.made is not None:
            state.key, state.made = (sequence, state.made), None

    def lost(self, camera: str, sequence: int) -> None:
        """A worker lacks a key frame, or it found no way out: nothing more is coded given it."""
        state = self._cameras.get(camera)
        if state is not None and state.key is not None and state.key[0] == sequence:
            self._settle(state)
            state.key, state.balance_bytes = None, 0.0

    @staticmethod
    def _settle(state: _Camera) -> None:
        """The last key frame's time is over: did it pay for itself?"""
        if state.key is not None:
            state.share *= 2 if state.balance_bytes < 0 else 0.5
            state.share = min(max(state.share, LEAST_SHARE), MOST_SHARE)


def _whole_bytes(latent: EncodedLatent) -> int:
    return int(latent.prefix_bytes()[-1])
