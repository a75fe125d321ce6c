"""Questions: the truth agrees with the scene, and what is drawn is balanced."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.scenes.catalogue import COUNT_WORDS, KINDS, POSITIONS, QuestionKind
from pipeline.scenes.phrasings import (
    FRAME_PHRASINGS,
    HELD_OUT_FRAME_PHRASINGS,
    plural_of,
    with_color,
    write,
)
from pipeline.scenes.questions import (
    ANSWERS,
    HELD_OUT_PHRASINGS,
    PHRASINGS,
    QUESTION_KINDS,
    RELATION_MARGIN,
    QuestionSpec,
    answer_to,
    make_question,
    sample_question,
)
from pipeline.scenes.scene import Background, Scene, SceneObject, sample_scene

BACKGROUND = Background("street", (90, 90, 90), 0.2, 0)
YES_NO = ("existence", "relation", "activity")


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
        ("activity", "dog", None, "no"),
        ("activity", "car", None, None),
        ("activity", "truck", None, None),
    ],
)
def test_answers(kind: QuestionKind, object_kind: str, color: str | None, expected: str | None) -> None:
    assert answer_to(make_question(kind, object_kind, color), STREET) == expected


@pytest.mark.parametrize(
    ("first", "relation", "second", "expected"),
    [
        (("dog", None), "left of", ("car", "blue"), "yes"),
        (("dog", None), "right of", ("car", "blue"), "no"),
        (("dog", None), "above", ("car", "blue"), "yes"),
        (("dog", None), "below", ("car", "red"), "yes"),
        (("bus", None), "below", ("car", "blue"), None),
        (("dog", None), "left of", ("car", None), None),
        (("dog", None), "left of", ("tree", None), None),
    ],
)
def test_relations(
    first: tuple[str, str | None], relation: Any, second: tuple[str, str | None], expected: str | None
) -> None:
    """Side by side along the axis, or one of several: no clear answer."""
    question = make_question("relation", *first, other_kind=second[0], other_color=second[1], relation=relation)
    assert answer_to(question, STREET) == expected


@pytest.mark.parametrize("axis", ["x", "y"])
@pytest.mark.parametrize("apart", [0.9, 1.1])
def test_a_relation_is_clear_beyond_its_margin(axis: str, apart: float) -> None:
    first = SceneObject("dog", "red", 0.4, 0.4, 0.1)
    there = 0.4 + apart * RELATION_MARGIN
    second = replace(first, kind="cat", x=there if axis == "x" else first.x, y=there if axis == "y" else first.y)
    holds, opposite = ("left of", "right of") if axis == "x" else ("above", "below")
    answers: list[str | None] = []
    relations: tuple[Any, ...] = (holds, opposite)
    for relation in relations:
        question = make_question("relation", "dog", other_kind="cat", relation=relation)
        answers.append(answer_to(question, Scene((first, second), BACKGROUND)))
    assert answers == (["yes", "no"] if apart > 1 else [None, None])


def test_what_moves_is_moving() -> None:
    walking = Scene(tuple(replace(item, moving=item.kind == "dog") for item in STREET.objects), BACKGROUND)
    assert answer_to(make_question("activity", "dog"), walking) == "yes"
    assert answer_to(make_question("activity", "bus"), walking) == "no"


def test_more_than_six_cannot_be_counted() -> None:
    seven = scene_of(*[("ball", "red", 0.1 * index, 0.5) for index in range(7)])
    assert answer_to(make_question("count", "ball"), seven) is None
    rng = np.random.default_rng(0)
    drawn = [sample_question("count", seven, rng) for _ in range(200)]
    assert all(question is not None and question.object_kind != "ball" for question in drawn)


def template_of(question: QuestionSpec) -> int:
    """Which wording of those that it may have a drawn question has."""
    other = with_color(question.other_kind, question.other_color) if question.other_kind else ""
    wordings = (HELD_OUT_PHRASINGS if question.held_out else PHRASINGS)[question.kind]
    filled = [write(text, question.object_kind, question.color, other, question.relation or "") for text in wordings]
    return filled.index(question.text)


@given(seed=st.integers(0, 2**40), kind=st.sampled_from(QUESTION_KINDS), detail=st.booleans(), held_out=st.booleans())
@settings(max_examples=200, deadline=None)
def test_drawn_questions_have_a_true_answer_of_their_kind(
    seed: int, kind: QuestionKind, detail: bool, held_out: bool
) -> None:
    scene = sample_scene(seed, detail=detail)
    question = sample_question(kind, scene, np.random.default_rng(seed), held_out=held_out)
    if question is None:
        assert kind not in ("existence", "count")
        return
    assert question.held_out == held_out
    assert template_of(question) >= 0
    answer = answer_to(question, scene)
    assert answer in ANSWERS[kind]
    matching = scene.matching(question.object_kind, question.color)
    if kind == "existence":
        assert (answer == "yes") == bool(matching)
        assert (question.negative is None) == (answer == "yes")
    elif kind == "count":
        assert COUNT_WORDS.index(answer) == len(matching)
    else:
        assert len(matching) == 1
    if kind == "position":
        assert POSITIONS.index(answer) == int(matching[0].y * 3) * 3 + int(matching[0].x * 3)
    elif kind == "color":
        assert matching[0].color == answer
    elif kind == "activity":
        assert KINDS[question.object_kind].can_move
        assert (answer == "yes") == matching[0].moving
    elif kind == "relation":
        (other,) = scene.matching(question.other_kind or "", question.other_color)
        across, down = other.x - matching[0].x, other.y - matching[0].y
        ahead = {"left of": across, "right of": -across, "above": down, "below": -down}[question.relation or ""]
        assert abs(ahead) > RELATION_MARGIN
        assert (answer == "yes") == (ahead > 0)


def test_of_an_empty_scene_only_existence_and_count_are_asked() -> None:
    empty, rng = scene_of(), np.random.default_rng(0)
    for _ in range(30):
        for kind in QUESTION_KINDS:
            question = sample_question(kind, empty, rng)
            answer = answer_to(question, empty) if question else None
            assert answer == {"existence": "no", "count": "zero"}.get(kind)


def test_where_everything_is_there_only_a_color_is_missing() -> None:
    full = scene_of(*[(kind, "red", 0.05 * index, 0.5) for index, kind in enumerate(KINDS)])
    rng, noes = np.random.default_rng(0), 0
    for _ in range(200):
        question = sample_question("existence", full, rng)
        assert question is not None
        if answer_to(question, full) == "no":
            noes += 1
            assert question.color not in (None, "red")
    assert 70 < noes < 130


def test_absent_things_in_a_scene_of_one_car() -> None:
    """Nearly there is a car of another colour, or another red thing; a popular thing is often drawn elsewhere."""
    alone, rng = scene_of(("car", "red", 0.5, 0.5)), np.random.default_rng(0)
    absent: dict[str | None, set[tuple[str, str | None]]] = {}
    for _ in range(600):
        question = sample_question("existence", alone, rng)
        assert question is not None
        absent.setdefault(question.negative, set()).add((question.object_kind, question.color))
    assert absent[None] == {("car", "red"), ("car", None)}
    near = absent["adversarial"]
    assert {color for kind, color in near if kind == "car"} == {color for color in ANSWERS["color"] if color != "red"}
    assert {color for kind, color in near if kind != "car"} == {"red"}
    assert {kind for kind, _ in near} == set(KINDS)
    assert {kind for kind, _ in absent["popular"]} == {
        name for name, kind in KINDS.items() if kind.frequency > 1 and name != "car"
    }
    assert {kind for kind, _ in absent["random"]} == set(KINDS) - {"car"}


@pytest.mark.parametrize("kind", YES_NO)
def test_yes_and_no_are_balanced(kind: QuestionKind) -> None:
    rng = np.random.default_rng(0)
    answers: Counter[str | None] = Counter()
    for seed in range(1200):
        scene = sample_scene(seed)
        question = sample_question(kind, scene, rng)
        if question is not None:
            answers[answer_to(question, scene)] += 1
    assert 0.4 < answers["yes"] / answers.total() < 0.6


def test_absent_things_are_drawn_as_pope_does() -> None:
    """At random, popular, or nearly there: an object of that kind or of that colour can be seen."""
    rng = np.random.default_rng(0)
    drawn: Counter[str | None] = Counter()
    for seed in range(1500):
        scene = sample_scene(seed)
        question = sample_question("existence", scene, rng)
        assert question is not None
        drawn[question.negative] += 1
        if question.negative == "adversarial":
            assert scene.count(question.object_kind) or any(item.color == question.color for item in scene.objects)
        elif question.negative == "popular":
            assert KINDS[question.object_kind].frequency > 1
    noes = drawn.total() - drawn[None]
    assert min(drawn[name] / noes for name in ("random", "popular", "adversarial")) > 0.12
    assert drawn["adversarial"] > 0.35 * noes


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


def test_a_fifth_of_the_wordings_is_kept_from_training() -> None:
    assert set(PHRASINGS) == set(HELD_OUT_PHRASINGS) == set(QUESTION_KINDS)
    pairs = [(PHRASINGS[kind], HELD_OUT_PHRASINGS[kind]) for kind in QUESTION_KINDS]
    for known, kept in (*pairs, (FRAME_PHRASINGS, HELD_OUT_FRAME_PHRASINGS)):
        assert len(set(known) | set(kept)) == len(known) + len(kept) == 5 * len(kept)


@pytest.mark.parametrize("kind", QUESTION_KINDS)
def test_held_out_wordings_are_drawn_only_when_asked_for(kind: QuestionKind) -> None:
    trained: set[str] = set()
    kept: set[str] = set()
    wordings: dict[bool, set[int]] = {False: set(), True: set()}
    for seed in range(150):
        scene = sample_scene(seed)
        for held_out, texts in ((False, trained), (True, kept)):
            question = sample_question(kind, scene, np.random.default_rng(seed), held_out=held_out)
            if question is not None:
                texts.add(question.text)
                wordings[held_out].add(template_of(question))
    assert not trained & kept
    assert wordings == {False: set(range(len(PHRASINGS[kind]))), True: set(range(len(HELD_OUT_PHRASINGS[kind])))}


def test_every_phrasing_names_its_target() -> None:
    for kind, phrasings in PHRASINGS.items():
        extra: dict[str, Any] = {"other_kind": "tree", "relation": "above"} if kind == "relation" else {}
        texts = {make_question(kind, "dog", phrasing=index, **extra).text for index in range(len(phrasings))}
        assert len(texts) == len(phrasings)
        assert all("dog" in text for text in texts)
        assert all("tree" in text and "above" in text for text in texts) or kind != "relation"
    assert make_question("existence", "car", "orange").text == "Is there an orange car?"
    assert make_question("count", "person").text == "How many people are there?"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"kind": "smell", "object_kind": "car"}, "smell"),
        ({"kind": "count", "object_kind": "ufo"}, "ufo"),
        ({"kind": "existence", "object_kind": "car", "color": "mauve"}, "mauve"),
        ({"kind": "count", "object_kind": "car", "color": "red"}, "red"),
        ({"kind": "relation", "object_kind": "car"}, "other_kind"),
        ({"kind": "count", "object_kind": "car", "other_kind": "dog", "relation": "above"}, "relation"),
        ({"kind": "activity", "object_kind": "tree"}, "tree"),
    ],
)
def test_impossible_questions_are_refused(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make_question(**arguments)


def test_all_kinds_have_distinct_names() -> None:
    assert len(KINDS) >= 16
    assert len({kind.plural for kind in KINDS.values()} | set(KINDS)) == 2 * len(KINDS)


@pytest.mark.parametrize(
    ("name", "plural"),
    [("bus", "buses"), ("person", "people"), ("deer", "deer"), ("lorry", "lorries"), ("toy", "toys")],
)
def test_plurals(name: str, plural: str) -> None:
    assert plural_of(name) == plural
