"""What else could be sent: image files, inter-coded video, coded features, fewer or rounder tokens, or nothing at all.

Every baseline gives the frames, or the visual tokens, that the far end would have, and the bytes that it took. None of
them knows a codec of ours. What both ends may know beforehand is learned on drawn frames, as our codecs were.
"""
