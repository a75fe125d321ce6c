"""Inter-coded video as a baseline: what a camera that stands still would send, one picture at each question.

x265 with `zerolatency`, and SVT-AV1 with its low-delay structure: no picture waits for a later one. Both through PyAV.
Bytes are those of the coded pictures. What a stream repeats and both ends can know is not counted, in the baseline's
favour: HEVC's parameter sets and start codes, AV1's temporal delimiters.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import av
import numpy as np
from numpy.typing import NDArray

from schemas.errors import StateError
from training.baselines.stills import enlarged, resized

VideoCodec: TypeAlias = Literal["x265", "SVT-AV1"]

_ENCODERS: Final[dict[VideoCodec, str]] = {"x265": "libx265", "SVT-AV1": "libsvtav1"}
_DECODERS: Final[dict[VideoCodec, str]] = {"x265": "hevc", "SVT-AV1": "libdav1d"}
_X265_PRESET: Final = "slow"
_SVT_PRESET: Final = 4
"""Slow ones: at one picture a second an edge has the time."""
_HEVC_PARAMETER_SETS: Final = (32, 33, 34)
_AV1_TEMPORAL_DELIMITER: Final = b"\x12\x00"
_MIN_EDGE_PX: Final = 16


@dataclass(frozen=True, slots=True)
class VideoSetting:
    """One way to code a sequence.

    Attributes:
        codec: `x265` or `SVT-AV1`.
        crf: Constant rate factor: 0 to 51 for x265, 1 to 63 for SVT-AV1; the higher, the smaller.
        key_interval: Every so many pictures one is coded by itself; 0 for only the first.
        size_px: Height and width that frames are resized to first; None leaves pictures as they are.
    """

    codec: VideoCodec
    crf: int
    key_interval: int
    size_px: int | None = None

    def __str__(self) -> str:
        size = f" {self.size_px} px" if self.size_px is not None else ""
        keys = f", key {self.key_interval}" if self.key_interval else ", one key"
        return f"{self.codec}{size} crf {self.crf}{keys}"


class CodedPicture(NamedTuple):
    """One picture of a stream."""

    data: bytes
    """As the encoder gives it."""
    payload_bytes: int
    """What of it has to travel."""
    is_key: bool
    """It needs no other picture."""


def video_codecs() -> tuple[VideoCodec, ...]:
    """Codecs that this PyAV can write and read."""
    return tuple(name for name in _ENCODERS if _known(_ENCODERS[name], "w") and _known(_DECODERS[name], "r"))


def missing_codecs() -> dict[str, str]:
    """Codecs that are not measured here, each with the reason and the fix."""
    return {
        name: f"this PyAV has no {_ENCODERS[name]}: install a wheel of av >= 15"
        for name in _ENCODERS
        if name not in video_codecs()
    }


def encode_video(pictures: NDArray[np.uint8], setting: VideoSetting) -> list[CodedPicture]:
    """Code one sequence.

    Args:
        pictures: RGB uint8 [T, H, W, 3], or grey uint8 [T, H, W]; edges even, 16 or more.
        setting: How; its `size_px` has no part in this.

    Returns:
        T coded pictures, in order.

    Raises:
        StateError: Pictures that no such video holds, or an encoder that does not give one packet a picture.
    """
    height, width = pictures.shape[1:3]
    if min(height, width) < _MIN_EDGE_PX or height % 2 or width % 2:
        raise StateError(f"pictures of {width} x {height} cannot be coded: edges must be even, {_MIN_EDGE_PX} or more")
    encoder = _encoder(setting, height, width, grey=pictures.ndim == 3)
    packets: list[av.Packet[av.VideoStream]] = []
    for number, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(
            np.ascontiguousarray(picture), format="gray" if picture.ndim == 2 else "rgb24"
        )
        frame = frame.reformat(format=encoder.pix_fmt)
        frame.pts, frame.time_base = number, Fraction(1, 1)
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    if [packet.pts for packet in packets] != list(range(len(pictures))):
        raise StateError(f"{setting.codec} gave {len(packets)} packets for {len(pictures)} pictures, or out of order")
    return [_coded(bytes(packet), setting.codec, is_key=packet.is_keyframe) for packet in packets]


def decode_video(
    coded: Sequence[CodedPicture | None], codec: VideoCodec, *, grey: bool = False
) -> list[NDArray[np.uint8] | None]:
    """What a receiver sees.

    Args:
        coded: Pictures of one stream, None for those that were lost.
        codec: Of the stream.
        grey: Pictures are grey.

    Returns:
        For each picture RGB uint8 [H, W, 3], or grey [H, W]; None where nothing came, or where the decoder has no good
        picture since one that it needs is missing.
    """
    decoder = av.CodecContext.create(_DECODERS[codec], "r")
    if not isinstance(decoder, av.VideoCodecContext):
        raise StateError(f"{_DECODERS[codec]} is no video decoder")
    decoder.thread_count = 1
    seen: list[NDArray[np.uint8] | None] = [None] * len(coded)

    def take(packet: av.Packet[Any] | None) -> None:
        try:
            frames = decoder.decode(packet)
        except av.FFmpegError:
            return  # a picture that refers to one that was lost
        for frame in frames:
            if frame.pts is not None and not frame.is_corrupt:
                seen[frame.pts] = np.asarray(frame.to_ndarray(format="gray" if grey else "rgb24"), dtype=np.uint8)

    for number, picture in enumerate(coded):
        if picture is not None:
            packet: av.Packet[Any] = av.Packet(picture.data)
            packet.pts = packet.dts = number
            take(packet)
    take(None)
    return seen


def hold_last(seen: Sequence[NDArray[np.uint8] | None], before: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A receiver that shows its last good picture until another one comes.

    Args:
        seen: From `decode_video` [T].
        before: What it shows before the first one [H, W, 3] or [H, W].
    """
    shown = []
    for picture in seen:
        before = before if picture is None else picture
        shown.append(before)
    return np.stack(shown)


