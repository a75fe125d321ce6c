"""The change gate: which standing questions are asked of a frame, and what everybody is told of the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.protocol.change_gate import MAX_GATED_QUESTIONS, ChangeGate, GateSettings
from pipeline.protocol.edge_session import EdgeSession
from pipeline.protocol.effects import AskedQuery, Decision, Latent
from pipeline.protocol.ports import Publish
from pipeline.protocol.reducer import OutcomeReducer
from pipeline.protocol.renewals import renewed_query_id, same_as
from pipeline.protocol.settings import EdgeProtocolSettings
from pipeline.protocol.site_settings import SiteSettings
from schemas import topics, wire
from schemas.identity import QuestionContent, owner_of
from schemas.messages import Answer, Open, QueryOutcome, Question
from schemas.types import AnswerType, FrameId, Outcome
from tests.protocol.edge_driver import FINGERPRINT, EdgeDriver
from tests.protocol.fake_latents import LATENTS, FakeLatent

SITE, CAMERA, BOOT = "depot", "gate", 7
LIMIT = 10.0

ByWorker: TypeAlias = Literal[Outcome.ANSWERED, Outcome.DEGRADED, Outcome.FAILED]


class Picture(FakeLatent):
    """A latent of a scene that is one number."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level


@dataclass
class Levels:
    """Scenes are as far apart as their numbers; ``word`` is not proved, nor any risk under 0.2 %."""

    asked_risks: list[float] = field(default_factory=list)

    def look(self, latent: Latent) -> float:
        assert isinstance(latent, Picture)
        return latent.level

    def distance(self, before: Any, now: Any) -> float:
        return abs(float(before) - float(now))

    def limit(self, answer_type: AnswerType, risk: float) -> float | None:
        self.asked_risks.append(risk)
        return None if answer_type is AnswerType.WORD or risk < 0.002 else LIMIT


def question(
    question_id: str, text: str = "", answer_type: AnswerType = AnswerType.YES_NO, risk: float | None = None
) -> Question:
    return Question(
        site=SITE, question_id=question_id, text=text or f"{question_id}?", answer_type=answer_type, risk=risk,
        set_by="settings",
    )  # fmt: skip


class Gate:
    """A gate alone, with one camera and what it was asked."""

    def __init__(self, settings: GateSettings | None = None) -> None:
        self.gate = ChangeGate(Levels(), settings)
        self.number = 0

    def query(self, question_id: str = "car", **options: Any) -> AskedQuery:
        return AskedQuery(self.gate.share(question(question_id, **options)).content(), 1e9)

    def frame(self, level: float, now_s: float, *queries: AskedQuery) -> list[str]:
        """A frame is taken; ids of what is asked of it."""
        chosen = queries or (self.query(),)
        self.sifted = self.gate.sift(CAMERA, Picture(level), chosen, now_s)
        if self.sifted.asked:
            self.number += 1
            self.gate.offered(CAMERA, FrameId(BOOT, self.number), Picture(level), self.sifted.asked, now_s)
        return [query.question_id for query in self.sifted.asked]

    def ends(self, outcome: Outcome, now_s: float, query: AskedQuery | None = None, *, number: int = 0) -> None:
        frame, ended = FrameId(BOOT, number or self.number), query or self.query()
        self.gate.ended(Decision(CAMERA, frame, ended.query_id(CAMERA, frame), ended.question, outcome), now_s)

    def answered(self, level: float, now_s: float, *queries: AskedQuery) -> None:
        """A frame is taken, asked and answered."""
        chosen = queries or (self.query(),)
        assert self.frame(level, now_s, *chosen) == [query.question_id for query in chosen]
        for query in chosen:
            self.ends(Outcome.ANSWERED, now_s, query)


def test_a_scene_as_the_answered_one_is_not_asked_and_a_changed_one_is() -> None:
    gate = Gate()
    gate.answered(0, 0.0)
    assert gate.frame(9, 1.0) == []
    assert gate.sifted.held == ["car"]
    assert gate.frame(11, 2.0) == ["car"]
    assert gate.gate.counters == {"first": 1, "held": 1, "changed": 1}


def test_slow_changes_add_up_because_frames_are_compared_with_the_answered_one() -> None:
    gate = Gate()
    gate.answered(0, 0.0)
    assert [bool(gate.frame(3 * step, float(step))) for step in (1, 2, 3, 4)] == [False, False, False, True]


