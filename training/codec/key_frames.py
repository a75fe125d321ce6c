"""Consecutive frames coded as an edge codes them: given the key frames that its policy chooses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pipeline.codec.key_frame_policy import KeyFramePolicy
from pipeline.codec.latent import EncodedLatent


class CodedFrame(NamedTuple):
    """A frame as it goes out."""

    latent: EncodedLatent
    """Coded by itself."""
    given: EncodedLatent | None
    """Coded given the key frame; None where it goes by itself."""
    key_bytes: int
    """Payload of the key frame that is published before it, 0 for none."""

    @property
    def sent(self) -> EncodedLatent:
        """What the open message carries a prefix of."""
        return self.given or self.latent


def coded_by_policy(latents: Iterable[EncodedLatent], camera: str = "camera") -> list[CodedFrame]:
    """What an edge would send of one camera.

    Args:
        latents: Of the frames, in order, each coded by itself.
        camera: Its name.
    """
    policy = KeyFramePolicy()
    coded = []
    for sequence, latent in enumerate(latents):
        choice = policy.choose(camera, latent)
        policy.offered(camera, choice, sequence)
        is_key = choice is not None and choice.sequence is None
        key_bytes = latent.size_bytes(latent.latent_count) if is_key else 0
        coded.append(CodedFrame(latent, None if choice is None else choice.latent, key_bytes))
    return coded
