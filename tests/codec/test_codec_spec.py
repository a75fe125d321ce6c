"""Codec folders: identity, and what loading refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.codec.bundled import MODELS_DIR_VARIABLE, bundled_codec_dir, bundled_vlm_dir
from pipeline.codec.spec import CodecSpec, FrameFit, hash_file, hash_vlm, load_codec_spec
from pipeline.codec.tables import FrequencyTables
from schemas.errors import ArtifactError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A codec folder with four latents and a VLM folder beside it."""
    vlm = tmp_path / "vlm"
    vlm.mkdir()
    (vlm / "config.json").write_text(json.dumps({"model_type": "smolvlm", "transformers_version": "5.0"}))
    (vlm / "model.safetensors").write_bytes(b"weights")
    codec = tmp_path / "codec"
    codec.mkdir()
    FrequencyTables.fit(np.zeros((3, 4, 2), np.int32), 1).save(codec / "tables.safetensors")
    (codec / "codec.safetensors").write_bytes(b"decoder")
    CodecSpec(
        name="klt", version=1, token_count=16, token_dim=8, latent_count=4, latent_dim=2, image_size_px=32,
        ladder=(1, 2, 4), base_latents=2, vlm_id="tiny", vlm_sha256=hash_vlm(vlm),
        codec_sha256=hash_file(codec / "codec.safetensors"), tables_sha256=hash_file(codec / "tables.safetensors"),
    ).save(codec)  # fmt: skip
    return codec


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "codec.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_folder_round_trips(folder: Path) -> None:
    spec = load_codec_spec(folder)
    assert spec.ladder == (1, 2, 4)
    assert len(spec.fingerprint) == 32
    assert spec.fingerprint4 == spec.fingerprint[:4]
    spec.check_vlm(folder.parent / "vlm")


def test_the_edge_needs_no_decoder_weights(folder: Path) -> None:
    (folder / "codec.safetensors").unlink()
    assert load_codec_spec(folder).name == "klt"


def test_a_spec_says_how_frames_are_fitted_and_one_that_does_not_means_the_first_way(folder: Path) -> None:
    spec = load_codec_spec(folder)
    content = json.loads((folder / "codec.json").read_text())
    assert content.pop("fit") == {"mode": "stretch", "filter": "hamming"}
    (folder / "codec.json").write_text(json.dumps(content))
    assert load_codec_spec(folder) == spec


def test_fingerprint_changes_with_what_symbols_mean_and_only_then(folder: Path) -> None:
    spec = load_codec_spec(folder)
    assert spec.model_copy(update={"ladder": (4,), "base_latents": 4}).fingerprint == spec.fingerprint
    for change in (
        {"version": 2}, {"vlm_sha256": "0" * 64}, {"codec_sha256": "0" * 64}, {"tables_sha256": "0" * 64},
        {"vlm_id": "other"}, {"token_count": 17}, {"name": "meta_autoencoder"}, {"image_size_px": 64},
        {"fit": FrameFit(filter="lanczos")},
    ):  # fmt: skip
        assert spec.model_copy(update=change).fingerprint != spec.fingerprint, change


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ladder": [1, 1, 4]}, "ladder"),
        ({"ladder": [1, 2]}, "ladder"),
        ({"ladder": []}, "ladder"),
        ({"base_latents": 0}, "base_latents"),
        ({"base_latents": 5}, "base_latents"),
        ({"latent_count": "4"}, "latent_count"),
        ({"format": 2}, "format"),
        ({"vlm_sha256": "xyz"}, "vlm_sha256"),
        ({"surprise": 1}, "surprise"),
        ({"fit": {"mode": "squash"}}, "fit.mode"),
        ({"fit": {"filter": "nearest"}}, "fit.filter"),
    ],
)
def test_a_wrong_spec_names_the_field(folder: Path, changes: dict[str, Any], message: str) -> None:
    rewrite(folder, **changes)
    with pytest.raises(ArtifactError, match=message):
        load_codec_spec(folder)


@pytest.mark.parametrize("name", ["tables.safetensors", "codec.safetensors"])
def test_a_damaged_file_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes() + b"\0")
    with pytest.raises(ArtifactError, match=name):
        load_codec_spec(folder)


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "tables.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"tables\.safetensors"):
        load_codec_spec(folder)
    (folder / "codec.json").unlink()
    with pytest.raises(ArtifactError, match="latentbus train codec"):
        load_codec_spec(folder)


def test_another_model_is_refused(folder: Path) -> None:
    spec = load_codec_spec(folder)
    vlm = folder.parent / "vlm"
    (vlm / "config.json").write_text(json.dumps({"model_type": "smolvlm", "transformers_version": "5.99"}))
    spec.check_vlm(vlm)
    (vlm / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(ArtifactError, match="was made for tiny"):
        spec.check_vlm(vlm)
    with pytest.raises(ArtifactError, match="save_pretrained"):
        hash_vlm(folder)


def test_bundled_folders_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODELS_DIR_VARIABLE, str(tmp_path))
    with pytest.raises(ArtifactError, match="latentbus train reference-vlm"):
        bundled_vlm_dir()
    (tmp_path / "codecs" / "klt").mkdir(parents=True)
    assert bundled_codec_dir("klt") == tmp_path / "codecs" / "klt"
    with pytest.raises(ArtifactError, match="latentbus train codec"):
        bundled_codec_dir()


def test_what_the_edge_imports_loads_no_torch() -> None:
    modules = ", ".join(f"pipeline.codec.{name}" for name in ("spec", "tables", "bitstream", "latent", "bundled"))
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
