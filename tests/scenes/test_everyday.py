"""Everyday scenes: readable, balanced, and apart from training; hard scenes and their questions as they always were."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest

from pipeline.scenes.catalogue import KINDS
from pipeline.scenes.everyday import (
    EVERYDAY_HELD_OUT_SEEDS,
    MAX_EVERYDAY_HIDDEN,
    MAX_EVERYDAY_OBJECTS,
    balanced_questions,
    sample_everyday_scene,
    training_question,
)
from pipeline.scenes.everyday_phrasings import TRAINED_PHRASINGS, UNSEEN_PHRASINGS
from pipeline.scenes.questions import QUESTION_KINDS, answer_to, sample_question
from pipeline.scenes.renderer import render
from pipeline.scenes.scene import hidden_share, sample_scene

SCENES = [sample_everyday_scene(EVERYDAY_HELD_OUT_SEEDS + index) for index in range(300)]


def test_everything_can_be_seen() -> None:
    for scene in SCENES:
        assert 1 <= len(scene.objects) <= MAX_EVERYDAY_OBJECTS
        assert scene.weather in ("clear", "rain")
        for index, item in enumerate(scene.objects):
            assert min(item.box) >= 0
            assert max(item.box) <= 1
            assert item.size >= 0.15
            assert all(hidden_share(item, nearer) <= MAX_EVERYDAY_HIDDEN for nearer in scene.objects[index + 1 :])
    assert {len(scene.objects) for scene in SCENES} == {1, 2, 3, 4, 5}
    assert {scene.light for scene in SCENES} == {"day", "dusk", "night"}
    assert {item.kind for scene in SCENES for item in scene.objects} == set(KINDS)


def test_the_same_seed_gives_the_same_scene_and_frame() -> None:
    first, again = (sample_everyday_scene(7) for _ in range(2))
    assert first == again
    assert np.array_equal(render(first, 64), render(again, 64))
    assert sample_everyday_scene(8) != first


def test_a_training_begins_with_two_objects() -> None:
    assert max(len(sample_everyday_scene(seed, max_objects=2).objects) for seed in range(100)) == 2
    with pytest.raises(ValueError, match="max_objects=6"):
        sample_everyday_scene(0, max_objects=6)


def test_no_answer_is_a_good_guess() -> None:
    asked = balanced_questions(SCENES, seed=0)
    for kind in QUESTION_KINDS:
        answers = Counter(item.truth for item in asked if item.question.kind == kind)
        common = answers.most_common(1)[0][1] / answers.total()
        assert answers.total() > 150
        assert common <= {"existence": 0.55, "relation": 0.55, "activity": 0.6, "count": 0.3}.get(kind, 0.25), (
            kind,
            answers,
        )


def test_held_out_wordings_ask_the_same_in_sentences_that_training_never_uses() -> None:
    usual, unseen = balanced_questions(SCENES, seed=0), balanced_questions(SCENES, seed=0, held_out=True)
    assert [(item.scene, item.truth) for item in usual] == [(item.scene, item.truth) for item in unseen]
    for item in unseen:
        assert item.question.held_out
        assert answer_to(item.question, SCENES[item.scene]) == item.truth
    for kind in QUESTION_KINDS:
        assert len(TRAINED_PHRASINGS[kind]) >= 20
        assert len(UNSEEN_PHRASINGS[kind]) == 6
        assert not {text.lower().rstrip("?.") for text in TRAINED_PHRASINGS[kind]} & {
            text.lower().rstrip("?.") for text in UNSEEN_PHRASINGS[kind]
        }


def test_held_out_wordings_are_made_of_words_that_training_knows() -> None:
    def words(texts: list[str]) -> set[str]:
        return {word for text in texts for word in text.lower().replace(",", "").replace(":", "").rstrip("?.").split()}

    known = words([text for texts in TRAINED_PHRASINGS.values() for text in texts])
    for kind, texts in UNSEEN_PHRASINGS.items():
        assert {word.strip(".") for word in words(list(texts))} <= {word.strip(".") for word in known}, kind


def test_training_questions_have_the_answer_that_is_said() -> None:
    rng = np.random.default_rng(5)
    texts = set()
    for scene in SCENES[:60]:
        for kind in QUESTION_KINDS:
            drawn = training_question(kind, scene, rng)
            if drawn is not None:
                assert answer_to(drawn[0], scene) == drawn[1]
                assert not drawn[0].held_out
                texts.add(drawn[0].text)
    assert len(texts) > 200


def test_hard_scenes_and_their_questions_are_as_they_always_were() -> None:
    """Codecs, corpus and figures of the docs were made with these; with another digest they are out of date."""
    digest = hashlib.sha256()
    for seed in range(60):
        for detail in (False, True):
            scene, rng = sample_scene(seed, detail=detail), np.random.default_rng(seed)
            digest.update(repr(scene).encode())
            for kind in QUESTION_KINDS:
                for held_out in (False, True):
                    digest.update(repr(sample_question(kind, scene, rng, held_out=held_out)).encode())
    assert digest.hexdigest() == "cbbadda8545e0068f52fd80e9edb2a115a9542bca8ac4fa984611091f89345be"
