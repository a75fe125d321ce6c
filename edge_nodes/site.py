"""The shell of an edge process: cameras, encoder, disk and observers around its session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edge_nodes.encoder import EncoderThread
from edge_nodes.event_file import EventFile
from edge_nodes.first_prefix import FirstPrefix, first_latents
from edge_nodes.frame_disk import FrameDisk
from edge_nodes.frame_file import FrameFile
from edge_nodes.frame_ring import RingKeeper
from edge_nodes.observer import EdgeObserver, OfferedFrame
from edge_nodes.pool_problems import PoolProblems
from edge_nodes.shell import EdgeShell
from edge_nodes.sources import CapturedFrame
from pipeline.bus.base import Bus
from pipeline.codec.key_frame_policy import KeyFramePolicy
from pipeline.node.ask_journal import AskJournal
from pipeline.node.clock import Clock
from pipeline.node.containment import Containment
from pipeline.node.work_thread import WorkThread
from pipeline.protocol.edge_session import EdgeOutput, EdgeSession
from pipeline.protocol.effects import AskedQuery, Decision, HeldFrameAsked, KeyFrameLost, TakeFrame
from pipeline.protocol.event_requests import (
    EraseKeptEvents,
    EventDiskFailed,
    EventRequest,
    EventResult,
    KeepEventFrame,
    ListKeptEvents,
    ReadEventFrame,
)
from pipeline.protocol.journal_requests import (
    Admit,
    Decide,
    JournalRequest,
    JournalResult,
    MarkTold,
    MoveToFile,
    NotStored,
    ReadUnfinished,
)
from pipeline.protocol.ports import Heard, Sent
from pipeline.protocol.store_requests import DropFrames, PutFrame, ReadFrame, ReadStored, StoreRequest, StoreResult
from pipeline.protocol.uplink_budget import StoreSpending
from schemas.messages import Answer, Reject, Status
from schemas.types import FrameId


@dataclass(slots=True)
class _FrameInWork:
    captured_s: float
    undecided: int
    answered: set[str] = field(default_factory=set)


class Site(EdgeShell):
    """Cameras of one uplink, their session, and what it needs of the world.

    Args:
        session: the protocol machine.
        bus: the connection.
        encoder: frames to latents.
        first_prefix: what the first message of each frame carries.
        key_frames: which frames are coded given an earlier one; None codes each by itself.
        journal: ad-hoc questions on disk.
        journal_thread: where the disk is waited for.
        clock: the edge's clock.
        pool_problems: why the pool can answer nothing.
        observers: who watches.
        wake_camera: called with a camera that shall take a frame now.
        containment: takes what nobody else has handled.
        ring: keeps frames for questions about the past; None keeps none.
        events: events on disk, with the thread where that is waited for; None where no camera keeps any.
        frame_file: frames that are kept while there is no link; None where the session keeps none.
        frame_thread: where their disk is waited for.

    Attributes:
        frame_disk: does what the session wants done with those frames.
        store_spending: called with what was spent of the uplink's budget, to be written.
        asking_changed: called when the intervals of cameras may be others.
        first_answer: called with who asked a question, and the time from its frame to its first answer.
    """

    def __init__(
        self,
        session: EdgeSession,
        *,
        bus: Bus,
        encoder: EncoderThread,
        first_prefix: FirstPrefix,
        key_frames: KeyFramePolicy | None,
        journal: AskJournal,
        journal_thread: WorkThread,
        clock: Clock,
        pool_problems: PoolProblems,
        observers: Sequence[EdgeObserver],
        wake_camera: Callable[[str], None],
        containment: Containment,
        frame_file: FrameFile | None = None,
        frame_thread: WorkThread | None = None,
        ring: RingKeeper | None = None,
        events: tuple[EventFile, WorkThread] | None = None,
    ) -> None:
        super().__init__(session, bus, clock, containment)
        self.frame_disk: FrameDisk | None = None
        if frame_file is not None and frame_thread is not None:
            self.frame_disk = FrameDisk(frame_file, frame_thread, containment, self._frame_stored)
        self._encoder = encoder
        self._first_prefix = first_prefix
        self._key_frames = key_frames
        self._journal = journal
        self._journal_thread = journal_thread
        self._pool_problems = pool_problems
        self._observers = observers
        self._wake_camera = wake_camera
        self.first_answer: Callable[[str, float], None] = lambda _asked, _elapsed_s: None
        self.store_spending: Callable[[StoreSpending], None] = lambda _spending: None
        self.asking_changed: Callable[[], None] = lambda: None
        self._asking_changes = session.asking_changes
        self._ring = ring
        self._requests: asyncio.Queue[JournalRequest] = asyncio.Queue()
        self._events = events
        self._event_requests: asyncio.Queue[EventRequest] = asyncio.Queue()
        self._in_work: dict[tuple[str, FrameId], _FrameInWork] = {}

    # ---- disk -------------------------------------------------------------------------------------------------------

    async def store(self) -> None:
        """Do what the session wants done on disk, one after the other, until cancelled."""
        while True:
            request = await self._requests.get()
            result = await self._perform(request)
            with self.containment.around("stored"):
                self.session.stored(request.token, result, self.clock.now_s())
            self.pump()

    async def _perform(self, request: JournalRequest) -> JournalResult:
        try:
            return await self._journal_thread.call(self._journal.perform, request)
        except Exception as error:  # noqa: BLE001 - a bug of ours in the journal costs this request
            self.containment.note("journal", error)
            return NotStored(str(error))

    async def keep_events(self) -> None:
        """Do what the session wants done with events on disk, one after the other, until cancelled."""
        while True:
            request = await self._event_requests.get()
            result = await self._perform_event(request)
            with self.containment.around("event stored"):
                self.session.event_stored(request.token, result, self.clock.now_s())
            self.pump()

    async def _perform_event(self, request: EventRequest) -> EventResult:
        if self._events is None:
            return EventDiskFailed("this edge keeps no events")
        file, thread = self._events
        try:
            return await thread.call(file.perform, request)
        except Exception as error:  # noqa: BLE001 - a bug of ours in the file costs this request
            self.containment.note("events", error)
            return EventDiskFailed(str(error))

    def _frame_stored(self, request: StoreRequest, result: StoreResult) -> None:
        with self.containment.around("frame stored"):
            self.session.frame_stored(request.token, result, self.clock.now_s())
        self.pump()

    # ---- from the cameras (FrameTaker, SiteView) --------------------------------------------------------------------

    def has_room(self, camera: str) -> bool:
        """Whether a frame of this camera, taken now, would leave soon."""
        return self.session.has_room(camera)

    def asked(self, camera: str) -> bool:
        """Whether an ad-hoc question waits for a frame of this camera that could be sent."""
        return not self.session.storing and self.session.ad_hoc.waiting(camera)

    def takes_standing(self, camera: str) -> bool:
        """Whether the standing questions of this slot are asked, or left out because the pool is overloaded."""
        return self.session.takes_standing(camera, self.clock.now_s())

    async def take(self, captured: CapturedFrame, *, standing: bool, ring: bool) -> None:
        """Encode a frame and ask its questions; one that is asked nothing is kept if it is due for the ring."""
        camera, captured_s = captured.camera, self.clock.now_s() - captured.age_s
        queries = self.session.take_queries(camera, captured_s, standing=standing)
        try:
            if queries:
                await self._ask(captured, queries, captured_s)
            elif ring:
                await self.keep(captured)
        except BaseException:
            # Whatever went wrong with this frame: its ad-hoc questions wait for the next one.
            self.session.give_back(camera, queries)
            raise
        self.pump()

    async def keep(self, captured: CapturedFrame) -> None:
        """Encode a frame for the ring, and ask nothing of it."""
        captured_s = self.clock.now_s() - captured.age_s
        latent = await self._encoder.encode(captured.pixels)
        if self._ring is not None:
            await self._ring.keep(captured, latent, captured_s)

    async def _ask(self, captured: CapturedFrame, queries: Sequence[AskedQuery], captured_s: float) -> None:
        camera = captured.camera
        latent = await self._encoder.encode(captured.pixels)
        kept_as = None if self._ring is None else await self._ring.keep(captured, latent, captured_s)
        queries = self.session.still_asked(camera, queries)
        if not queries:
            return
        now_s = self.clock.now_s()
        sifted, told_as = self.session.sift(camera, latent, queries, captured_s, frame=kept_as)
        if told_as is not None and sifted.renewals:
            self._in_work[camera, told_as] = _FrameInWork(captured_s, len(sifted.renewals))
        queries = sifted.asked
        if not queries:
            return
        key = None
        if self._key_frames is not None and not self.session.storing:
            key = self._key_frames.choose(camera, latent)
        choice = self._first_prefix.choose(
            camera,
            latent,
            [query.answer_type for query in queries],
            self.session.frames.response_s,
            given=None if key is None else key.latent,
        )
        base_latents = first_latents(choice)
        if self.session.storing:
            self.session.store_frame(camera, latent, base_latents, queries, captured_s, now_s)
            return
        frame = self.session.offer(
            camera, latent, base_latents, queries, now_s, frame=told_as, given_key=key, captured_s=captured_s
        )
        if self._key_frames is not None:
            self._key_frames.offered(camera, key, frame.sequence)
        self._in_work[camera, frame] = _FrameInWork(captured_s, len(queries) + len(sifted.renewals))
        query_ids = [query.query_id(camera, frame) for query in queries]
        self._first_prefix.offered(camera, query_ids, choice)
        offered = OfferedFrame(captured, frame, latent, base_latents, query_ids, captured_s, now_s - captured_s)
        for observer in self._observers:
            observer.frame_offered(offered)

    def source_changed(self, camera: str, up: bool) -> None:
        """Tell the observers."""
        for observer in self._observers:
            observer.source_changed(camera, up)

    # ---- the end ----------------------------------------------------------------------------------------------------

    def drain(self, reason: str) -> None:
        """Take on nothing new."""
        self.session.drain(reason)
        self.pump()

    async def finished(self) -> None:
        """Wait until no query of a frame is undecided."""
        await self.until(lambda: not self.session.unfinished())

    async def leave(self, reason: str) -> None:
        """Decide what is left as failed; returns when all that is stored and the edge has said that it goes."""
        self.session.abandon(reason)
        self.pump()
        await self.until(self.session.is_stored)
        self.session.leave(self.clock.now_s())
        self.pump()

    async def idle(self) -> None:
        """Wait until the broker has everything that was said."""
        await self.until(self.session.idle)

    def pump(self) -> None:
        """See :class:`~edge_nodes.shell.EdgeShell`."""
        super().pump()
        if self._asking_changes != self.session.asking_changes:
            self._asking_changes = self.session.asking_changes
            self.asking_changed()

    def oldest_s(self) -> float:
        """Age of the oldest frame whose questions are not all decided; 0 where there is none."""
        captured_s = [work.captured_s for work in list(self._in_work.values())]
        return self.clock.now_s() - min(captured_s) if captured_s else 0.0

    # ---- outputs ----------------------------------------------------------------------------------------------------

    def carry_out(self, output: EdgeOutput) -> None:
        """See :class:`~edge_nodes.shell.EdgeShell`."""
        match output:
            case Sent():
                for observer in self._observers:
                    observer.message_sent(output)
            case Decision():
                self._ended(output)
            case HeldFrameAsked():
                key = (output.camera, output.frame)
                work = self._in_work.setdefault(key, _FrameInWork(self.clock.now_s(), 0))
                work.undecided += len(output.queries)
            case TakeFrame():
                self._wake_camera(output.camera)
            case KeyFrameLost():
                if self._key_frames is not None:
                    self._key_frames.lost(output.camera, output.sequence)
            case Heard():
                self._learn(output)
            case KeepEventFrame() | ListKeptEvents() | ReadEventFrame() | EraseKeptEvents():
                self._event_requests.put_nowait(output)
            case StoreSpending():
                self.store_spending(output)
            case Admit() | Decide() | MarkTold() | MoveToFile() | ReadUnfinished():
                self._requests.put_nowait(output)
            case ReadStored() | PutFrame() | ReadFrame() | DropFrames():
                assert self.frame_disk is not None  # noqa: S101 - without one the session keeps nothing
                self.frame_disk.put(output)

    def _learn(self, heard: Heard) -> None:
        match heard.message:
            case Answer():
                self._first_prefix.answered(heard.message)
                self._answered(heard.message)
                self._pool_problems.answer(heard.message)
            case Reject():
                self._pool_problems.reject(heard.message)
            case Status(kind="worker"):
                self._pool_problems.worker_status(heard.message)
            case _:
                pass

    def _answered(self, answer: Answer) -> None:
        work = self._in_work.get((answer.camera, answer.frame))
        if work is not None and answer.text and answer.query_id not in work.answered:
            work.answered.add(answer.query_id)
            asked = "ad_hoc" if answer.ad_hoc else "standing"
            self.first_answer(asked, self.clock.now_s() - work.captured_s)

    def _ended(self, decision: Decision) -> None:
        delay_s = None
        if not decision.history:
            key = (decision.camera, decision.frame)
            frame = self._in_work[key]
            frame.undecided -= 1
            if frame.undecided == 0:
                del self._in_work[key]
            delay_s = self.clock.now_s() - frame.captured_s
        for observer in self._observers:
            observer.query_ended(decision, delay_s)
