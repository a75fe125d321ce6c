"""Every size limit of the wire, each with its reason.

A limit is checked before a payload is unpacked, so that a small message cannot allocate much memory.
"""

from __future__ import annotations

from typing import Final

MAX_LATENT_PAYLOAD_BYTES: Final = 16_384
"""One range of latents. The detailed operating point needs 1 to 4 KB a frame; four times that is room enough, and
16 KiB at 64 kbps already takes two seconds of the uplink."""

MAX_QUERIES_PER_FRAME: Final = 64
"""Questions asked of one frame. A pass answers them in one batch, so the number bounds a worker's memory."""

MAX_BINARY_BYTES: Final = 24_576
"""Open, chunk and hand-over messages: one latent payload, 64 queries of at most 84 bytes, and the header. Far under the
128 KB of the strictest public broker (AWS IoT Core) and under Mosquitto 2.1's default of 2,000,000."""

MAX_CONTROL_BYTES: Final = 1_024
"""Control messages carry numbers and short ids only."""

MAX_JSON_BYTES: Final = 16_384
"""Answers, questions and status. The longest is an answer of 2,000 control characters, each escaped to six bytes: a
limit that a valid message can break would lose a terminal answer."""

MAX_QUESTION_CHARS: Final = 500
"""Longer than any question a person asks of a camera, shorter than a document."""

MAX_ANSWER_CHARS: Final = 2_000
"""About 500 tokens: a description, not an essay."""

MAX_REASON_CHARS: Final = 200
"""Why a query ended as it did: one sentence, perhaps with the first line of a library's error."""

MAX_RECEIPT_CHARS: Final = 300
"""What became of a message: one sentence, which may list some of the names that it may have."""

MAX_LATENTS: Final = 4_096
"""Latents of one frame; the bundled codecs use 128 at most."""

MAX_CHOICE_OPTIONS: Final = 16
"""Options of a question with answer type ``choice``: the prompt lists them, so they cost tokens."""

MAX_OPTION_CHARS: Final = 64
"""One option: a few words that an answer can repeat."""

MAX_CORRELATION_BYTES: Final = 128
"""CorrelationData of an ask. Every process that may answer keeps it, and it comes back over the thin link with each
reply; 128 bytes hold a UUID, a trace context, a short token."""

MAX_EVENTS_A_PAGE: Final = 24
"""Events of one list: each takes 400 bytes at most, with an answer of control characters."""

MAX_EVENT_TEXT_CHARS: Final = 32
"""Of the answer that made an event, what a list shows."""

MAX_PICTURE_PART_BYTES: Final = 16_384
"""One part of a picture: it leaves the uplink in the time of the longest latent."""

MAX_PICTURE_PARTS: Final = 64
"""A megabyte; the edge makes pictures of a tenth of that."""

MAX_EVENT_FRAMES: Final = 512
"""Frames of one event: a minute at eight frames a second."""