def test_nothing_is_held_while_the_question_is_under_way() -> None:
    gate = Gate()
    gate.answered(0, 0.0)
    assert gate.frame(50, 1.0) == ["car"]
    assert gate.frame(0, 2.0) == ["car"], "as the last answered frame, but the next answer may be another one"
    gate.ends(Outcome.SUPERSEDED, 2.0, number=2)
    gate.ends(Outcome.ANSWERED, 2.5, number=3)
    assert gate.frame(0, 3.0) == []


@pytest.mark.parametrize("outcome", [Outcome.EXPIRED, Outcome.SUPERSEDED, Outcome.FAILED])
def test_what_ends_without_an_answer_leaves_the_last_one_in_force(outcome: Outcome) -> None:
    gate = Gate()
    gate.answered(0, 0.0)
    assert gate.frame(50, 1.0) == ["car"]
    gate.ends(outcome, 1.5)
    assert gate.frame(0, 2.0) == []
    assert gate.frame(50, 3.0) == ["car"], "nobody has answered that"


def test_a_degraded_answer_is_never_renewed() -> None:
    gate = Gate()
    gate.answered(0, 0.0)
    assert gate.frame(50, 1.0) == ["car"]
    gate.ends(Outcome.DEGRADED, 1.5)
    assert gate.frame(50, 2.0) == ["car"]
    gate.ends(Outcome.EXPIRED, 2.5)
    assert gate.frame(0, 3.0) == ["car"], "its readers have another answer than that to the first frame"
    assert gate.gate.counters["degraded"] == 2


def test_an_earlier_frame_that_is_answered_late_is_not_the_last_answered_one() -> None:
    gate = Gate()
    assert gate.frame(0, 0.0) == ["car"]
    assert gate.frame(50, 1.0) == ["car"]
    gate.ends(Outcome.ANSWERED, 2.0, number=2)
    gate.ends(Outcome.ANSWERED, 3.0, number=1)
    assert gate.frame(50, 4.0) == []
    assert gate.frame(0, 5.0) == ["car"]


def test_after_its_bounded_age_an_answer_no_longer_holds_whatever_the_scene_shows() -> None:
    gate = Gate(GateSettings(max_age_s=60.0))
    gate.answered(0, 0.0)
    assert gate.frame(0, 60.0) == []
    assert gate.frame(0, 60.5) == ["car"]


def test_another_text_options_or_risk_is_another_question() -> None:
    gate = Gate()
    gate.answered(0, 0.0)
    assert gate.frame(0, 1.0, gate.query(text="A truck?")) == ["car"]
    gate = Gate()
    gate.answered(0, 0.0)
    assert gate.frame(0, 1.0, gate.query(risk=0.1)) == ["car"]


def test_one_frame_may_be_asked_some_of_its_questions() -> None:
    gate = Gate()
    car, bus = gate.query("car"), gate.query("bus")
    gate.answered(0, 0.0, car, bus)
    assert gate.frame(50, 1.0, car, bus) == ["car", "bus"]
    gate.ends(Outcome.ANSWERED, 1.5, car)
    gate.ends(Outcome.EXPIRED, 1.5, bus)
    assert gate.frame(50, 2.0, car, bus) == ["bus"]
    assert gate.sifted.held == ["car"]


def test_clients_questions_are_always_asked() -> None:
    gate = Gate()
    gate.answered(0, 0.0)
    content = QuestionContent(owner_of("client", "me"), "car", "car?", AnswerType.YES_NO)
    mine = AskedQuery(content, 1e9)
    assert gate.frame(0, 1.0, gate.query(), mine) == ["car"]
    assert gate.sifted.asked == [mine]
    gate.ends(Outcome.ANSWERED, 1.5, mine)
    assert gate.frame(50, 2.0, mine) == ["car"]
    assert gate.frame(50, 3.0) == ["car"], "a client's answer is none of the standing question"


def test_cameras_and_questions_may_be_left_alone() -> None:
    for settings in (GateSettings(open_cameras={CAMERA}), GateSettings(open_questions={"car"})):
        gate = Gate(settings)
        gate.answered(0, 0.0)
        assert gate.frame(0, 1.0) == ["car"]
        assert gate.gate.counters["open"] == 2


