"""Decodes a video, frame by frame: a file, or a live stream as it comes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

import av
import numpy as np
from av.sidedata.sidedata import SideData, SideDataContainer
from av.stream import Discard, Disposition
from numpy.typing import NDArray

from edge_nodes.sources.address import Address, file_address
from edge_nodes.sources.key_frames import KeyFrames
from edge_nodes.sources.orientation import one_field, upright
from edge_nodes.sources.reasons import LOST, find_cause, source_error, words_of
from edge_nodes.sources.stream_decoder import StreamDecoder
from edge_nodes.sources.timeline import Timeline
from schemas.errors import SourceError
from schemas.types import SourceReason

MAX_CORRUPT_STAMPS: Final = 64
"""Damaged packets whose frames the decoder still holds."""
_CAUSE_TIMEOUT_S: Final = 3.0

Note = Callable[[str, str], None]
"""Told what is wrong with a video and does not end it: the kind, and words."""


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A frame out of the decoder, not yet converted.

    Attributes:
        index: position in the video, 0 for the first.
        time_s: when it is shown, from the first frame on.
        picture: the decoder's frame.
    """

    index: int
    time_s: float
    picture: av.VideoFrame

    def pixels(self) -> NDArray[np.uint8]:
        """RGB, uint8 [H, W, 3], as it is meant to be seen."""
        pixels = np.asarray(self.picture.to_ndarray(format="rgb24"), dtype=np.uint8)
        if self.picture.interlaced_frame:
            pixels = one_field(pixels)
        # The frame's own container refers back to it, and a cycle keeps the picture until the collector looks.
        matrix = SideDataContainer(self.picture).get("DISPLAYMATRIX")  # type: ignore[call-arg] # the stub leaves it out
        return upright(pixels, bytes(matrix) if isinstance(matrix, SideData) else None)


