"""Events: which answers make one, which frames belong to it, and who gets them."""

from __future__ import annotations

from typing import Literal

import pytest

from edge_nodes.event_file import EventFile
from pipeline.protocol.effects import Decision
from pipeline.protocol.event_keeper import MAX_EVENT_WRITES, EventSettings
from pipeline.protocol.event_requests import EVENT_REQUESTS, EventDiskFailed, EventRequest, KeepEventFrame
from pipeline.protocol.frame_ring import RingSettings
from pipeline.protocol.ports import Delivery
from pipeline.protocol.site_settings import SiteSettings
from schemas import topics
from schemas.event_rule import check_keep_when, is_event
from schemas.messages import (
    Answer,
    EraseEvents,
    EventLatents,
    EventList,
    EventPicture,
    FetchEvent,
    FetchPictures,
    ListEvents,
    Message,
    Question,
    Receipt,
)
from schemas.topics import Family
from schemas.types import AnswerType, FrameId, Outcome
from tests.protocol.edge_driver import EdgeDriver
from tests.protocol.fake_latents import LATENTS, FakeLatent
from tests.protocol.questions import content

OLGA = "olga"
PICTURE = b"\xff\xd8" + bytes(40_000)


class Site(EdgeDriver):
    """A site whose camera *gate* is asked whether there is a car, with its events in memory."""

    def __init__(
        self,
        *,
        before_s: float = 3.0,
        after_s: float = 2.0,
        pictures_for: tuple[str, ...] = (),
        max_bytes: int = 1_000_000,
        uplink_kbps: float | None = None,
    ) -> None:
        self.question = Question(
            site="depot",
            question_id="car",
            text="car?",
            answer_type=AnswerType.YES_NO,
            keep_when=("yes",),
            set_by="settings",
        )
        self.now_s = 1000.0
        self.events = EventFile(
            None, b"\x01\x02\x03\x04", max_bytes=max_bytes, now_s=lambda: self.now_s, boot="this one"
        )
        self.disk_fails = False
        super().__init__(
            site_settings=SiteSettings(
                site="depot",
                pool="main",
                asked_of={"gate": ("car",), "yard": ()},
                questions={"car": self.question},
                ring=RingSettings(),
                uplink_kbps=uplink_kbps,
                events={"gate": EventSettings(before_s, after_s, frozenset(pictures_for)), "yard": EventSettings()},
            )
        )
        self.connect()

    def perform_event(self, request: EventRequest) -> None:
        result = EventDiskFailed("no room") if self.disk_fails else self.events.perform(request)
        self.session.event_stored(request.token, result, self.now_s)

    def take(
        self,
        says: str = "",
        *,
        picture: bytes | None = None,
        outcome: Literal[Outcome.ANSWERED, Outcome.DEGRADED] = Outcome.ANSWERED,
    ) -> FrameId:
        """A second passes, a frame is taken, and answered if it is said how."""
        self.turn_to(self.now_s + 1.0)
        latent = FakeLatent()
        frame = self.session.keep(
            "gate", latent, 4, self.now_s, self.now_s, size_bytes=64 + len(picture or b""), picture=picture
        )
        if says:
            queries = self.session.take_queries("gate", self.now_s, standing=True)
            self.session.offer("gate", latent, 4, queries, self.now_s, frame=frame)
            self.pump()
            asked = content("car", "car?", AnswerType.YES_NO, site="depot")
            answer = Answer(
                query_id=asked.query_id("gate", frame), owner=asked.owner, camera="gate", frame=frame, attempt=1,
                question_id="car", worker="w1", outcome=outcome, text=says, score=0.9, latents=4, payload_bytes=4,
                looks=1,
            )  # fmt: skip
            self.receive(topics.answer_topic("gate"), answer, qos=0)
        self.pump()
        return frame

    def asks(self, family: Family, message: Message, *, client: str = OLGA, camera: str = "gate") -> None:
        self.receive(topics.request_topic(family, camera, client), message)

    def listed(self) -> EventList:
        self.asks(Family.RING, ListEvents(request_id="list"))
        return self.messages(EventList)[-1]

    def said(self) -> Receipt:
        return self.messages(Receipt)[-1]


