"""The first prefix is the cheapest expected one, and follows what a camera needed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.codec.prefix_policy import AT_ONCE, MAX_FRAMES_REMEMBERED, Link, PrefixPolicy
from pipeline.codec.stop_file import StopFile, find_stop_file, save_stop_file
from pipeline.codec.stop_statistics import StopStatistics
from pipeline.codec.wire_bytes import open_wire_bytes, refine_wire_bytes
from pipeline.protocol.stop_rule import StopRule
from schemas.errors import ArtifactError
from schemas.types import AnswerType

LADDER = (8, 32, 128)
SIZES = (200, 700, 2000)
YES_NO = AnswerType.YES_NO


def statistics(*shares: float) -> StopStatistics:
    """The same shares whatever the frame's size; the whole latent is always safe."""
    return StopStatistics(LADDER, (), {YES_NO: (*((share,) for share in shares), (1.0,))})


def test_a_short_prefix_when_it_is_mostly_enough_and_everything_when_it_never_is() -> None:
    link = Link()
    assert PrefixPolicy(statistics(0.95, 0.99)).choose("gate", SIZES, [YES_NO], link).latents == 8
    assert PrefixPolicy(statistics(0.0, 0.0)).choose("gate", SIZES, [YES_NO], link).latents == 128
    assert PrefixPolicy(statistics(0.02, 0.99)).choose("gate", SIZES, [YES_NO], link).latents == 32


def test_small_latents_go_whole_since_headers_weigh_more() -> None:
    assert PrefixPolicy(statistics(0.7, 0.8)).choose("gate", (60, 100, 150), [YES_NO], Link()).latents == 128


def test_the_expectation_is_that_of_the_passes() -> None:
    choice = PrefixPolicy(statistics(0.8, 0.9)).choose("gate", SIZES, [YES_NO], Link())
    expected = open_wire_bytes(200, 1) + 0.2 * refine_wire_bytes(501) + 0.1 * refine_wire_bytes(1301)
    assert choice.latents == 8
    assert choice.wire_bytes == pytest.approx(expected)
    assert choice.safe == pytest.approx((0.8,))


def test_more_questions_need_more() -> None:
    policy = PrefixPolicy(statistics(0.8, 0.97))
    assert policy.choose("gate", SIZES, [YES_NO], Link()).latents == 8
    assert policy.choose("gate", SIZES, [YES_NO] * 6, Link()).latents == 32


def test_questions_that_are_judged_together_share_their_outcome() -> None:
    together = replace(statistics(0.8, 0.9), by_frame=True)
    one = PrefixPolicy(together).choose("gate", SIZES, [YES_NO], Link())
    six = PrefixPolicy(together).choose("gate", SIZES, [YES_NO] * 6, Link())
    assert six.latents == one.latents == 8
    assert six.wire_bytes - open_wire_bytes(200, 6) == pytest.approx(one.wire_bytes - open_wire_bytes(200, 1))
    with_text = PrefixPolicy(together).choose("gate", SIZES, [YES_NO, AnswerType.TEXT], Link())
    assert with_text.latents == 128, "text was not calibrated and waits for everything"


def test_questions_that_are_judged_together_teach_once() -> None:
    apart, together = (PrefixPolicy(replace(statistics(0.8, 0.95), by_frame=by_frame)) for by_frame in (False, True))
    for policy, count in ((apart, 1), (together, 4)):
        names = [f"q{number}" for number in range(count)]
        choice = policy.choose("gate", SIZES, [YES_NO], Link())
        policy.offered("gate", names, replace(choice, safe=choice.safe * count))
        for name in names:
            policy.answered("gate", name, choice.latents, safe=False)
    assert apart.choose("gate", SIZES, [YES_NO], Link()) == together.choose("gate", SIZES, [YES_NO], Link())


def test_an_answer_type_without_statistics_waits_for_everything() -> None:
    assert PrefixPolicy(statistics(0.99, 0.99)).choose("gate", SIZES, [AnswerType.TEXT], Link()).latents == 128


def test_the_frame_itself_counts() -> None:
    """Large frames were rarely safe early in this calibration."""
    sized = StopStatistics(LADDER, (1500.0,), {YES_NO: ((0.95, 0.05), (0.98, 0.1), (1.0, 1.0))})
    policy = PrefixPolicy(sized)
    assert policy.choose("gate", (200, 700, 1400), [YES_NO], Link()).latents == 8
    assert policy.choose("gate", SIZES, [YES_NO], Link()).latents == 128


def test_on_a_slow_round_trip_delay_and_bytes_disagree() -> None:
    shares = statistics(0.6, 0.7)
    satellite = Link(bytes_per_s=125_000.0, round_trip_s=0.6)
    assert PrefixPolicy(shares, objective="bytes").choose("gate", SIZES, [YES_NO], satellite).latents < 128
    quick = PrefixPolicy(shares, objective="delay").choose("gate", SIZES, [YES_NO], satellite)
    assert quick.latents == 128
    assert quick.delay_s == pytest.approx(0.6 + open_wire_bytes(2000, 1) / 125_000)


