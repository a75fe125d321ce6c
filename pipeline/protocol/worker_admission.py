"""Which frames a worker takes, and which it passes on or turns away."""

from __future__ import annotations

from collections import Counter

from pipeline.protocol.effects import ChunkData, KeyData
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_caches import KeyFrames, Peers
from pipeline.protocol.worker_frame import WorkerEvent, WorkerFrame, WorkerQuery, WorkerStage
from pipeline.protocol.worker_kept import KeptFrames
from pipeline.protocol.worker_messages import WorkerMessages
from pipeline.protocol.worker_progress import Progress
from pipeline.protocol.worker_schedule import Schedule
from pipeline.protocol.worker_store import FrameStore
from pipeline.protocol.worker_throughput import ThroughputEstimate
from schemas.identity import owner_of
from schemas.limits import MAX_QUERIES_PER_FRAME
from schemas.messages import FollowUp, Open, RejectReason

_ANY_LOAD = 1 << 30
"""What a draining worker holds, as its peers compare: all of it has to go."""


class Admission:
    """The way in, and the way to another worker.

    Args:
        settings: times and bounds.
        frames: the frames held.
        throughput: how fast the model is.
        schedule: what goes first.
        messages: what the worker says.
        progress: what becomes of a frame that was admitted.
        peers: the other workers.
        keys: key frames of the pool's cameras.
        kept: latents of answered frames.
        counters: what happened, by reason.

    Attributes:
        draining: nothing is admitted any more.
    """

    def __init__(
        self,
        settings: WorkerProtocolSettings,
        frames: FrameStore,
        throughput: ThroughputEstimate,
        schedule: Schedule,
        messages: WorkerMessages,
        progress: Progress,
        peers: Peers,
        keys: KeyFrames,
        kept: KeptFrames,
        counters: Counter[str],
    ) -> None:
        self.draining = False
        self._settings = settings
        self._frames = frames
        self._throughput = throughput
        self._schedule = schedule
        self._messages = messages
        self._progress = progress
        self._peers = peers
        self._keys = keys
        self._kept = kept
        self._counters = counters

    def open(self, camera: str, message: Open, now_s: float, hops: int) -> None:
        """Take a frame in, pass it on or turn it away."""
        frame = self._frames.find(camera, message.frame)
        if frame is not None:
            self._reopen(frame, message, now_s)
            return
        queries = self._undecided(camera, message, message.site, now_s)
        if not queries:
            return
        if message.key is not None and self._key(camera, message) is None:
            self._counters["key_frame_missing"] += 1
            self._messages.reject(camera, message, RejectReason.KEY_FRAME)
            return
        if not self._schedule.admits(queries.values(), self._frames.at_the_model(), now_s):
            self._counters["standing_not_admitted"] += 1
            self._turn_away(camera, message, hops, now_s)
        elif self._frames.of_camera(camera) >= self._settings.camera_frames:
            self._counters["camera_full"] += 1
            self._turn_away(camera, message, hops, now_s)
        elif (
            self.has_room(message)
            or self._make_room(camera, message, queries)
            or self._make_room_of_the_fullest(camera, message)
        ):
            self._admit(camera, message, queries, now_s, hops)
        else:
            self._turn_away(camera, message, hops, now_s)

    def follow_up(self, camera: str, message: FollowUp, now_s: float) -> None:
        """Ask more of a frame that is here, or whose latents are; else its edge opens it."""
        frame = self._frames.find(camera, message.frame)
        if frame is not None and frame.attempt == message.attempt:
            self._join(frame, message, now_s)
            return
        kept = self._kept.find(camera, message.frame, message.attempt)
        queries = self._undecided(camera, message, "" if kept is None else kept.site, now_s)
        if not queries:
            return
        # An open that came meanwhile belongs to a later attempt: its edge has revoked this one, or will.
        fits = frame is None and self._frames.of_camera(camera) < self._settings.camera_frames
        if kept is None or not fits or not self._fits(kept.held_bytes):
            self._counters["follow_ups_not_held"] += 1
            self._messages.not_held(camera, message)
            return
        frame = WorkerFrame(
            camera,
            message.frame,
            message.attempt,
            kept.site,
            queries,
            WorkerStage.NEED_TEXT,
            self._settings.base_lease_s,
            now_s,
        )
        frame.chunks, frame.payload_bytes = list(kept.chunks), kept.payload_bytes
        frame.hops = self._settings.max_hops  # its edge knows this worker as the owner
        self._kept.under_way(camera, message.frame)
        self._counters["follow_ups_kept"] += 1
        self._take_in(frame, now_s)

    def _join(self, frame: WorkerFrame, message: FollowUp, now_s: float) -> None:
        """Further queries of a frame that is under way."""
        room = MAX_QUERIES_PER_FRAME - len(frame.queries) - len(frame.joining)
        unknown: list[bytes] = []
        for query_id, query in self._undecided(frame.camera, message, frame.site, now_s).items():
            if query_id in frame.queries or room <= 0:
                continue
            room -= 1
            if self._progress.look_up(frame.camera, query_id, query) or frame.stage is WorkerStage.NEED_TEXT:
                frame.queries[query_id] = query
            else:
                frame.joining[query_id] = query
                unknown.append(query.ref.digest)
        frame.tries, frame.given_up = 0, False
        if frame.stage is WorkerStage.NEED_TEXT:
            self._progress.ask_texts(frame, now_s)
        elif unknown:
            self._progress.ask_joining_texts(frame, unknown, now_s)
        self._progress.keep_alive(frame, now_s)

    def has_room(self, message: Open) -> bool:
        """Whether another frame fits."""
        return self._fits(len(message.payload))

    def _fits(self, payload_bytes: int) -> bool:
        return (
            not self.draining
            and len(self._frames) < self._settings.capacity_frames
            and self._frames.held_bytes + payload_bytes <= self._settings.capacity_bytes
        )

    def pass_on(self, now_s: float) -> None:
        """Hand parked frames that nobody waits for here to a less loaded worker.

        The latest deadline goes first; ad-hoc questions, which go first at the model, last.
        """
        if not self.draining and self._throughput.wait_s(len(self._frames)) <= self._settings.handover_wait_s:
            return
        if self._less_loaded(now_s) is None:
            return
        waiting = [
            frame
            for frame in self._frames
            # Nobody would open one again that its next worker turns away.
            if frame.may_pass_on(self._settings.max_hops) and not self._progress.orphaned(frame)
        ]
        waiting.sort(key=lambda frame: (not frame.ad_hoc, frame.first_deadline_s()), reverse=True)
        for frame in waiting:
            peer = self._less_loaded(now_s)
            if peer is None:
                return
            self._counters["handovers_sent"] += 1
            self._peers.note_sent(peer)
            self._messages.hand_over_frame(peer, frame, now_s)
            self._frames.forget(frame, WorkerEvent.GIVEN_UP)

    def _key(self, camera: str, message: Open) -> KeyData | None:
        return None if message.key is None else self._keys.get(camera, message.frame.boot, message.key)

    def _less_loaded(self, now_s: float) -> str | None:
        return self._peers.less_loaded(_ANY_LOAD if self.draining else len(self._frames), now_s)

    def _undecided(self, camera: str, message: Open | FollowUp, site: str, now_s: float) -> dict[str, WorkerQuery]:
        """The queries that still need work here; kept answers of the others are said again."""
        queries: dict[str, WorkerQuery] = {}
        for query_id, ref in zip(message.query_ids(camera), message.queries, strict=True):
            owner = owner_of("site", site) if ref.client is None else owner_of("client", ref.client)
            query = WorkerQuery(ref, owner, now_s + ref.remaining_ms / 1000, age_ms=message.age_ms)
            decided = self._progress.decided.get(query_id, ref.digest)
            if decided is not None:
                self._counters["terminal_repeated"] += 1
                self._messages.repeat(decided, query)
            elif ref.remaining_ms > 0:
                queries[query_id] = query
        return queries

    def _make_room(self, camera: str, message: Open, queries: dict[str, WorkerQuery]) -> bool:
        """A full worker takes an ad-hoc question in place of standing ones that nobody has read.

        Not of cameras that hold less than the asking one: what an edge calls ad hoc is its own word.
        """
        if self.draining or not any(query.ad_hoc for query in queries.values()):
            return False
        while not self.has_room(message):
            mine = self._frames.of_camera(camera)
            frame = self._schedule.displaced(
                frame for frame in self._frames if self._frames.of_camera(frame.camera) >= mine
            )
            if frame is None:
                return False
            self._counters["standing_displaced"] += 1
            self._progress.give_up(frame)
        return True

    def _make_room_of_the_fullest(self, camera: str, message: Open) -> bool:
        """A full worker takes a frame of a camera that holds few in place of one of the camera that holds most.

        Cameras, not sites: a camera stands in the topic, where the broker's roles tie it to a device; what an edge
        says of its site proves nothing.
        """
        while not self.draining and not self.has_room(message):
            fullest, held = self._frames.fullest_camera()
            if held <= self._frames.of_camera(camera) + 1:
                return False
            frame = self._schedule.least_missed(frame for frame in self._frames if frame.camera == fullest)
            if frame is None:
                return False
            self._counters["fullest_camera_displaced"] += 1
            self._progress.give_up(frame)
        return not self.draining

    def _turn_away(self, camera: str, message: Open, hops: int, now_s: float) -> None:
        may_hop = hops < self._settings.max_hops
        peer = self._peers.less_loaded(len(self._frames) + 1, now_s) if may_hop else None
        if peer is not None:
            self._counters["handovers_sent"] += 1
            self._peers.note_sent(peer)
            self._messages.hand_over(peer, camera, message, hops)
            return
        self._counters["busy"] += 1
        self._messages.busy(camera, message, self._throughput.wait_s(len(self._frames)))

    def _admit(self, camera: str, message: Open, queries: dict[str, WorkerQuery], now_s: float, hops: int) -> None:
        frame = WorkerFrame(
            camera,
            message.frame,
            message.attempt,
            message.site,
            queries,
            WorkerStage.NEED_TEXT,
            self._settings.base_lease_s,
            now_s,
        )
        frame.hops = hops
        frame.add_chunk(ChunkData(0, message.stop, message.payload, self._key(camera, message)))
        self._counters["admitted"] += 1
        self._take_in(frame, now_s)

    def _take_in(self, frame: WorkerFrame, now_s: float) -> None:
        self._frames.add(frame)
        self._progress.ask_texts(frame, now_s)
        if frame.stage is WorkerStage.PARKED:
            self.pass_on(now_s)
        if self._frames.find(frame.camera, frame.frame) is not None:
            self._progress.keep_alive(frame, now_s)

    def _reopen(self, frame: WorkerFrame, message: Open, now_s: float) -> None:
        """A further open of a frame that is here: a duplicate, or a later attempt of an edge that missed our word."""
        if message.attempt <= frame.attempt:
            self._counters["open_duplicate"] += 1
            return
        self._counters["reopened_here"] += 1
        frame.attempt = message.attempt
        frame.spoke_s, frame.admitted_s, frame.lease_s = None, now_s, self._settings.base_lease_s
        frame.tries, frame.given_up = 0, False
        for query_id, query in self._undecided(frame.camera, message, frame.site, now_s).items():
            # One that comes late joins a frame that has its texts only with its own.
            if self._progress.look_up(frame.camera, query_id, query) or frame.stage is WorkerStage.NEED_TEXT:
                frame.queries.setdefault(query_id, query)
        before = frame.held_bytes
        key = self._key(frame.camera, message)
        readable = message.key is None or key is not None
        if (
            readable
            and frame.replace_prefix(ChunkData(0, message.stop, message.payload, key))
            and frame.stage is WorkerStage.WAITING
            and frame.prefix >= frame.target
        ):
            frame.timer_s = None
            frame.move(WorkerEvent.LONGER_PREFIX)
        self._frames.held_bytes += frame.held_bytes - before
        self._progress.ask_again(frame, now_s)
        self._progress.keep_alive(frame, now_s)
