from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloud_workers.inference import in_process
from cloud_workers.inference.backend import Capabilities, InferenceItem, InferenceResult
from cloud_workers.inference.registry import load_model
from cloud_workers.loading import WorkerModel, load_worker_model
from cloud_workers.pass_engine import PassDone
from pipeline.codec.klt_torch import KltTransform, LatentShape
from pipeline.codec.prefix_decoder_torch import save_transform
from pipeline.codec.spec import STOP_FILE, WEIGHTS_FILE, hash_file, load_codec_spec
from pipeline.config.worker_settings import WorkerSettings
from pipeline.protocol.effects import ChunkData, InferencePass, PassQuery
from schemas.errors import ArtifactError, ConfigError
from schemas.types import AnswerType, FrameId
from tests.cloud.engines import THREAD
from tests.cloud.tiny_codec import LADDER, LATENT_COUNT, encode, random_symbols, write_codec, write_vlm
from tests.protocol.questions import content


def settings(vlm: Path, codec: Path) -> WorkerSettings:
    return WorkerSettings(vlm=str(vlm), codec=codec, threads=1)


def load(wanted: WorkerSettings) -> WorkerModel:
    return load_worker_model(wanted, THREAD)


def test_codec_and_model_that_belong_together_answer(vlm_dir: Path, codec_dir: Path) -> None:
    model = load(settings(vlm_dir, codec_dir))
    assert model.spec == load_codec_spec(codec_dir)
    assert model.stop_rule.ladder == LADDER
    payload = encode(random_symbols(1, seed=1)[0], codec_dir).payload(0, LATENT_COUNT)
    query = PassQuery("q", content("q", "Is there a car?", AnswerType.YES_NO))
    inference_pass = InferencePass(
        "gate", FrameId(1, 1), 1, (ChunkData(0, LATENT_COUNT, payload),), LATENT_COUNT, (query,), 1
    )
    (result,) = asyncio.run(model.engine.run([inference_pass]))
    assert isinstance(result, PassDone)
    assert 0 < result.answers[0].score < 1


def test_a_codec_of_another_model_is_refused(tmp_path: Path, codec_dir: Path) -> None:
    other = write_vlm(tmp_path / "other", seed=5)
    with pytest.raises(ArtifactError, match="was made for tiny"):
        load(settings(other, codec_dir))


def test_a_codec_of_other_shapes_is_refused(tmp_path: Path, vlm_dir: Path) -> None:
    codec = write_codec(tmp_path / "codec", vlm_dir, token_count=99)
    with pytest.raises(ArtifactError, match="99 tokens"):
        load(settings(vlm_dir, codec))


def test_a_codec_of_tiles_reads_the_model_in_tiles(tmp_path: Path, vlm_dir: Path) -> None:
    """Of the same model, each frame being four tiles and a global view."""
    spec = load_codec_spec(write_codec(tmp_path / "small", vlm_dir))
    transform = KltTransform(LatentShape(5 * spec.token_count, spec.token_dim, spec.latent_count, spec.latent_dim))
    changes: dict[str, Any] = {
        "token_count": transform.token_count,
        "tiles_per_edge": 2,
        "image_size_px": 2 * spec.image_size_px,
    }
    codec = write_codec(tmp_path / "codec", vlm_dir, **changes)
    save_transform(transform, codec / WEIGHTS_FILE)
    detailed = spec.model_copy(update={**changes, "codec_sha256": hash_file(codec / WEIGHTS_FILE)})
    detailed.save(codec)
    assert load(settings(vlm_dir, codec)).spec == detailed
    assert detailed.fingerprint != spec.fingerprint
    detailed.model_copy(update={"tiles_per_edge": 3, "image_size_px": 3 * spec.image_size_px}).save(codec)
    with pytest.raises(ArtifactError, match="reads 160 of"):
        load(settings(vlm_dir, codec))


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "gpu", "meta", "cpu:x"])
def test_a_device_that_is_not_there_is_a_wrong_setting(
    device: str, vlm_dir: Path, codec_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    wrong = settings(vlm_dir, codec_dir).model_copy(update={"device": device})
    with pytest.raises(ConfigError, match=r"^worker\.device: torch has no device .* here; it has cpu$"):
        load(wrong)


def test_a_stop_rule_for_another_ladder_is_refused(tmp_path: Path, vlm_dir: Path) -> None:
    codec = write_codec(tmp_path / "codec", vlm_dir)
    stop = json.loads((codec / STOP_FILE).read_text())
    stop["ladder"] = [2, 5, 8]
    (codec / STOP_FILE).write_text(json.dumps(stop))
    with pytest.raises(ArtifactError, match="calibrate-stop"):
        load(settings(vlm_dir, codec))


def test_a_hub_model_is_compared_by_its_local_snapshot(
    tmp_path: Path, vlm_dir: Path, codec_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the hub had delivered one model or the other."""
    loaded = load_model(vlm_dir)
    snapshots = {"someone/right": vlm_dir, "someone/wrong": write_vlm(tmp_path / "other", seed=6)}
    monkeypatch.setattr(in_process, "load_model", lambda source, **_: loaded)
    monkeypatch.setattr(in_process, "snapshot_download", lambda source, **_: str(snapshots[source]))
    assert load(WorkerSettings(vlm="someone/right", codec=codec_dir)).spec.vlm_id == "tiny"
    with pytest.raises(ArtifactError, match="was made for tiny"):
        load(WorkerSettings(vlm="someone/wrong", codec=codec_dir))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"fingerprint": "1" * 64}, "was made for tiny, weights .*, the elsewhere runs 111111111111"),
        ({"fingerprint": ""}, "the elsewhere runs an unnamed model"),
        ({"token_count": 7}, "the elsewhere reads 7 of"),
    ],
)
def test_a_backend_that_runs_another_model_is_refused(
    changes: dict[str, Any], problem: str, vlm_dir: Path, codec_dir: Path
) -> None:
    """Whoever runs the model says which one it is."""
    spec = load_codec_spec(codec_dir)
    right = Capabilities("elsewhere", "llava", spec.vlm_sha256, spec.token_count, spec.token_dim, 4)

    class Elsewhere:
        def __init__(self, capabilities: Capabilities) -> None:
            self.capabilities = capabilities

        async def submit(self, items: Sequence[InferenceItem]) -> Sequence[InferenceResult]:
            return []

        async def close(self) -> None:
            return

    wanted = settings(vlm_dir, codec_dir)
    assert load_worker_model(wanted, THREAD, lambda *_: Elsewhere(right)).engine.max_concurrent_batches == 4
    with pytest.raises(ArtifactError, match=problem):
        load_worker_model(wanted, THREAD, lambda *_: Elsewhere(replace(right, **changes)))
