"""Copies a log without what is private in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from analysis.redact.redaction import METADATA_KEY, Redaction, redacted, redaction_value, redactor
from pipeline.recording.format import LOG_METADATA, Compression
from pipeline.recording.message import LoggedMessage
from pipeline.recording.reader import LogReader
from pipeline.recording.writer import LogWriter

HARMLESS_ATTACHMENTS: Final = frozenset({"codec.json", "stop.json"})
"""Attachments that hold no text of anybody; others, a configuration for example, may quote questions."""
_OF_THE_FILE: Final = frozenset({"format_version", "software_version"})
"""What the metadata of a file says about its own writing; the copy says its own."""


def copy_redacted(
    source: LogReader,
    target: Path,
    kinds: Sequence[Redaction],
    *,
    compression: Compression = Compression.LZ4,
    watch: Callable[[Iterable[LoggedMessage]], Iterable[LoggedMessage]] = iter,
) -> int:
    """Copy a log, redacted. Gaps stay, and the metadata say what was taken out.

    Args:
        source: the log.
        target: the new file, which must not exist; a copy that is not finished is deleted.
        kinds: what to take out.
        compression: compression of the copy.
        watch: sees the messages on their way, for progress.

    Returns:
        Number of messages.

    Raises:
        RecordingError: a chunk of the log is damaged, or the copy cannot be written.
    """
    redact = redactor(kinds)
    metadata = source.metadata()
    own = {key: value for key, value in metadata.get(LOG_METADATA, {}).items() if key not in _OF_THE_FILE}
    metadata[LOG_METADATA] = {**own, METADATA_KEY: redaction_value({*redacted(metadata), *kinds})}
    gaps = deque(source.gaps())
    writer = LogWriter(target, compression=compression, metadata=metadata)
    try:
        with writer:
            for record in source.attachment_records():
                if Redaction.TEXT not in kinds or record.name in HARMLESS_ATTACHMENTS:
                    writer.attach(record.name, record.media_type, record.data)
            for message in watch(source.messages()):
                while gaps and gaps[0].time_ns <= message.time_ns:
                    writer.write_gap(gaps.popleft())
                writer.write(redact(message))
            for gap in gaps:
                writer.write_gap(gap)
    except BaseException:
        # Half a copy would be taken for a whole one.
        target.unlink(missing_ok=True)
        raise
    return writer.messages
