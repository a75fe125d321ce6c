"""What it takes to train a codec in the paper's own setting: ``python -m benchmarks.codec_training [--device cuda]``.

SmolVLM-256M's real shapes with random weights: 512 x 512 pixels, one tile, 64 visual tokens of 576 values. Measured are
the vision tower, the language model's own answers, and steps of the training with and without the language model, with
their floating-point operations; on a CPU in processor time. The whole recipe of docs/own-model.md is computed from
that, in proportion to the pictures of a step: a part of a batch, as with ``--accumulate``, is enough to measure.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GenerationConfig, LlamaConfig, SmolVLMConfig, SmolVLMForConditionalGeneration

from analysis.markdown import table
from latentbus.reports.results_page import write_page
from pipeline.codec.device_torch import check_device
from training.codec.calibrate.make import LatentSize, latent_size
from training.codec.fit.klt import fit_klt
from training.codec.fit.language_view import LanguageView, Questions
from training.codec.fit.material import Material
from training.codec.fit.meta import MetaTrainer, StepParts, start_meta
from training.codec.fit.rate import prefix_prices
from training.codec.fit.rate_curve import rate_curve
from training.codec.towers import tower_of
from training.codec.train.plan import ANSWER_TOKENS, ASKED_FRAMES, LEARNED, VIEW_QUESTIONS, Learning

SIZE_PX: Final = 512
TOKENS, DIM = 64, 576
PICTURES: Final = 50_000
_VOCABULARY: Final = 49_280
_IMAGE_TOKEN: Final = 49_190
_PROMPT_TOKENS: Final = 12
"""Of the chat template before the image, and of a question behind it with what opens the answer."""
_QUESTION_TOKENS: Final = 18
_TOWER_FRAMES: Final = 1
_CURVE_FRAMES: Final = 1
_LENGTHS: Final = 8
"""Prefix lengths of a look, and of a codec's calibration."""


def real_shapes() -> Any:
    """SmolVLM-256M with random weights."""
    torch.manual_seed(0)
    vision = {
        "hidden_size": 768,
        "intermediate_size": 3_072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": SIZE_PX,
        "patch_size": 16,
    }
    text = LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=DIM,
        intermediate_size=1_536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8_192,
        pad_token_id=2,
        bos_token_id=1,
        eos_token_id=49_279,
    )
    config = SmolVLMConfig(
        vision_config=vision, text_config=text, scale_factor=4, image_token_id=_IMAGE_TOKEN, pad_token_id=2
    )
    model = SmolVLMForConditionalGeneration(config)
    model.generation_config = GenerationConfig(eos_token_id=49_279, pad_token_id=2)
    return model.eval().requires_grad_(False)


@dataclass(frozen=True, slots=True)
class Cost:
    """What something takes.

    Attributes:
        seconds: Median.
        tflop: Floating-point operations, in units of 10^12.
    """

    seconds: float
    tflop: float

    def each(self, count: int) -> Cost:
        """Of one of so many."""
        return Cost(self.seconds / count, self.tflop / count)


def cost_of(what: str, call: Callable[[], object], runs: int, device: torch.device) -> Cost:
    """Time and operations of a call: on a CPU processor time, which does not depend on who else uses the machine."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    times = []
    warming = 1 if device.type == "cuda" else 0
    for _ in range(warming + runs):
        _wait(device)
        with FlopCounterMode(display=False) as counter:
            began = clock()
            call()
            _wait(device)
            times.append(clock() - began)
    found = Cost(statistics.median(times[warming:]), counter.get_total_flops() / 1e12)
    print(f"{what}: {found.seconds:.2f} s, {found.tflop:.4f} TFLOP", file=sys.stderr, flush=True)
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory_gb(device: torch.device) -> float:
    """Most memory so far: of the accelerator, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def random_questions(frames: int, device: torch.device) -> Questions:
    """Questions of an ordinary length about each frame."""
    texts = 24
    ids = torch.randint(3, _IMAGE_TOKEN, (texts, _QUESTION_TOKENS), device=device)
    lengths = torch.full((texts,), _QUESTION_TOKENS, device=device)
    chosen = torch.randint(texts, (frames, VIEW_QUESTIONS), device=device)
    return Questions(ids, lengths, chosen, torch.ones_like(chosen, dtype=torch.bool))


