"""Store and forward: what is kept without a link, what leaves when it is back, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from pipeline.protocol.departures import TrafficClass
from pipeline.protocol.effects import AskedQuery, HistoryOffered
from pipeline.protocol.frame_store import FrameStore
from pipeline.protocol.history_sender import HISTORY_AFTER_TROUBLE_S
from pipeline.protocol.store_requests import DiskFailed, Done, PutFrame, ReadStored, StoreRequest, StoreResult
from pipeline.protocol.store_settings import ENTRY_OVERHEAD_BYTES, MAX_TRIES, StorePolicy, StoreSettings
from schemas import topics, wire
from schemas.errors import StateError
from schemas.messages import Answer, Ask, Busy, Open, QueryOutcome, Question
from schemas.topics import Family
from schemas.types import UNKNOWN_AGE, FrameId, Outcome
from simulation.content import LATENTS, MARK_BYTES, WHOLE, SimulatedLatent
from simulation.frame_disk import FrameRows
from tests.protocol.edge_driver import FINGERPRINT, EdgeDriver

OFFLINE_S = 5.0
NEWEST = StoreSettings(newest_every_s=0.0, offline_after_s=OFFLINE_S, least_deadline_s=30.0, retry_s=10.0)
EACH = StoreSettings(StorePolicy.EVERY_NTH, nth=1, offline_after_s=OFFLINE_S, least_deadline_s=30.0, retry_s=10.0)
ENTRY_BYTES = len(WHOLE) + ENTRY_OVERHEAD_BYTES


def question(question_id: str, text: str = "", **changes: object) -> Question:
    values = {"site": "depot", "question_id": question_id, "text": text or f"{question_id}?", "set_by": "settings"}
    return Question.model_validate({**values, "deadline_ms": 10_000, **changes})


CAR, BUS = question("car"), question("bus", deadline_ms=90_000)


class Disk(FrameRows):
    """A medium that does what the test says."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        super().__init__(now_s)
        self.failures: list[DiskFailed] = []

    def perform(self, request: StoreRequest) -> StoreResult:
        if self.failures and isinstance(request, PutFrame):
            return self.failures.pop(0)
        return super().perform(request)


class Site(EdgeDriver):
    """An edge with two standing questions, and a camera that the test turns."""

    def __init__(
        self,
        settings: StoreSettings = NEWEST,
        *,
        before: Site | None = None,
        cameras: tuple[str, ...] = ("gate", "yard"),
        questions: tuple[Question, ...] = (CAR, BUS),
        boot: int = 1,
    ) -> None:
        self.disk: Disk = Disk(lambda: self.now_s) if before is None else before.disk
        self.disk._now_s = lambda: self.now_s
        now_s = 1000.0 if before is None else before.now_s
        super().__init__(cameras=cameras, questions=questions, store=settings, frames=self.disk, boot=boot, now_s=now_s)
        self.taken = 0
        self.pump()

    @property
    def store(self) -> FrameStore:
        return self.session.store

    @property
    def entries(self) -> list[int]:
        return [entry_id for entry_id, _ in self.session.store.entries]

    def goes_on(self, seconds: float) -> None:
        self.turn_to(self.now_s + seconds)
        self.pump()

    def link(self) -> None:
        """The connection comes; the broker has what it was told, and sends it back."""
        self.connect()
        for publish in list(self.publishes):
            if publish.label == "question" and publish.payload:
                self.receive(publish.topic, publish.payload)
        statuses = [publish for publish in self.publishes if publish.label == "status"]
        self.receive(statuses[-1].topic, statuses[-1].payload, qos=0)
        self.goes_on(10.0)

    def cut(self, seconds: float = OFFLINE_S) -> None:
        self.session.connection(False, self.now_s)
        self.goes_on(seconds)

    def takes(self, camera: str = "gate", *, age_s: float = 0.0) -> int | None:
        """A slot of a camera has come without a link; number of the frame that is kept."""
        if not self.session.takes_standing(camera, self.now_s):
            return None
        assert self.session.has_room(camera)
        captured_s = self.now_s - age_s
        queries = self.session.take_queries(camera, captured_s, standing=True)
        assert not self.session.has_room(camera)
        self.taken += 1
        latent = SimulatedLatent(self.taken.to_bytes(MARK_BYTES, "big"))
        kept = self.session.store_frame(camera, latent, 8, queries, captured_s, self.now_s)
        self.pump()
        return kept

    def marks(self) -> list[int]:
        """Which frames were opened as history, in order."""
        return [mark_of(history) for history in self.history]

    def opens(self) -> list[Open]:
        messages = [publish.message for publish in self.publishes]
        return [message for message in messages if isinstance(message, Open)]

    def answers(self, history: HistoryOffered, *question_ids: str, outcome: Outcome = Outcome.ANSWERED) -> None:
        for query in history.queries:
            if not question_ids or query.question_id in question_ids:
                self.receive(topics.answer_topic(history.camera), answer(history, query, outcome), qos=1)


