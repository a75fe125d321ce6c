"""The wheel: what an empty environment gets from it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

from broker_config.launcher import LocalBroker
from pipeline.codec.spec import ENCODER_FILES, SPEC_FILE, STOP_FILE, TABLES_FILE
from tests.source_names import ROOT

INSTALL_LIMIT_BYTES = 350_000_000

EDGE = """
edge:
  site: depot
  state_dir: {folder}
  cameras: {{gate: {{source: "test:1", questions: [car]}}}}
  questions: {{car: {{text: "Is there a car?", answer_type: yes_no}}}}
"""

SIZE = """
from importlib.metadata import distributions
files = [d.locate_file(f) for d in distributions() if d.name not in ("pip", "setuptools") for f in d.files]
print(sum(file.stat().st_size for file in files if file.is_file()))
"""


@pytest.mark.broker
@pytest.mark.timeout(600)
@pytest.mark.skipif("LATENTBUS_NO_SKIPS" not in os.environ, reason="installs packages for a minute: make test-extras")
def test_an_edge_starts_from_an_empty_environment_without_torch(broker: LocalBroker, tmp_path: Path) -> None:
    environment = tmp_path / "empty"
    venv.create(environment, with_pip=True)
    python = environment / "bin/python"
    install: list[str | Path] = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", f"{ROOT}[edge]"]
    subprocess.run(install, check=True, cwd=tmp_path, timeout=500)
    (tmp_path / "edge.yaml").write_text(EDGE.format(folder=tmp_path))
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LATENTBUS_MODELS_DIR")}
    clean |= {"LATENTBUS_BROKER__HOST": broker.host, "LATENTBUS_BROKER__PORT": str(broker.port)}
    absent = "import importlib.util as u, sys; sys.exit(any(u.find_spec(name) for name in ('torch', 'mcap', 'uvloop')))"
    subprocess.run([python, "-c", absent], check=True, cwd=tmp_path, timeout=60)
    size = subprocess.run([python, "-c", SIZE], check=True, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert 0 < int(size.stdout) <= INSTALL_LIMIT_BYTES
    edge = subprocess.Popen(
        [environment / "bin/latentbus", "edge", "--config", "edge.yaml"],
        cwd=tmp_path,
        env=clean,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert edge.stderr is not None
    lines = []
    for line in edge.stderr:
        lines.append(line)
        if "ready" in line:
            break
    edge.send_signal(signal.SIGTERM)
    _, rest = edge.communicate(timeout=60)
    assert "ready" in lines[-1], "".join(lines)
    assert edge.returncode == 0, rest


def test_the_wheel_carries_what_an_edge_needs_of_the_bundled_codec() -> None:
    included = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    files = included["force-include"]
    for source, target in files.items():
        assert (ROOT / source).is_file(), f"{source}: the wheel cannot be built"
        assert target == f"pipeline/codec/{source}"
    needed = {SPEC_FILE, TABLES_FILE, STOP_FILE, *ENCODER_FILES.values()}
    assert needed <= {Path(source).name for source in files}


def test_models_of_a_checkout_are_found_without_a_setting() -> None:
    code = "from pipeline.codec.bundled import bundled_codec_dir; print(bundled_codec_dir())"
    clean = {name: value for name, value in os.environ.items() if name != "LATENTBUS_MODELS_DIR"}
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT, env=clean, capture_output=True, text=True
    )
    assert Path(found.stdout.strip()) == ROOT / "models/codecs/meta_autoencoder"
