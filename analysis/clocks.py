"""Brings the times of several logs onto one clock, by the publishes that more than one of them saw.

Each recorder stamps with the clock of its host, which an edge without a battery has from 1970 on. A recorder keeps one
offset to that clock for as long as it runs, so each file has one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Final

from analysis.merged import recorder_of
from pipeline.recording.reader import LogReader, LogSet
from schemas.counting import counted

SAME_CLOCK_NS: Final = 100_000_000
"""Clocks that differ by less are taken for one: a message is on its way for longer than that on a thin link."""
LEAST_SHARED: Final = 3
"""Fewer may be alike by chance."""
LARGEST_SPREAD_NS: Final = 60_000_000_000
"""Differences that disagree by more are none of two clocks: the logs are of two runs."""
_OUTLIERS: Final = 0.1
"""Share of the differences at each end that is not believed: chance, and deliveries after a broken connection."""


@dataclass(frozen=True, slots=True)
class LogClock:
    """What is known of the clock behind a file.

    Attributes:
        name: the file.
        reference: first file of the log whose times count.
        shared: publishes that both saw; 0 where they do not tell how the clocks differ.
        shift_ns: added to the times of the file.
    """

    name: str
    reference: str
    shared: int
    shift_ns: int

    def __str__(self) -> str:
        if not self.shared:
            return f"{self.name} and {self.reference} saw too few of the same messages: its times are taken as they are"
        shared = counted(self.shared, "message")
        if not self.shift_ns:
            return f"the clocks of {self.name} and {self.reference} agree, by {shared} that both saw"
        way = "behind" if self.shift_ns > 0 else "ahead of"
        return (
            f"the clock of {self.name} was {_span(abs(self.shift_ns))} {way} that of {self.reference}: "
            f"its times are moved, by {shared} that both saw"
        )


def align(logs: LogSet) -> tuple[LogClock, ...]:
    """Move the times of all files onto the clock of one recorder: of the one at a broker, which saw what all sent.

    Args:
        logs: the logs; read once if several recorders wrote them, and not at all otherwise.

    Returns:
        One entry for each file of another recorder, in the order of the set.

    Raises:
        RecordingError: a chunk of a log is damaged.
    """
    recorders: dict[str, list[LogReader]] = {}
    for reader in logs.readers:
        recorders.setdefault(recorder_of(reader), []).append(reader)
    if len(recorders) < 2:
        return ()
    chosen = max(recorders, key=lambda name: (_at_a_broker(recorders[name]), _messages(recorders[name])))
    reference = _seen_once(recorders[chosen])
    clocks: list[LogClock] = []
    shifts: dict[LogReader, int] = {}
    for name, readers in recorders.items():
        for reader in readers if name != chosen else ():
            shared, shift_ns = _difference(reference, _seen_once([reader]))
            clocks.append(LogClock(reader.path.name, recorders[chosen][0].path.name, shared, shift_ns))
            shifts[reader] = shift_ns
    logs.shift(shifts)
    return tuple(clocks)


def _at_a_broker(readers: Iterable[LogReader]) -> bool:
    """Whether ``latentbus record`` wrote them: it notes what it subscribed to, a node has nothing to subscribe."""
    return any("filters" in reader.metadata().get("latentbus", {}) for reader in readers)


def _messages(readers: Iterable[LogReader]) -> int:
    return sum(reader.message_count for reader in readers)


def _seen_once(readers: Iterable[LogReader]) -> dict[int, int]:
    """Times of the publishes that a recorder saw once; what is retained comes whenever somebody subscribes."""
    times: dict[int, int] = {}
    repeated: set[int] = set()
    for reader in readers:
        for message in reader.messages():
            if message.retain or message.topic.startswith("$") or not message.payload:
                continue
            key = hash((message.topic, message.payload))
            if key in times:
                repeated.add(key)
            times[key] = message.time_ns
    return {key: time_ns for key, time_ns in times.items() if key not in repeated}


def _difference(reference: dict[int, int], other: dict[int, int]) -> tuple[int, int]:
    """Shared publishes, and what to add to the times of the other log.

    What an edge sends is later at the broker, and what it receives is earlier there. Where the differences have both
    signs the clocks agree as well as anybody can tell; a difference of the clocks gives all of them its own sign.
    """
    differences = sorted(reference[key] - time_ns for key, time_ns in other.items() if key in reference)
    if len(differences) < LEAST_SHARED:
        return 0, 0
    cut = int(len(differences) * _OUTLIERS)
    believed = differences[cut : len(differences) - cut]
    if believed[-1] - believed[0] > LARGEST_SPREAD_NS:
        return 0, 0
    shift_ns = round(median(believed))
    agree = believed[0] <= 0 <= believed[-1] or abs(shift_ns) < SAME_CLOCK_NS
    return len(differences), 0 if agree else shift_ns


def _span(time_ns: int) -> str:
    seconds = time_ns / 1e9
    return f"{seconds:,.1f} s" if seconds < 86_400 else f"{seconds / 86_400:,.1f} days"