def mark_of(history: HistoryOffered) -> int:
    assert isinstance(history.latent, SimulatedLatent)
    return int.from_bytes(history.latent.mark, "big")


def answer(history: HistoryOffered, query: AskedQuery, outcome: Outcome | None) -> Answer:
    return Answer.model_validate(
        {
            "query_id": query.query_id(history.camera, history.frame),
            "owner": query.question.owner,
            "camera": history.camera,
            "frame": history.frame,
            "attempt": 1,
            "question_id": query.question_id,
            "worker": "w-1",
            "outcome": outcome,
            "text": "" if outcome is Outcome.FAILED else "yes",
            "score": 1.0,
            "latents": 8,
            "payload_bytes": 20,
            "looks": 1,
            "age_ms": history.age_ms,
        }
    )


def dropped(site: Site) -> dict[str, int]:
    found = site.session.store.counters.items()
    return {kind.removeprefix("dropped_"): count for kind, count in found if kind.startswith("dropped_") and count}


def conserved(site: Site) -> None:
    counters = site.session.store.counters
    gone = counters["answered"] + sum(dropped(site).values())
    assert counters["stored"] + counters["found"] == gone + len(site.session.store.entries)


# ---- what is kept ---------------------------------------------------------------------------------------------------


def test_cameras_wait_for_a_link_that_is_lost_for_a_moment_and_frames_are_kept_without_one() -> None:
    site = Site()
    site.link()
    site.cut(OFFLINE_S - 0.1)
    assert (site.session.storing, site.session.has_room("gate")) == (False, False)
    site.goes_on(0.1)
    assert site.session.storing
    assert site.session.has_room("gate"), "the first frame, whatever its camera waits for"
    assert site.takes() == 1
    conserved(site)


def test_with_the_policy_off_nothing_is_kept_and_nothing_is_wanted_of_the_disk() -> None:
    site = Site(StoreSettings(StorePolicy.OFF))
    site.link()
    site.cut(100.0)
    assert not site.session.storing
    assert not site.session.has_room("gate")
    assert not site.session.store.pending


def test_the_newest_frame_of_each_question_and_camera_is_kept() -> None:
    site = Site()
    site.cut()
    for camera in ("gate", "yard", "gate", "gate"):
        site.takes(camera)
        site.goes_on(1.0)
    assert len(site.entries) == len(site.disk) == 2
    assert site.entries[-1] == 4, "the newest stays"
    assert dropped(site) == {"replaced": 2}
    conserved(site)


def test_a_card_is_not_worn_by_the_newest_frame() -> None:
    site = Site(StoreSettings(newest_every_s=10.0, offline_after_s=0.0))
    site.cut(1.0)
    kept = []
    for _ in range(25):
        kept.append(site.takes())
        site.goes_on(1.0)
    assert [number for number, entry_id in enumerate(kept) if entry_id] == [0, 10, 20]


def test_every_nth_slot_of_a_camera_is_kept() -> None:
    site = Site(StoreSettings(StorePolicy.EVERY_NTH, nth=3, offline_after_s=OFFLINE_S))
    site.cut()
    assert [bool(site.takes()) for _ in range(7)] == [True, False, False, True, False, False, True]
    assert site.takes("yard") == 4, "each camera counts its own"
    assert len(site.entries) == 4


