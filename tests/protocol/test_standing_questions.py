"""Who rules a standing question, and what the broker is made to keep; see docs/configuration.md#standing-questions."""

from __future__ import annotations

from operator import itemgetter

import pytest

from edge_nodes.session_settings import site_settings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.question_settings import QuestionSettings
from pipeline.protocol import standing_questions as questions_module
from pipeline.protocol.client_budgets import ClientBudget, ClientBudgets
from pipeline.protocol.edge_reports import EdgeReports
from pipeline.protocol.ports import Delivery, Received
from pipeline.protocol.question_sync import SETTLE_S, QuestionSync
from pipeline.protocol.receipts import Receipts
from pipeline.protocol.standing_questions import StandingQuestions
from schemas.limits import MAX_QUERIES_PER_FRAME
from schemas.messages import Question
from schemas.types import AnswerType

CAR = QuestionSettings(text="Is there a car?", answer_type=AnswerType.YES_NO, deadline_ms=4_000)
BUS = QuestionSettings(text="Where is the bus?", answer_type=AnswerType.WORD, risk=0.05)


def site_questions(**questions: QuestionSettings) -> StandingQuestions:
    """The standing questions of a site whose camera ``gate`` asks everything, and ``yard`` nothing."""
    cameras = {
        "gate": CameraSettings(source="test:1", questions=tuple(questions)),
        "yard": CameraSettings(source="test:2"),
    }
    site = site_settings(EdgeSettings(site="depot", cameras=cameras, questions=questions))
    return StandingQuestions(site.questions, site.asked_of)


def settled(**questions: QuestionSettings) -> StandingQuestions:
    """The same, after the broker has taken its questions."""
    standing = site_questions(**questions)
    agree(standing, standing.settle())
    return standing


def agree(standing: StandingQuestions, ids: list[str]) -> list[tuple[str, Question | None]]:
    """What the edge publishes of these; each is read back, as from a broker."""
    published = []
    for question_id in ids:
        question = standing.publishes(question_id)
        assert standing.receive(question_id, question).ours
        standing.published(question_id, question, refused=False)
        assert not standing.differs(question_id)
        published.append((question_id, question))
    return published


def message(question_id: str, settings: QuestionSettings, **changes: object) -> Question:
    """An operator's question; with ``set_by="settings"`` what an edge publishes of its settings."""
    values = {
        "site": "depot",
        "question_id": question_id,
        "text": settings.text,
        "answer_type": settings.answer_type,
        "deadline_ms": settings.deadline_ms,
        "risk": settings.risk,
    }
    return Question.model_validate({**values, **changes})


def texts(standing: StandingQuestions, camera: str) -> list[str]:
    return [query.question.text for query in standing.asked(camera, 0.0)]


# ---- the settings' side ---------------------------------------------------------------------------------------------


def test_only_what_the_broker_does_not_have_is_published() -> None:
    standing = site_questions(car=CAR, bus=BUS, new=CAR)
    standing.receive("car", message("car", CAR, set_by="settings"), retained=True)
    standing.receive("bus", message("bus", CAR, set_by="settings"), retained=True)
    assert agree(standing, standing.settle()) == [
        ("bus", message("bus", BUS, set_by="settings")),
        ("new", message("new", CAR, set_by="settings")),
    ]
    assert standing.settle() == []


def test_a_question_that_the_settings_have_no_more_is_deleted_on_the_broker() -> None:
    standing = site_questions(car=CAR)
    standing.receive("old", message("old", BUS, set_by="settings"), retained=True)
    standing.receive("car", message("car", CAR, set_by="settings"), retained=True)
    assert agree(standing, standing.settle()) == [("old", None)]
    assert texts(standing, "gate") == [CAR.text]


def test_a_broker_that_has_lost_what_it_retained_gets_it_again() -> None:
    standing = settled(car=CAR)
    standing.receive("car", message("car", BUS))
    standing.receive("theirs", message("theirs", BUS, cameras=("yard",)))
    standing.connected()
    published = agree(standing, standing.settle())
    assert published == [("car", message("car", BUS)), ("theirs", message("theirs", BUS, cameras=("yard",)))]


