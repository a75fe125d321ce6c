"""Questions a second of a worker's model: in batches, and one by one. Rows of 16 questions, however many frames."""

from __future__ import annotations

import asyncio
import resource
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from cloud_workers.inference.in_process import InProcessBackend
from cloud_workers.inference.registry import load_model
from cloud_workers.loading import WorkerModel, load_worker_model
from cloud_workers.model_thread import model_thread
from cloud_workers.pass_engine import PassDone
from cloud_workers.prefix_store import PrefixStore
from edge_nodes.encoder import OnnxEncoder
from latentbus.bench.options import WorkerBenchOptions
from latentbus.bench.worker.loop_lag import LoopLag
from latentbus.bench.worker.one_by_one import GenerateOneByOne
from pipeline.codec.bundled import ModelPair, models_in
from pipeline.codec.latent import EncodedLatent
from pipeline.codec.prefix_decoder_torch import load_prefix_decoder
from pipeline.codec.spec import TABLES_FILE, load_codec_spec
from pipeline.codec.tables import FrequencyTables
from pipeline.config.serving_settings import VllmSettings
from pipeline.config.worker_settings import WorkerSettings
from pipeline.node.work_thread import WorkThread
from pipeline.protocol.effects import ChunkData, InferencePass, PassQuery
from pipeline.scenes.renderer import render
from pipeline.scenes.scene import sample_scene
from schemas.errors import ConfigError, StateError
from schemas.identity import QuestionContent, owner_of
from schemas.types import AnswerType, FrameId

ROWS: Final = ((16, 1), (4, 4), (1, 16))
"""Frames, and questions of each."""
HEADLINE: Final = (4, 4)
NEEDED_SPEEDUP: Final = 3.0
LAG_LIMIT_MS: Final = 50.0
FIRST_SEED: Final = 83_000_000
CAMERA_PX: Final = 720

_THINGS: Final = ("car", "person", "dog", "truck", "bus", "bicycle", "cat", "bird")
_QUESTIONS: Final[tuple[tuple[str, AnswerType], ...]] = (
    *((f"Is there a {thing}?", AnswerType.YES_NO) for thing in _THINGS),
    *((f"How many {thing}s are there?", AnswerType.COUNT) for thing in _THINGS[:4]),
    *((f"What color is the {thing}?", AnswerType.WORD) for thing in _THINGS[:4]),
)

Progress = Callable[[str], None]
Ask = Callable[[Sequence[InferencePass]], Awaitable[list[str]]]


@dataclass(frozen=True, slots=True)
class Row:
    """One shape of work.

    Attributes:
        frames: frames in it.
        questions: questions of each.
        questions_per_s_batched: all in one batch.
        questions_per_s_sequential: the faster way of asking one by one.
        questions_per_s_generate: by transformers' ``generate``; None where the model is elsewhere.
        questions_per_s_one_by_one: the same engine with one question a batch.
        speedup: batched over sequential.
        batch_s_p50: median time of the batch.
        same_answers: share of the questions that a batch answers as one by one.
    """

    frames: int
    questions: int
    questions_per_s_batched: float
    questions_per_s_sequential: float
    questions_per_s_generate: float | None
    questions_per_s_one_by_one: float
    speedup: float
    batch_s_p50: float
    same_answers: float


@dataclass(frozen=True, slots=True)
class WorkerBench:
    """What was measured."""

    engine: str
    model: str
    precision: str
    threads: int
    rows: Sequence[Row]
    loop_lag_ms_p99: float
    rss_peak_bytes: int

    @property
    def headline(self) -> Row:
        """The row of 4 frames with 4 questions each, else the first one."""
        return next((row for row in self.rows if (row.frames, row.questions) == HEADLINE), self.rows[0])

    def missed(self) -> list[str]:
        """What is not as it should be."""
        checks = {
            f"speedup below {NEEDED_SPEEDUP:g}": self.headline.questions_per_s_generate is not None
            and self.headline.speedup < NEEDED_SPEEDUP,
            f"loop_lag_ms_p99 over {LAG_LIMIT_MS:g}": self.loop_lag_ms_p99 > LAG_LIMIT_MS,
        }
        return [what for what, wrong in checks.items() if wrong]

    def as_dict(self) -> dict[str, Any]:
        """Every figure, as plain data."""
        headline = self.headline
        return {
            "engine": self.engine,
            "model": self.model,
            "precision": self.precision,
            "threads": self.threads,
            "questions_per_s_batched": headline.questions_per_s_batched,
            "questions_per_s_sequential": headline.questions_per_s_sequential,
            "speedup": headline.speedup,
            "loop_lag_ms_p99": self.loop_lag_ms_p99,
            "rss_peak_bytes": self.rss_peak_bytes,
            "rows": {f"{row.frames} x {row.questions}": asdict(row) for row in self.rows},
            "missed": self.missed(),
        }