@pytest.mark.parametrize("bounds", [{"max_entries": 3}, {"max_bytes": 3 * ENTRY_BYTES + 10}], ids=["entries", "bytes"])
def test_where_there_is_no_room_the_oldest_goes_and_of_each_question_the_newest_last(bounds: dict[str, int]) -> None:
    site = Site(StoreSettings(StorePolicy.EVERY_NTH, nth=1, offline_after_s=OFFLINE_S, **bounds))
    site.cut()
    site.takes("yard")
    for _ in range(4):
        site.takes("gate")
    assert site.entries == [1, 4, 5], "the only frame of the yard stays"
    assert len(site.disk) == 3
    assert dropped(site) == {"no_room": 2}
    conserved(site)


def test_a_frame_that_could_never_fit_is_not_kept() -> None:
    site = Site(StoreSettings(max_bytes=ENTRY_BYTES - 1, offline_after_s=0.0))
    site.cut(1.0)
    assert site.takes() is None
    assert dropped(site) == {"no_room": 1}
    conserved(site)


def test_questions_of_clients_wait_for_a_frame_that_can_be_sent() -> None:
    site = Site()
    site.link()
    site.session.connection(False, site.now_s)
    site.receive(topics.ask_topic("gate", "me"), Ask(query_id="q1", text="Who?", deadline_ms=600_000))
    site.goes_on(OFFLINE_S)
    queries = site.session.take_queries("gate", site.now_s, standing=True)
    assert {query.question_id for query in queries} == {"car", "bus"}
    mixed = [*queries, *site.session.ad_hoc.take("gate", 5)]
    assert len(mixed) == 3, "taken before the link was lost"
    site.session.store_frame("gate", SimulatedLatent(), 8, mixed, site.now_s, site.now_s)
    assert site.session.ad_hoc.waiting("gate")
    wanted = len(site.frames_wanted)
    site.connect()
    assert site.frames_wanted[wanted:] == ["gate"], "and a frame is wanted as soon as there is a link"


# ---- what leaves ----------------------------------------------------------------------------------------------------


def test_a_stored_frame_becomes_a_new_query_with_its_own_deadline_and_its_age() -> None:
    site = Site()
    site.link()
    site.cut()
    site.takes(age_s=2.0)
    site.goes_on(100.0)
    began_s = site.now_s
    site.link()

    opened, *again = site.opens()
    assert {(other.frame, other.age_ms) for other in again} <= {(opened.frame, opened.age_ms)}
    (history,) = site.history
    assert opened.frame == history.frame
    assert isinstance(opened.age_ms, int)
    assert 102_000 <= opened.age_ms <= 112_000
    assert (opened.stop, opened.payload) == (8, SimulatedLatent(bytes((0, 0, 0, 0, 1))).payload(0, 8))
    remaining = {ref.question_id: ref.remaining_ms for ref in opened.queries}
    assert 29_000 <= remaining["car"] <= 30_000, "nobody waits for it: it has 30 s at least"
    assert 89_000 <= remaining["bus"] <= 90_000
    sent = [sent for sent in site.sent if sent.label == "open"]
    assert {one.traffic_class for one in sent} == {TrafficClass.HISTORY}
    assert began_s <= sent[0].at_s

    site.answers(history)
    assert [(decision.outcome, decision.history) for decision in site.decisions] == [(Outcome.ANSWERED, True)] * 2
    assert site.entries == []
    assert len(site.disk) == 0
    assert site.store.counters["answered"] == 1
    conserved(site)


def test_the_newest_of_each_question_goes_first_then_history_from_the_newest_on() -> None:
    site = Site(StoreSettings(StorePolicy.EVERY_NTH, nth=1, offline_after_s=OFFLINE_S, under_way=1))
    site.link()
    site.cut()
    for camera in ("yard", "gate", "gate", "yard", "gate"):
        site.takes(camera)
    site.link()
    for _ in range(5):
        site.answers(site.history[-1])
    assert site.marks() == [5, 4, 3, 2, 1]

    site = Site(StoreSettings(StorePolicy.EVERY_NTH, nth=1, offline_after_s=OFFLINE_S, under_way=1))
    site.link()
    site.cut()
    for camera in ("yard", "gate", "gate", "gate"):
        site.takes(camera)
    site.link()
    for _ in range(4):
        site.answers(site.history[-1])
    assert site.marks() == [4, 1, 3, 2], "the only one of the yard goes before older ones of the gate"