@pytest.mark.parametrize(
    ("answer_type", "keep_when", "text", "event"),
    [
        (AnswerType.YES_NO, ("yes",), "Yes, there is one.", True),
        (AnswerType.YES_NO, ("yes",), "no", False),
        (AnswerType.YES_NO, ("no",), "No.", True),
        (AnswerType.YES_NO, ("yes",), "yesterday", False),
        (AnswerType.CHOICE, ("red", "blue"), " Blue. ", True),
        (AnswerType.CHOICE, ("red", "blue"), "green", False),
        (AnswerType.WORD, ("dog",), "Dog", True),
        (AnswerType.COUNT, (">= 3",), "4 people", True),
        (AnswerType.COUNT, (">= 3",), "two", False),
        (AnswerType.COUNT, ("> 3", "0"), "none", True),
        (AnswerType.COUNT, ("!=0",), "0", False),
        (AnswerType.COUNT, ("<2",), "one", True),
        (AnswerType.COUNT, ("7",), "many", False),
        (AnswerType.YES_NO, (), "yes", False),
    ],
)
def test_answers_that_meet_a_condition_are_events(
    answer_type: AnswerType, keep_when: tuple[str, ...], text: str, event: bool
) -> None:
    check_keep_when(answer_type, ("red", "blue", "green"), keep_when)
    assert is_event(answer_type, keep_when, text) is event


