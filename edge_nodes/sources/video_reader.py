"""Decodes a video file, frame by frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

import av
import numpy as np
from av.sidedata.sidedata import SideData
from av.stream import Disposition
from numpy.typing import NDArray

from edge_nodes.sources.orientation import upright
from edge_nodes.sources.timeline import Timeline
from schemas.errors import SourceError

OPEN_TIMEOUT_S: Final = 15.0
READ_TIMEOUT_S: Final = 30.0
"""What grows while it plays, such as a live playlist, may be silent for so long."""
MAX_CORRUPT_STAMPS: Final = 64
"""Damaged packets whose frames the decoder still holds."""

Note = Callable[[str, str], None]
"""Told what is wrong with a file and does not end it: the kind, and words."""


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A frame out of the decoder, not yet converted.

    Attributes:
        index: position in the file, 0 for the first.
        time_s: when it is shown, from the first frame on.
        picture: the decoder's frame.
    """

    index: int
    time_s: float
    picture: av.VideoFrame

    def pixels(self) -> NDArray[np.uint8]:
        """RGB, uint8 [H, W, 3], as it is meant to be seen."""
        pixels = np.asarray(self.picture.to_ndarray(format="rgb24"), dtype=np.uint8)
        matrix = self.picture.side_data.get("DISPLAYMATRIX")
        return upright(pixels, bytes(matrix) if isinstance(matrix, SideData) else None)


class VideoReader:
    """One pass through the video of a file. Blocking; one thread at a time.

    The file is never sought in: raw streams, pipes and live playlists cannot do that.

    Args:
        path: the file.
        note: told of ``damaged_packet``, ``corrupt_frame`` and ``splice``.

    Raises:
        SourceError: no such file, or no video in it.
    """

    def __init__(self, path: Path, note: Note | None = None) -> None:
        self._path = path
        self._note: Note = note or (lambda _kind, _problem: None)
        try:
            self._container = av.open(
                str(path.absolute()),
                mode="r",
                # A playlist must not make the edge fetch from the network.
                options={"protocol_whitelist": "file,crypto,data"},
                timeout=(OPEN_TIMEOUT_S, READ_TIMEOUT_S),
            )
        except (OSError, av.FFmpegError) as error:
            raise SourceError(str(path), f"cannot be opened: {_words(error)}") from error
        try:
            self._stream = self._choose_stream()
        except BaseException:
            self._container.close()
            raise
        # One thread a camera: frame threads would multiply the memory of the decoder by the number of cores.
        self._stream.codec_context.thread_count = 1
        rate = self._stream.average_rate
        self._timeline = Timeline(float(1 / rate) if rate else None)

    @property
    def period_s(self) -> float:
        """Time between frames, as last seen."""
        return self._timeline.period_s

    def frames(self) -> Iterator[DecodedFrame]:
        """The frames of the file; those that the decoder calls corrupt are left out.

        Raises:
            SourceError: not one frame decodes, or nothing has come for :data:`READ_TIMEOUT_S`.
        """
        index = shown = 0
        problem = "no frame in it"
        corrupt_stamps: deque[int | None] = deque(maxlen=MAX_CORRUPT_STAMPS)
        try:
            for packet in self._packets():
                if packet.is_corrupt and packet.pts is not None:
                    corrupt_stamps.append(packet.pts)
                try:
                    pictures = packet.decode()
                except av.FFmpegError as error:
                    problem = _words(error)
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
            problem = _words(error)
            self._note("damaged_packet", problem)
        if shown == 0:
            raise SourceError(str(self._path), f"no frame decodes: {problem}")

    def close(self) -> None:
        """Release the file."""
        self._container.close()

    def _packets(self) -> Iterator[av.Packet[av.VideoStream]]:
        packets = self._container.demux(self._stream)
        while True:
            began_s = monotonic()
            packet = next(packets, None)
            if monotonic() - began_s >= READ_TIMEOUT_S:
                # FFmpeg was interrupted; what it says then is not always an error.
                raise SourceError(str(self._path), f"no data for {READ_TIMEOUT_S:g} s")
            if packet is None:
                return
            yield packet

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
            raise SourceError(str(self._path), found)
        best = self._container.streams.best("video")
        chosen = next((stream for stream in moving if best is not None and stream.index == best.index), moving[0])
        if chosen.codec_context is None:
            raise SourceError(str(self._path), "has a video stream of a codec that FFmpeg does not know")
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


_STILL: Final = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


def _words(error: Exception) -> str:
    """What the library says, without the path that it repeats."""
    return getattr(error, "strerror", None) or str(error)
