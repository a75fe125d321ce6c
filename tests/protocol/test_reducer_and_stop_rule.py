"""The reducer that all readers share, and the stop rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.codec.stop_file import load_stop_rule
from pipeline.protocol.reducer import LATENCY_S, OutcomeReducer
from pipeline.protocol.stop_rule import NEVER, StopRule
from schemas.errors import ArtifactError
from schemas.messages import Answer, QueryOutcome
from schemas.types import UNKNOWN_AGE, Age, AnswerType, FrameId, Outcome


def _answer(query_id: str, outcome: Outcome | None, text: str = "yes") -> Answer:
    return Answer.model_validate(
        {
            "query_id": query_id,
            "owner": "site/north",
            "camera": "gate",
            "frame": FrameId(1, 2),
            "attempt": 1,
            "question_id": "q0",
            "worker": "w0",
            "outcome": outcome,
            "text": text,
            "score": 0.5,
            "latents": 4,
            "payload_bytes": 10,
            "looks": 1,
        }
    )


def _outcome(query_id: str) -> QueryOutcome:
    return QueryOutcome(
        query_id=query_id,
        owner="site/north",
        camera="gate",
        frame=FrameId(1, 2),
        question_id="q0",
        outcome=Outcome.EXPIRED,
    )


def test_the_first_terminal_wins_and_repeats_are_counted() -> None:
    reducer = OutcomeReducer()
    assert reducer.observe(_answer("gate/@me/a", None), 0.0) is None
    first = reducer.observe(_outcome("gate/@me/a"), 0.0)
    assert first is not None
    assert (first.outcome, first.text) == (Outcome.EXPIRED, "")
    assert reducer.observe(_outcome("gate/@me/a"), 0.0) is None
    assert reducer.observe(_answer("gate/@me/a", Outcome.ANSWERED), 0.0) is None
    assert (reducer.repeats, reducer.conflicts) == (1, 1)
    assert reducer.get("gate/@me/a") == first


@given(
    st.permutations(
        [
            ("gate/@me/a", "yes"),
            ("gate/@me/a", "no"),
            ("gate/@me/b", "yes"),
            ("gate/@me/b", "yes"),
            ("gate/@me/a", "yes"),
        ]
    )
)
def test_whatever_the_order_one_outcome_a_query(order: Sequence[tuple[str, str]]) -> None:
    reducer = OutcomeReducer()
    decided = [reducer.observe(_answer(query_id, Outcome.ANSWERED, text), 0.0) for query_id, text in order]
    assert sorted(d.query_id for d in decided if d) == ["gate/@me/a", "gate/@me/b"]
    assert reducer.repeats + reducer.conflicts == 3


def test_the_reducer_is_bounded() -> None:
    reducer = OutcomeReducer(capacity=2)
    for query_id in ("gate/@me/a", "gate/@me/b", "gate/@me/c"):
        reducer.observe(_answer(query_id, Outcome.ANSWERED), 0.0)
    assert reducer.get("gate/@me/a") is None
    assert reducer.get("gate/@me/c") is not None


def _standing(sequence: int, text: str, age_ms: Age | None, *, boot: int = 1) -> Answer:
    fields = {"query_id": f"gate/{FrameId(boot, sequence)}/q0", "frame": FrameId(boot, sequence), "age_ms": age_ms}
    return _answer("gate/@me/a", Outcome.ANSWERED, text).model_copy(update=fields)


def test_outcomes_of_frames_that_waited_for_a_link_are_counted_by_themselves() -> None:
    reducer = OutcomeReducer()
    reducer.observe(_standing(1, "yes", None), 0.0)
    reducer.observe(_standing(2, "yes", 5_000), 0.0)
    reducer.observe(_standing(3, "no", UNKNOWN_AGE), 0.0)
    expired = _outcome("gate/00000001-4/q0").model_copy(update={"age_ms": 7_000})
    reducer.observe(expired, 0.0)
    unchanged = {"query_id": "gate/00000001-5/q0", "outcome": Outcome.UNCHANGED, "age_ms": 7_000}
    reducer.observe(expired.model_copy(update=unchanged), 0.0)
    reducer.observe(_answer("gate/@me/b", Outcome.ANSWERED).model_copy(update={"owner": "client/me", "age_ms": 5}), 0.0)

    assert reducer.live == {Outcome.ANSWERED: 2, Outcome.UNCHANGED: 1}
    assert reducer.history == {Outcome.ANSWERED: 2, Outcome.EXPIRED: 1}


def test_history_never_takes_the_place_of_a_newer_answer() -> None:
    reducer = OutcomeReducer()

    def latest() -> str:
        found = reducer.latest("gate", "site/north", "q0")
        assert found is not None
        return found.decided.text

    reducer.observe(_standing(10, "nobody knows when", UNKNOWN_AGE), 1_000.0)
    assert latest() == "nobody knows when", "better than nothing"
    reducer.observe(_standing(11, "nobody knows when either", UNKNOWN_AGE), 1_000.0)
    assert latest() == "nobody knows when", "which of the two is newer, nobody knows"
    reducer.observe(_standing(12, "older", 600_000), 1_000.0)
    assert latest() == "older"
    reducer.observe(_standing(13, "still older", 900_000), 1_001.0)
    assert latest() == "older"
    reducer.observe(_standing(14, "newer", 400_000), 1_010.0)
    assert latest() == "newer"
    reducer.observe(_standing(9, "overtaken", None), 1_010.0)
    assert latest() == "newer", "opened before, and perhaps taken before"
    reducer.observe(_standing(15, "now", None), 1_011.0)
    assert latest() == "now"
    reducer.observe(_standing(16, "a minute before", 60_000), 1_012.0)
    reducer.observe(_standing(17, "nobody knows when", UNKNOWN_AGE), 1_012.0)
    assert latest() == "now"
    reducer.observe(_standing(8, "overtaken", None), 1_013.0)
    assert latest() == "now"
    reducer.observe(_standing(0, "after a restart", None, boot=2), 1_014.0)
    assert latest() == "after a restart"
    assert reducer.latest("yard", "site/north", "q0") is None


_FRAMES = st.tuples(st.booleans(), st.floats(0, 500), st.floats(0, LATENCY_S), st.floats(0, 50))


@given(st.lists(_FRAMES, min_size=1, max_size=12))
def test_whatever_the_order_no_answer_of_an_older_frame_becomes_the_latest(
    frames: list[tuple[bool, float, float, float]],
) -> None:
    """Frames of a process are opened one after the other; their answers come when they like."""
    arrivals, opened_s = [], 0.0
    for sequence, (history, waited_s, latency_s, pause_s) in enumerate(frames):
        opened_s += pause_s
        age_ms = math.ceil(1000 * waited_s) if history else None
        captured_s = opened_s - (0.0 if age_ms is None else age_ms / 1000)
        arrivals.append((opened_s + latency_s, captured_s, _standing(sequence, str(sequence), age_ms)))
    taken_s = {str(sequence): captured_s for sequence, (_, captured_s, _) in enumerate(arrivals)}

    reducer, before = OutcomeReducer(), None
    for now_s, _, answer in sorted(arrivals, key=lambda arrival: arrival[0]):
        reducer.observe(answer, now_s)
        found = reducer.latest("gate", "site/north", "q0")
        assert found is not None
        if before is not None:
            assert taken_s[found.decided.text] >= taken_s[before] - 1e-6
        before = found.decided.text


RULE = StopRule((4, 8, 16), (0.9, 0.8, 0.7), {AnswerType.COUNT: (NEVER, 0.95, 0.0)}, 0.02)


def test_thresholds_are_those_of_the_rung_and_answer_type() -> None:
    assert RULE.is_safe(AnswerType.TEXT, 4, 0.9)
    assert not RULE.is_safe(AnswerType.TEXT, 4, 0.89)
    assert not RULE.is_safe(AnswerType.TEXT, 7, 0.85), "between rungs the lower one counts"
    assert not RULE.is_safe(AnswerType.COUNT, 4, 1.0)
    assert RULE.is_safe(AnswerType.COUNT, 8, 0.95)


def test_a_prefix_below_the_ladder_is_never_safe_and_the_whole_always() -> None:
    assert not RULE.is_safe(AnswerType.TEXT, 3, 1.0)
    assert RULE.is_safe(AnswerType.COUNT, 16, 0.0)


def test_a_question_may_accept_another_risk() -> None:
    rule = StopRule(
        (4, 8),
        (NEVER, 0.0),
        {AnswerType.YES_NO: (0.9, 0.0)},
        0.02,
        {0.005: {AnswerType.YES_NO: (0.99, 0.0)}, 0.1: {AnswerType.YES_NO: (0.5, 0.0)}},
        at_once=6,
    )
    safe_from = {None: 0.9, 0.02: 0.9, 0.05: 0.9, 0.1: 0.5, 1.0: 0.5, 0.01: 0.99, 0.005: 0.99}
    for risk, limit in safe_from.items():
        assert rule.is_safe(AnswerType.YES_NO, 4, limit, risk)
        assert not rule.is_safe(AnswerType.YES_NO, 4, limit - 0.01, risk)
    assert not rule.is_safe(AnswerType.YES_NO, 4, 1.0, 0.001), "less than was calibrated: only the whole latent"
    assert rule.is_safe(AnswerType.YES_NO, 8, 0.0, 0.001)
    assert not rule.is_safe(AnswerType.COUNT, 4, 1.0, 0.1)


def test_the_length_at_once_is_safe_whatever_the_score_but_for_stricter_questions() -> None:
    rule = StopRule((4, 8), (NEVER, 0.0), {AnswerType.YES_NO: (0.9, 0.0)}, 0.02, {0.005: {}}, at_once=6)
    assert rule.is_safe(AnswerType.YES_NO, 6, 0.01)
    assert not rule.is_safe(AnswerType.YES_NO, 7, 0.01), "a longer prefix of the ladder's way is looked at as any"
    assert not rule.is_safe(AnswerType.YES_NO, 6, 0.0), "after a shift nothing short is trusted"
    assert not rule.is_safe(AnswerType.COUNT, 6, 1.0)
    assert not rule.is_safe(AnswerType.YES_NO, 6, 1.0, 0.005)
    assert rule.next_prefix(6) == 8


@given(st.integers(0, 40))
def test_the_next_prefix_is_the_next_rung(prefix: int) -> None:
    following = RULE.next_prefix(prefix)
    assert following in RULE.ladder
    assert following > prefix or following == RULE.ladder[-1]


def test_an_uncalibrated_codec_never_stops_early() -> None:
    rule = StopRule.never_early((4, 8))
    assert not rule.is_safe(AnswerType.TEXT, 4, 1.0)
    assert rule.is_safe(AnswerType.TEXT, 8, 0.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"version": 2}',
        '{"version": 1, "ladder": [4, 8], "default": [0.9], "thresholds": {}, "risk": 0.02}',
        '{"version": 1, "ladder": [8, 4], "default": [0.9, 0.9], "thresholds": {}, "risk": 0.02}',
        '{"version": 1, "ladder": [4], "default": [NaN], "thresholds": {}, "risk": 0.02}',
        '{"version": 1, "ladder": [4], "default": [0.5], "thresholds": {"color": [0.5]}, "risk": 0.02}',
    ],
)
def test_a_wrong_stop_file_is_a_typed_error_that_names_the_command(tmp_path: Path, text: str) -> None:
    (tmp_path / "stop.json").write_text(text)
    with pytest.raises(ArtifactError, match="calibrate-stop"):
        load_stop_rule(tmp_path)


def test_a_missing_stop_file_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="calibrate-stop"):
        load_stop_rule(tmp_path)
