"""Moving scenes: deterministic, clear for their standing questions, different from shot to shot."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.scenes.catalogue import KINDS, QuestionKind
from pipeline.scenes.motion import STANDING_KINDS, SceneClip, standing_questions
from pipeline.scenes.questions import QUESTION_KINDS, answer_to, make_question
from pipeline.scenes.scene import Scene, SceneObject, depth_size, hidden_share


@given(seed=st.integers(0, 2**40), kinds=st.sampled_from([STANDING_KINDS, QUESTION_KINDS]))
@settings(max_examples=15, deadline=None)
def test_standing_questions_have_an_answer_nearly_always(seed: int, kinds: tuple[QuestionKind, ...]) -> None:
    questions = standing_questions(seed, kinds)
    assert [question.kind for question in questions] == list(kinds)
    clip = SceneClip(seed, 40.0, questions)
    truths = [answer_to(question, clip.scene_at(step * 0.5)) for step in range(81) for question in questions]
    assert sum(truth is None for truth in truths) <= 0.03 * len(truths)


def test_answers_change_over_time() -> None:
    questions = standing_questions(3, QUESTION_KINDS)
    clip = SceneClip(3, 120.0, questions)
    for question in questions:
        assert len({answer_to(question, clip.scene_at(t)) for t in clip.shot_starts_s if t <= 120.0}) >= 2


def test_several_questions_about_one_kind_stay_clear() -> None:
    questions = [
        make_question("existence", "car", "red"),
        make_question("color", "car"),
        make_question("position", "car"),
        make_question("count", "dog"),
    ]
    clip = SceneClip(8, 60.0, questions)
    truths = {question.kind: [answer_to(question, clip.scene_at(t)) for t in range(60)] for question in questions}
    assert all(None not in answers for answers in truths.values())
    assert {"yes", "no"} <= set(truths["existence"])


def test_clips_are_deterministic_and_objects_move() -> None:
    first, again = SceneClip(4, 20.0), SceneClip(4, 20.0)
    assert [first.scene_at(t / 2) for t in range(40)] == [again.scene_at(t / 2) for t in range(40)]
    start = first.shot_starts_s[0]
    early, late = first.scene_at(start), first.scene_at(start + 1.5)
    assert early.background == late.background
    assert early.noise_seed != late.noise_seed
    assert (early.light, early.weather, early.sun) == (late.light, late.weather, late.sun)
    assert Counter((o.kind, o.color) for o in early.objects) == Counter((o.kind, o.color) for o in late.objects)
    assert {(o.x, o.y) for o in early.objects} != {(o.x, o.y) for o in late.objects}
    assert SceneClip(5, 20.0).scene_at(0.0) != first.scene_at(0.0)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_said_to_move_moves_the_way_it_faces_and_nothing_else_does(seed: int) -> None:
    clip = SceneClip(seed, 40.0, standing_questions(seed))
    moved = 0
    for start, end in zip(clip.shot_starts_s, clip.shot_starts_s[1:], strict=False):
        if end > 40.0:
            break
        early, late = (tracked(clip.scene_at(t)) for t in (start, start + 0.5 * (end - start)))
        for name in early.keys() & late.keys():
            before, after = early[name], late[name]
            assert before.moving == after.moving
            if before.moving:
                assert KINDS[before.kind].can_move
                assert (after.x < before.x) == before.faces_left
                moved += 1
            else:
                assert (after.x, after.y, after.size) == (before.x, before.y, before.size)
    assert moved > 5


def tracked(scene: Scene) -> dict[tuple[str, str], SceneObject]:
    """Objects by kind and colour, as far as these tell them apart."""
    numbers = Counter((item.kind, item.color) for item in scene.objects)
    return {key: item for item in scene.objects if numbers[key := (item.kind, item.color)] == 1}


def test_objects_stay_in_the_frame_in_perspective_and_in_sight() -> None:
    clip = SceneClip(9, 30.0, standing_questions(9))
    for step in range(120):
        scene = clip.scene_at(step / 4)
        feet = [item.box[3] for item in scene.objects]
        assert feet == sorted(feet)
        for index, item in enumerate(scene.objects):
            assert item.kind in KINDS
            assert min(item.box) >= -1e-9
            assert max(item.box) <= 1 + 1e-9
            expected = depth_size(item.box[3], scene.background.horizon) * KINDS[item.kind].scale
            assert 0.88 <= item.size / expected <= 1.14
            assert all(hidden_share(item, nearer) < 0.35 for nearer in scene.objects[index + 1 :])


def test_times_outside_the_clip_are_refused() -> None:
    clip = SceneClip(1, 2.0)
    with pytest.raises(ValueError, match=r"3\.0"):
        clip.scene_at(3.0)
    with pytest.raises(ValueError, match="duration_s=0"):
        SceneClip(1, 0.0)


def test_a_camera_in_one_place_sees_other_objects_before_the_same_background() -> None:
    clip = SceneClip(5, 30.0, standing_questions(5), mean_shot_s=4.0, one_place=True)
    scenes = [clip.scene_at(start_s) for start_s in clip.shot_starts_s if start_s <= 30.0]
    assert len(scenes) > 3
    places = {(s.background, s.light, s.weather, s.sun, s.brightness, s.noise_sigma) for s in scenes}
    assert len(places) == 1
    assert len({scene.objects for scene in scenes}) == len(scenes)
    moving = SceneClip(5, 30.0, standing_questions(5), mean_shot_s=4.0)
    assert moving.scene_at(0.0) == scenes[0]
    assert len({moving.scene_at(start_s).background for start_s in clip.shot_starts_s if start_s <= 30.0}) > 1
