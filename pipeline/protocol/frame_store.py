"""Store and forward: frames that an edge keeps on disk while it has no link, and sends as history when it has one.

Which frames are kept (:class:`~pipeline.protocol.store_settings.StorePolicy`), which go when there is no room, in which
order they leave, and what becomes of each of them is decided here. The bytes are on the disk of the shell
(:mod:`~pipeline.protocol.store_requests`).

- A frame belongs to the standing questions that it was to be asked, each by id and digest: one that is deleted, changed
  or asked of other cameras drops its part of it (:meth:`FrameStore.prune`).
- When the link is back, the newest frame of each question goes first, then the rest, the newest first. A few are under
  way at a time, in a traffic class below all others.
- Each becomes a new query with a deadline of its own and the frame's age. A terminal answer of a worker ends it. One
  that comes to nothing for want of a link is asked again, another one
  :data:`~pipeline.protocol.store_settings.MAX_TRIES` times in all.
- Where there is no room, the oldest frame that is not the newest of one of its questions goes first.

Every frame that is stored or found goes for exactly one counted reason: ``answered``, or ``dropped_`` and a
:class:`~pipeline.protocol.store_settings.DropReason`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from pipeline.protocol.effects import AskedQuery, Decision, Latent
from pipeline.protocol.ports import Notice
from pipeline.protocol.store_entries import StoreEntries, StoreEntry
from pipeline.protocol.store_link import StoreLink
from pipeline.protocol.store_requests import (
    Damaged,
    DiskFailed,
    Done,
    Found,
    FrameRead,
    PutFrame,
    ReadFrame,
    ReadStored,
    StoredFrame,
    StoredQuestion,
    StoreRequest,
    StoreResult,
)
from pipeline.protocol.store_settings import (
    ENTRY_OVERHEAD_BYTES,
    MAX_EVICTED_A_PUT,
    MAX_TRIES,
    OLD_CHECK_S,
    DropReason,
    StorePolicy,
    StoreSettings,
)
from schemas.identity import QuestionContent
from schemas.limits import MAX_LATENT_PAYLOAD_BYTES
from schemas.types import MAX_AGE_MS, UNKNOWN_AGE, Age, FrameId


@dataclass(frozen=True, slots=True)
class HistoryFrame:
    """A stored frame that is to be opened now.

    Attributes:
        entry_id: its number in the store.
        camera: its camera.
        latent: its latent.
        base_latents: prefix that the first open carries.
        age_ms: how old it is.
    """

    entry_id: int
    camera: str
    latent: Latent
    base_latents: int
    age_ms: Age


AskedNow = Callable[[str, float], Sequence[AskedQuery]]
"""The standing queries of a camera for a frame that is taken at a time in seconds."""


class FrameStore:
    """The stored frames of a site.

    Args:
        settings: bounds and policy.
        cameras: of the site.
        fingerprint: first 4 bytes of the fingerprint of the codec that this edge has.
        now_s: the edge's monotonic time.

    Attributes:
        settings: as given.
        storing: there has been no link for a while: frames are kept, and none is sent.
        entries: the frames.
        counters: what became of stored frames.
    """

    def __init__(self, settings: StoreSettings, cameras: Collection[str], fingerprint: bytes, now_s: float) -> None:
        self.settings = settings
        self.storing = False
        self.counters: Counter[str] = Counter()
        self.entries = StoreEntries(settings)
        self._cameras = frozenset(cameras)
        self._fingerprint = fingerprint
        self._of_frame: dict[tuple[str, FrameId], int] = {}
        self._next_id = 1
        self._found = False
        self._connected = self._closed = False
        self._offline_since_s = now_s
        self._paused_until_s: float | None = None
        self._old_check_s: float | None = None
        self._slots: Counter[str] = Counter()
        self._kept_s: dict[str, float] = {}
        self._granted: set[str] = set()
        self._history: list[HistoryFrame] = []
        self._link = StoreLink(self.counters, settings.retry_s)
        if self.on:
            self._link.request(ReadStored, self._found_on_disk)

    # ---- reading ----------------------------------------------------------------------------------------------------

    @property
    def on(self) -> bool:
        """Whether frames are kept at all."""
        return self.settings.policy is not StorePolicy.OFF

    @property
    def pending(self) -> int:
        """Requests that the disk has not answered."""
        return self._link.pending

    def carries(self, camera: str, frame: FrameId) -> bool:
        """Whether this frame is a stored one that is asked now."""
        return (camera, frame) in self._of_frame

    def sizes(self) -> dict[str, int]:
        """Entries of every table that it keeps."""
        return {
            "stored_frames": len(self.entries),
            "stored_under_way": self.entries.under_way,
            "stored_undropped": self._link.undropped,
            "store_requests": self._link.pending,
        }

    def take_outputs(self) -> list[StoreRequest | Notice]:
        """What the shell must do, since the last call, in order."""
        return self._link.take_outputs()

    def take_history(self) -> list[HistoryFrame]:
        """Stored frames that were read and are to be opened now, since the last call."""
        history, self._history = self._history, []
        return [frame for frame in history if frame.entry_id in self.entries]

    def next_wake_s(self) -> float | None:
        """When :meth:`tick` has something to do."""
        if not self.on:
            return None
        times = [self._link.retry_at_s]
        if not self._connected and not self.storing:
            times.append(self._offline_since_s + self.settings.offline_after_s)
        if len(self.entries):
            times += [self._old_check_s, self._paused_until_s]
        return min((time_s for time_s in times if time_s is not None), default=None)

    # ---- the link ---------------------------------------------------------------------------------------------------

    def connection(self, connected: bool, now_s: float) -> bool:
        """The connection came or went; whether frames were kept and are not any more."""
        if connected == self._connected:
            return False
        self._connected = connected
        was, self.storing = self.storing, False
        self._granted.clear()
        self._slots.clear()
        self._kept_s.clear()
        self._paused_until_s = None
        self.entries.begin_anew()
        if not connected:
            self._offline_since_s = now_s
        return was

    def tick(self, now_s: float) -> None:
        """Let time pass: the link counts as lost from some time on, and what the disk refused is tried again."""
        if not self.on:
            return
        if not self._connected and not self.storing and now_s >= self._offline_since_s + self.settings.offline_after_s:
            self.storing = True
            self._granted |= self._cameras  # the first frame without a link, whatever its camera waits for
        if self._paused_until_s is not None and self._paused_until_s <= now_s:
            self._paused_until_s = None
        if self._old_check_s is None or self._old_check_s <= now_s:
            self._old_check_s = now_s + OLD_CHECK_S
            self._drop_old(now_s)
        if self._link.retry_at_s is not None and self._link.retry_at_s <= now_s:
            self._link.retry_at_s = None
            if not self._found:
                self._link.request(ReadStored, self._found_on_disk)
            self._link.drop()

    def close(self) -> None:
        """The process ends: nothing more is sent; what is under way and comes to nothing is the next one's."""
        self._closed = True

    # ---- what is kept -----------------------------------------------------------------------------------------------

    def takes_slot(self, camera: str, now_s: float) -> bool:
        """Whether the frame of a slot that has come without a link is kept. Asked once a slot."""
        number = self._slots[camera]
        self._slots[camera] += 1
        if self.settings.policy is StorePolicy.EVERY_NTH:
            kept = number % self.settings.nth == 0
        else:
            kept = now_s - self._kept_s.get(camera, -math.inf) >= self.settings.newest_every_s
        if kept:
            self._granted.add(camera)
        return kept

    def has_room(self, camera: str) -> bool:
        """Whether a frame of this camera is wanted now, without a link."""
        return self.storing and camera in self._granted

    def taken(self, camera: str) -> None:
        """A frame of this camera was taken."""
        self._granted.discard(camera)

    def keep(
        self,
        camera: str,
        latent: Latent,
        base_latents: int,
        questions: Sequence[QuestionContent],
        captured_s: float,
        now_s: float,
    ) -> int | None:
        """Keep a frame.

        Args:
            camera: its camera.
            latent: its latent, coded by itself.
            base_latents: prefix that its first open shall carry.
            questions: standing questions that it is to be asked, at least one.
            captured_s: when it was taken, on the edge's clock.
            now_s: the edge's monotonic time.

        Returns:
            Its number; None when it could not be kept.
        """
        payload = latent.payload(0, latent.latent_count)
        size_bytes = len(payload) + ENTRY_OVERHEAD_BYTES
        self.counters["stored"] += 1
        self._kept_s[camera] = captured_s
        if not self._found or size_bytes > self.settings.max_bytes or len(payload) > MAX_LATENT_PAYLOAD_BYTES:
            self._count(DropReason.NO_ROOM if self._found else DropReason.DISK_FAILED)
            return None
        entry_id, self._next_id = self._next_id, self._next_id + 1
        digests = {question.question_id: question.digest for question in questions}
        newest_alone = self.settings.policy is StorePolicy.NEWEST
        replaced = self.entries.replaced_by(camera, digests) if newest_alone else []
        gone = self._make_room(size_bytes)
        self.entries.add(entry_id, StoreEntry(camera, digests, size_bytes, base_latents, captured_s))
        stored = StoredFrame(
            entry_id,
            camera,
            tuple(StoredQuestion(*pair) for pair in digests.items()),
            self._fingerprint,
            base_latents,
            len(payload),
            max(0.0, now_s - captured_s),
        )
        self._put(PutFrame(0, stored, latent.latent_count, payload, (*replaced, *gone)), replaced)
        return entry_id

    def prune(self, asked: AskedNow, now_s: float) -> None:
        """The standing questions may have changed, and all of them are known.

        Args:
            asked: what is asked of a camera now.
            now_s: the edge's monotonic time.
        """
        wanted: dict[str, Mapping[str, bytes]] = {}
        for entry_id, entry in self.entries:
            if entry.camera not in wanted:
                wanted[entry.camera] = self._wanted(asked, entry.camera, now_s)
            if entry.frame is None:  # one that is asked now is asked as it was
                self._prune(entry_id, entry, wanted[entry.camera])

    def _prune(self, entry_id: int, entry: StoreEntry, wanted: Mapping[str, bytes]) -> None:
        entry.keep_only(wanted)
        if not entry.digests and not entry.replaced:
            self._drop(entry_id, DropReason.QUESTION_CHANGED)

    # ---- what is sent -----------------------------------------------------------------------------------------------

    def wants_out(self) -> bool:
        """Whether a stored frame waits and may leave, as far as it is up to the store."""
        return (
            len(self.entries) > self.entries.under_way < self.settings.under_way
            and self._connected
            and not self._closed
            and self._paused_until_s is None
        )

    def forward(self) -> bool:
        """Begin with the next stored frame: it is read, and then one of :meth:`take_history`; whether there is one."""
        entry_id = self.entries.next_out()
        if entry_id is None:
            return False
        self.entries.begin(entry_id)
        self._link.request(partial(_read_frame, entry_id), partial(self._read, entry_id))
        return True

    def queries(self, entry_id: int, asked: AskedNow, now_s: float) -> tuple[AskedQuery, ...]:
        """What a stored frame is asked now: those of its questions that still stand, each with a deadline of its own.

        Args:
            entry_id: its number.
            asked: what is asked of a camera now.
            now_s: the edge's monotonic time.

        Returns:
            Its queries; with none the frame is gone.
        """
        entry = self.entries[entry_id]
        self._prune(entry_id, entry, self._wanted(asked, entry.camera, now_s))
        least_s = now_s + self.settings.least_deadline_s
        return tuple(
            AskedQuery(query.question, max(query.deadline_s, least_s))
            for query in asked(entry.camera, now_s)
            if query.question_id in entry.digests
        )

    def offered(self, entry_id: int, frame: FrameId, queries: int) -> None:
        """A stored frame is asked so many queries under this id."""
        self.entries.asked(entry_id, frame, queries)
        self._of_frame[self.entries[entry_id].camera, frame] = entry_id
        self.counters["forwarded"] += 1

    def unusable(self, entry_id: int) -> None:
        """A stored frame that was read cannot be asked about."""
        if entry_id in self.entries:
            self._drop(entry_id, DropReason.DAMAGED)

    def ended(self, decision: Decision, now_s: float) -> None:
        """A query is decided, perhaps of a stored frame."""
        entry_id = self._of_frame.get((decision.camera, decision.frame))
        if entry_id is None:
            return
        entry = self.entries[entry_id]
        entry.undecided -= 1
        if decision.answer is not None:
            entry.digests.pop(decision.question.question_id, None)
        if entry.undecided:
            return
        del self._of_frame[decision.camera, decision.frame]
        self.entries.waits(entry_id)
        if not entry.digests:
            self._drop(entry_id, None)
        elif self._connected and not self._closed:
            entry.tries += 1
            self.pause(now_s)
            if entry.tries >= MAX_TRIES:
                self._drop(entry_id, DropReason.GIVEN_UP)
        self._keep_bounds()

    def pause(self, now_s: float) -> None:
        """Nothing stored leaves for a while: the pool is busy, or silent."""
        self._paused_until_s = now_s + self.settings.retry_s

    # ---- the disk's word --------------------------------------------------------------------------------------------

    def stored(self, token: int, result: StoreResult, now_s: float) -> None:
        """What became of a request.

        Raises:
            StateError: the token is not under way: the shell has answered twice.
        """
        self._link.stored(token, result, now_s)

    def _found_on_disk(self, result: StoreResult, now_s: float) -> None:
        if not isinstance(result, Found):
            self._link.failed("stored frames cannot be read", result)
            self._link.retry_later(now_s)
            return
        self._found = True
        self.counters["found"] += len(result.frames) + result.damaged
        self._count(DropReason.DAMAGED, result.damaged)
        for found in result.frames:
            self._next_id = max(self._next_id, found.entry_id + 1)
            since_s = now_s - (found.age_s or 0.0)
            size_bytes = found.size_bytes + ENTRY_OVERHEAD_BYTES
            entry = StoreEntry(found.camera, dict(found.questions), size_bytes, found.base_latents, since_s)
            self.entries.add(found.entry_id, entry)
            if found.fingerprint != self._fingerprint:
                self._drop(found.entry_id, DropReason.CODEC_CHANGED)
            elif found.camera not in self._cameras:
                self._drop(found.entry_id, DropReason.CAMERA_GONE)
        if self.settings.policy is StorePolicy.NEWEST:
            newest = self.entries.newest()
            for entry_id, _ in self.entries:
                if entry_id not in newest:
                    self._drop(entry_id, DropReason.REPLACED)
        self._drop_old(now_s)
        self._link.drop(self._make_room())
        if changed := self.counters[f"dropped_{DropReason.CODEC_CHANGED}"]:
            self._link.say("warning", "stored frames of another codec were dropped", frames=changed)
        if len(self.entries):
            unknown = sum(found.age_s is None for found in result.frames if found.entry_id in self.entries)
            self._link.say(
                "info", "frames were stored without a link", frames=len(self.entries), of_unknown_age=unknown
            )

    def _put(self, put: PutFrame, replaced: Sequence[int], evicted: int = 0) -> None:
        self._link.request(
            lambda token: replace(put, token=token),
            lambda result, now_s: self._was_put(put, replaced, evicted, result, now_s),
        )

    def _was_put(self, put: PutFrame, replaced: Sequence[int], evicted: int, result: StoreResult, now_s: float) -> None:
        entry_id = put.stored.entry_id
        if isinstance(result, Done):
            for other in replaced:
                self._drop(other, DropReason.REPLACED, on_disk=False)
            return
        self._link.failed("a frame could not be stored", result)
        full = isinstance(result, DiskFailed) and result.full
        first = self.entries.first_to_go(besides=entry_id)
        if full and entry_id in self.entries and first is not None and evicted < MAX_EVICTED_A_PUT:
            self._drop(first, DropReason.DISK_FULL)
            self._put(put, replaced, evicted + 1)
            return
        for other in replaced:
            self.entries[other].replaced = False
        if entry_id in self.entries:
            self._drop(entry_id, DropReason.DISK_FULL if full else DropReason.DISK_FAILED)
        self._keep_bounds()
        # What was to go with it may still be there.
        self._link.drop_later([gone for gone in put.replaces if gone not in self.entries], now_s)

    def _read(self, entry_id: int, result: StoreResult, now_s: float) -> None:
        entry = self.entries.get(entry_id)
        if entry is None or not entry.reading:
            return  # it was dropped meanwhile
        if isinstance(result, FrameRead) and self._connected and not self._closed:
            age_ms: Age = UNKNOWN_AGE if result.age_s is None else min(MAX_AGE_MS, max(0, round(result.age_s * 1000)))
            self._history.append(HistoryFrame(entry_id, entry.camera, result.latent, entry.base_latents, age_ms))
            return
        self.entries.waits(entry_id)
        if isinstance(result, Damaged):
            self._link.failed("a stored frame is damaged and was dropped", result)
            self._drop(entry_id, DropReason.DAMAGED)
        elif not isinstance(result, FrameRead):
            self._link.failed("a stored frame cannot be read", result)
            self.pause(now_s)
        self._keep_bounds()

    # ---- bounds -----------------------------------------------------------------------------------------------------

    def _make_room(self, size_bytes: int = 0) -> list[int]:
        """Drop frames until one of this size fits, 0 for none; numbers of those that have to go on disk."""
        gone: list[int] = []
        while self.entries.over(size_bytes) and (first := self.entries.first_to_go()) is not None:
            self._drop(first, DropReason.NO_ROOM, on_disk=False)
            gone.append(first)
        return gone

    def _keep_bounds(self) -> None:
        """A frame waits again: others may have come while it could not go."""
        if gone := self._make_room():
            self._link.drop(gone)

    def _drop_old(self, now_s: float) -> None:
        for entry_id in self.entries.too_old(now_s):
            self._drop(entry_id, DropReason.TOO_OLD)

    def _drop(self, entry_id: int, reason: DropReason | None, *, on_disk: bool = True) -> None:
        """A frame goes, for a reason; None when it was answered."""
        self.entries.remove(entry_id)
        if reason is None:
            self.counters["answered"] += 1
        else:
            self._count(reason)
        if on_disk:
            self._link.drop((entry_id,))

    def _count(self, reason: DropReason, frames: int = 1) -> None:
        self.counters[f"dropped_{reason}"] += frames

    @staticmethod
    def _wanted(asked: AskedNow, camera: str, now_s: float) -> Mapping[str, bytes]:
        return {query.question_id: query.question.digest for query in asked(camera, now_s)}


def _read_frame(entry_id: int, token: int) -> ReadFrame:
    return ReadFrame(token, entry_id)
