"""Questions: the truth agrees with the scene, and what is drawn is balanced."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.scenes.catalogue import COUNT_WORDS, KINDS, POSITIONS, QuestionKind
from pipeline.scenes.questions import ANSWERS, PHRASINGS, QUESTION_KINDS, answer_to, make_question, sample_question
from pipeline.scenes.scene import Background, Scene, SceneObject, sample_scene

BACKGROUND = Background("asphalt", (90, 90, 90), 0)


def scene_of(*objects: tuple[str, str, float, float]) -> Scene:
    return Scene(tuple(SceneObject(kind, color, x, y, 0.2) for kind, color, x, y in objects), BACKGROUND)


STREET = scene_of(
    ("car", "red", 0.2, 0.2), ("car", "blue", 0.8, 0.8), ("dog", "red", 0.5, 0.5), ("bus", "white", 0.34, 0.8)
)


@pytest.mark.parametrize(
    ("kind", "object_kind", "color", "expected"),
    [
        ("existence", "car", "red", "yes"),
        ("existence", "car", "green", "no"),
        ("existence", "dog", "blue", "no"),
        ("existence", "tree", None, "no"),
        ("existence", "dog", None, "yes"),
        ("color", "dog", None, "red"),
        ("color", "car", None, None),
        ("color", "tree", None, None),
        ("count", "car", None, "two"),
        ("count", "tree", None, "zero"),
        ("position", "car", "blue", "bottom right"),
        ("position", "car", None, None),
        ("position", "dog", None, "center"),
        ("position", "bus", None, None),
        ("position", "tree", None, None),
    ],
)
def test_answers(kind: QuestionKind, object_kind: str, color: str | None, expected: str | None) -> None:
    assert answer_to(make_question(kind, object_kind, color), STREET) == expected


def test_more_than_six_cannot_be_counted() -> None:
    seven = scene_of(*[("ball", "red", 0.1 * index, 0.5) for index in range(7)])
    assert answer_to(make_question("count", "ball"), seven) is None


@given(seed=st.integers(0, 2**40), kind=st.sampled_from(QUESTION_KINDS))
@settings(max_examples=150, deadline=None)
def test_drawn_questions_have_a_true_answer_of_their_kind(seed: int, kind: QuestionKind) -> None:
    scene = sample_scene(seed)
    question = sample_question(kind, scene, np.random.default_rng(seed))
    if question is None:
        assert kind in ("color", "position")
        return
    answer = answer_to(question, scene)
    assert answer in ANSWERS[kind]
    matching = scene.matching(question.object_kind, question.color)
    if kind == "existence":
        assert (answer == "yes") == bool(matching)
    elif kind == "count":
        assert COUNT_WORDS.index(answer) == len(matching)
    else:
        assert len(matching) == 1
    if kind == "position":
        assert POSITIONS.index(answer) == int(matching[0].y * 3) * 3 + int(matching[0].x * 3)
    elif kind == "color":
        assert matching[0].color == answer


def test_existence_is_balanced_and_its_noes_are_hard() -> None:
    rng = np.random.default_rng(0)
    answers: Counter[str] = Counter()
    near = 0
    for seed in range(1500):
        scene = sample_scene(seed)
        question = sample_question("existence", scene, rng)
        assert question is not None
        answer = answer_to(question, scene)
        assert answer is not None
        answers[answer] += 1
        if answer == "no":
            same_color = any(item.color == question.color for item in scene.objects)
            near += bool(scene.count(question.object_kind)) or same_color
    assert 0.45 < answers["yes"] / 1500 < 0.55
    assert near / answers["no"] > 0.5


def test_counts_reach_six_and_zero_is_not_most_of_them() -> None:
    rng = np.random.default_rng(0)
    answers: Counter[str] = Counter()
    for seed in range(1500):
        scene = sample_scene(seed)
        question = sample_question("count", scene, rng)
        assert question is not None
        answers[answer_to(question, scene) or ""] += 1
    assert set(answers) == set(COUNT_WORDS)
    assert max(answers.values()) < 0.45 * 1500


def test_every_phrasing_names_its_target() -> None:
    for kind, phrasings in PHRASINGS.items():
        texts = {make_question(kind, "box", phrasing=index).text for index in range(len(phrasings))}
        assert len(texts) == len(phrasings)
        assert all("box" in text for text in texts)
    assert make_question("existence", "car", "orange").text == "Is there an orange car?"
    assert make_question("count", "person").text == "How many people are there?"


@pytest.mark.parametrize(
    ("kind", "object_kind", "color", "names"),
    [
        ("smell", "car", None, "smell"),
        ("count", "ufo", None, "ufo"),
        ("existence", "car", "mauve", "mauve"),
        ("count", "car", "red", "red"),
    ],
)
def test_impossible_questions_are_refused(kind: str, object_kind: str, color: str | None, names: str) -> None:
    with pytest.raises(ValueError, match=names):
        make_question(kind, object_kind, color)  # type: ignore[arg-type]


def test_all_kinds_have_distinct_names() -> None:
    assert len(KINDS) >= 8
    assert len({kind.plural for kind in KINDS.values()} | set(KINDS)) == 2 * len(KINDS)