def test_a_camera_that_needs_more_gets_more_and_recovers() -> None:
    policy = PrefixPolicy(statistics(0.8, 0.95))
    for number in range(40):
        choice = policy.choose("gate", SIZES, [YES_NO], Link())
        policy.offered("gate", [f"q{number}"], choice)
        policy.answered("gate", f"q{number}", choice.latents, safe=False)
    assert policy.choose("gate", SIZES, [YES_NO], Link()).latents > 8
    assert policy.choose("yard", SIZES, [YES_NO], Link()).latents == 8, "cameras learn apart"
    for number in range(40, 400):
        choice = policy.choose("gate", SIZES, [YES_NO], Link())
        policy.offered("gate", [f"q{number}"], choice)
        policy.answered("gate", f"q{number}", choice.latents, safe=True)
    assert policy.choose("gate", SIZES, [YES_NO], Link()).latents == 8


def test_only_first_passes_teach() -> None:
    policy = PrefixPolicy(statistics(0.8, 0.95))
    choice = policy.choose("gate", SIZES, [YES_NO], Link())
    policy.offered("gate", ["q"], choice)
    policy.answered("gate", "q", 32, safe=False)
    policy.answered("gate", "stranger", 8, safe=False)
    policy.answered("gate", "q", 8, safe=False)
    assert policy.choose("gate", SIZES, [YES_NO], Link()).safe == pytest.approx((0.8,))


def test_frames_that_nobody_answers_are_forgotten() -> None:
    policy = PrefixPolicy(statistics(0.9, 0.95))
    choice = policy.choose("gate", SIZES, [YES_NO], Link())
    for number in range(MAX_FRAMES_REMEMBERED + 10):
        policy.offered("gate", [f"q{number}"], choice)
    for number in range(10):
        policy.answered("gate", f"q{number}", 8, safe=False)
    assert policy.choose("gate", SIZES, [YES_NO], Link()).safe == choice.safe


shares = st.floats(0, 1)


@given(st.tuples(shares, shares), st.lists(st.integers(1, 3000), min_size=3, max_size=3), st.integers(1, 4))
def test_it_is_never_dearer_than_everything_at_once(
    rows: tuple[float, float], sizes: list[int], questions: int
) -> None:
    sizes.sort()
    choice = PrefixPolicy(statistics(*rows)).choose("gate", sizes, [YES_NO] * questions, Link())
    assert choice.wire_bytes <= open_wire_bytes(sizes[-1], questions) + 1e-9


def test_statistics_survive_their_file(tmp_path: Path) -> None:
    made = StopStatistics(LADDER, (100.0, 200.0), {YES_NO: ((0.1, 0.2, 0.3),) * 3}, by_frame=True)
    save_stop_file(tmp_path, StopFile(StopRule.never_early(LADDER), statistics=made))
    found = find_stop_file(tmp_path)
    assert found is not None
    assert found.statistics == made
    (tmp_path / "stop.json").unlink()
    assert find_stop_file(tmp_path) is None


def test_a_camera_leaves_the_ladder_where_one_length_is_cheaper_and_not_by_the_frame_itself() -> None:
    policy = PrefixPolicy(statistics(0.5, 0.6), at_once=12)
    for _ in range(16):
        # What has not been compared for some frames stays on the ladder.
        choice = policy.choose("gate", [500, 900, 1_000], [YES_NO], Link(), at_once_bytes=450)
        assert choice.rung != AT_ONCE
    cheap, dear = (policy.choose("gate", [500, 900, 1_000], [YES_NO], Link(), at_once_bytes=b) for b in (450, 9_000))
    assert (cheap.rung, cheap.latents, cheap.safe) == (AT_ONCE, 12, (1.0,))
    assert dear.rung == AT_ONCE, "a frame's own size does not decide its way"
    # It teaches the ladder nothing, and another camera begins anew.
    policy.offered("gate", ["q"], cheap)
    policy.answered("gate", "q", 12, safe=True)
    assert policy.choose("yard", [500, 900, 1_000], [YES_NO], Link(), at_once_bytes=450).rung != AT_ONCE
    for _ in range(60):
        policy.choose("gate", [500, 900, 1_000], [YES_NO], Link(), at_once_bytes=9_000)
    assert policy.choose("gate", [500, 900, 1_000], [YES_NO], Link(), at_once_bytes=450).rung != AT_ONCE
    unknown = policy.choose("gate", [500, 900, 1_000], [AnswerType.TEXT], Link(), at_once_bytes=1)
    assert unknown.rung != AT_ONCE, "a type that was not calibrated waits for the whole"


WRONG = [
    {},
    [],
    {"size_edges_bytes": [], "safe_share": {"yes_no": [[0.5], [0.5], [1.0]]}},
    {"by_frame": False, "size_edges_bytes": [2, 1], "safe_share": {}},
    {"by_frame": False, "size_edges_bytes": [], "safe_share": {"yes_no": [[0.5]]}},
    {"by_frame": False, "size_edges_bytes": [], "safe_share": {"yes_no": [[0.5], [0.5], [1.5]]}},
    {"by_frame": False, "size_edges_bytes": [], "safe_share": {"yes_no": [[0.5], [0.5], [float("nan")]]}},
    {"by_frame": False, "size_edges_bytes": [], "safe_share": {"weather": [[0.5], [0.5], [1.0]]}},
    {"by_frame": False, "size_edges_bytes": [], "safe_share": [1]},
]


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_statistics_are_refused_with_the_command_that_makes_them(tmp_path: Path, wrong: object) -> None:
    stop = StopFile.uncalibrated(LADDER).as_json() | {"statistics": wrong}
    (tmp_path / "stop.json").write_text(json.dumps(stop))
    with pytest.raises(ArtifactError, match="calibrate-stop"):
        find_stop_file(tmp_path)