@pytest.mark.parametrize(
    ("answer_type", "condition", "problem"),
    [
        (AnswerType.YES_NO, "perhaps", "yes or no, not 'perhaps'"),
        (AnswerType.CHOICE, "green", "'green' is none of them"),
        (AnswerType.COUNT, ">= many", "a number or a comparison"),
        (AnswerType.TEXT, "fire", "an answer type with short answers"),
    ],
)
def test_a_condition_that_no_answer_can_meet_is_refused(answer_type: AnswerType, condition: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_keep_when(answer_type, ("red", "blue"), (condition,))


def test_frames_before_and_after_a_matching_answer_are_kept() -> None:
    site = Site()
    frames = [site.take() for _ in range(6)]
    event = site.take("yes")
    frames += [event, *(site.take() for _ in range(4))]

    (entry,) = site.listed().events
    assert (entry.event, entry.question_id, entry.text, entry.frames, entry.age_ms) == (event, "car", "yes", 6, 4_000)
    site.asks(Family.RING, FetchEvent(request_id="get", event=event))
    got = site.messages(EventLatents)
    assert [message.frame for message in got] == frames[3:9]
    assert [message.offset_ms for message in got] == [-3_000, -2_000, -1_000, 0, 1_000, 2_000]
    assert [(message.index, message.count) for message in got] == [(number, 6) for number in range(6)]
    assert {message.payload for message in got} == {FakeLatent().payload(0, LATENTS)}


def test_an_answer_that_does_not_match_keeps_nothing() -> None:
    site = Site()
    for _ in range(5):
        site.take("no")
    assert site.listed().events == ()


def test_a_degraded_answer_that_matches_is_an_event_and_a_failed_query_is_none() -> None:
    site = Site()
    site.take("yes", outcome=Outcome.DEGRADED)
    assert len(site.listed().events) == 1


def test_answers_that_go_on_matching_make_one_event_and_a_pause_makes_another() -> None:
    site = Site()
    first, *_ = [site.take("yes") for _ in range(4)]
    for _ in range(8):
        site.take("no")
    second = site.take("yes")
    assert [entry.event for entry in site.listed().events] == [second, first]
    assert [entry.frames for entry in site.listed().events] == [4, 6]


def test_an_operator_may_set_the_rule_on_the_bus() -> None:
    site = Site()
    changed = site.question.model_copy(update={"keep_when": ("no",), "set_by": "operator"})
    site.receive(topics.question_topic("depot", "car"), changed)
    site.take("yes")
    assert site.listed().events == ()
    site.take("no")
    assert len(site.listed().events) == 1


def test_a_camera_that_keeps_no_events_is_not_subscribed_to() -> None:
    filters = {subscription.filter for subscription in Site().session.subscriptions()}
    assert {"lb/v2/ring/gate/+", "lb/v2/pictures/gate/+", "lb/v2/erase/gate/+"} <= filters
    assert not [name for name in filters if name.startswith(("lb/v2/ring/yard", "lb/v2/erase/yard"))]


def test_pictures_go_to_those_whom_the_settings_name_and_are_logged() -> None:
    site = Site(pictures_for=(OLGA,))
    event = site.take("yes", picture=PICTURE)
    site.asks(Family.PICTURES, FetchPictures(request_id="p", pictures_of=event), client="mallory")
    assert (site.said().accepted, site.said().reason) == (
        False,
        "pictures of camera gate are not for mallory: edge.cameras.gate.ring.pictures_for",
    )
    assert not site.messages(EventPicture)

    site.asks(Family.PICTURES, FetchPictures(request_id="p", pictures_of=event))
    parts = site.messages(EventPicture)
    assert b"".join(part.payload for part in parts) == PICTURE
    assert [(part.part, part.parts) for part in parts] == [(0, 3), (1, 3), (2, 3)]
    assert all(topic == f"lb/v2/picture/{OLGA}/gate/p" for topic, _, _ in site.published if "/picture/" in topic)
    logged = [(notice.level, notice.event, notice.context.get("client")) for notice in site.notices]
    assert ("warning", "pictures of an event are refused", "mallory") in logged
    assert ("info", "pictures of an event are fetched", OLGA) in logged
    assert ("info", "pictures of an event were sent", OLGA) in logged


def test_without_somebody_to_fetch_them_there_are_no_pictures() -> None:
    site = Site()
    event = site.take("yes")
    site.asks(Family.PICTURES, FetchPictures(request_id="p", pictures_of=event))
    assert not site.said().accepted


def test_a_fetch_leaves_when_nothing_else_waits_and_costs_the_uplink_all_its_bytes() -> None:
    site = Site(uplink_kbps=64.0, pictures_for=(OLGA,))
    event = site.take("yes", picture=PICTURE)
    site.turn_to(site.now_s + 5.0)
    before = sum(sent.wire_bytes for sent in site.sent)
    site.asks(Family.PICTURES, FetchPictures(request_id="p", pictures_of=event))
    began_s = site.now_s
    site.session.keep("gate", FakeLatent(), 4, site.now_s, site.now_s, size_bytes=64)
    queries = site.session.standing.asked("gate", site.now_s)
    site.session.offer("gate", FakeLatent(), 4, queries, site.now_s)
    site.turn_to(began_s + 30.0)
    labels = [sent.label for sent in site.sent if sent.at_s >= began_s and sent.label in ("open", "picture")]
    assert labels[:2] == ["picture", "open"]  # one was on its way
    assert sum(sent.wire_bytes for sent in site.sent) - before > len(PICTURE)
    last_s = max(sent.at_s for sent in site.sent if sent.label == "picture")
    assert last_s - began_s > 2 * 16_384 / 8_000


def test_a_fetch_goes_on_where_a_client_says() -> None:
    site = Site()
    for _ in range(3):
        site.take()
    event = site.take("yes")
    site.asks(Family.RING, FetchEvent(request_id="get", event=event, skip=2))
    assert [message.index for message in site.messages(EventLatents)] == [2, 3]


def test_a_part_that_found_no_way_out_ends_the_fetch_and_the_client_asks_again() -> None:
    site = Site()
    event = site.take("yes")
    site.deliveries = [Delivery.REFUSED]
    site.asks(Family.RING, FetchEvent(request_id="get", event=event))
    assert site.session.sizes()["event_fetches"] == 0
    site.asks(Family.RING, FetchEvent(request_id="get", event=event))
    assert len(site.messages(EventLatents)) == 1


def test_erasing_takes_the_disk_and_the_memory_by_camera_and_time() -> None:
    site = Site()
    old = site.take("yes")
    for _ in range(10):
        site.take("no")
    new = site.take("yes")
    site.asks(Family.ERASE, EraseEvents(request_id="e", older_than_ms=8_000))
    assert site.said().accepted
    assert site.said().reason == "erased 3 frames of events, 4 frames in memory"
    assert [entry.event for entry in site.listed().events] == [new]
    assert site.session.ring.oldest_s("gate") == site.now_s - 7.0
    site.asks(Family.RING, FetchEvent(request_id="get", event=old))
    assert site.said().reason == f"no frames of event {old} of camera gate are kept"
    site.asks(Family.ERASE, EraseEvents(request_id="e2"))
    assert site.listed().events == ()
    assert len(site.session.ring) == 0


def test_erasing_one_event_ends_it_and_leaves_the_others() -> None:
    site = Site()
    first = site.take("yes")
    for _ in range(10):
        site.take("no")
    second = site.take("yes")
    site.asks(Family.ERASE, EraseEvents(request_id="e", event=second))
    site.take()
    assert [entry.event for entry in site.listed().events] == [first]


def test_the_bytes_of_events_are_bounded_and_the_oldest_goes() -> None:
    site = Site(max_bytes=6 * LATENTS)
    events = []
    for _ in range(3):
        events.append(site.take("yes"))
        for _ in range(10):
            site.take("no")
    assert site.events.held_bytes <= 6 * LATENTS
    assert events[0] not in [entry.event for entry in site.listed().events]
    assert site.listed().events[0].event == events[2]


def test_a_long_list_comes_in_pages() -> None:
    site = Site(before_s=0.5, after_s=0.5)
    events = []
    for _ in range(30):
        events.append(site.take("yes"))
        site.take("no")
    first = site.listed()
    assert (len(first.events), first.more) == (24, True)
    site.asks(Family.RING, ListEvents(request_id="list", before=first.events[-1].event))
    rest = site.messages(EventList)[-1]
    assert [entry.event for entry in (*first.events, *rest.events)] == events[::-1]
    assert not rest.more


def test_a_disk_that_fails_costs_frames_and_says_so() -> None:
    site = Site()
    site.disk_fails = True
    site.take("yes")
    assert site.session.event_counters["event_frames_lost"] == 1
    assert ("error", "an event cannot be stored or read") in [(notice.level, notice.event) for notice in site.notices]
    site.asks(Family.RING, ListEvents(request_id="list"))
    assert site.said().reason == "the disk of the edge cannot be read"


def test_requests_are_within_the_budget_of_their_client() -> None:
    site = Site()
    for number in range(70):
        site.asks(Family.RING, ListEvents(request_id=f"r{number}"))
    assert len(site.messages(EventList)) == 60
    assert {receipt.reason for receipt in site.messages(Receipt)} == {"over the budget of this client"}


def test_only_so_many_fetches_run_at_a_time_and_only_so_many_frames_wait_for_the_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site()
    event = site.take("yes")
    waiting: list[EventRequest] = []
    monkeypatch.setattr(site, "perform_event", waiting.append)
    for number in range(9):
        site.asks(Family.RING, FetchEvent(request_id=f"r{number}", event=event))
    assert site.session.sizes()["event_fetches"] == 8
    assert site.said().reason == "8 fetches run: ask later"
    for _ in range(MAX_EVENT_WRITES + 5):
        site.session.keep("gate", FakeLatent(), 4, site.now_s, site.now_s, size_bytes=1)
    site.pump()
    writes = [request for request in waiting if isinstance(request, KeepEventFrame)]
    assert len(writes) <= MAX_EVENT_WRITES
    assert {type(request) for request in waiting} <= set(EVENT_REQUESTS)


def test_an_answer_whose_frame_is_kept_no_more_is_counted() -> None:
    site = Site()
    site.turn_to(site.now_s + 1.0)
    queries = site.session.take_queries("gate", site.now_s, standing=True)
    frame = site.session.offer("gate", FakeLatent(), 4, queries, site.now_s)
    asked = content("car", "car?", AnswerType.YES_NO, site="depot")
    answer = Answer(
        query_id=asked.query_id("gate", frame), owner=asked.owner, camera="gate", frame=frame, attempt=1,
        question_id="car", worker="w1", outcome=Outcome.ANSWERED, text="yes", score=0.9, latents=4, payload_bytes=4,
        looks=1,
    )  # fmt: skip
    site.pump()
    site.receive(topics.answer_topic("gate"), answer, qos=0)
    assert site.session.event_counters["event_frames_gone"] == 1
    assert [type(decision) for decision in site.decisions] == [Decision]