def test_few_are_under_way_at_a_time() -> None:
    site = Site(StoreSettings(StorePolicy.EVERY_NTH, nth=1, offline_after_s=OFFLINE_S, under_way=2))
    site.link()
    site.cut()
    for _ in range(5):
        site.takes()
    site.link()
    assert len(site.history) == 2
    site.answers(site.history[0], "car")
    assert len(site.history) == 2
    site.answers(site.history[0], "bus")
    assert len(site.history) == 3


def test_nothing_stored_is_sent_while_a_client_waits_for_a_frame() -> None:
    site = Site()
    site.link()
    site.receive(topics.ask_topic("yard", "me"), Ask(query_id="q1", text="Who?", deadline_ms=600_000))
    site.cut()
    site.takes()
    site.link()
    assert site.history == []
    queries = site.session.take_queries("yard", site.now_s, standing=False)
    site.session.offer("yard", SimulatedLatent(), 8, queries, site.now_s)
    site.pump()
    assert len(site.history) == 1
    assert [ref.client for opened in site.opens() for ref in opened.queries] == ["me", None, None]


def test_nothing_stored_is_sent_while_the_pool_has_too_much_work() -> None:
    site = Site()
    site.link()
    queries = site.session.take_queries("gate", site.now_s, standing=True)
    frame = site.session.offer("gate", SimulatedLatent(), 8, queries, site.now_s)
    site.pump()
    site.receive(topics.control_topic("gate"), Busy(worker="w-1", frame=frame, attempt=1, retry_after_ms=100), qos=0)
    site.cut()
    site.takes()
    site.link()
    assert site.history == []
    site.goes_on(HISTORY_AFTER_TROUBLE_S + 10.0)
    assert len(site.history) == 1


def test_a_worker_that_is_busy_stops_history_and_sheds_no_live_frame() -> None:
    site = Site(EACH)
    site.link()
    site.cut()
    for _ in range(6):
        site.takes()
    site.link()
    under_way = len(site.history)
    for history in list(site.history):
        busy = Busy(worker="w-1", frame=history.frame, attempt=1, retry_after_ms=60_000)
        site.receive(topics.control_topic("gate"), busy, qos=0)
        site.answers(history)
    assert len(site.history) == under_way, "a pause"
    assert site.session.load_shedding.counters == {}
    site.goes_on(10.0)
    assert len(site.history) > under_way


def test_history_takes_no_place_of_a_live_frame_and_no_live_frame_takes_its_place() -> None:
    site = Site()
    site.link()
    site.cut()
    site.takes()
    site.link()
    queries = site.session.take_queries("gate", site.now_s, standing=True)
    for _ in range(3):
        site.session.offer("gate", SimulatedLatent(), 8, queries, site.now_s)
        site.pump()
    assert not [decision for decision in site.decisions if decision.outcome is Outcome.SUPERSEDED and decision.history]
    assert site.session.has_room("gate")


# ---- what comes of it -----------------------------------------------------------------------------------------------


def test_what_comes_to_nothing_for_want_of_a_link_is_asked_again_as_another_query() -> None:
    site = Site()
    site.link()
    site.cut()
    site.takes()
    site.link()
    (first,) = site.history
    site.answers(first, "car")
    site.cut(120.0)
    assert [decision.outcome for decision in site.decisions] == [Outcome.ANSWERED, Outcome.EXPIRED]
    assert len(site.disk) == 1
    site.link()
    second = site.history[-1]
    assert second.frame != first.frame
    assert [query.question_id for query in second.queries] == ["bus"], "the other one is answered"
    assert isinstance(first.age_ms, int)
    assert isinstance(second.age_ms, int)
    assert second.age_ms > first.age_ms + 100_000
    site.answers(second)
    assert site.entries == []
    conserved(site)


@pytest.mark.parametrize(
    "settings",
    [replace(EACH, under_way=2, max_entries=2), replace(EACH, under_way=2, max_bytes=2 * ENTRY_BYTES + 10)],
    ids=["entries", "bytes"],
)
def test_what_comes_to_nothing_takes_its_place_again_among_those_that_came_meanwhile(settings: StoreSettings) -> None:
    site = Site(settings)
    site.link()
    site.cut()
    site.takes()
    site.takes()
    site.link()
    assert len(site.history) == 2
    site.cut()
    site.takes()
    site.takes()
    assert site.entries == [1, 2, 4], "what is under way does not go for want of room"
    site.goes_on(200.0)
    assert {decision.outcome for decision in site.decisions} == {Outcome.EXPIRED}
    assert len(site.entries) == len(site.disk) == 2
    assert site.entries[-1] == 4, "the newest stays"
    assert dropped(site) == {"no_room": 2}
    conserved(site)