def test_what_was_deleted_while_the_edge_was_away_is_deleted_where_the_broker_remembers() -> None:
    standing = settled(car=CAR, bus=BUS, other=CAR)
    standing.receive("bus", message("bus", CAR, text="Is there a red bus?"))
    standing.receive("theirs", message("theirs", BUS, cameras=("yard",)))
    standing.receive("kept", message("kept", BUS, cameras=("yard",)))
    standing.connected()
    # One more connection that breaks before everything has come.
    standing.receive("other", message("other", CAR, set_by="settings"), retained=True)
    standing.connected()
    standing.receive("other", message("other", CAR, set_by="settings"), retained=True)
    standing.receive("kept", message("kept", BUS, cameras=("yard",)), retained=True)
    published = sorted(agree(standing, standing.settle(remembers=True)), key=itemgetter(0))
    # As if the deletions had come: paused where the settings have it, else gone.
    assert published == [("bus", message("bus", BUS, cameras=())), ("car", message("car", CAR, cameras=()))]
    assert texts(standing, "gate") == [CAR.text], "other alone"
    assert texts(standing, "yard") == [BUS.text], "kept alone"
    standing.connected()
    assert agree(standing, standing.settle()) != [], "what has no sign of being deleted is put back"


def test_a_deletion_that_did_come_is_not_counted_twice() -> None:
    standing = settled(car=CAR)
    standing.connected()
    assert standing.receive("car", None).reason.startswith("paused")
    assert agree(standing, standing.settle(remembers=True)) == [("car", message("car", CAR, cameras=()))]
    assert texts(standing, "gate") == []


def test_with_more_questions_than_a_broker_sends_at_once_none_is_taken_for_deleted() -> None:
    standing = settled(car=CAR)
    for number in range(questions_module.MAX_RETAINED_TO_COMPARE):
        standing.receive(f"q{number}", message(f"q{number}", BUS, cameras=("yard",)))
    standing.connected()
    assert "q1" in standing.settle(remembers=True)


# ---- an operator's side ---------------------------------------------------------------------------------------------


def test_a_change_on_the_bus_reaches_the_next_frame_whole() -> None:
    standing = settled(car=CAR)
    (query,) = standing.asked("gate", 100.0)
    assert (query.question.text, query.deadline_s, query.ad_hoc) == ("Is there a car?", 104.0, False)
    verdict = standing.receive("car", message("car", BUS))
    assert (verdict.accepted, verdict.reason) == (True, "asked of gate")
    (query,) = standing.asked("gate", 100.0)
    assert (query.question.text, query.answer_type, query.deadline_s) == (BUS.text, AnswerType.WORD, 110.0)
    assert query.question.risk == 0.05
    assert not standing.differs("car")


def test_an_operators_question_survives_a_restart_and_a_change_of_the_settings() -> None:
    standing = site_questions(car=BUS, other=CAR)
    standing.receive("car", message("car", CAR, text="Is there a red car?"), retained=True)
    assert [(notice.event, notice.context["differs_from_settings"]) for notice in standing.take_outputs()] == [
        ("a standing question was set on the bus", True)
    ]
    assert standing.settle() == ["other"]
    assert "Is there a red car?" in texts(standing, "gate")


def test_a_new_question_needs_cameras_and_is_asked_of_them() -> None:
    standing = settled(car=CAR)
    refused = standing.receive("dog", message("dog", BUS))
    assert not refused.accepted
    assert refused.reason == "the settings ask it of no camera: name some in cameras; the site has gate, yard"
    assert standing.differs("dog"), "what is not asked does not stay on the broker"
    assert agree(standing, ["dog"]) == [("dog", None)]
    assert standing.receive("dog", message("dog", BUS, cameras=("yard",))).reason == "asked of yard"
    assert texts(standing, "yard") == [BUS.text]
    assert standing.is_due("yard", 0.0)


def test_a_question_moves_between_the_cameras_of_its_site() -> None:
    standing = settled(car=CAR)
    assert standing.receive("car", message("car", CAR, cameras=("yard",))).accepted
    assert (texts(standing, "gate"), texts(standing, "yard")) == ([], [CAR.text])
    assert standing.receive("car", message("car", CAR, cameras=("gate", "yard"))).reason == "asked of gate, yard"
    assert (texts(standing, "gate"), texts(standing, "yard")) == ([CAR.text], [CAR.text])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cameras": ("gate", "moon")}, "no camera moon at this site; it has gate, yard"),
        ({"deadline_ms": 99}, "a deadline of 99 ms is shorter than 100 ms"),
        ({"set_by": "settings"}, "set_by settings is the edge's own word; leave it out"),
    ],
)
def test_what_cannot_be_asked_is_refused_and_what_is_asked_is_put_back(changes: dict[str, object], reason: str) -> None:
    standing = settled(car=CAR)
    verdict = standing.receive("car", message("car", BUS, **changes))
    assert (verdict.accepted, verdict.reason) == (False, reason)
    assert texts(standing, "gate") == [CAR.text]
    assert agree(standing, ["car"]) == [("car", message("car", CAR, set_by="settings"))]


