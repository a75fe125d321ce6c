"""The model in this process behind the inference seam: one item fails alone, shapes are checked, calls can be left."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from cloud_workers.inference.adapter import Question
from cloud_workers.inference.backend import InferenceAnswer, InferenceItem
from cloud_workers.inference.in_process import InProcessBackend
from cloud_workers.inference.registry import adapt
from cloud_workers.model_thread import model_thread
from schemas.errors import EngineError, FeatureShapeError, ModelError
from schemas.types import AnswerType
from tests.cloud.engines import THREAD
from tests.cloud.test_pass_engine import PickyVlm
from tests.cloud.tiny_models import FAMILIES, IMAGE_SIZE_PX, TOKEN_COUNT, TOKEN_DIM

WORD = AnswerType.WORD


def features(seed: int) -> torch.Tensor:
    return torch.randn(TOKEN_COUNT, TOKEN_DIM, generator=torch.Generator().manual_seed(seed))


class FailingVlm(PickyVlm):
    """Fails on one question."""

    def answer(
        self, tokens: torch.Tensor, questions: Sequence[Question], *, frames: Sequence[int] | None = None
    ) -> list[InferenceAnswer]:
        if any(text == "poison" for text, _ in questions):
            raise RuntimeError("no")
        return super().answer(tokens, questions, frames=frames)


def test_a_frame_is_read_once_for_all_of_its_questions_and_results_keep_their_order() -> None:
    model = PickyVlm()
    one, two = features(1), features(2)
    asked = [(one, "a"), (two, "b"), (one, "c"), (two, "d")]
    results = asyncio.run(
        InProcessBackend(model, THREAD).submit([InferenceItem(frame, text, WORD) for frame, text in asked])
    )
    assert model.calls == [2], "frames in the one call of the model"
    assert [result.text for result in results if isinstance(result, InferenceAnswer)] == [
        f"{text} {frame.sum().item():.3f}" for frame, text in asked
    ]


@pytest.mark.parametrize("poisoned", range(5))
def test_a_question_that_the_model_fails_on_fails_alone(poisoned: int) -> None:
    frame = features(3)
    items = [InferenceItem(frame, "poison" if index == poisoned else f"q{index}", WORD) for index in range(5)]
    results = asyncio.run(InProcessBackend(FailingVlm(), THREAD).submit(items))
    assert [isinstance(result, ModelError) for result in results] == [index == poisoned for index in range(5)]
    failed = results[poisoned]
    assert isinstance(failed, ModelError)
    assert (failed.problem, failed.failed, failed.backend) == ("RuntimeError: no", "model", "model in process")


@pytest.mark.parametrize("shape", [(TOKEN_COUNT, 8), (3, TOKEN_DIM), (1, TOKEN_COUNT, TOKEN_DIM)])
def test_features_of_another_shape_fail_their_item_and_name_both_shapes(shape: tuple[int, ...]) -> None:
    backend = InProcessBackend(PickyVlm(), THREAD)
    items = [InferenceItem(torch.zeros(shape), "a", WORD), InferenceItem(features(4), "b", WORD)]
    wrong, right = asyncio.run(backend.submit(items))
    assert isinstance(right, InferenceAnswer)
    assert isinstance(wrong, FeatureShapeError)
    assert (wrong.found, wrong.wanted) == (shape, (TOKEN_COUNT, TOKEN_DIM))
    assert str(list(shape)) in str(wrong)
    assert f"{TOKEN_COUNT} tokens of {TOKEN_DIM} values" in str(wrong)


def test_a_model_that_leaves_out_an_answer_loses_that_one() -> None:
    class Forgetful(PickyVlm):
        def answer(
            self, tokens: torch.Tensor, questions: Sequence[Question], *, frames: Sequence[int] | None = None
        ) -> list[InferenceAnswer]:
            found = super().answer(tokens, questions, frames=frames)
            return [answer for answer in found if not answer.text.startswith("b")]

    frame = features(5)
    items = [InferenceItem(frame, text, WORD) for text in "abc"]
    results = asyncio.run(InProcessBackend(Forgetful(), THREAD).submit(items))
    assert [type(result) for result in results] == [InferenceAnswer, ModelError, InferenceAnswer]


def test_a_question_that_the_model_cannot_be_asked_is_an_error() -> None:
    model, processor = FAMILIES["smolvlm"]()
    vlm = adapt(model, processor, source="tiny")
    frame = vlm.encode_pixels(np.zeros((1, IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), dtype=np.uint8))[0]
    items = [InferenceItem(frame, "x" * 5_000, WORD), InferenceItem(frame, "Is it red?", WORD)]
    long, short = asyncio.run(InProcessBackend(vlm, THREAD).submit(items))
    assert isinstance(long, ModelError)
    assert "ask a shorter question" in long.problem
    assert isinstance(short, InferenceAnswer)


def test_a_closed_backend_takes_nothing() -> None:
    async def close_and_submit() -> list[object]:
        backend = InProcessBackend(PickyVlm(), THREAD)
        await backend.close()
        return list(await backend.submit([InferenceItem(features(6), "a", WORD)]))

    (result,) = asyncio.run(close_and_submit())
    assert isinstance(result, EngineError)
    assert result.failed == "engine"


async def test_a_caller_that_is_cancelled_does_not_wait_and_what_has_not_begun_never_does() -> None:
    began, go_on = threading.Event(), threading.Event()

    class Blocking(PickyVlm):
        def answer(
            self, tokens: torch.Tensor, questions: Sequence[Question], *, frames: Sequence[int] | None = None
        ) -> list[InferenceAnswer]:
            began.set()
            assert go_on.wait(20)
            return super().answer(tokens, questions, frames=frames)

    model = Blocking()
    with model_thread(1) as thread:
        backend = InProcessBackend(model, thread)
        calls = [asyncio.create_task(backend.submit([InferenceItem(features(7), text, WORD)])) for text in "abc"]
        assert await asyncio.to_thread(began.wait, 20)
        for call in calls[:2]:
            call.cancel()
        await asyncio.wait(calls[:2])
        assert all(call.cancelled() for call in calls[:2])
        go_on.set()
        (last,) = await calls[2]
        assert isinstance(last, InferenceAnswer)
        assert last.text.startswith("c")
        assert len(model.calls) == 2, "the first had begun, the second had not"
