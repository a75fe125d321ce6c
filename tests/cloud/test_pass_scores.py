"""Scores of passes by a calibrated model, blind answers that are asked once, and what follows a shift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import structlog
import torch

from cloud_workers import pass_scores
from cloud_workers.inference.adapter import AnswerModel, ModelAdapter, Question
from cloud_workers.inference.backend import InferenceAnswer
from cloud_workers.inference.registry import load_model
from cloud_workers.pass_engine import PassDone
from cloud_workers.pass_scores import PassScores
from cloud_workers.prefix_store import PrefixStore
from pipeline.codec.prefix_decoder_torch import load_prefix_decoder
from pipeline.codec.spec import TABLES_FILE
from pipeline.codec.stop_file import StopFile
from pipeline.codec.stop_score import FEATURES, AdditiveScore, ErrorModel, StopScore
from pipeline.codec.stop_shift import READ_AGAIN_EVERY, WINDOW_PASSES, ScoreQuantiles
from pipeline.codec.tables import FrequencyTables
from pipeline.protocol.effects import ChunkData, InferencePass, PassQuery
from pipeline.protocol.stop_rule import StopRule
from schemas.types import AnswerType, FrameId
from tests.cloud.engines import BlockingEngine
from tests.cloud.tiny_codec import LADDER, LATENT_COUNT, encode, random_symbols
from tests.cloud.tiny_models import TOKEN_COUNT, TOKEN_DIM
from tests.protocol.questions import content

SYMBOLS = random_symbols(6, seed=21)
YES_NO = AnswerType.YES_NO
WEIGHTS = (0.5, 0.2, -0.3, 0.4, 0.1, 0.6, -0.7, 0.1, 0.2)
STRAIGHT = AdditiveScore(0.3, ((-20.0, 20.0),) * len(FEATURES), tuple((-20 * w, 20 * w) for w in WEIGHTS))
"""Curves that are straight lines."""
SCORE = StopScore(LATENT_COUNT, ErrorModel(LADDER, (0.2, 0.1, 0.0), (-0.1, -0.1, -0.1)), {YES_NO: STRAIGHT})


@pytest.fixture(scope="module")
def vlm(vlm_dir: Path) -> ModelAdapter:
    return load_model(vlm_dir)


class CountingVlm:
    """Answers with a fixed word, and counts what it was asked of which tokens."""

    family = "counting"
    token_count = TOKEN_COUNT
    token_dim = TOKEN_DIM

    def __init__(self) -> None:
        self.asked: list[tuple[str, float]] = []
        self.probability = 0.8

    def answer(
        self, tokens: torch.Tensor, questions: Sequence[Question], *, frames: Sequence[int] | None = None
    ) -> list[InferenceAnswer]:
        rows = list(range(len(questions))) if frames is None else frames
        self.asked += [(text, float(tokens[row].abs().sum())) for (text, _), row in zip(questions, rows, strict=True)]
        return [InferenceAnswer("Yes", self.probability, 2, 0.6, 0.5) for _ in questions]


def stop_file(*, score: StopScore | None = SCORE, shift: ScoreQuantiles | None = None) -> StopFile:
    return StopFile(StopRule.never_early(LADDER), score, shift)


def engine_of(codec_dir: Path, vlm: AnswerModel, stop: StopFile) -> tuple[BlockingEngine, PassScores]:
    tables = FrequencyTables.load(codec_dir / TABLES_FILE)
    store = PrefixStore(tables, load_prefix_decoder(codec_dir))
    scores = PassScores(stop, tables)
    return BlockingEngine(store, vlm, scores), scores


def inference_pass(
    codec_dir: Path, index: int, stop: int, *, number: int = 1, text: str = "Is it red?"
) -> InferencePass:
    payload = encode(SYMBOLS[index], codec_dir).payload(0, stop)
    query = PassQuery(f"q{index}", content("q", text, YES_NO))
    return InferencePass("gate", FrameId(1, index), 1, (ChunkData(0, stop, payload),), stop, (query,), number)


def scores_of(engine: BlockingEngine, *passes: InferencePass) -> list[float]:
    found = []
    for result in engine.run(passes):
        assert isinstance(result, PassDone)
        found += [answer.score for answer in result.answers]
    return found


def test_scores_are_those_of_the_calibration(codec_dir: Path, vlm: ModelAdapter) -> None:
    """The worker reads of a pass what the calibration reads of the same answers."""
    engine, _ = engine_of(codec_dir, vlm, stop_file())
    tables = FrequencyTables.load(codec_dir / TABLES_FILE)
    decoder = load_prefix_decoder(codec_dir)
    for length in LADDER[:-1]:
        prefix = SYMBOLS[:1].copy()
        prefix[:, length:] = 0
        (answer,) = vlm.answer(decoder.decode(prefix, np.array([length])), [("Is it red?", YES_NO)])
        (blind,) = vlm.answer(decoder.decode(prefix * 0, np.array([0])), [("Is it red?", YES_NO)])
        features = SCORE.features(
            length,
            probability=[answer.probability],
            margin=[answer.margin],
            entropy_nats=[answer.entropy_nats],
            agrees_with_blind=[answer.text.lower() == blind.text.lower()],
            blind_probability=[blind.probability],
            code_bits=[tables.symbol_bits(prefix[:, :length], 0, length).sum()],
        )
        assert features.shape == (1, len(FEATURES))
        expected = float(SCORE.score(features, YES_NO)[0])
        assert scores_of(engine, inference_pass(codec_dir, 0, length)) == [pytest.approx(expected, rel=1e-3)]


def test_a_whole_latent_and_a_stop_rule_without_a_score_show_the_probability(codec_dir: Path) -> None:
    engine, _ = engine_of(codec_dir, CountingVlm(), stop_file())
    assert scores_of(engine, inference_pass(codec_dir, 0, LATENT_COUNT)) == [0.8]
    plain, _ = engine_of(codec_dir, CountingVlm(), stop_file(score=None))
    assert scores_of(plain, inference_pass(codec_dir, 0, LADDER[0])) == [0.8]


def test_answers_of_a_frame_share_their_mean_where_it_is_judged_as_a_whole(codec_dir: Path, vlm: ModelAdapter) -> None:
    one = inference_pass(codec_dir, 0, LADDER[0])
    other = inference_pass(codec_dir, 0, LADDER[0], text="Is it blue?")
    text = PassQuery("q9", content("q", "What is it?", AnswerType.TEXT))
    both = replace(one, queries=(*one.queries, *other.queries, text))
    single, _ = engine_of(codec_dir, vlm, stop_file())
    together, _ = engine_of(codec_dir, vlm, stop_file(score=replace(SCORE, by_frame=True)))
    apart = scores_of(single, both)
    assert apart[0] != pytest.approx(apart[1], abs=1e-4)
    # A type that was not calibrated takes no part, and waits for the whole latent.
    assert scores_of(together, both) == pytest.approx([(apart[0] + apart[1]) / 2] * 2 + [0.0], rel=1e-4)
    assert scores_of(together, one) == pytest.approx(apart[:1], rel=1e-4)


def test_a_question_is_asked_blindly_once(codec_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = CountingVlm()
    engine, _ = engine_of(codec_dir, vlm, stop_file())
    scores_of(engine, inference_pass(codec_dir, 0, LADDER[0]), inference_pass(codec_dir, 1, LADDER[0]))
    scores_of(engine, inference_pass(codec_dir, 2, LADDER[1], text="Is it blue?"))
    scores_of(engine, inference_pass(codec_dir, 3, LADDER[0]))
    blind = [text for text, size in vlm.asked if size == 0]
    assert blind == ["Is it red?", "Is it blue?"]
    monkeypatch.setattr(pass_scores, "MAX_BLIND_ANSWERS", 1)
    for text in ("Is it blue?", "Is it red?", "Is it blue?"):
        scores_of(engine, inference_pass(codec_dir, 4, LADDER[0], text=text))
    assert sum(size == 0 for _, size in vlm.asked) == 4, "one that was forgotten is asked again"


def calibrated(probability: float) -> ScoreQuantiles:
    """Quantiles of frames whose scores were all about those of this probability."""
    return ScoreQuantiles({YES_NO: tuple(np.linspace(probability, probability + 0.05, 41).tolist())}, 1_000)


def test_frames_are_read_again_from_the_shortest_prefix_now_and_then(codec_dir: Path) -> None:
    """Whatever prefix they came with; refinements are not counted."""
    vlm = CountingVlm()
    engine, _ = engine_of(codec_dir, vlm, stop_file(shift=calibrated(0.5)))
    for count in range(2 * READ_AGAIN_EVERY):
        scores_of(engine, inference_pass(codec_dir, count % 6, LATENT_COUNT))
        scores_of(engine, inference_pass(codec_dir, count % 6, LATENT_COUNT, number=2))
    whole = {
        round(float(load_prefix_decoder(codec_dir).decode(SYMBOLS[i : i + 1], np.array([8])).abs().sum()), 2)
        for i in range(6)
    }
    shorter = [size for _, size in vlm.asked if size > 0 and round(size, 2) not in whole]
    assert len(shorter) == 2


def test_after_a_shift_no_first_pass_is_trusted_until_it_is_over(codec_dir: Path) -> None:
    vlm = CountingVlm()
    engine, _ = engine_of(codec_dir, vlm, stop_file())
    (usual,) = scores_of(engine, inference_pass(codec_dir, 0, LADDER[0]))
    engine, scores = engine_of(codec_dir, vlm, stop_file(shift=calibrated(usual + 0.2)))
    first = inference_pass(codec_dir, 0, LADDER[0])
    assert scores_of(engine, first) == [pytest.approx(usual)]
    question = ("Is it red?", YES_NO)
    with structlog.testing.capture_logs() as logs:
        for _ in range(WINDOW_PASSES * READ_AGAIN_EVERY):
            scores.reads_again(first)
        for _ in range(WINDOW_PASSES):
            scores.note_again(
                SYMBOLS[0] * (np.arange(LATENT_COUNT) < LADDER[0])[:, None], question, _yes(), {question: _yes()}
            )
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert scores.shift is not None
    assert scores.shift.shifted
    assert scores_of(engine, first) == [0.0]
    assert scores_of(engine, inference_pass(codec_dir, 0, LADDER[1], number=2))[0] > 0
    assert scores_of(engine, inference_pass(codec_dir, 0, LATENT_COUNT)) == [0.8]
    scores.shift.shifted = False
    assert scores_of(engine, first) == [pytest.approx(usual)]


def _yes() -> InferenceAnswer:
    return InferenceAnswer("Yes", 0.8, 2, 0.6, 0.5)
