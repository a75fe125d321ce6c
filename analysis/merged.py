"""Several logs of one fleet as one, each message once: a recorder at the broker and an edge saw the same traffic."""

from __future__ import annotations

import heapq
import operator
import re
from collections import Counter
from collections.abc import Iterator

from pipeline.recording.message import LoggedMessage
from pipeline.recording.reader import LogReader, LogSet

_NUMBER = re.compile(r"\.\d+$")


def merged(logs: LogSet) -> Iterator[LoggedMessage]:
    """Messages in the order of their times, without the copies that other recorders made.

    Of a message that one recorder saw twice and another one three times, three remain: those are repetitions, not
    copies. Files of one rotation have one recorder.
    """
    sources = {recorder_of(reader) for reader in logs.readers}
    if len(sources) < 2:
        yield from logs.messages()
        return
    streams = [_tagged(reader) for reader in logs.readers]
    seen: dict[int, Counter[str]] = {}
    for _, source, message in heapq.merge(*streams, key=operator.itemgetter(0)):
        counts = seen.setdefault(hash((message.topic, message.payload)), Counter())
        most = max(counts.values(), default=0)
        counts[source] += 1
        if counts[source] > most:
            yield message


def _tagged(reader: LogReader) -> Iterator[tuple[int, str, LoggedMessage]]:
    source = recorder_of(reader)
    for message in reader.messages():
        yield message.time_ns, source, message


def recorder_of(reader: LogReader) -> str:
    """Folder and name of the first file of the rotation: ``run.1.mcap`` goes on from ``run.mcap``."""
    return str(reader.path.with_name(_NUMBER.sub("", reader.path.stem)))
