"""Disjoint sets of pictures: who gets how many, and what is said where there are too few."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigError, TooFewPicturesError
from training.codec.calibrate.sets import CLOSED_FORM, divide, fewest_of, order_of
from training.codec.stop.learn_then_test import Promise, frames_needed

PROMISE = Promise(0.1)


@given(st.integers(73, 2_000), st.integers(0, 5), st.booleans())
def test_sets_share_no_picture_and_each_has_what_it_needs(count: int, seed: int, video: bool) -> None:
    count += 20
    sets = divide(order_of(count, video=video, seed=seed), PROMISE, "photos", video=video)
    rows = [row for name in CLOSED_FORM.shares for row in sets.rows(name)]
    assert len(rows) == len(set(rows))
    assert set(rows) <= set(range(count))
    needed = fewest_of(PROMISE)
    assert needed["calibration"] == frames_needed(0.1, 0.05) == 29
    assert all(sets.sizes[name] >= needed[name] for name in CLOSED_FORM.shares)
    assert video or len(rows) == count


def test_sets_of_a_video_are_stretches_of_time_with_gaps() -> None:
    sets = divide(order_of(200, video=True, seed=0), PROMISE, "clip.mp4", video=True)
    stretches = [sets.rows(name) for name in CLOSED_FORM.shares]
    assert all(list(rows) == list(range(rows[0], rows[-1] + 1)) for rows in stretches)
    assert all(later[0] - earlier[-1] == 3 for earlier, later in pairwise(stretches))


def test_a_stricter_risk_keeps_the_order_of_the_pictures() -> None:
    """Visual tokens are in that order: they are not computed again."""
    order = order_of(400, video=False, seed=3)
    loose, strict = (divide(order, Promise(risk), "photos", video=False) for risk in (0.1, 0.02))
    assert loose.order == strict.order == order
    assert strict.sizes["calibration"] >= 149 > CLOSED_FORM.fewest["train"]


def test_too_few_pictures_name_what_is_needed_and_for_what() -> None:
    with pytest.raises(
        TooFewPicturesError, match="60 pictures can be used, 73 are needed: 16 for the transform"
    ) as found:
        divide(order_of(60, video=False, seed=0), PROMISE, "photos", video=False)
    assert (found.value.found, found.value.needed, found.value.where) == (60, 73, "photos")
    assert found.value.needed_by_set["its thresholds"] == 29
    assert "29 for its thresholds" in str(found.value)
    assert "Add 13" in str(found.value)
    with pytest.raises(TooFewPicturesError, match="10 for gaps in time"):
        divide(order_of(80, video=True, seed=0), PROMISE, "clip.mp4", video=True)
    with pytest.raises(ConfigError, match="cannot be promised"):
        divide(order_of(60, video=False, seed=0), Promise(0.0), "photos", video=False)


def test_pictures_with_questions_go_where_questions_are_asked() -> None:
    asked = list(range(0, 200, 2))
    order = order_of(200, video=False, seed=0, asked=asked)
    sets = divide(order, PROMISE, "photos", video=False, asked=len(asked))
    assert all(row in asked for name in CLOSED_FORM.asked for row in sets.rows(name))
    assert sum(sets.sizes.values()) == 200
    with pytest.raises(TooFewPicturesError, match="photos, with questions: 20 pictures can be used, 49 are needed"):
        divide(order, PROMISE, "photos", video=False, asked=20)
