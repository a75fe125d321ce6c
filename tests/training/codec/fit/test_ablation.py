"""Ablations: results as they come, shared among processes, continued after a break."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.codec.klt_torch import LatentShape
from pipeline.codec.prefix_decoder_torch import read_transform
from schemas.errors import ArtifactError
from tests.cloud.tiny_codec import write_vlm
from tests.cloud.tiny_models import TOKEN_COUNT, TOKEN_DIM, tiny_smolvlm
from training.codec.config import CodecBudget
from training.codec.fit import meta
from training.codec.fit.ablation import (
    ABLATION_BUDGETS,
    HELD_OUT,
    VARIANTS,
    AblationRun,
    Variant,
    collect_results,
    drop_claims,
    run_variants,
    save_tables,
)
from training.codec.fit.ablation_jobs import describe_job, start_jobs, wait_for_jobs
from training.codec.fit.learn import KLT_WEIGHTS, LEARNED, META_WEIGHTS, learn_codec
from training.codec.fit.material import LearningSet, Material, ask
from training.codec.fit.rate_curve import CurvePoint, bytes_at
from training.run import RunSettings, silent

BUDGET = replace(ABLATION_BUDGETS["smoke"], latent_count=6, latent_dim=8, steps=4, batch=4, view_frames=2)
CHOSEN = (VARIANTS[0], Variant("planes-none", "no planes", {"planes": 0}))


def material_of(frames: int, seed: int) -> Material:
    torch.manual_seed(seed)
    tokens = torch.randn(frames, TOKEN_COUNT, TOKEN_DIM) * torch.linspace(2, 0.1, TOKEN_DIM)
    learning = LearningSet(tokens.half(), [["Is it red?", "How many?"]] * frames, [["existence", "count"]] * frames)
    return ask(*tiny_smolvlm(), learning, frames=frames, questions=2, answer_tokens=2, tiles_per_edge=1)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ablation")
    write_vlm(root / "vlm")
    material_of(60, 0).save(root / "material")
    material_of(20, 1).save(root / "run" / HELD_OUT)
    save_tables(material_of(30, 2).tokens, root / "run")
    return root


def run(root: Path, variants: Sequence[Variant], deadline: float | None = None, budget: CodecBudget = BUDGET) -> None:
    ablation = AblationRun(root / "vlm", root / "material", root / "run", budget, deadline=deadline)
    run_variants(ablation, variants, silent)


def test_results_come_one_by_one_and_are_not_made_twice(prepared: Path) -> None:
    with pytest.raises(ArtifactError, match="codec ablate"):
        collect_results(prepared / "vlm")
    run(prepared, CHOSEN[:1])
    first = collect_results(prepared / "run", CHOSEN)
    assert [row["name"] for row in first["variants"]] == ["default"]
    assert first["missing"] == ["planes-none"]
    weights = (prepared / "run/variants/default" / META_WEIGHTS).read_bytes()
    run(prepared, CHOSEN)
    second = collect_results(prepared / "run", CHOSEN)
    assert second["missing"] == []
    assert second["variants"][0] == first["variants"][0]
    assert (prepared / "run/variants/default" / META_WEIGHTS).read_bytes() == weights
    json.dumps(second)
    for curve in (second["klt"]["curve"], *(row["curve"] for row in second["variants"])):
        assert curve[-1]["latents"] == BUDGET.latent_count
        sizes = [point["payload_bytes"] for point in curve]
        assert sizes == sorted(sizes)
        assert all(0 <= point["agreement"] <= 1 for point in curve)
        assert set(curve[0]["agreement_by_kind"]) == {"existence", "count"}
        errors = [point["error"] for point in curve]
        assert errors[-1] == min(errors)


def test_what_another_process_has_begun_is_left_to_it(prepared: Path) -> None:
    claim = prepared / "run/variants/other.claim"
    claim.parent.mkdir(exist_ok=True)
    claim.touch()
    variant = Variant("other", "", {})
    run(prepared, [variant])
    assert collect_results(prepared / "run", [variant])["missing"] == ["other"]
    drop_claims(prepared / "run")
    run(prepared, [variant])
    assert collect_results(prepared / "run", [variant])["missing"] == []


def test_a_broken_off_variant_is_continued_at_its_full_length(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = Variant("long", "", {"steps": 60})
    deadline = time.time() + 3_600
    reads = count()
    # The clock passes the deadline after twenty steps.
    clock = SimpleNamespace(monotonic=time.monotonic, time=lambda: deadline + next(reads) - 20)
    with monkeypatch.context() as patched:
        patched.setattr(meta, "time", clock)
        run(prepared, [variant], deadline=deadline)
    assert 20 <= next(reads) < 25
    assert collect_results(prepared / "run", [variant])["missing"] == ["long"]
    run(prepared, [variant])
    (row,) = collect_results(prepared / "run", [variant])["variants"]
    assert row["steps"] == 60


def test_jobs_learn_in_processes_of_their_own(prepared: Path, tmp_path: Path) -> None:
    material_of(20, 1).save(tmp_path / "run" / HELD_OUT)
    save_tables(material_of(30, 2).tokens, tmp_path / "run")
    vlm_dir, material_dir = prepared / "vlm", prepared / "material"
    job = describe_job(AblationRun(vlm_dir, material_dir, tmp_path / "run", BUDGET), [CHOSEN[0].name])
    broken = describe_job(AblationRun(vlm_dir, tmp_path / "nowhere", tmp_path / "other", BUDGET))
    statuses = wait_for_jobs(start_jobs({"good": job, "broken": broken}, tmp_path / "jobs"))
    assert statuses["good"] == 0, (tmp_path / "jobs/good.log").read_text()
    assert statuses["broken"] != 0
    assert "nowhere" in (tmp_path / "jobs/broken.log").read_text()
    learned = json.loads((tmp_path / "run/variants" / CHOSEN[0].name / LEARNED).read_text())
    assert CodecBudget.from_dict(learned["budget"]) == BUDGET
    assert learned["steps"] == BUDGET.steps


def test_a_run_goes_on_from_another_with_a_smaller_decoder(prepared: Path, tmp_path: Path) -> None:
    material = Material.load(prepared / "material", "cpu")
    model = tiny_smolvlm()[0]
    budget = replace(BUDGET, decoder_layers=2, steps=30, view_weight=0.0)
    quiet = RunSettings(tmp_path, progress=silent)
    learn_codec(model, material, budget, tmp_path / "first", quiet)
    again = replace(budget, decoder_layers=1, steps=1, learning_rate=0.0)
    learn_codec(model, material, again, tmp_path / "second", quiet, start_from=tmp_path / "first")
    learned = json.loads((tmp_path / "second" / LEARNED).read_text())
    assert (learned["steps"], learned["started_from"]["steps"]) == (1, 30)
    shape = LatentShape(TOKEN_COUNT, TOKEN_DIM, BUDGET.latent_count, BUDGET.latent_dim)
    first, second = (
        read_transform(tmp_path / name / META_WEIGHTS, "meta_autoencoder", shape) for name in ("first", "second")
    )
    assert (tmp_path / "first" / KLT_WEIGHTS).read_bytes() == (tmp_path / "second" / KLT_WEIGHTS).read_bytes()
    tokens = material.tokens[:20].float()
    torch.testing.assert_close(first.encode(tokens), second.encode(tokens), atol=0, rtol=0)
    kept, stored = second.state_dict(), first.state_dict()
    assert set(kept) < set(stored)
    torch.testing.assert_close(kept["decoder.out.weight"], stored["decoder.out.weight"], atol=1e-4, rtol=0)
    wider = replace(again, decoder_width=64)
    with pytest.raises(ArtifactError, match="only the decoder may shrink"):
        learn_codec(model, material, wider, tmp_path / "third", quiet, start_from=tmp_path / "first")


def test_names_of_variants_differ_and_each_changes_something() -> None:
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
    budgets = [replace(BUDGET, **variant.changes) for variant in VARIANTS]
    assert all(budget != BUDGET for budget in budgets[1:])


def test_bytes_at_an_agreement_are_interpolated() -> None:
    def point(size: float, agreement: float) -> CurvePoint:
        return CurvePoint(1, size, 0.1, 0.9, agreement, {})

    curve = [point(10, 0.5), point(20, 0.7), point(40, 0.9)]
    assert bytes_at(curve, 0.8) == pytest.approx(30)
    assert bytes_at(curve, 0.4) == 10
    assert bytes_at(curve, 0.95) is None
    assert np.isclose(bytes_at(curve, 0.9) or 0, 40)
