"""Numbers that are none, wherever a model makes them: they end their query or frame, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cloud_workers.inference.adapter import AnswerModel
from cloud_workers.inference.backend import InferenceAnswer
from cloud_workers.inference.registry import load_model
from cloud_workers.pass_engine import PassDone, PassFailed
from cloud_workers.prefix_store import PrefixStore
from pipeline.codec.prefix_decoder_torch import PrefixDecoder, load_prefix_decoder
from pipeline.codec.spec import TABLES_FILE
from pipeline.codec.stop_shift import WINDOW_PASSES, ScoreQuantiles, ShiftDetector
from pipeline.codec.tables import FrequencyTables
from pipeline.protocol.effects import PassAnswer
from schemas.messages import RejectReason
from schemas.types import AnswerType
from tests.cloud.engines import BlockingEngine
from tests.cloud.test_pass_engine import PickyVlm, expected, inference_pass
from tests.protocol.harness import STOP_RULE
from tests.protocol.test_worker_schedule import receive, session

NONE = (math.nan, math.inf, -math.inf)


class SickVlm(PickyVlm):
    """Makes a number that is none for one question."""

    def __init__(self, sick: str, **numbers: float) -> None:
        super().__init__()
        self._sick = sick
        self._numbers = numbers

    def answer(
        self,
        tokens: torch.Tensor,
        questions: Sequence[tuple[str, AnswerType]],
        *,
        frames: Sequence[int] | None = None,
    ) -> list[InferenceAnswer]:
        found = super().answer(tokens, questions, frames=frames)
        return [
            answer._replace(**self._numbers) if text == self._sick else answer  # type: ignore[arg-type]
            for answer, (text, _) in zip(found, questions, strict=True)
        ]


def engine(codec_dir: Path, vlm: AnswerModel, decoder: PrefixDecoder | None = None) -> BlockingEngine:
    tables = FrequencyTables.load(codec_dir / TABLES_FILE)
    return BlockingEngine(PrefixStore(tables, decoder or load_prefix_decoder(codec_dir)), vlm)


@pytest.mark.parametrize("number", NONE)
@pytest.mark.parametrize("name", ["probability", "margin", "entropy_nats"])
def test_a_query_whose_logits_are_not_finite_fails_and_its_neighbours_are_answered(
    codec_dir: Path, name: str, number: float
) -> None:
    results = engine(codec_dir, SickVlm("text 1", **{name: number})).run(
        [inference_pass(codec_dir, 0, questions=3), inference_pass(codec_dir, 1)]
    )
    first, second = results
    assert isinstance(first, PassDone)
    assert isinstance(second, PassDone)
    assert [bool(answer.problem) for answer in first.answers] == [False, True, False]
    assert [first.answers[n].text for n in (0, 2)] == [expected(0, n) for n in (0, 2)]
    assert (second.answers[0].text, second.answers[0].problem) == (expected(1, 0), "")


def test_a_question_that_cannot_be_asked_says_why(codec_dir: Path) -> None:
    sick = SickVlm("text 0", probability=math.nan)
    (result,) = engine(codec_dir, sick).run([inference_pass(codec_dir, 0)])
    assert isinstance(result, PassDone)
    assert result.answers[0].problem == "its logits are not finite"
    sick._numbers["problem"] = "too long"  # type: ignore[assignment]
    (result,) = engine(codec_dir, sick).run([inference_pass(codec_dir, 0)])
    assert isinstance(result, PassDone)
    assert result.answers[0].problem == "too long"


@pytest.mark.parametrize("number", NONE)
def test_a_frame_whose_tokens_are_not_finite_fails_alone(codec_dir: Path, number: float) -> None:
    sound = load_prefix_decoder(codec_dir)
    sick_symbols = PrefixStore(FrequencyTables.load(codec_dir / TABLES_FILE), sound).symbols(
        inference_pass(codec_dir, 1)
    )

    class SickDecoder:
        def decode(self, symbols: np.ndarray, prefix_lengths: np.ndarray) -> torch.Tensor:
            tokens = sound.decode(symbols, prefix_lengths).clone()
            for row, values in enumerate(symbols):
                if np.array_equal(values, sick_symbols):
                    tokens[row, 0, 0] = number
            return tokens

    subject = engine(codec_dir, PickyVlm(), SickDecoder())  # type: ignore[arg-type]
    results = subject.run([inference_pass(codec_dir, index) for index in range(3)])
    failed = results[1]
    assert isinstance(failed, PassFailed)
    assert (failed.reason, "not finite" in failed.problem) == (RejectReason.MODEL, True)
    for index in (0, 2):
        done = results[index]
        assert isinstance(done, PassDone)
        assert done.answers[0].text == expected(index, 0)


def test_a_model_whose_weights_are_not_finite_answers_with_no_number(vlm_dir: Path) -> None:
    vlm = load_model(vlm_dir)
    with torch.no_grad():
        vlm.model.get_output_embeddings().weight[0] = math.nan
    (answer,) = vlm.answer(torch.zeros(1, vlm.token_count, vlm.token_dim), [("What is this?", AnswerType.WORD)])
    assert not answer.finite, "it was probability 1.0"


def test_numbers_that_are_none_do_not_hide_a_shift() -> None:
    detector = ShiftDetector(ScoreQuantiles.of({AnswerType.WORD: [index / 999 for index in range(1000)]}))
    for index in range(WINDOW_PASSES + 1):
        detector.note(AnswerType.WORD, math.nan if index == 0 else 0.999)
    assert detector.shifted


@pytest.mark.parametrize("score", [*NONE, -0.1, 1.1])
@pytest.mark.parametrize("whole", [False, True])
def test_a_score_that_is_none_fails_its_query_for_good(score: float, whole: bool) -> None:
    worker = session()
    receive(worker, "gate")
    (taken,) = worker.passes.take(8, 0.0)
    if whole:
        taken = replace(taken, stop=STOP_RULE.ladder[-1])
    worker.passes.finish(taken, [PassAnswer(taken.queries[0].query_id, "yes", score)], 0.1)
    assert worker.outcomes() == {("failed", "standing"): 1}
    assert worker.unfinished() == 0, "terminal: no other worker meets it"