def test_where_nothing_is_proved_every_frame_is_asked_with_the_whole_risk() -> None:
    gate = Gate()
    word, strict = gate.query("color", answer_type=AnswerType.WORD), gate.query("strict", risk=0.001)
    assert (word.question.risk, strict.question.risk) == (None, 0.001)
    gate.answered(0, 0.0, word, strict)
    assert gate.frame(0, 1.0, word, strict) == ["color", "strict"]


def test_gate_and_stop_rule_share_the_accepted_risk() -> None:
    gate = ChangeGate(rule := Levels(), GateSettings(risk=0.04))
    shared = [gate.share(question("a")).risk, gate.share(question("b", risk=0.02)).risk]
    assert shared == [0.01, 0.005]
    assert rule.asked_risks == [pytest.approx(0.03), pytest.approx(0.015)]


def test_an_answer_is_renewed_after_a_while_of_silence_and_not_before() -> None:
    gate = Gate(GateSettings(renew_s=60.0))
    gate.answered(0, 0.0)
    renewed = [(now_s, *(item.age_s for item in gate.sifted.renewals)) for now_s in range(10, 200, 10)
               if not gate.frame(0, float(now_s)) and gate.sifted.renewals]  # fmt: skip
    assert renewed == [(60, 60.0), (120, 120.0), (180, 180.0)]


def test_where_nobody_can_be_told_a_renewal_waits() -> None:
    gate = Gate(GateSettings(renew_s=60.0))
    gate.answered(0, 0.0)
    assert not gate.gate.sift(CAMERA, Picture(0), [gate.query()], 100.0, tells=False).renewals
    assert gate.frame(0, 101.0) == []
    assert [item.age_s for item in gate.sifted.renewals] == [101.0]


def test_a_question_that_is_asked_no_more_is_forgotten() -> None:
    gate = Gate()
    car, bus = gate.query("car"), gate.query("bus")
    gate.answered(0, 0.0, car, bus)
    assert gate.frame(0, 1.0, car) == []
    assert gate.gate.sizes() == {"gate_answers": 1, "gate_frames": 0}
    assert gate.frame(0, 2.0, car, bus) == ["bus"]


def test_limits_are_bounded_and_those_in_use_stay() -> None:
    gate = Gate()
    gate.answered(0, 0.0)
    for number in range(2 * MAX_GATED_QUESTIONS):
        gate.gate.share(question("bus", text=f"bus {number}?"))
        if number % 100 == 0:
            assert gate.frame(0, 1.0) == []
    assert gate.frame(0, 2.0) == []


@given(
    st.lists(
        st.tuples(st.floats(0, 30), st.sampled_from([*Outcome, None])).filter(lambda each: each[1] != "unchanged"),
        max_size=30,
    )
)
def test_what_is_held_was_answered_safely_by_the_last_answer_and_lies_within_the_limit(
    frames: list[tuple[float, Outcome | None]],
) -> None:
    gate = Gate()
    last: tuple[float, Outcome] | None = None
    open_frames: list[int] = []
    for step, (level, outcome) in enumerate(frames):
        if not gate.frame(level, float(step)):
            assert not open_frames
            assert last is not None
            assert last[1] is Outcome.ANSWERED
            assert abs(last[0] - level) <= LIMIT
        elif outcome is None:
            open_frames.append(gate.number)
        else:
            gate.ends(outcome, float(step))
            if outcome in (Outcome.ANSWERED, Outcome.DEGRADED):
                last = (level, outcome)