class VideoReader:
    """One pass through a video. Blocking; one thread at a time.

    It is never sought in: raw streams, pipes, live streams and playlists cannot do that.

    Args:
        video: a file, or what else FFmpeg opens.
        note: told of ``damaged_packet``, ``corrupt_frame`` and ``splice``.
        keys: which packets are decoded; None for all.

    Raises:
        SourceError: there is nothing, or no video in it.
    """

    def __init__(self, video: Path | Address, note: Note | None = None, *, keys: KeyFrames | None = None) -> None:
        self._address = video if isinstance(video, Address) else file_address(video)
        self._note: Note = note or (lambda _kind, _problem: None)
        self._keys = keys
        self._container = _open(self._address)
        try:
            self._stream = self._choose_stream()
        except BaseException:
            self._container.close()
            raise
        # One thread a camera: frame threads would multiply the memory of the decoder by the number of cores.
        self._stream.codec_context.thread_count = 1
        self._decoder = StreamDecoder(self._stream)
        rate = self._stream.average_rate
        self._timeline = Timeline(float(1 / rate) if rate else None)

    @property
    def period_s(self) -> float:
        """Time between frames, as last seen."""
        return self._timeline.period_s

    @property
    def finite(self) -> bool:
        """Whether it says how long it is, as a recording does and a live stream does not."""
        return self._container.duration is not None and self._container.duration > 0

    def frames(self) -> Iterator[DecodedFrame]:
        """The frames; those that the decoder calls corrupt are left out.

        Raises:
            SourceError: not one frame decodes, nothing has come for as long as the address allows, or a live stream
                is lost. The end of a live stream is its loss.
        """
        index = shown = 0
        problem = "no frame in it"
        corrupt_stamps: deque[int | None] = deque(maxlen=MAX_CORRUPT_STAMPS)
        try:
            for packet in self._packets():
                if packet.is_corrupt and packet.pts is not None:
                    corrupt_stamps.append(packet.pts)
                try:
                    pictures = self._decoded(packet)
                except av.FFmpegError as error:
                    problem = words_of(error)
                    self._note("damaged_packet", problem)
                    continue
                for picture in pictures:
                    time_s = self._time_of(picture)
                    if picture.is_corrupt or picture.pts in corrupt_stamps:
                        problem = f"frame {index} is corrupt"
                        self._note("corrupt_frame", problem)
                    else:
                        yield DecodedFrame(index, time_s, picture)
                        shown += 1
                    index += 1
        except (OSError, av.FFmpegError) as error:
            # The end of a file that was cut off in the middle: what came before it is good.
            problem = words_of(error)
            self._note("damaged_packet", problem)
        if shown == 0:
            raise SourceError(self._address.shown, f"no frame decodes: {problem}", SourceReason.CODEC)
        if self._address.live and not self.finite:
            raise SourceError(self._address.shown, "the other side ended the stream", SourceReason.ENDED)

    def close(self) -> None:
        """Release it."""
        self._container.close()

    def _packets(self) -> Iterator[av.Packet[av.VideoStream]]:
        packets = self._container.demux(self._stream)
        limit_s = self._address.read_timeout_s
        while True:
            began_s = monotonic()
            try:
                packet = next(packets, None)
            except (OSError, av.FFmpegError) as error:
                if not self._address.live:
                    raise
                waited_s = monotonic() - began_s
                raise source_error(self._address.shown, LOST, error, waited_s=waited_s, limit_s=limit_s) from error
            if monotonic() - began_s >= 0.9 * limit_s:
                # FFmpeg was interrupted; what it says then is not always an error.
                raise SourceError(self._address.shown, f"no data for {limit_s:g} s", SourceReason.TIMEOUT)
            if packet is None:
                return
            yield packet

    def _decoded(self, packet: av.Packet[av.VideoStream]) -> list[av.VideoFrame]:
        keys = self._keys
        if keys is None or packet.size == 0:
            return self._decoder.decode(packet)
        stamp = packet.pts if packet.pts is not None else packet.dts
        stamp_s = None if stamp is None or packet.time_base is None else float(stamp * packet.time_base)
        if not keys.wanted(packet.is_keyframe, stamp_s):
            return []
        # A decoder gives a frame out when later ones have come; among key frames the next one may be seconds away.
        return self._decoder.decode(packet, at_once=keys.only)

    def _time_of(self, picture: av.VideoFrame) -> float:
        splices = self._timeline.splices
        time_s = self._timeline.place(picture.time)
        if self._timeline.splices > splices:
            self._note("splice", f"time stamps jump by {self._timeline.jump_s:+.3f} s; the video goes on at its pace")
        return time_s

    def _choose_stream(self) -> av.VideoStream:
        """The video, and not its cover or thumbnails, which are video streams of one picture."""
        streams = self._container.streams.video
        moving = [stream for stream in streams if not stream.disposition & _STILL]
        if not moving:
            found = "has no video stream" + (", only a cover picture" if streams else "")
            raise SourceError(self._address.shown, found, SourceReason.CODEC)
        best = self._container.streams.best("video")
        chosen = next((stream for stream in moving if best is not None and stream.index == best.index), moving[0])
        if chosen.codec_context is None:
            raise SourceError(
                self._address.shown, "has a video stream of a codec that FFmpeg does not know", SourceReason.CODEC
            )
        for stream in self._container.streams:
            # What is not shown is not fetched either: sound, and the other qualities of a playlist.
            if stream.index != chosen.index:
                stream.discard = Discard.all
        return chosen


def check_video(path: Path) -> None:
    """Make sure that a video can be played: its first frame decodes. Blocking.

    Raises:
        SourceError: it cannot.
    """
    reader = VideoReader(path)
    try:
        next(reader.frames()).pixels()
    finally:
        reader.close()


def _open(address: Address) -> av.container.InputContainer:
    began_s = monotonic()
    try:
        return av.open(
            address.url,
            mode="r",
            format=address.format,
            options=dict(address.options),
            timeout=(address.open_timeout_s, address.read_timeout_s),
        )
    except (OSError, ValueError, av.FFmpegError) as error:
        limit_s = address.open_timeout_s
        found = source_error(address.shown, "cannot be opened", error, waited_s=monotonic() - began_s, limit_s=limit_s)
        if found.reason is SourceReason.OTHER:
            cause = find_cause(address.url, timeout_s=_CAUSE_TIMEOUT_S, verify=address.verify_tls)
            if cause is not None:
                found = SourceError(address.shown, f"cannot be opened: {cause[1]}", cause[0])
        raise found from error


_STILL: Final = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
