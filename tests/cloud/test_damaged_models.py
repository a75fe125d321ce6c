"""Model folders as a bad copy leaves them: an error that names the file or the key and the fix, never a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cloud_workers.inference.registry import load_model
from latentbus.cli import app
from schemas.errors import ArtifactError

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 4921348\n"


@pytest.fixture
def folder(vlm_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(vlm_dir, tmp_path / "vlm"))


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_an_lfs_pointer_is_named_with_the_command_that_fetches_the_file(folder: Path, name: str) -> None:
    (folder / name).write_text(LFS)
    with pytest.raises(ArtifactError, match=r"is a Git LFS pointer.*git lfs pull") as error:
        load_model(folder)
    assert error.value.path == str(folder / name)


@pytest.mark.parametrize(
    ("size", "problem"),
    [
        (-100, r"is cut off: it has \d+ of \d+ bytes: copy or download it again"),
        (40, "is cut off after 40 bytes, inside of its header"),
        (5, "is not a safetensors file"),
        (0, "is not a safetensors file"),
    ],
)
def test_weights_that_are_cut_off_are_named(folder: Path, size: int, problem: str) -> None:
    weights = folder / "model.safetensors"
    cut(weights, size if size >= 0 else weights.stat().st_size + size)
    with pytest.raises(ArtifactError, match=problem) as error:
        load_model(folder)
    assert error.value.path == str(weights)


def test_weights_of_another_format_are_named(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(b"PK\x03\x04" + bytes(2_000))
    with pytest.raises(ArtifactError, match=r"not a safetensors file.*save_pretrained"):
        load_model(folder)
    weights.write_bytes((9).to_bytes(8, "little") + b"[1, 2, 3]")
    with pytest.raises(ArtifactError, match="not a safetensors file"):
        load_model(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "processor_config.json"])
def test_settings_that_are_cut_off_are_named(folder: Path, name: str) -> None:
    path = folder / name
    cut(path, path.stat().st_size // 2)
    with pytest.raises(ArtifactError, match=r"is not JSON .*copy or download it again") as error:
        load_model(folder)
    assert error.value.path == str(path)


def _write(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "chat_template.jinja").write_text(text)

    return write


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (
            _write("{% for message in messages %}"),
            r"no usable chat template \(TemplateSyntaxError.*chat_template.jinja",
        ),
        (_write("{{ messages[0].nothing.more }}"), r"no usable chat template \(UndefinedError.*chat_template.jinja"),
        (_write("{{ raise_exception('roles') }}"), r"no usable chat template \(.*roles"),
        (_write("no image at all"), "chat_template.jinja"),
        (_write("<image> and <image>"), "chat_template.jinja"),
        (lambda folder: (folder / "chat_template.jinja").unlink(), "no usable chat template"),
    ],
)
def test_a_broken_chat_template_is_named(folder: Path, damage: Callable[[Path], None], problem: str) -> None:
    damage(folder)
    with pytest.raises(ArtifactError, match=problem):
        load_model(folder)


def test_code_of_a_model_is_never_run(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "of_my_own", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    ran = folder / "ran"
    (folder / "mine.py").write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n")
    with pytest.raises(ArtifactError, match=r"code of its own .*auto_map in config.json.* never run"):
        load_model(folder)
    assert not ran.exists()


def test_a_worker_with_a_damaged_model_says_so_in_one_line(folder: Path, codec_dir: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").write_text(LFS)
    config = tmp_path / "worker.yaml"
    config.write_text(
        "broker: {host: 127.0.0.1, port: 1}\n"
        f"worker: {{name: w, device: cpu, vlm: {folder}, codec: {codec_dir}, threads: 1}}\n"
    )
    result = CliRunner().invoke(app, ["worker", "--config", str(config)])
    assert isinstance(result.exception, ArtifactError), "which the command prints as one line"
    assert result.exception.path == str(folder / "model.safetensors")
    assert "git lfs pull" in result.exception.problem
