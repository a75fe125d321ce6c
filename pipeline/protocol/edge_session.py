"""The edge's side of the protocol, without clock, socket or disk. docs/shell-contract.md says how it is driven.

One session is one site: its frames, its standing and ad-hoc questions, and everything that it says. Here are the inputs
and outputs. The parts:

- :mod:`~pipeline.protocol.edge_inbox`, :mod:`~pipeline.protocol.edge_status`: what comes from peers, what it says of
  itself.
- :mod:`~pipeline.protocol.edge_frames`: frames from their offer to their outcomes.
- :mod:`~pipeline.protocol.uplink`, :mod:`~pipeline.protocol.uplink_budget`: the one way out, with its queue, its rate
  and what it may spend.
- :mod:`~pipeline.protocol.ask_intake`, :mod:`~pipeline.protocol.ad_hoc_questions`: clients' questions, kept on disk.
- :mod:`~pipeline.protocol.frame_ring`, :mod:`~pipeline.protocol.past_questions`: kept frames, and clients' questions
  about them.
- :mod:`~pipeline.protocol.event_keeper`, :mod:`~pipeline.protocol.event_fetches`: frames around answers that match a
  rule, on disk, and who gets them.
- :mod:`~pipeline.protocol.standing_questions`, :mod:`~pipeline.protocol.question_sync`: questions that are asked of
  every frame, and the broker that keeps them.
- :mod:`~pipeline.protocol.asking_rules`, :mod:`~pipeline.protocol.config_sync`: when they are due, and what operators
  say about that.
- :mod:`~pipeline.protocol.client_budgets`: what each client may cost.
- :mod:`~pipeline.protocol.load_shedding`: standing frames that are left out while the pool is overloaded.
- :mod:`~pipeline.protocol.change_gate`: standing questions that are not asked, because the scene is as it was.
- :mod:`~pipeline.protocol.frame_store`, :mod:`~pipeline.protocol.history_sender`: frames that are kept while there is
  no link, and sent when it is back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Final

from pipeline.protocol.ad_hoc_questions import AdHocQuestions
from pipeline.protocol.ask_intake import AskIntake
from pipeline.protocol.asking_rules import AskingRules
from pipeline.protocol.change_gate import ChangeGate, GateSettings, Sifted
from pipeline.protocol.client_budgets import ClientBudgets
from pipeline.protocol.config_sync import ConfigSync
from pipeline.protocol.departure_queue import DepartureQueue
from pipeline.protocol.departures import DepartureOrder
from pipeline.protocol.edge_frames import EdgeFrames
from pipeline.protocol.edge_inbox import EdgeInbox, Readers
from pipeline.protocol.edge_reports import EdgeReports
from pipeline.protocol.edge_status import EdgeStatus
from pipeline.protocol.effects import (
    AskedQuery,
    Decision,
    GivenKey,
    HeldFrameAsked,
    HistoryOffered,
    KeyFrameLost,
    Latent,
    TakeFrame,
)
from pipeline.protocol.event_fetches import EventFetches
from pipeline.protocol.event_keeper import EventKeeper
from pipeline.protocol.event_link import EventLink
from pipeline.protocol.event_requests import EventRequest, EventResult
from pipeline.protocol.frame_ring import FrameRing, HeldFrame
from pipeline.protocol.frame_store import FrameStore
from pipeline.protocol.history_sender import HistorySender
from pipeline.protocol.journal_requests import JournalRequest, JournalResult
from pipeline.protocol.load_shedding import LoadShedding, LoadSheddingSettings
from pipeline.protocol.past_questions import PastQuestions
from pipeline.protocol.ports import Contained, Delivery, Heard, Notice, Problem, Received, Subscription, Will
from pipeline.protocol.question_sync import QuestionSync
from pipeline.protocol.receipts import Receipts
from pipeline.protocol.settings import EdgeProtocolSettings
from pipeline.protocol.site_settings import SiteSettings
from pipeline.protocol.standing_questions import StandingQuestions
from pipeline.protocol.store_requests import StoreRequest, StoreResult
from pipeline.protocol.uplink import Uplink, UplinkOutput
from pipeline.protocol.uplink_budget import StoreSpending, UplinkBudget
from pipeline.protocol.uplink_shares import UplinkShares
from schemas.limits import MAX_QUERIES_PER_FRAME
from schemas.messages import (
    Condition,
)
from schemas.types import Age, FrameId

_LONGEST_PAUSE_S: Final = 30.0
"""A timer that fails for ever is tried again after so long at most."""

_ForFrames = TakeFrame | HeldFrameAsked | HistoryOffered | Decision | KeyFrameLost
EdgeOutput = UplinkOutput | JournalRequest | StoreRequest | EventRequest | StoreSpending | _ForFrames | Heard | Notice


class EdgeSession:
    """One edge process.

    Args:
        settings: times and bounds.
        site: what it is.
        boot: random id of this process start; part of every frame id.
        fingerprint: first 4 bytes of the codec's fingerprint.
        now_s: the edge's monotonic time.
        load_shedding: how it gives way to an overloaded pool.
        order: makes what decides which message leaves the uplink next, from its rate.
        spending: what earlier processes have spent of the uplink's budget.
        gate: holds standing questions back while the scene does not change; None asks them of every frame.

    Attributes:
        frames: frames that are under way.
        ring: kept frames.
        uplink: the way out.
        budget: what may be spent of it.
        ad_hoc: clients' questions.
        standing: standing questions.
        sync: keeps the broker of one mind about them.
        asking: when standing questions are due.
        shares: of the uplink, by camera.
        budgets: what each client may cost.
        load_shedding: share of the standing frames that is taken.
        event_counters: what happened to events and to requests for them.
        gate: as given.
        store: frames that are kept while there is no link.
    """

    def __init__(
        self,
        settings: EdgeProtocolSettings,
        site: SiteSettings,
        *,
        boot: int,
        fingerprint: bytes,
        now_s: float = 0.0,
        load_shedding: LoadSheddingSettings | None = None,
        order: Callable[[float | None], DepartureOrder] = DepartureQueue,
        spending: StoreSpending | None = None,
        gate: ChangeGate | None = None,
    ) -> None:
        self.site = site
        self.boot = boot
        self.ring = FrameRing(site.ring)
        self.frames = EdgeFrames(
            settings,
            site=site.site,
            pool=site.pool,
            boot=boot,
            fingerprint=fingerprint,
            priorities=site.priorities,
            ring=self.ring,
        )
        self.frames.connection(False, now_s)
        self.budget = UplinkBudget(site.budget, spending)
        asking = sum(1 for questions in site.asked_of.values() if questions)
        self.shares = UplinkShares(site.uplink_kbps, site.shares)
        self.uplink = Uplink(
            site.uplink_kbps,
            order=order,
            gather_s=site.gather_s,
            company=asking,
            budget=self.budget,
            shares=self.shares,
            traced=site.traced,
        )
        self.budgets = ClientBudgets(site.client_budget, site.client_budgets)
        self.asking = AskingRules(site.asking)
        self.standing = StandingQuestions(
            site.questions, site.asked_of, None if gate is None else gate.share, self.asking
        )
        self.load_shedding = LoadShedding(load_shedding)
        self.gate = gate
        self._reports = EdgeReports()
        self.ad_hoc = AdHocQuestions(
            boot=boot,
            cameras=site.asked_of,
            budgets=self.budgets,
            reports=self._reports,
            spent=self.budget.refusal,
        )
        self._past = PastQuestions(self.ring, self.frames, self.ad_hoc, self._is_known, self.frames.counters)
        self._intake = AskIntake(
            site.site,
            site.asked_of,
            self.ad_hoc,
            self.budgets,
            self._reports,
            acknowledge=self._acknowledge,
            now_s=now_s,
        )
        receipts = Receipts(site.site, self._reports, self.budgets)
        self._config = ConfigSync(
            site.site,
            self.asking,
            self._reports,
            receipts,
            cameras=site.asked_of,
            questions=lambda: self.standing.known,
            now_s=now_s,
        )
        self.sync = QuestionSync(
            site.site,
            self.standing,
            self._reports,
            receipts,
            deletes=site.deletes_questions,
            settled=self._config.settled,
            now_s=now_s,
        )
        self.event_counters: Counter[str] = Counter()
        self._events = EventLink(self.event_counters)
        self._keeper = EventKeeper(
            site.events, self.ring, self._events, site.event_max_age_s, self.event_counters, now_s
        )
        self._fetches = EventFetches(
            site.site,
            site.asked_of,
            site.events,
            self._keeper,
            self.ring,
            self._events,
            self.budgets,
            self.event_counters,
        )
        self.store = FrameStore(site.store, site.asked_of, fingerprint, now_s)
        self._history = HistorySender(
            self.store, self.frames, self.standing, self.sync, self.uplink, self.budget, self.load_shedding
        )
        self._outputs: list[EdgeOutput] = []
        readers = Readers(
            self.frames,
            self.store,
            self.load_shedding,
            self.ad_hoc,
            self._intake,
            self._fetches,
            self._config,
            self.sync,
        )
        self._inbox = EdgeInbox(site, boot, readers, self._acknowledge, self._say)
        self._connected = False
        self._status = EdgeStatus(site, boot, fingerprint, self.budget, self.unfinished, self._reports)
        self._failures = 0
        self._paused_until_s: float | None = None

    # ---- about the connection ---------------------------------------------------------------------------------------

    def subscriptions(self) -> tuple[Subscription, ...]:
        """What it listens to."""
        return self._inbox.subscriptions()

    def will(self) -> Will:
        """What the broker says when this process vanishes."""
        return self._status.will()

    # ---- reading ----------------------------------------------------------------------------------------------------

    @property
    def counters(self) -> Counter[str]:
        """What happened to frames, by reason."""
        return self.frames.counters

    def unfinished(self) -> int:
        """Queries of frames that have no outcome yet."""
        return self.frames.unfinished()

    def idle(self) -> bool:
        """Whether everything that was said is with the broker, and everything that was stored is on disk."""
        return not self.uplink.unsent and self.is_stored()

    def is_stored(self) -> bool:
        """Whether everything that was stored is on disk."""
        return not (self.ad_hoc.pending or self.store.pending)

    @property
    def storing(self) -> bool:
        """Whether there is no link, and frames are stored: see :meth:`store_frame`."""
        return self.store.storing

    def sizes(self) -> dict[str, int]:
        """Entries of every table that it keeps; most are empty when nothing is under way."""
        return {
            **self.frames.sizes(),
            **self.ad_hoc.sizes(),
            **self.store.sizes(),
            "under_way": self.uplink.under_way,
            "ring": len(self.ring),
            "event_requests": self._events.pending,
            **self._keeper.sizes(),
            **self._fetches.sizes(),
            **({} if self.gate is None else self.gate.sizes()),
        }

    # ---- inputs: connection, broker, disk ---------------------------------------------------------------------------

    def connection(
        self, connected: bool, now_s: float, *, generation: int = 0, resumed: bool = True, topic_aliases: int = 0
    ) -> None:
        """The connection came up with every subscription granted, or went down.

        Args:
            connected: it came up.
            now_s: the edge's monotonic time.
            generation: its number; later ones have larger numbers. The last will carries it.
            resumed: the broker kept the session of the connection before.
            topic_aliases: that the broker grants on it, if the shell uses them.
        """
        self._connected = connected
        self.frames.connection(connected, now_s)
        self.uplink.connection(connected, topic_aliases)
        if connected:
            self._config.connected()
        self.sync.connection(connected, now_s, generation=generation, resumed=resumed)
        if self.store.connection(connected, now_s):
            waiting = (camera for camera in self.site.asked_of if self.ad_hoc.waiting(camera))
            self._outputs += (TakeFrame(camera) for camera in waiting)
        if connected:
            self._status.say()

    def receive(self, received: Received, now_s: float) -> None:
        """A publish came. Whatever is wrong with it ends it alone."""
        self._inbox.receive(received, now_s)

    def published(self, token: int, delivery: Delivery, now_s: float) -> None:
        """What became of a publish."""
        self.uplink.published(token, delivery, now_s)

    def acknowledged(self, count: int, now_s: float) -> None:
        """So many acknowledgements were written."""
        self.uplink.acknowledged(count, now_s)

    def wall_clock(self, utc_s: float, uptime_s: float) -> None:
        """What the device's clock says; see :meth:`UplinkBudget.wall_clock`."""
        self.budget.wall_clock(utc_s, uptime_s)
        self.asking.wall_clock(utc_s)

    def reconfigure(self, site: SiteSettings, gate: GateSettings | None) -> None:
        """Other settings: questions, what asks them and when, priorities, and the bounds of the gate.

        Args:
            site: the same site with the same cameras; what else it says takes effect with the next process.
            gate: of the change gate, where there is one.
        """
        self.site = site
        if self.gate is not None and gate is not None:
            self.gate.replace(gate)
        self.frames.replace_priorities(site.priorities)
        self.standing.replace(site.questions, site.asked_of)
        self.asking.replace(site.asking)
        self.sync.replaced()

    @property
    def asking_changes(self) -> int:
        """How often the intervals of cameras may have changed."""
        return self.asking.changes + self.standing.changes

    def interval_s(self, camera: str) -> float | None:
        """Time from one slot of a camera to the next; None where the settings say nothing of it."""
        return self.asking.interval_s(camera, self.standing.ids(camera))

    def health(self, conditions: Sequence[Condition]) -> None:
        """What is wrong with this process: its status says so, anew when that changes.

        Args:
            conditions: the worst first; those beyond what a status holds are left out.
        """
        self._status.health(conditions)

    def stored(self, token: int, result: JournalResult, now_s: float) -> None:
        """What became of a request to the journal."""
        self.ad_hoc.stored(token, result, now_s)

    def event_stored(self, token: int, result: EventResult, now_s: float) -> None:
        """What became of a request to the disk that keeps events."""
        self._events.stored(token, result, now_s)

    def frame_stored(self, token: int, result: StoreResult, now_s: float) -> None:
        """What became of a request to the store of frames."""
        self.store.stored(token, result, now_s)

    # ---- inputs: frames ---------------------------------------------------------------------------------------------

    def has_room(self, camera: str) -> bool:
        """Whether a frame of this camera that is taken now would leave soon, or be kept."""
        if self.store.storing:
            return self.store.has_room(camera)
        open_ = self._connected and not self.budget.is_closed
        return open_ and self.sync.out and not self.frames.waits_for_uplink(camera)

    def takes_standing(self, camera: str, now_s: float) -> bool:
        """Whether the standing questions of a slot that has come are asked.

        They are left out where the pool is overloaded, or the budget of the uplink comes to its end. Without a link,
        whether a frame is kept for them. Asked once a slot.
        """
        if not self.standing.is_due(camera, now_s):
            return False
        return self.store.takes_slot(camera, now_s) if self.store.storing else self.slot_is_taken(camera, now_s)

    def slot_is_taken(self, camera: str, now_s: float) -> bool:
        """The same with a link, whatever is asked."""
        within = self.budget.takes(camera) and self.shares.takes(camera, now_s)
        return within and self.load_shedding.takes(camera, now_s)

    def take_queries(self, camera: str, captured_s: float, *, standing: bool) -> list[AskedQuery]:
        """What is asked of a frame: its standing questions, if it is their time, and the ad-hoc ones that wait.

        Without a link ad-hoc ones go on waiting.

        Args:
            camera: its camera.
            captured_s: when it was taken; deadlines of standing questions count from there.
            standing: it is their time.
        """
        queries = self.standing.take_due(camera, captured_s) if standing else []
        if self.store.storing:
            self.store.taken(camera)
            return queries
        return [*queries, *self.ad_hoc.take(camera, MAX_QUERIES_PER_FRAME - len(queries))]

    def still_asked(self, camera: str, queries: Sequence[AskedQuery]) -> list[AskedQuery]:
        """Those queries that are not decided already; of one that is, the client is told again."""
        return [query for query in queries if not self._is_known(camera, query)]

    def give_back(self, camera: str, queries: Collection[AskedQuery]) -> None:
        """A frame came to nothing: its ad-hoc questions wait for the next one."""
        self.ad_hoc.give_back(camera, queries)

    def keep(
        self,
        camera: str,
        latent: Latent,
        base_latents: int,
        captured_s: float,
        now_s: float,
        *,
        size_bytes: int,
        picture: bytes | None = None,
    ) -> FrameId:
        """Keep a frame for questions about the past, whether it is asked about or not.

        Args:
            camera: its camera.
            latent: its latent, coded by itself.
            base_latents: prefix that an open message of it carries.
            captured_s: when it was taken.
            now_s: the edge's monotonic time.
            size_bytes: memory that latent and picture take.
            picture: the masked frame as a JPEG, where the settings of its camera allow that.

        Returns:
            The id to offer it under.
        """
        frame = self.frames.next_id(camera)
        held = HeldFrame(camera, frame, captured_s, latent, base_latents, size_bytes, picture)
        self.ring.keep(held, now_s)
        self._keeper.frame_kept(held, now_s)
        return frame

    def sift(
        self,
        camera: str,
        latent: Latent,
        queries: Sequence[AskedQuery],
        captured_s: float,
        *,
        frame: FrameId | None = None,
    ) -> tuple[Sifted, FrameId | None]:
        """Which queries of a frame are asked, and which answers hold on because the scene is as it was.

        Args:
            camera: its camera.
            latent: its latent.
            queries: what it would be asked.
            captured_s: when it was taken.
            frame: its id, if it has one; see :meth:`keep`.

        Returns:
            What becomes of the queries, and the id of the frame to offer it under; it has one from now on if everybody
            is told of it.
        """
        if self.gate is None or self.storing:
            return Sifted(list(queries)), frame
        asked = self.standing.ids(camera)
        sifted = self.gate.sift(camera, latent, queries, captured_s, tells=self._connected, asked=asked)
        if sifted.renewals:
            frame = self.frames.next_id(camera) if frame is None else frame
            self.frames.renew(camera, frame, sifted.renewals)
        return sifted, frame

    def offer(
        self,
        camera: str,
        latent: Latent,
        base_latents: int,
        queries: Sequence[AskedQuery],
        now_s: float,
        *,
        frame: FrameId | None = None,
        given_key: GivenKey[Latent] | None = None,
        age_ms: Age | None = None,
        captured_s: float | None = None,
    ) -> FrameId:
        """Ask questions of a new frame, see :meth:`EdgeFrames.offer`.

        Args:
            camera: its camera.
            latent: its coded latent.
            base_latents: prefix that the first open carries.
            queries: at least one.
            now_s: the edge's monotonic time.
            frame: its id; None takes this boot's next one.
            given_key: the same latent, coded given a key frame or as one.
            age_ms: how old it is, if it waited for a link; its answers are history, and renewed by nothing.
            captured_s: when it was taken; None for now.
        """
        offered = self.frames.offer(
            camera, latent, base_latents, queries, now_s, frame=frame, given_key=given_key, age_ms=age_ms
        )
        if self.gate is not None and age_ms is None:
            self.gate.offered(camera, offered, latent, queries, now_s if captured_s is None else captured_s)
        if any(not query.ad_hoc for query in queries):
            self.load_shedding.offered(camera, offered)
        return offered

    def store_frame(
        self,
        camera: str,
        latent: Latent,
        base_latents: int,
        queries: Sequence[AskedQuery],
        captured_s: float,
        now_s: float,
    ) -> int | None:
        """Keep a frame until the link is back; its ad-hoc questions wait for the next one.

        Args:
            camera: its camera.
            latent: its latent, coded by itself.
            base_latents: prefix that its first open shall carry.
            queries: what was to be asked of it.
            captured_s: when it was taken, on the edge's clock.
            now_s: the edge's monotonic time.

        Returns:
            Its number in the store; None when nothing was kept.
        """
        self.give_back(camera, [query for query in queries if query.ad_hoc])
        questions = [query.question for query in queries if not query.ad_hoc]
        return self.store.keep(camera, latent, base_latents, questions, captured_s, now_s) if questions else None

    # ---- inputs: the end --------------------------------------------------------------------------------------------

    def drain(self, reason: str) -> None:
        """Nothing new is taken on; what is under way goes on."""
        self.ad_hoc.close(reason)
        self.frames.drain()
        self.store.close()
        self.sync.close()
        self._config.close()

    def abandon(self, reason: str) -> None:
        """Decide what is left as failed: the process is about to stop."""
        self.frames.abandon(reason)

    def leave(self, now_s: float) -> None:
        """Say that this process goes: the last word on its status topic."""
        self._status.say_farewell()
        self.uplink.acknowledge_due(now_s, at_once=True)

    # ---- output -----------------------------------------------------------------------------------------------------

    def next_wake_s(self) -> float | None:
        """When :meth:`poll` is due next, None while nothing can time out."""
        frames_s = self.frames.next_wake_s()
        if frames_s is not None and self._paused_until_s is not None:
            frames_s = max(frames_s, self._paused_until_s)
        times = (
            frames_s,
            self.ad_hoc.next_wake_s(),
            self.sync.next_wake_s(),
            self.ring.next_expiry_s(),
            self._keeper.next_wake_s(),
            self.uplink.next_wake_s(),
            self.store.next_wake_s(),
        )
        return min((time_s for time_s in times if time_s is not None), default=None)

    def poll(self, now_s: float) -> list[EdgeOutput]:
        """Let time pass, and take what the shell must do now, in order."""
        self._tick(now_s)
        self._outputs += self._history.open_read(now_s)
        self._pass_on(now_s)
        while self.uplink.send_next(now_s):
            self._pass_on(now_s)
        if not any(self.ad_hoc.waiting(camera) for camera in self.site.asked_of):
            self._history.send(now_s)
        self.uplink.acknowledge_due(now_s)
        self._collect()
        outputs, self._outputs = self._outputs, []
        return outputs

    def _tick(self, now_s: float) -> None:
        if self._paused_until_s is None or self._paused_until_s <= now_s:
            try:
                self.frames.tick(now_s)
                self._failures, self._paused_until_s = 0, None
            except Exception as error:  # noqa: BLE001 - what one frame does keeps no question of a client waiting
                self._failures += 1
                self._paused_until_s = now_s + min(_LONGEST_PAUSE_S, 0.1 * 2 ** min(self._failures, 9))
                self._outputs.append(Contained("timers", error))
        self.ad_hoc.tick(now_s)
        self.sync.tick(now_s)
        self._keeper.tick(now_s)
        self.store.tick(now_s)
        expiry_s = self.ring.next_expiry_s()
        if expiry_s is not None and expiry_s <= now_s:
            self.ring.expire(now_s)
        if self._connected:
            self._status.say_what_changed()

    def _pass_on(self, now_s: float) -> None:
        """Decisions to whoever has asked, messages to the uplink; what does not fit there may cause more of both."""
        moved = True
        while moved:
            self._outputs += self._past.ask(now_s)
            decisions = self.frames.take_decisions()
            for decision in decisions:
                try:
                    self._decided(decision, now_s)
                except Exception as error:  # noqa: BLE001 - it ends this query, not the site
                    self._outputs.append(Contained("decision", error))
            departures = [
                *self.frames.take_departures(),
                *self._reports.take_departures(),
                *self._fetches.take_departures(),
            ]
            for departure in departures:
                self.uplink.put(departure, now_s)
            moved = bool(decisions or departures)
        self._collect()

    def _collect(self) -> None:
        self._outputs += self.frames.take_lost_keys()
        self._outputs += self.ad_hoc.take_outputs()
        self._outputs += self._intake.take_outputs()
        self._outputs += self._events.take_outputs()
        self._outputs += self._fetches.take_problems()
        self._outputs += self.sync.take_outputs()
        self._outputs += self._config.take_outputs()
        self._outputs += self.asking.take_outputs()
        self._outputs += self.standing.take_outputs()
        self._outputs += self.store.take_outputs()
        self._outputs += self.uplink.take_outputs()
        if not self._status.online:
            self.budget.close()
        self._outputs += self.budget.take_outputs()

    # ---- what is decided --------------------------------------------------------------------------------------------

    def _acknowledge(self, token: int | None) -> None:
        if token is not None:
            self.uplink.acknowledge(token)

    def _say(self, output: Heard | Problem | Contained) -> None:
        self._outputs.append(output)

    def _decided(self, decision: Decision, now_s: float) -> None:
        if decision.history:
            self.store.ended(decision, now_s)
        else:
            self.load_shedding.ended(decision, now_s)
            if self.gate is not None:
                self.gate.ended(decision, now_s)
        self._outputs.append(decision)
        live = not (decision.ad_hoc or decision.history)
        question = self.standing.wanted(decision.question.question_id) if live else None
        if question is not None and decision.answer is not None and decision.answer.text:
            self._keeper.answered(decision.camera, decision.frame, question, decision.answer.text, now_s)
        if decision.ad_hoc:
            self._end_ad_hoc(decision)
        elif decision.publish is not None:
            self._reports.outcome(decision.publish)

    def _end_ad_hoc(self, decision: Decision) -> None:
        message = decision.answer or decision.publish
        assert message is not None  # noqa: S101 - one of them is what decided it
        self.ad_hoc.decided(message, published=decision.publish is None)

    def _is_known(self, camera: str, query: AskedQuery) -> bool:
        """Whether an ad-hoc query was decided before the journal's memory begins; its client is told again."""
        if not query.ad_hoc:
            return False
        state = self.frames.ad_hoc_state(query.question.query_id(camera, FrameId(0, 0)))
        if isinstance(state, Decision):
            self._end_ad_hoc(state)
        return state is not None