class Edge(EdgeDriver):
    """A whole edge session with a gate, whose pool answers what it is sent."""

    def __init__(self, settings: GateSettings | None = None) -> None:
        super().__init__(boot=BOOT, site=SITE)
        self.session = EdgeSession(
            EdgeProtocolSettings(),
            SiteSettings(SITE, "main", {CAMERA: ("bus", "car")}, {name: question(name) for name in ("bus", "car")}),
            boot=BOOT,
            fingerprint=FINGERPRINT,
            now_s=self.now_s,
            gate=ChangeGate(Levels(), settings or GateSettings(renew_s=60.0)),
        )
        self.connect()
        self.reducer = OutcomeReducer()

    def take(self, level: float) -> list[str]:
        """A frame is taken at its slot; ids of what is asked of it."""
        latent = Picture(level)
        queries = self.session.take_queries(CAMERA, self.now_s, standing=True)
        sifted, frame = self.session.sift(CAMERA, latent, queries, self.now_s)
        if sifted.asked:
            self.session.offer(CAMERA, latent, LATENTS, sifted.asked, self.now_s, frame=frame, captured_s=self.now_s)
        self.pump()
        return [query.question_id for query in sifted.asked]

    def answer(self, *question_ids: str, text: str = "yes", outcome: ByWorker = Outcome.ANSWERED) -> None:
        opened = next(m for m in reversed(self.said()) if isinstance(m, Open))
        for ref in opened.queries:
            if ref.question_id in question_ids:
                answer = Answer(
                    query_id=ref.query_id(CAMERA, opened.frame), owner=owner_of("site", SITE), camera=CAMERA,
                    frame=opened.frame, attempt=1, question_id=ref.question_id, worker="w0", outcome=outcome,
                    text=text, score=1.0, latents=LATENTS, payload_bytes=10, looks=1,
                )  # fmt: skip
                self.reducer.observe(answer, self.now_s)
                self.receive(topics.answer_topic(CAMERA), answer)

    def said(self) -> list[Any]:
        return [publish.message for publish in self.publishes if isinstance(publish, Publish)]

    def renewals(self) -> list[QueryOutcome]:
        return [message for message in self.said() if isinstance(message, QueryOutcome)]


def test_an_unchanged_outcome_names_frame_age_owner_and_what_it_renews() -> None:
    edge = Edge()
    assert edge.take(0) == ["bus", "car"]
    first = edge.said()[-1].frame
    edge.answer("bus", "car")
    for _ in range(6):
        edge.turn_to(edge.now_s + 11)
        assert edge.take(1) == []
    bus, car = edge.renewals()
    assert (bus.question_id, car.question_id) == ("bus", "car")
    assert car.outcome is Outcome.UNCHANGED
    assert car.owner == "site/depot"
    assert car.age_ms == 66_000
    assert car.frame == FrameId(BOOT, first.sequence + 1), "frames of which nothing is said have no number"
    assert car.query_id == f"{CAMERA}/{car.frame}/car"
    assert renewed_query_id(car) == f"{CAMERA}/{first}/car"
    assert [decision.outcome for decision in edge.decisions[-2:]] == [Outcome.UNCHANGED, Outcome.UNCHANGED]
    assert wire.decode_publish(topics.outcome_topic(CAMERA), wire.encode(car))[1] == car
    assert edge.session.unfinished() == 0
    assert edge.session.sizes()["gate_frames"] == 0


def test_a_frame_that_is_asked_one_question_and_renews_another_has_one_number() -> None:
    edge = Edge()
    edge.take(0)
    edge.answer("bus", "car")
    edge.turn_to(edge.now_s + 30)
    assert edge.take(50) == ["bus", "car"]
    edge.answer("car")
    edge.turn_to(edge.now_s + 65)  # the other one expires
    assert edge.take(50) == ["bus"]
    (renewed,) = [message for message in edge.renewals() if message.outcome is Outcome.UNCHANGED]
    assert renewed.question_id == "car"
    assert edge.said()[-1].frame == renewed.frame or edge.said()[-2].frame == renewed.frame
    edge.answer("bus")
    assert edge.session.unfinished() == 0


def test_readers_take_a_renewal_for_the_answer_that_it_renews() -> None:
    edge = Edge()
    edge.take(0)
    edge.answer("bus", "car", text="two")
    edge.turn_to(edge.now_s + 61)
    edge.take(0)
    for message in edge.renewals():
        decided = edge.reducer.observe(message, edge.now_s)
        assert decided is not None
        assert (decided.outcome, decided.text) == (Outcome.UNCHANGED, "two")
        assert decided.renewed is not None
        assert edge.reducer.observe(message, edge.now_s) is None
        latest = edge.reducer.latest(CAMERA, message.owner, message.question_id)
        assert latest is not None
        assert (latest.frame, latest.captured_s, latest.decided.text) == (message.frame, edge.now_s, "two")
    assert (edge.reducer.renewals, edge.reducer.renewals_unknown) == (2, 0)
    assert (edge.reducer.repeats, edge.reducer.conflicts) == (2, 0)