def through_video(
    frames: NDArray[np.uint8], setting: VideoSetting
) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[CodedPicture]]:
    """A sequence as the far end sees it when nothing is lost.

    Args:
        frames: RGB uint8 [T, H, W, 3], or grey uint8 [T, H, W].
        setting: How it is coded.

    Returns:
        The decoded frames at their first size, bytes of each coded picture [T], and the coded pictures.
    """
    sent = frames if setting.size_px is None else np.stack([resized(frame, setting.size_px) for frame in frames])
    coded = encode_video(sent, setting)
    grey = frames.ndim == 3
    shown = hold_last(decode_video(coded, setting.codec, grey=grey), np.zeros(sent.shape[1:], dtype=np.uint8))
    if setting.size_px is not None:
        shown = np.stack([enlarged(picture, *frames.shape[1:3]) for picture in shown])
    return shown, np.array([picture.payload_bytes for picture in coded], dtype=np.int64), coded


def _encoder(setting: VideoSetting, height: int, width: int, *, grey: bool) -> av.VideoCodecContext:
    # The library writes its settings to the standard error of the process unless this is set.
    os.environ.setdefault("SVT_LOG", "1")
    encoder = av.CodecContext.create(_ENCODERS[setting.codec], "w")
    if not isinstance(encoder, av.VideoCodecContext):
        raise StateError(f"{_ENCODERS[setting.codec]} is no video encoder")
    encoder.width, encoder.height = width, height
    encoder.pix_fmt = "gray" if grey and setting.codec == "x265" else "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 1), Fraction(1, 1)
    encoder.thread_count = 1
    interval = setting.key_interval or -1
    if setting.codec == "x265":
        parameters = (
            f"keyint={interval}:min-keyint={max(interval, 1)}:scenecut=0:"
            "info=0:log-level=none:pools=none:frame-threads=1"
        )
        encoder.options = {
            "preset": _X265_PRESET, "tune": "zerolatency", "crf": str(setting.crf), "x265-params": parameters
        }  # fmt: skip
    else:
        parameters = f"pred-struct=1:keyint={interval}:lookahead=0:scd=0:rc=0:lp=1"
        encoder.options = {"preset": str(_SVT_PRESET), "crf": str(setting.crf), "svtav1-params": parameters}
    return encoder


def _coded(data: bytes, codec: VideoCodec, *, is_key: bool) -> CodedPicture:
    if codec == "x265":
        return CodedPicture(data, _hevc_payload_bytes(data), is_key)
    return CodedPicture(data, len(data.removeprefix(_AV1_TEMPORAL_DELIMITER)), is_key)


def _hevc_payload_bytes(data: bytes) -> int:
    """Slices of an access unit in Annex B form, without start codes and parameter sets."""
    total = 0
    for part in data.split(b"\x00\x00\x01")[1:]:
        unit = part.rstrip(b"\x00")
        if unit and (unit[0] >> 1) & 0x3F not in _HEVC_PARAMETER_SETS:
            total += len(unit)
    return total


@cache
def _known(name: str, mode: Literal["r", "w"]) -> bool:
    try:
        av.codec.Codec(name, mode)
    except ValueError:  # UnknownCodecError
        return False
    return True