async def bench_worker(
    options: WorkerBenchOptions, progress: Progress, rows: Sequence[tuple[int, int]] = ROWS
) -> WorkerBench:
    """Measure all rows; every way of asking with equal threads, warm, in turn.

    Args:
        options: what is measured, and how often.
        progress: told what is measured now.
        rows: frames, and questions of each.

    Raises:
        ArtifactError: model or codec are missing or do not belong together.
        ConfigError: a setting of the engine is wrong.
        StateError: a question has no answer.
    """
    pair = models_in(options.models)
    try:
        vllm = VllmSettings(url=options.url) if options.engine == "vllm" else None
    except ValidationError as error:
        raise ConfigError("--url", str(error.errors()[0]["msg"])) from None
    settings = WorkerSettings(
        vlm=str(pair.vlm), codec=pair.codec, threads=options.threads, precision=options.precision, vllm=vllm
    )
    latents = await asyncio.to_thread(_latents, pair.codec, max(frames for frames, _ in rows))
    progress("loading the model")
    with model_thread(options.threads) as thread:
        if vllm is None:
            model, generate = await _open_in_process(settings, pair, thread)
        else:
            model, generate = await thread.call(load_worker_model, settings, thread), None
        ask = _engine(model)
        found = []
        lag = LoopLag()
        try:
            for frames, questions in rows:
                progress(f"{frames} x {questions}")
                passes = _passes(latents[:frames], questions)
                found.append(await _measure_row(passes, ask, generate, lag, options.repeats))
        finally:
            await model.backend.close()
    return WorkerBench(
        model.backend.capabilities.backend,
        model.spec.vlm_id,
        options.precision,
        options.threads,
        found,
        round(lag.percentile_ms(99), 2),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


async def _open_in_process(
    settings: WorkerSettings, pair: ModelPair, thread: WorkThread
) -> tuple[WorkerModel, Ask | None]:
    """A worker's model in this process, and the baseline around the same weights."""
    spec = load_codec_spec(pair.codec)
    spec.check_vlm(pair.vlm)
    vlm = await thread.call(
        load_model,
        pair.vlm,
        device=settings.device,
        precision=settings.precision,
        tiles_per_edge=spec.tiles_per_edge,
        frame_size_px=spec.tile_px,
    )
    backend = InProcessBackend(vlm, thread, fingerprint=spec.vlm_sha256)
    model = await thread.call(load_worker_model, settings, thread, lambda *_: backend)
    store = PrefixStore(
        FrequencyTables.load(pair.codec / TABLES_FILE), load_prefix_decoder(pair.codec, device=settings.device)
    )
    generate = GenerateOneByOne(vlm, store)

    async def one_by_one(passes: Sequence[InferencePass]) -> list[str]:
        generate.prepare(list(passes))
        return await thread.call(generate.run, list(passes))

    return model, one_by_one


def _engine(model: WorkerModel) -> Ask:
    async def ask(passes: Sequence[InferencePass]) -> list[str]:
        texts = []
        for result in await model.engine.run(passes):
            if not isinstance(result, PassDone):
                raise StateError(f"a frame has no answers: {result.problem}")
            if problem := next((answer.problem for answer in result.answers if answer.problem), ""):
                raise StateError(f"a question has no answer: {problem}")
            texts += [answer.text for answer in result.answers]
        return texts

    return ask


async def _measure_row(passes: list[InferencePass], ask: Ask, generate: Ask | None, lag: LoopLag, repeats: int) -> Row:
    async def one_by_one(many: Sequence[InferencePass]) -> list[str]:
        return [text for single in _singles(many) for text in await ask([single])]

    ways: dict[str, Ask] = {"one by one": one_by_one, "batched": ask}
    if generate is not None:
        ways["generate"] = generate
    times: dict[str, list[float]] = {name: [] for name in ways}
    texts: dict[str, list[str]] = {}
    for repeat in range(repeats + 1):  # the first of them warms up
        for name, way in ways.items():
            began_s = time.perf_counter()
            if name == "batched" and repeat:
                async with lag:
                    texts[name] = await way(passes)
            else:
                texts[name] = await way(passes)
            if repeat:
                times[name].append(time.perf_counter() - began_s)
    count = sum(len(inference_pass.queries) for inference_pass in passes)
    per_s = {name: count / statistics.median(seconds) for name, seconds in times.items()}
    sequential = max(per_s[name] for name in ways if name != "batched")
    same = sum(one == all_ for one, all_ in zip(texts["one by one"], texts["batched"], strict=True))
    return Row(
        len(passes),
        len(passes[0].queries),
        round(per_s["batched"], 2),
        round(sequential, 2),
        round(per_s["generate"], 2) if "generate" in per_s else None,
        round(per_s["one by one"], 2),
        round(per_s["batched"] / sequential, 2),
        round(statistics.median(times["batched"]), 4),
        round(same / count, 4),
    )


def _latents(codec: Path, frames: int) -> list[EncodedLatent]:
    encoder = OnnxEncoder(codec)
    pictures = [render(sample_scene(FIRST_SEED + number), CAMERA_PX) for number in range(frames)]
    return [latent for picture in pictures for latent in encoder.encode([picture])]


def _passes(latents: Sequence[EncodedLatent], questions: int) -> list[InferencePass]:
    """A first pass over the whole latent of each frame: it needs no blind answers for its score."""
    passes = []
    for number, latent in enumerate(latents):
        count = latent.latent_count
        queries = []
        for index in range(questions):
            text, kind = _QUESTIONS[(index if questions > 1 else number) % len(_QUESTIONS)]
            content = QuestionContent(owner_of("site", "bench"), f"q{index}", text, kind)
            queries.append(PassQuery(f"{number}-{index}", content))
        chunk = ChunkData(0, count, latent.payload(0, count))
        passes.append(InferencePass("bench", FrameId(1, number), 1, (chunk,), count, tuple(queries), 1))
    return passes


def _singles(passes: Sequence[InferencePass]) -> list[InferencePass]:
    """The same with one question a pass."""
    return [replace(one, queries=(query,)) for one in passes for query in one.queries]