def test_what_is_no_question_does_not_stay_on_the_broker() -> None:
    standing = settled(car=CAR)
    standing.unreadable("car")
    standing.unreadable("dog")
    assert agree(standing, ["car", "dog"]) == [("car", message("car", CAR, set_by="settings")), ("dog", None)]


def test_a_camera_takes_as_many_questions_as_fit_a_frame() -> None:
    many = {f"q{number}": CAR for number in range(MAX_QUERIES_PER_FRAME)}
    standing = settled(**many)
    verdict = standing.receive("more", message("more", BUS, cameras=("gate",)))
    assert (verdict.accepted, verdict.reason) == (False, "camera gate has 64 questions already")
    assert standing.receive("q0", message("q0", BUS, cameras=("yard",))).accepted
    assert standing.receive("more", message("more", BUS, cameras=("gate",))).accepted


def test_questions_that_fit_no_frame_after_a_change_of_the_settings_are_named() -> None:
    standing = site_questions(**{f"q{number:02d}": CAR for number in range(MAX_QUERIES_PER_FRAME - 1)})
    for question_id in ("x", "y"):
        standing.operator_questions[question_id] = message(question_id, BUS, cameras=("gate",))
    standing.settle()
    assert [notice.context["not_asked"] for notice in standing.take_outputs()] == [["y"]]
    assert len(standing.asked("gate", 0.0)) == MAX_QUERIES_PER_FRAME


def test_the_number_of_questions_of_a_site_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions_module, "MAX_STANDING_QUESTIONS", 3)
    standing = settled(car=CAR)
    accepted = [
        standing.receive(f"n{number}", message(f"n{number}", BUS, cameras=("yard",))).accepted for number in range(4)
    ]
    assert accepted == [True, True, False, False]
    assert standing.receive("n0", message("n0", CAR, cameras=("yard",))).accepted


# ---- deletion -------------------------------------------------------------------------------------------------------


def test_deleting_a_question_of_the_settings_pauses_it_for_good_and_deleting_the_pause_ends_it() -> None:
    standing = settled(car=CAR)
    verdict = standing.receive("car", None)
    assert verdict.accepted
    assert verdict.reason == "paused, since the settings have it; delete it once more and they rule again"
    assert texts(standing, "gate") == []
    ((_, paused),) = agree(standing, ["car"])
    assert paused == message("car", CAR, cameras=())

    restarted = site_questions(car=CAR)
    restarted.receive("car", paused, retained=True)
    assert restarted.settle() == []
    assert texts(restarted, "gate") == []
    assert restarted.receive("car", None).reason == "the settings rule again"
    assert texts(restarted, "gate") == [CAR.text]
    assert agree(restarted, ["car"]) == [("car", message("car", CAR, set_by="settings"))]


def test_deleting_a_change_of_an_operator_pauses_the_question_of_the_settings() -> None:
    standing = settled(car=CAR)
    standing.receive("car", message("car", BUS))
    assert standing.receive("car", None).accepted
    assert texts(standing, "gate") == []


def test_deleting_a_question_that_only_an_operator_has_ends_it() -> None:
    standing = settled(car=CAR)
    standing.receive("dog", message("dog", BUS, cameras=("yard",)))
    assert standing.receive("dog", None).reason == "asked no more"
    assert texts(standing, "yard") == []
    assert not standing.differs("dog")
    assert not standing.receive("dog", None).accepted


def test_a_deletion_before_everything_retained_has_come_counts() -> None:
    standing = site_questions(car=CAR)
    standing.receive("car", message("car", CAR, set_by="settings"), retained=True)
    standing.receive("car", None)
    assert agree(standing, standing.settle()) == [("car", message("car", CAR, cameras=()))]


# ---- two that speak at the same time --------------------------------------------------------------------------------