def measure(learning: Learning, device: torch.device, runs: int) -> dict[str, Any]:
    """Costs of the parts by name, and the most memory of each.

    Args:
        learning: With the batch that is measured.
        device: Where.
        runs: Of each part.
    """
    model = real_shapes().to(device)
    tower = tower_of(model, SIZE_PX).to(device)
    images = torch.randn(_TOWER_FRAMES, 3, SIZE_PX, SIZE_PX, device=device)
    with torch.no_grad():
        found: dict[str, Cost] = {
            "tower_a_picture": cost_of("tower", lambda: tower(images), runs, device).each(_TOWER_FRAMES)
        }
    memory = {"tower": memory_gb(device)}
    size = latent_size(TOKENS, DIM)
    budget = learning.budget(size, 256, 1)
    tokens = torch.randn(max(64, learning.batch), TOKENS, DIM, device=device).half()
    prefix = (*range(3, 3 + _PROMPT_TOKENS), *([_IMAGE_TOKEN] * TOKENS))
    half = device.type != "cpu" if learning.half is None else learning.half
    view = LanguageView(model, prefix, half=half)
    shown = budget.view_frames
    questions = random_questions(shown, device)
    asked = []

    def ask() -> None:
        asked.append(view.reference(tokens[:shown], questions, answer_tokens=ANSWER_TOKENS))

    found["answers_a_picture"] = cost_of("answers", ask, 1, device).each(shown)
    reference = asked[0]
    memory["answers"] = memory_gb(device)
    klt = fit_klt(tokens.cpu(), size.count, size.dim, target_bytes=1.25 * size.target_bytes, planes=budget.planes)
    klt = klt.to(device)
    kinds = torch.zeros_like(questions.texts)
    material = Material(tokens, prefix, torch.arange(shown, device=device), questions, reference, ("any",), kinds)
    prices = prefix_prices(klt, tokens)
    parts = StepParts(learning.accumulate, half=half)
    for name, looking in (("step_without_the_language_model", None), ("step", view)):
        trainer = MetaTrainer(
            start_meta(klt, tokens, budget, seed=0), material, looking, prices, budget, seed=0, parts=parts
        )
        trainer.step = budget.steps // 2
        trainer.model.train()
        trainer.model.fast_branches = half
        step = cost_of(name, lambda trained=trainer: trained.one_step(0.0), runs, device)  # type: ignore[misc]
        found[f"{name}_a_picture"] = step.each(learning.batch)
        memory[name] = memory_gb(device)
    looked_at = _looked_at(material, device)
    some = tokens[:64]
    whole = cost_of("look", lambda: rate_curve(trainer.model.eval(), some, looked_at, view, points=_LENGTHS), 1, device)
    found["look_a_picture"] = whole.each(_CURVE_FRAMES)
    return {
        "batch": learning.batch,
        "latent": asdict(size),
        "parameters": {
            "vlm": sum(parameter.numel() for parameter in model.parameters()),
            "codec": sum(parameter.numel() for parameter in trainer.model.parameters()),
        },
        "costs": {name: asdict(cost) for name, cost in found.items()},
        "memory_gb": {name: round(value, 2) for name, value in memory.items()},
    }


def _looked_at(material: Material, device: torch.device) -> Material:
    rows = torch.arange(_CURVE_FRAMES, device=device)
    return Material(
        material.tokens,
        material.prefix,
        rows,
        material.questions.of(rows),
        material.reference.of(rows),
        material.kinds,
        material.kind[rows],
    )


