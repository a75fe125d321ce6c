"""Coded features as baselines: tokens packed into planes, then written as image files or as video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from training.baselines.fronts import best_of_each_size
from training.baselines.planes import PlanePacking
from training.baselines.stills import StillCoder, StillFormat, formats
from training.baselines.video import VideoCodec, VideoSetting, decode_video, encode_video, hold_last, video_codecs

_SCREENING_SPEED: Final = 6
_QUALITIES: Final[dict[StillFormat, tuple[int, ...]]] = {
    "JPEG": (5, 20, 45, 70),
    "WEBP": (0, 10, 30, 50, 70),
    "AVIF": (5, 20, 35, 50, 65, 80),
    "JXL": (10, 30, 50, 70),
}
_CRFS: Final[dict[VideoCodec, tuple[int, ...]]] = {"x265": (18, 26, 34, 42), "SVT-AV1": (20, 32, 44, 56)}
_CHANNEL_SHARES: Final = (1, 1 / 4, 1 / 8, 1 / 16)


@dataclass(frozen=True, slots=True)
class FeatureSetting:
    """One way to code planes of features.

    Attributes:
        channels: Planes of each view.
        coder: An image format, or video.
    """

    channels: int
    coder: StillCoder | VideoSetting

    def __str__(self) -> str:
        if isinstance(self.coder, VideoSetting):
            return f"features, {self.channels} planes, {self.coder}"
        return f"features, {self.channels} planes, {self.coder.format} q{self.coder.quality}"


@dataclass(frozen=True, slots=True)
class CodedFeatures:
    """Features as the far end gets them.

    Attributes:
        setting: How they were coded.
        tokens: [F, N, D].
        payload_bytes: Of each frame [F].
    """

    setting: FeatureSetting
    tokens: Tensor
    payload_bytes: NDArray[np.int64]


def still_settings(dim: int, *, few: bool = False) -> list[FeatureSetting]:
    """Settings for frames by themselves.

    Args:
        dim: Channels of a token.
        few: Three settings of one format.
    """
    if few:
        return [FeatureSetting(_few_channels(dim), StillCoder("WEBP", quality)) for quality in (10, 40, 70)]
    return [
        FeatureSetting(channels, StillCoder(name, quality))
        for channels in _channels(dim)
        for name in formats()
        for quality in _QUALITIES[name]
    ]


def video_settings(dim: int, key_interval: int, *, few: bool = False) -> list[FeatureSetting]:
    """Settings for sequences.

    Args:
        dim: Channels of a token.
        key_interval: See `VideoSetting`.
        few: Fewer rates, one number of planes.
    """
    return [
        FeatureSetting(channels, VideoSetting(name, crf, key_interval))
        for channels in ([_few_channels(dim)] if few else _channels(dim)[1:])
        for name in video_codecs()
        for crf in (_CRFS[name][1::2] if few else _CRFS[name])
    ]


def code_features(
    tokens: Tensor,
    setting: FeatureSetting,
    known: Tensor,
    *,
    starts: Sequence[int] = (0,),
    tiles_per_edge: int = 1,
) -> CodedFeatures:
    """Send tokens as pictures.

    Args:
        tokens: Uncompressed tokens [F, N, D].
        setting: How.
        known: Tokens of other frames that the packing is learned on [G, N, D].
        starts: First frame of each sequence; a video begins there.
        tiles_per_edge: As in `CodecSpec`.
    """
    packing = PlanePacking.fit(known, setting.channels, tiles_per_edge=tiles_per_edge)
    pictures = packing.pack(tokens)
    coder = setting.coder
    if isinstance(coder, StillCoder):
        files = [coder.encode(picture) for picture in pictures]
        shown = np.stack([coder.decode(data, grey=True) for data in files])
        sizes = np.array([len(data) for data in files], dtype=np.int64)
    else:
        parts, counted = [], []
        for first, last in zip(starts, [*starts[1:], len(pictures)], strict=True):
            coded = encode_video(pictures[first:last], coder)
            parts.append(hold_last(decode_video(coded, coder.codec, grey=True), np.zeros_like(pictures[0])))
            counted += [picture.payload_bytes for picture in coded]
        shown, sizes = np.concatenate(parts), np.array(counted, dtype=np.int64)
    return CodedFeatures(setting, packing.unpack(shown), sizes)


def best_features(
    settings: Sequence[FeatureSetting],
    tokens: Tensor,
    known: Tensor,
    *,
    keep: int,
    starts: Sequence[int] = (0,),
    tiles_per_edge: int = 1,
) -> list[FeatureSetting]:
    """Settings that are worth asking about: the smallest errors of the tokens in each range of size.

    Args:
        settings: To choose from.
        tokens: Uncompressed tokens to choose on [F, N, D].
        known: See `code_features`.
        keep: How many at most.
        starts: See `code_features`.
        tiles_per_edge: As in `CodecSpec`.
    """
    if not settings:
        return []
    sizes, errors = [], []
    for setting in settings:
        coder = setting.coder
        quick = (
            FeatureSetting(setting.channels, StillCoder(coder.format, coder.quality, _SCREENING_SPEED))
            if isinstance(coder, StillCoder)
            else setting
        )
        found = code_features(tokens, quick, known, starts=starts, tiles_per_edge=tiles_per_edge)
        sizes.append(float(found.payload_bytes.mean()))
        errors.append(float((found.tokens - tokens.float()).square().mean()))
    rows = best_of_each_size(sizes, errors, ranges=keep)
    return [settings[row] for row in sorted(rows, key=sizes.__getitem__)]


def _channels(dim: int) -> list[int]:
    """Numbers of planes that are tried, the most first."""
    return sorted({max(4, round(share * dim)) for share in _CHANNEL_SHARES}, reverse=True)


def _few_channels(dim: int) -> int:
    """The number of planes that does best where few bytes may be spent."""
    return _channels(dim)[-2:][0]