@pytest.mark.parametrize("operator_first", [True, False])
def test_an_operator_wins_against_what_the_edge_publishes_at_the_same_time(operator_first: bool) -> None:
    standing = site_questions(car=CAR)
    assert standing.settle() == ["car"]
    mine, theirs = standing.publishes("car"), message("car", BUS)
    assert mine is not None
    for question in (theirs, mine) if operator_first else (mine, theirs):
        standing.receive("car", question)
    standing.published("car", mine, refused=False)
    # Whoever came last at the broker: it is asked, and the broker is made to keep it where it does not already.
    assert texts(standing, "gate") == [BUS.text]
    assert standing.differs("car") == operator_first
    assert agree(standing, ["car"]) == [("car", theirs)]


def test_a_broker_that_takes_no_questions_of_the_edge_is_not_tried_for_ever() -> None:
    standing = site_questions(car=CAR)
    assert standing.settle() == ["car"]
    standing.published("car", standing.publishes("car"), refused=True)
    assert not standing.differs("car")
    assert texts(standing, "gate") == [CAR.text]


def test_what_is_known_of_the_broker_is_bounded() -> None:
    standing = settled(car=CAR)
    for number in range(questions_module.MAX_RETAINED + 100):
        assert not standing.receive(f"q{number}", message(f"q{number}", BUS, cameras=("nosuch",))).accepted
        standing.unreadable(f"u{number}")
    assert len(standing._retained) == questions_module.MAX_RETAINED
    assert standing.receive("car", message("car", CAR, text="Is there a red car?")).accepted
    assert not standing.differs("car")


@pytest.mark.parametrize("bad", ["unreadable", "refused"])
def test_what_came_after_the_own_word_is_not_forgotten_with_its_acknowledgement(bad: str) -> None:
    standing = settled(car=CAR)
    standing.unreadable("car")
    own = standing.publishes("car")
    assert standing.receive("car", own).ours
    # Both were in one batch, before the publish went on.
    if bad == "unreadable":
        standing.unreadable("car")
    else:
        assert not standing.receive("car", message("car", CAR, cameras=("moon",))).accepted
    standing.published("car", own, refused=False)
    assert standing.differs("car"), "the broker retains what the edge has refused"


# ---- what tells that a broker remembers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last_will", "resumed", "complete", "put_back"),
    [
        (b"3", False, True, False),
        (b"5", False, True, False),  # of an attempt that came to nothing, later
        (b"2", False, True, True),  # a broker that was restored as it was before
        (None, False, True, True),
        (b"x", False, True, True),
        (b"3", True, True, True),  # the deletion is in the queue of the session
        (b"3", False, False, True),  # perhaps it has not come yet
    ],
)
def test_a_missing_question_was_deleted_only_where_the_broker_surely_remembers(
    last_will: bytes | None, resumed: bool, complete: bool, put_back: bool
) -> None:
    standing, reports = site_questions(car=CAR), EdgeReports()
    sync = QuestionSync("depot", standing, reports, Receipts("depot", reports, ClientBudgets(ClientBudget())))

    def settle(now_s: float, *, read_back: bool) -> list[str]:
        """Ids that are published; the broker takes each."""
        if read_back:
            sync.own_status_heard()
        else:
            sync.tick(now_s + SETTLE_S)
        published = reports.take_departures()
        for departure in published:
            assert departure.done is not None
            departure.done(Delivery.DELIVERED, now_s)
        return [departure.topic.rpartition("/")[2] for departure in published]

    def received(question_id: str, *, retained: bool = False) -> Received:
        return Received(f"lb/v2/question/depot/{question_id}", b"{}", retained)

    sync.connection(True, 0.0, generation=3, resumed=False)
    assert settle(0.0, read_back=True) == ["car"]
    theirs = message("theirs", BUS, cameras=("yard",))
    sync.receive(received("theirs"), "theirs", theirs, 1.0)
    sync.connection(True, 2.0, generation=6, resumed=resumed)
    if last_will is not None:
        sync.last_will_heard(Received("lb/v2/status/edge/depot", b"{}", True, None, last_will))
    sync.receive(received("car", retained=True), "car", standing.wanted("car"), 2.0)
    assert settle(2.0, read_back=complete) == (["theirs"] if put_back else [])
    assert standing.is_due("yard", 0.0) == put_back