def test_what_no_worker_answers_is_given_up_after_some_tries() -> None:
    site = Site()
    site.link()
    site.cut()
    site.takes()
    site.link()
    site.goes_on(1000.0)
    assert len(site.history) == MAX_TRIES
    assert {decision.outcome for decision in site.decisions} <= {Outcome.EXPIRED, Outcome.FAILED}
    outcomes = [p.message for p in site.publishes if isinstance(p.message, QueryOutcome)]
    assert outcomes
    assert all(outcome.history and isinstance(outcome.age_ms, int) for outcome in outcomes)
    assert dropped(site) == {"given_up": 1}
    assert len(site.disk) == 0
    conserved(site)


def test_an_answer_that_failed_ends_a_stored_frame() -> None:
    site = Site()
    site.link()
    site.cut()
    site.takes()
    site.link()
    site.answers(site.history[0], outcome=Outcome.FAILED)
    assert site.entries == []
    assert site.store.counters["answered"] == 1


@pytest.mark.parametrize("change", ["text", "cameras", "deleted"])
def test_a_question_that_is_changed_or_deleted_drops_its_part_of_stored_frames(change: str) -> None:
    site = Site()
    site.link()
    site.cut()
    site.takes("gate")
    site.takes("yard")
    site.connect()
    changed = {"text": question("car", "Is there a van?", set_by="operator")}
    changed["cameras"] = question("car", cameras=("yard",), set_by="operator")
    topic = topics.question_topic("depot", "car")
    if change == "deleted":
        site.receive(topic, b"")
    else:
        site.receive(topic, changed[change], retained=True)
    site.link()
    asked = {(history.camera, query.question_id) for history in site.history for query in history.queries}
    kept = {("yard", "car")} if change == "cameras" else set()
    assert asked == {("gate", "bus"), ("yard", "bus"), *kept}
    conserved(site)


def test_frames_of_questions_that_are_gone_are_dropped_and_counted() -> None:
    site = Site(questions=(CAR,))
    site.link()
    site.cut()
    site.takes()
    site.connect()
    site.receive(topics.question_topic("depot", "car"), question("car", "Another?", set_by="operator"), retained=True)
    site.link()
    assert site.history == []
    assert dropped(site) == {"question_changed": 1}
    assert len(site.disk) == 0
    conserved(site)


def test_an_operators_question_of_before_the_restart_keeps_its_frames() -> None:
    """A process that starts knows it only when the broker has said what it retains."""
    asked = question("bus", "Which bus?", cameras=("gate",), set_by="operator")
    site = Site(questions=(CAR,))
    site.link()
    site.receive(topics.question_topic("depot", "bus"), asked)
    site.cut()
    site.takes()
    restarted = Site(before=site, questions=(CAR,), boot=2)
    restarted.goes_on(200.0)
    assert len(restarted.entries) == 1
    restarted.connect()
    restarted.receive(topics.question_topic("depot", "bus"), asked, retained=True)
    restarted.link()
    (history,) = restarted.history
    assert {query.question_id for query in history.queries} == {"car", "bus"}


# ---- restarts, power cuts, disks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("power_cut", [False, True])
def test_the_next_process_sends_them_and_says_when_nobody_knows_their_age(power_cut: bool) -> None:
    site = Site()
    site.link()
    site.cut()
    site.takes()
    site.goes_on(50.0)
    if power_cut:
        site.disk.cut_power()
    restarted = Site(before=site, boot=2)
    assert restarted.store.counters["found"] == 1
    (notice,) = [notice for notice in restarted.notices if "stored" in notice.event]
    assert notice.context == {"frames": 1, "of_unknown_age": int(power_cut)}
    restarted.goes_on(50.0)
    restarted.link()
    opened = restarted.opens()[0]
    if power_cut:
        assert opened.age_ms == UNKNOWN_AGE
    else:
        assert isinstance(opened.age_ms, int)
        assert 100_000 <= opened.age_ms <= 120_000
    restarted.answers(restarted.history[0])
    (decision, _) = restarted.decisions
    assert decision.answer is not None
    assert decision.answer.history
    conserved(restarted)