def test_a_reader_that_never_saw_the_answer_knows_only_that_it_holds_on() -> None:
    edge = Edge()
    edge.take(0)
    edge.answer("bus", "car")
    edge.turn_to(edge.now_s + 61)
    edge.take(0)
    late = OutcomeReducer()
    decided = late.observe(edge.renewals()[0], edge.now_s)
    assert decided is not None
    assert (decided.text, decided.renewed) == ("", None)
    assert (late.renewals, late.renewals_unknown) == (1, 1)


def test_a_renewed_answer_outlives_others_in_a_reader_of_bounded_memory() -> None:
    reducer = OutcomeReducer(capacity=3)

    def answer(number: int, outcome: ByWorker = Outcome.ANSWERED) -> Answer:
        frame = FrameId(BOOT, number)
        return Answer(
            query_id=f"{CAMERA}/{frame}/car", owner="site/depot", camera=CAMERA, frame=frame, attempt=1,
            question_id="car", worker="w0", outcome=outcome, text="yes", score=1.0, latents=4, payload_bytes=1, looks=1,
        )  # fmt: skip

    def renewal(number: int, of: int) -> QueryOutcome:
        frame = FrameId(BOOT, number)
        return QueryOutcome(
            query_id=f"{CAMERA}/{frame}/car", owner="site/depot", camera=CAMERA, frame=frame, question_id="car",
            outcome=Outcome.UNCHANGED, age_ms=1, reason=same_as(FrameId(BOOT, of)),
        )  # fmt: skip

    reducer.observe(answer(1), 1.0)
    for number in range(2, 9):
        decided = reducer.observe(renewal(number, 1), float(number))
        assert decided is not None
        assert decided.text == "yes"
    reducer.observe(answer(9, Outcome.DEGRADED), 9.0)
    decided = reducer.observe(renewal(10, 9), 10.0)
    assert decided is not None
    assert decided.renewed is None, "no edge renews an answer that was not safe"


@pytest.mark.parametrize(
    "reason", ["", "same as", "same as 1a2b3c4d-", "same as 1A2B3C4D-1", "same as 1a2b3c4d-1 ", "x"]
)
def test_a_renewal_that_does_not_say_of_what_renews_nothing(reason: str) -> None:
    outcome = QueryOutcome(
        query_id=f"{CAMERA}/00000007-1/car", owner="site/depot", camera=CAMERA, frame=FrameId(BOOT, 1),
        question_id="car", outcome=Outcome.UNCHANGED, reason=reason,
    )  # fmt: skip
    assert renewed_query_id(outcome) is None


def test_a_silent_camera_renews_nothing() -> None:
    edge = Edge()
    edge.take(0)
    edge.answer("bus", "car")
    edge.turn_to(edge.now_s + 600)
    assert edge.renewals() == []


def test_an_operators_question_is_asked_with_a_part_of_its_risk_and_held_too() -> None:
    edge = Edge()
    edge.turn_to(edge.now_s + 5)
    operators = Question(
        site=SITE, question_id="car", text="A van?", answer_type=AnswerType.YES_NO, risk=0.04, cameras=(CAMERA,)
    )
    edge.receive(topics.question_topic(SITE, "car"), operators)
    assert edge.take(0) == ["bus", "car"]
    (query,) = [query for frame in edge.session.frames.undecided() for query in frame.queries.values()
                if query.question_id == "car"]  # fmt: skip
    assert (query.question.text, query.question.risk) == ("A van?", 0.01)
    edge.answer("bus", "car")
    assert edge.take(0) == []
    edge.receive(topics.question_topic(SITE, "car"), operators.model_copy(update={"text": "A truck?"}))
    assert edge.take(0) == ["car"], "another text is asked at once"


def test_questions_of_the_settings_are_published_with_the_risk_that_they_are_asked_with() -> None:
    edge = Edge()
    edge.turn_to(edge.now_s + 5)
    published = {message.question_id: message.risk for message in edge.said() if isinstance(message, Question)}
    assert published == {"bus": 0.005, "car": 0.005}
    edge.take(0)
    (opened,) = [message for message in edge.said() if isinstance(message, Open)]
    assert {ref.digest for ref in opened.queries} == {
        message.content().digest for message in edge.said() if isinstance(message, Question)
    }