def recipe(measured: dict[str, Any], learning: Learning) -> list[dict[str, Any]]:
    """Hours and operations of each part of the whole recipe, computed from the measured ones."""
    costs = {name: Cost(**cost) for name, cost in measured["costs"].items()}
    steps, batch, most = learning.steps, learning.batch, LEARNED.most
    without = round(learning.view_from * steps)
    looks = steps // learning.evaluate_every + 2
    calibrated = sum(most[name] for name in ("score", "policy", "calibration", "report"))
    asked = min(ASKED_FRAMES, PICTURES - sum(most.values()))
    counted = [
        (f"vision tower, {PICTURES:,} pictures", "tower_a_picture", PICTURES),
        (f"the model's own answers, {asked:,} pictures", "answers_a_picture", asked),
        (
            f"{without:,} steps of {batch} without the language model",
            "step_without_the_language_model_a_picture",
            without * batch,
        ),
        (f"{steps - without:,} steps of {batch} with it", "step_a_picture", (steps - without) * batch),
        (f"{looks} looks at {most['selection']} pictures", "look_a_picture", looks * most["selection"]),
        (f"stop rule and report, {calibrated:,} pictures", "look_a_picture", calibrated),
    ]
    return [
        {
            "part": part,
            "hours": round(costs[name].seconds * count / 3_600, 2),
            "pflop": round(costs[name].tflop * count / 1_000, 2),
        }
        for part, name, count in counted
    ]


def as_markdown(measured: dict[str, Any], rows: list[dict[str, Any]], learning: Learning, device: str) -> str:
    """The page."""
    size = LatentSize(**measured["latent"])
    costs = [
        (name.replace("_", " "), f"{cost['seconds']:.3f}", f"{cost['tflop']:.4f}")
        for name, cost in measured["costs"].items()
    ]
    hours, pflop = (sum(row[name] for row in rows) for name in ("hours", "pflop"))
    parts = [(row["part"], f"{row['hours']:,.1f}", f"{row['pflop']:.1f}") for row in rows]
    memory = [(name.replace("_", " "), f"{value:.1f}") for name, value in measured["memory_gb"].items()]
    tokens_gb = 2 * PICTURES * TOKENS * DIM / 1e9
    return "\n".join(
        [
            _wrapped(
                f"SmolVLM-256M's shapes with random weights ({measured['parameters']['vlm'] / 1e6:.0f} million "
                f"parameters), 512 x 512 pixels, one tile, {TOKENS} tokens of {DIM} values; latents of "
                f"{size.count} x {size.dim} symbols, a codec of {measured['parameters']['codec'] / 1e6:.1f} million "
                f"parameters. Of {learning.view_share:.1%} of the pictures the language model is asked "
                f"{VIEW_QUESTIONS} questions. Measured with batches of "
                f"{measured['batch']}, which is what `--batch {learning.batch} --accumulate "
                f"{learning.batch // measured['batch']}` computes at a time. Device: {device}."
            ),
            "",
            "## Measured",
            "",
            table(("what", "seconds", "TFLOP"), costs),
            "",
            table(("most memory after", "GB"), memory),
            "",
            "## The whole recipe, computed from that",
            "",
            table(("part", "hours", "PFLOP"), [*parts, ("all", f"{hours:,.1f}", f"{pflop:.1f}")]),
            "",
            _wrapped(
                f"Visual tokens of {PICTURES:,} pictures take {tokens_gb:.1f} GB on disk. An early end saves steps. "
                "Operations are those of matrix products; attention is not counted where a fused kernel computes it. "
                "On another device divide the operations by what it sustains: at 20 TFLOP a second they take "
                f"{pflop / 20 * 1_000 / 3_600:.1f} hours; reading and fitting the pictures, twice, comes on top."
            ),
        ]
    )


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False)


def main() -> int:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=1, help="of each part")
    parser.add_argument("--batch", type=int, default=Learning().batch // 8, help="pictures of a measured step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--markdown", type=Path, help="write the figures as a page to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = check_device(arguments.device, "--device")
    learning = Learning()
    measured = measure(replace(learning, batch=arguments.batch), device, arguments.runs)
    rows = recipe(measured, learning)
    json.dump({**measured, "recipe": rows}, sys.stdout, indent=2)
    print()
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, processor time of {arguments.threads} thread"
    )
    write_page(
        arguments.markdown, "Training a codec at SmolVLM-256M's size", as_markdown(measured, rows, learning, name)
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
