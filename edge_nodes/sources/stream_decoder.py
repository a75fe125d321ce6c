"""The decoder of a stream, also when its codec changes in the middle."""

from __future__ import annotations

from typing import Final

import av

BARREN_PACKETS: Final = 20
"""So many packets without a clean picture raise the question whether the codec is still the one that
was announced. A decoder may hold back sixteen."""
CODECS: Final = ("h264", "hevc", "mpeg2video", "mpeg4", "av1", "mjpeg")
"""Those that are tried."""


class StreamDecoder:
    """Decodes the packets of one stream.

    Joined recordings and cameras that are set to another codec change it under one stream; FFmpeg gives the packets
    and keeps the decoder. When nothing decodes any more, the last key frame is tried with the others.

    Args:
        stream: where the packets come from.

    Attributes:
        context: the decoder in use.
        changes: how often it was exchanged.
    """

    def __init__(self, stream: av.VideoStream) -> None:
        self.context: av.VideoCodecContext = stream.codec_context
        self.changes = 0
        self._own = stream.codec_context
        self._time_base = stream.time_base
        self._key: av.Packet[av.VideoStream] | None = None
        self._barren = 0

    def decode(self, packet: av.Packet[av.VideoStream], *, at_once: bool = False) -> list[av.VideoFrame]:
        """The pictures that a packet brings out.

        Args:
            packet: the next one; an empty one brings out what is left.
            at_once: take out the picture of this packet too, which must be a key frame, instead of when later ones
                have come.

        Raises:
            av.FFmpegError: it does not decode.
        """
        if packet.is_keyframe and packet.size:
            self._key = packet
        try:
            pictures = self._decoded(packet, at_once=at_once)
        except av.FFmpegError:
            if (changed := self._of_another_codec()) is None:
                raise
            return changed
        if any(not picture.is_corrupt for picture in pictures):
            self._barren = 0
            return pictures
        return self._of_another_codec() or pictures

    def _decoded(self, packet: av.Packet[av.VideoStream], *, at_once: bool) -> list[av.VideoFrame]:
        if self.context is self._own:
            pictures = packet.decode()
        else:
            pictures = self.context.decode(packet if packet.size else None)
        if at_once and packet.size:
            pictures = [*pictures, *self._drained(self.context)]
        for picture in pictures:
            if self._time_base is not None:
                picture.time_base = self._time_base  # one that was drained has none
        return pictures

    def _drained(self, context: av.VideoCodecContext) -> list[av.VideoFrame]:
        pictures = context.decode(None)
        context.flush_buffers()
        return pictures

    def _of_another_codec(self) -> list[av.VideoFrame] | None:
        self._barren += 1
        if self._barren < BARREN_PACKETS or self._key is None:
            return None
        key, self._key = self._key, None  # it is tried once
        for name in CODECS:
            if name == self.context.name or name not in av.codecs_available:
                continue
            context = av.CodecContext.create(name, "r")
            context.thread_count = 1
            try:
                pictures = [*context.decode(key), *self._drained(context)]
            except av.FFmpegError:
                continue
            if any(not picture.is_corrupt for picture in pictures):
                self.context, self._barren = context, 0
                self.changes += 1
                for picture in pictures:
                    picture.time_base = key.time_base
                return pictures
        return None