def test_an_age_that_nobody_knows_is_told_in_the_outcome_as_well() -> None:
    site = Site()
    site.cut()
    site.takes()
    site.disk.cut_power()
    restarted = Site(before=site, boot=2)
    restarted.link()
    restarted.goes_on(1000.0)
    said = [wire.decode(Family.OUTCOME, payload) for topic, payload, _ in restarted.published if "/outcome/" in topic]
    assert said
    assert all(isinstance(outcome, QueryOutcome) and outcome.age_ms == UNKNOWN_AGE for outcome in said)


def test_another_codec_drops_what_it_cannot_send_with_a_reason() -> None:
    site = Site()
    site.cut()
    site.takes()
    row = site.disk._rows[1]
    site.disk._rows[1] = replace(row, stored=replace(row.stored, fingerprint=b"othr"))
    restarted = Site(before=site, boot=2)
    assert FINGERPRINT != b"othr"
    assert dropped(restarted) == {"codec_changed": 1}
    assert [n.event for n in restarted.notices if n.level == "warning"] == [
        "stored frames of another codec were dropped"
    ]
    assert len(site.disk) == 0
    conserved(restarted)


def test_a_camera_that_is_gone_drops_its_frames() -> None:
    site = Site()
    site.cut()
    site.takes("yard")
    restarted = Site(before=site, cameras=("gate",), boot=2)
    assert dropped(restarted) == {"camera_gone": 1}
    conserved(restarted)


def test_smaller_bounds_and_another_policy_hold_for_what_is_found() -> None:
    site = Site(EACH)
    site.cut()
    for _ in range(5):
        site.takes()
    restarted = Site(StoreSettings(StorePolicy.EVERY_NTH, max_entries=3), before=site, boot=2)
    assert restarted.entries == [3, 4, 5]
    again = Site(NEWEST, before=restarted, boot=3)
    assert again.entries == [5]
    assert dropped(again) == {"replaced": 2}
    assert len(again.disk) == 1
    again.cut()
    assert again.takes() == 6, "numbers go on"
    conserved(again)


def test_what_is_too_old_is_dropped_while_it_waits_and_when_it_is_found() -> None:
    settings = StoreSettings(max_age_s=300.0, offline_after_s=OFFLINE_S)
    site = Site(settings)
    site.cut()
    site.takes()
    site.goes_on(299.0)
    assert len(site.entries) == 1
    site.goes_on(62.0)
    assert dropped(site) == {"too_old": 1}
    assert len(site.disk) == 0

    site = Site(settings)
    site.cut()
    site.takes()
    site.now_s += 400.0
    assert dropped(Site(settings, before=site, boot=2)) == {"too_old": 1}


def test_one_of_unknown_age_is_too_old_so_long_after_it_was_found() -> None:
    settings = StoreSettings(max_age_s=300.0, offline_after_s=OFFLINE_S)
    site = Site(settings)
    site.cut()
    site.takes()
    site.disk.cut_power()
    restarted = Site(settings, before=site, boot=2)
    restarted.goes_on(290.0)
    assert len(restarted.entries) == 1
    restarted.goes_on(100.0)
    assert dropped(restarted) == {"too_old": 1}


def test_on_a_full_disk_the_oldest_history_goes_first() -> None:
    site = Site(EACH)
    site.cut()
    for _ in range(4):
        site.takes()
    site.disk.failures = [DiskFailed("full", full=True)] * 2
    assert site.takes() == 5
    assert site.entries == [3, 4, 5]
    assert dropped(site) == {"disk_full": 2}
    assert len(site.disk) == 3
    assert [notice.level for notice in site.notices] == ["error"], "the first, the tenth, the hundredth"
    conserved(site)


def test_a_disk_that_stays_full_costs_a_few_frames_at_a_time_and_the_newest_on_disk_stay() -> None:
    site = Site()
    site.cut()
    site.takes("gate")
    site.disk.full = True
    for _ in range(3):
        site.takes("gate")
        site.goes_on(1.0)
    assert site.entries == [1], "what is on disk stays until a newer one is"
    assert dropped(site) == {"disk_full": 3}
    site.disk.full = False
    site.takes("gate")
    assert site.entries == [5]
    assert len(site.disk) == 1
    conserved(site)


