from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import structlog
import torch

from cloud_workers.inference.adapter import AnswerModel
from cloud_workers.inference.backend import InferenceAnswer
from cloud_workers.inference.registry import load_model
from cloud_workers.model_thread import model_thread
from cloud_workers.pass_engine import PassDone, PassFailed
from cloud_workers.prefix_store import PrefixStore
from pipeline.codec.prefix_decoder_torch import load_prefix_decoder
from pipeline.codec.spec import TABLES_FILE
from pipeline.codec.tables import FrequencyTables
from pipeline.protocol.effects import ChunkData, InferencePass, PassQuery
from schemas.messages import RejectReason
from schemas.types import AnswerType, FrameId
from tests.cloud.engines import BlockingEngine
from tests.cloud.tiny_codec import LATENT_COUNT, decode_whole, encode, random_symbols
from tests.cloud.tiny_models import TOKEN_COUNT, TOKEN_DIM
from tests.protocol.questions import content

SYMBOLS = random_symbols(4, seed=11)


class PickyVlm:
    """Answers with the sum of the tokens it was shown; runs out of memory on those of one frame."""

    family = "picky"
    token_count = TOKEN_COUNT
    token_dim = TOKEN_DIM

    def __init__(self, poison: torch.Tensor | None = None) -> None:
        self._poison = poison
        self.calls: list[int] = []

    def answer(
        self,
        tokens: torch.Tensor,
        questions: Sequence[tuple[str, AnswerType]],
        *,
        frames: Sequence[int] | None = None,
    ) -> list[InferenceAnswer]:
        self.calls.append(len(tokens))
        if self._poison is not None and any(torch.equal(row, self._poison) for row in tokens):
            raise RuntimeError("out of memory")
        rows = range(len(questions)) if frames is None else frames
        sums = [f"{text} {tokens[row].sum().item():.3f}" for (text, _), row in zip(questions, rows, strict=True)]
        return [InferenceAnswer(text, 0.5, 1, 0.1, 1.0) for text in sums]


def inference_pass(codec_dir: Path, index: int, questions: int = 1) -> InferencePass:
    payload = encode(SYMBOLS[index], codec_dir).payload(0, LATENT_COUNT)
    queries = tuple(
        PassQuery(f"q{index}-{n}", content(f"q{n}", f"text {n}", AnswerType.WORD)) for n in range(questions)
    )
    return InferencePass("gate", FrameId(1, index), 1, (ChunkData(0, LATENT_COUNT, payload),), LATENT_COUNT, queries, 1)


def expected(index: int, question: int) -> str:
    return f"text {question} {decode_whole(SYMBOLS[index]).sum().item():.3f}"


def engine(codec_dir: Path, vlm: AnswerModel) -> BlockingEngine:
    return BlockingEngine(
        PrefixStore(FrequencyTables.load(codec_dir / TABLES_FILE), load_prefix_decoder(codec_dir)), vlm
    )


def test_each_query_gets_the_answer_of_its_own_frame(codec_dir: Path) -> None:
    vlm = PickyVlm()
    passes = [inference_pass(codec_dir, index, questions=index) for index in (2, 1, 3, 0)]
    results = engine(codec_dir, vlm).run(passes)
    assert vlm.calls == [3], "all at once; a frame of which nothing is asked is not read"
    for source, result in zip(passes, results, strict=True):
        assert isinstance(result, PassDone)
        assert result.inference_pass is source
        index = source.frame.sequence
        assert [answer.query_id for answer in result.answers] == [query.query_id for query in source.queries]
        assert [answer.text for answer in result.answers] == [expected(index, n) for n in range(index)]
        assert all(answer.score == 0.5 for answer in result.answers)


def test_latents_that_do_not_decode_fail_alone(codec_dir: Path) -> None:
    passes = [inference_pass(codec_dir, index) for index in range(3)]
    broken = InferencePass("yard", FrameId(1, 9), 1, (ChunkData(0, 3, b"\xff" * 50),), 3, passes[0].queries, 1)
    results = engine(codec_dir, PickyVlm()).run([passes[0], broken, *passes[1:]])
    assert [type(result) for result in results] == [PassDone, PassFailed, PassDone, PassDone]
    failed = results[1]
    assert isinstance(failed, PassFailed)
    assert failed.reason is RejectReason.BITSTREAM
    assert "0..3" in failed.problem


@pytest.mark.parametrize("poisoned", range(4))
def test_a_frame_that_the_model_fails_on_fails_alone(codec_dir: Path, poisoned: int) -> None:
    vlm = PickyVlm(decode_whole(SYMBOLS[poisoned]))
    subject = engine(codec_dir, vlm)
    with structlog.testing.capture_logs() as logs:
        results = subject.run([inference_pass(codec_dir, index) for index in range(4)])
        subject.run([inference_pass(codec_dir, poisoned)])
    # One trace for a kind of error, however often it comes.
    assert [entry["problem"] for entry in logs] == ["RuntimeError: out of memory"]
    for index, result in enumerate(results):
        if index == poisoned:
            assert isinstance(result, PassDone)
            assert [(answer.failed, answer.problem) for answer in result.answers] == [
                ("model", "RuntimeError: out of memory")
            ]
        else:
            assert isinstance(result, PassDone)
            assert result.answers[0].text == expected(index, 0)


def test_the_real_model_answers_from_decoded_prefixes(codec_dir: Path, vlm_dir: Path) -> None:
    vlm = load_model(vlm_dir)
    results = engine(codec_dir, vlm).run([inference_pass(codec_dir, index, questions=2) for index in range(3)])
    for index, result in enumerate(results):
        assert isinstance(result, PassDone)
        alone = vlm.answer(decode_whole(SYMBOLS[index])[None], [("text 1", AnswerType.WORD)])[0]
        assert result.answers[1].text == alone.text
        assert result.answers[1].score == pytest.approx(alone.probability, rel=1e-3)


async def test_the_model_thread_is_one_thread_and_leaves_the_loop_free() -> None:
    release = threading.Event()

    def work(number: int) -> tuple[int, str, int]:
        assert release.wait(10)
        return number, threading.current_thread().name, torch.get_num_threads()

    with model_thread(1) as thread:
        calls = [asyncio.create_task(thread.call(work, number)) for number in range(3)]
        # The loop turns many times while the thread is stuck.
        for _ in range(100):
            await asyncio.sleep(0)
        assert not any(call.done() for call in calls)
        release.set()
        results = await asyncio.gather(*calls)
    assert [number for number, _, _ in results] == [0, 1, 2]
    assert len({name for _, name, _ in results}) == 1
    assert threading.current_thread().name not in {name for _, name, _ in results}
    assert {threads for _, _, threads in results} == {1}


async def test_what_a_call_raises_comes_back() -> None:
    def fail() -> None:
        raise ValueError("no")

    with model_thread() as thread:
        with pytest.raises(ValueError, match="no"):
            await thread.call(fail)
        assert await thread.call(len, "abc") == 3
