"""The table of stored frames: which are the newest, which go first, and what they take."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from pipeline.protocol.store_settings import StoreSettings
from schemas.types import MAX_AGE_MS, FrameId


@dataclass(slots=True)
class StoreEntry:
    """A stored frame.

    Attributes:
        camera: its camera.
        digests: of the questions that it still is to be asked, by id.
        size_bytes: what it counts for.
        base_latents: prefix that its first open carries.
        since_s: when it was taken, or found if nobody knows when it was taken.
        tries: queries of it that came to nothing.
        reading: its latent is being read.
        replaced: a newer one takes its place as soon as that is on disk.
        frame: under which it is asked now.
        undecided: queries of that frame without an outcome.
    """

    camera: str
    digests: dict[str, bytes]
    size_bytes: int
    base_latents: int
    since_s: float
    tries: int = 0
    reading: bool = False
    replaced: bool = False
    frame: FrameId | None = None
    undecided: int = 0

    @property
    def idle(self) -> bool:
        """Nothing is under way for it."""
        return self.frame is None and not self.reading and not self.replaced

    def keep_only(self, wanted: Mapping[str, bytes]) -> None:
        """Forget the questions that do not stand any more as they were."""
        for question_id, digest in list(self.digests.items()):
            if wanted.get(question_id) != digest:
                del self.digests[question_id]


class StoreEntries:
    """Stored frames by number; a later frame has a larger one.

    Args:
        settings: their bounds.

    Attributes:
        size_bytes: what they count for together.
        under_way: frames that are being read, or have no outcome yet.
    """

    def __init__(self, settings: StoreSettings) -> None:
        self.size_bytes = 0
        self.under_way = 0
        self._settings = settings
        self._entries: dict[int, StoreEntry] = {}
        self._served: set[tuple[str, str]] = set()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[tuple[int, StoreEntry]]:
        """Number and frame; frames may be taken out on the way."""
        return iter(list(self._entries.items()))

    def __contains__(self, entry_id: int) -> bool:
        return entry_id in self._entries

    def __getitem__(self, entry_id: int) -> StoreEntry:
        return self._entries[entry_id]

    def get(self, entry_id: int) -> StoreEntry | None:
        """A frame, None if it is gone."""
        return self._entries.get(entry_id)

    def add(self, entry_id: int, entry: StoreEntry) -> None:
        """Another frame."""
        self._entries[entry_id] = entry
        self.size_bytes += entry.size_bytes

    def remove(self, entry_id: int) -> None:
        """A frame goes."""
        entry = self._entries.pop(entry_id)
        self.size_bytes -= entry.size_bytes
        self.under_way -= entry.reading or entry.frame is not None

    def begin(self, entry_id: int) -> None:
        """A frame is being read, to be sent."""
        entry = self._entries[entry_id]
        entry.reading = True
        self._served.update((entry.camera, question_id) for question_id in entry.digests)
        self.under_way += 1

    def asked(self, entry_id: int, frame: FrameId, queries: int) -> None:
        """A frame that was read is asked so many queries under this id."""
        entry = self._entries[entry_id]
        entry.reading, entry.frame, entry.undecided = False, frame, queries

    def waits(self, entry_id: int) -> None:
        """What was under way for a frame is over."""
        entry = self._entries[entry_id]
        entry.reading, entry.frame = False, None
        self.under_way -= 1

    # ---- order ------------------------------------------------------------------------------------------------------

    def newest(self, *, besides: Collection[tuple[str, str]] = ()) -> set[int]:
        """Frames that are the newest of one of their questions.

        Args:
            besides: cameras and ids of questions that do not count.
        """
        newest: dict[tuple[str, str], int] = {}
        for entry_id, entry in self._entries.items():
            for question_id in entry.digests:
                key = (entry.camera, question_id)
                if key not in besides:
                    newest[key] = max(entry_id, newest.get(key, 0))
        return set(newest.values())

    def begin_anew(self) -> None:
        """There is a link again: of each question the newest goes first."""
        self._served.clear()

    def next_out(self) -> int | None:
        """What is sent next: one of each question, then the rest; of both the newest that was tried least."""
        newest = self.newest(besides=self._served)
        waiting = (entry_id for entry_id, entry in self._entries.items() if entry.idle)
        return max(waiting, key=lambda i: (i in newest, -self._entries[i].tries, i), default=None)

    def first_to_go(self, *, besides: int | None = None) -> int | None:
        """What goes where there is no room: the oldest that is not the newest of a question, else the oldest."""
        newest = self.newest()
        waiting = (entry_id for entry_id, entry in self._entries.items() if entry.idle and entry_id != besides)
        return min(waiting, key=lambda i: (i in newest, i), default=None)

    # ---- bounds -----------------------------------------------------------------------------------------------------

    def over(self, size_bytes: int = 0) -> bool:
        """Whether there are more than may be, with another one of this size if it is not 0; the replaced do not count.

        Args:
            size_bytes: of the other one.
        """
        replaced = [entry.size_bytes for entry in self._entries.values() if entry.replaced]
        count = len(self._entries) - len(replaced) + (size_bytes > 0)
        total_bytes = self.size_bytes - sum(replaced) + size_bytes
        return count > self._settings.max_entries or total_bytes > self._settings.max_bytes

    def too_old(self, now_s: float) -> list[int]:
        """Frames that nobody wants any more."""
        taken_s = now_s - min(self._settings.max_age_s, MAX_AGE_MS / 1000)
        return [entry_id for entry_id, entry in self._entries.items() if entry.idle and entry.since_s < taken_s]

    def replaced_by(self, camera: str, question_ids: Collection[str]) -> list[int]:
        """Frames that a newer one of these questions makes needless; they count as replaced from now on."""
        replaced = []
        for entry_id, entry in self._entries.items():
            if entry.camera == camera and entry.idle and entry.digests.keys() <= set(question_ids):
                entry.replaced = True
                replaced.append(entry_id)
        return replaced
