"""Saves what is whole in a log that was cut off or damaged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.recording.format import Compression
from pipeline.recording.index import Damage
from pipeline.recording.reader import LogReader
from pipeline.recording.rewrite import copy_log
from schemas.errors import RecordingError


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was saved, and what was not.

    Attributes:
        complete: the source was closed well.
        messages: messages saved.
        start_ns: time of the first one; 0 without one.
        stop_ns: time of the last one; 0 without one.
        source_bytes: size of the source.
        damages: parts of the source that cannot be read.
        orphans: messages left out because the part that says which topic they are of is damaged.
        missing: sequence numbers between the first and the last message that no message has: messages of damaged
            chunks, and those that the recorder had to drop.
        lost: messages of the source that could not be saved, as far as its summary or its indexes say.
        lost_exact: ``lost`` is all of them; else a part that cannot be read held more, and nothing says how many.
    """

    complete: bool
    messages: int
    start_ns: int
    stop_ns: int
    source_bytes: int
    damages: tuple[Damage, ...]
    orphans: int
    missing: int
    lost: int
    lost_exact: bool

    @property
    def damaged_bytes(self) -> int:
        """Bytes of the source that cannot be read."""
        return sum(damage.size_bytes for damage in self.damages)


def recover(source: Path, target: Path, compression: Compression = Compression.LZ4) -> Recovery:
    """Copy everything that is whole in a log into a new one, in chunks of a good size.

    Every chunk, attachment and metadata record is checked; what is wrong is left out and said. Memory is bounded
    whatever the file says about itself.

    Args:
        source: the log, which is not changed.
        target: the new log, which must not exist.
        compression: compression of its chunks.

    Raises:
        RecordingError: the source is no log at all, or the target exists or cannot be written.
    """
    with LogReader(source, scan=True) as reader:
        try:
            stream = target.open("xb")
        except FileExistsError:
            raise RecordingError(str(target), "exists already: choose another name, or move it away") from None
        except OSError as error:
            raise RecordingError(str(target), f"cannot be written: {error.strerror}") from error
        try:
            with stream:
                copied = copy_log(reader, stream, compression)
        except BaseException as error:
            target.unlink(missing_ok=True)  # half a copy would be taken for a whole one
            if isinstance(error, OSError):
                raise RecordingError(str(target), f"cannot be written: {error.strerror}") from error
            raise
        announced = reader.index.announced
        if announced is not None:
            lost, lost_exact = max(0, announced - copied.messages), True
        else:
            lost = copied.orphans + sum(damage.messages or 0 for damage in reader.damages)
            lost_exact = all(damage.messages is not None for damage in reader.damages)
        return Recovery(
            complete=reader.complete and not reader.damages,
            messages=copied.messages,
            start_ns=reader.start_ns,
            stop_ns=reader.stop_ns,
            source_bytes=reader.size_bytes,
            damages=tuple(reader.damages),
            orphans=copied.orphans,
            missing=copied.missing,
            lost=lost,
            lost_exact=lost_exact,
        )