def test_a_disk_that_fails_costs_the_frame_alone() -> None:
    site = Site(EACH)
    site.cut()
    site.takes()
    site.disk.failures = [DiskFailed("input/output error")]
    site.takes()
    assert site.entries == [1]
    assert dropped(site) == {"disk_failed": 1}
    conserved(site)


def test_frames_that_cannot_be_deleted_are_deleted_later(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    site.link()
    site.cut()
    site.takes()
    site.link()
    perform = FrameRows.perform
    with monkeypatch.context() as broken:
        broken.setattr(FrameRows, "perform", lambda *_: DiskFailed("read-only"))
        site.answers(site.history[0])
        assert len(site.disk) == 1
        assert site.session.sizes()["stored_undropped"] == 1
    assert FrameRows.perform is perform
    site.goes_on(11.0)
    assert len(site.disk) == 0
    assert site.session.sizes()["stored_undropped"] == 0


def test_a_damaged_frame_costs_itself_alone() -> None:
    site = Site(EACH)
    site.link()
    site.cut()
    for _ in range(3):
        site.takes()
    assert site.disk.damage(0.5) == 2
    site.link()
    for history in list(site.history):
        site.answers(history)
    assert site.marks() == [3, 1]
    assert dropped(site) == {"damaged": 1}
    conserved(site)


def test_a_store_that_cannot_be_read_is_read_later_and_keeps_nothing_until_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = Site()
    before.cut()
    before.takes()
    perform = FrameRows.perform

    def broken(self: FrameRows, request: StoreRequest) -> StoreResult:
        return DiskFailed("locked") if isinstance(request, ReadStored) else perform(self, request)

    with monkeypatch.context() as patch:
        patch.setattr(FrameRows, "perform", broken)
        site = Site(before=before, boot=2)
        site.cut()
        assert site.takes() is None
        assert dropped(site) == {"disk_failed": 1}
    site.goes_on(11.0)
    assert site.entries == [1]
    assert site.takes() == 2
    conserved(site)


def test_a_process_that_ends_leaves_what_it_could_not_send_to_the_next() -> None:
    site = Site(EACH)
    site.link()
    site.cut()
    for _ in range(3):
        site.takes()
    site.link()
    begun = len(site.history)
    site.session.drain("stopped")
    site.session.abandon("stopped")
    site.pump()
    assert not site.session.unfinished()
    assert len(site.history) == begun
    assert len(site.disk) == 3
    restarted = Site(EACH, before=site, boot=2)
    restarted.link()
    assert len(restarted.history) == 3


def test_the_shell_answers_each_request_once() -> None:
    site = Site()
    with pytest.raises(StateError, match="no answer"):
        site.session.frame_stored(99, Done(), site.now_s)


def test_a_frame_that_cannot_be_asked_about_ends_alone() -> None:
    site = Site(EACH)
    site.link()
    site.cut()
    for base_latents in (LATENTS + 1, 8):
        queries: Sequence[AskedQuery] = site.session.take_queries("gate", site.now_s, standing=True)
        site.session.store_frame("gate", SimulatedLatent(), base_latents, queries, site.now_s, site.now_s)
    contained = []
    site.session.connection(True, site.now_s)
    carry_out = site._carry_out

    def collect(output: object) -> None:
        if type(output).__name__ == "Contained":
            contained.append(output)
        else:
            carry_out(output)  # type: ignore[arg-type]

    site._carry_out = collect  # type: ignore[method-assign]
    site.link()
    assert len(contained) == 1
    assert len(site.history) == 1
    assert dropped(site) == {"damaged": 1}


def test_frames_are_known_by_the_store_while_they_are_asked() -> None:
    site = Site()
    site.link()
    site.cut()
    site.takes()
    site.link()
    (history,) = site.history
    assert site.store.carries("gate", history.frame)
    assert not site.store.carries("gate", FrameId(9, 9))
    site.answers(history)
    assert not site.store.carries("gate", history.frame)
    assert site.session.sizes()["stored_under_way"] == 0
