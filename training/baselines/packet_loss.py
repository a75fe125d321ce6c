"""What video costs when a packet is lost, or a receiver comes late: nothing is right until the next key frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from training.baselines.stills import enlarged, resized
from training.baselines.video import CodedPicture, VideoSetting, decode_video, encode_video, hold_last

Agree = Callable[[NDArray[np.uint8], NDArray[np.int64]], NDArray[np.float64]]
"""Given pictures as the model takes them, uint8 [n, H, W, 3], and the frames that they stand for [n]: the share of each
frame's answers that are those from its uncompressed tokens [n]."""


@dataclass(frozen=True, slots=True)
class LossCost:
    """One setting under loss.

    Attributes:
        setting: How the sequences were coded.
        payload_bytes: Mean of a picture.
        key_frame_bytes: Mean of a key frame.
        losses: Packets that were dropped, each in a run of its own.
        frames_hit: Mean number of frames from the lost one to the next key frame, itself included.
        frames_unchanged: Share of those that the receiver still decodes exactly: nothing they need was in the packet.
        agreement_before: Of the same frames, nothing lost.
        agreement_after: Of them, with the last good picture shown where none comes.
        late_wait_frames: Mean number of frames that a receiver that starts at any time has to wait for a key frame.
    """

    setting: VideoSetting
    payload_bytes: float
    key_frame_bytes: float
    losses: int
    frames_hit: float
    frames_unchanged: float
    agreement_before: float
    agreement_after: float
    late_wait_frames: float


def loss_cost(
    frames: NDArray[np.uint8],
    starts: Sequence[int],
    setting: VideoSetting,
    agree: Agree,
    *,
    losses: int = 6,
    seed: int = 0,
) -> LossCost | None:
    """Drop one packet that is no key frame, again and again, and ask about what is seen until the next key frame.

    Args:
        frames: RGB uint8 [F, H, W, 3], of all sequences.
        starts: First frame of each sequence.
        setting: How sequences are coded.
        agree: Judges pictures.
        losses: Packets that are dropped at most, drawn at random.
        seed: Of the draw.

    Returns:
        None where every picture is a key frame.
    """
    bounds = [*starts, len(frames)]
    streams: list[list[CodedPicture]] = []
    for first, last in pairwise(bounds):
        part = frames[first:last]
        sent = part if setting.size_px is None else np.stack([resized(frame, setting.size_px) for frame in part])
        streams.append(encode_video(sent, setting))
    places = [(s, t) for s, coded in enumerate(streams) for t, picture in enumerate(coded) if not picture.is_key]
    if not places:
        return None
    drawn = np.random.default_rng([seed, 5]).permutation(len(places))[:losses]
    before, after, hit, same = [], [], [], []
    for stream, lost in (places[index] for index in sorted(drawn.tolist())):
        coded = streams[stream]
        end = next((t for t in range(lost, len(coded)) if coded[t].is_key), len(coded))
        whole = decode_video(coded[:end], setting.codec)
        torn = decode_video([*coded[:lost], None, *coded[lost + 1 : end]], setting.codec)
        blank = np.zeros_like(next(picture for picture in whole if picture is not None))
        good, shown = hold_last(whole, blank)[lost:], hold_last(torn, blank)[lost:]
        numbers = np.arange(bounds[stream] + lost, bounds[stream] + end)
        before.append(agree(_fitted(good, frames), numbers))
        after.append(agree(_fitted(shown, frames), numbers))
        hit.append(len(numbers))
        same.append((good == shown).all(axis=(1, 2, 3)).mean())
    pictures = [picture for coded in streams for picture in coded]
    keys = [picture.payload_bytes for picture in pictures if picture.is_key]
    return LossCost(
        setting,
        float(np.mean([picture.payload_bytes for picture in pictures])),
        float(np.mean(keys)),
        len(hit),
        float(np.mean(hit)),
        float(np.mean(same)),
        float(np.concatenate(before).mean()),
        float(np.concatenate(after).mean()),
        float(np.mean([_wait(coded, t) for coded in streams for t in range(len(coded))])),
    )


def _wait(coded: Sequence[CodedPicture], start: int) -> int:
    """Frames from one until the next key frame; the next sequence begins with one."""
    return next((t - start for t in range(start, len(coded)) if coded[t].is_key), len(coded) - start)


def _fitted(pictures: NDArray[np.uint8], frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.stack([enlarged(picture, *frames.shape[1:3]) for picture in pictures])
