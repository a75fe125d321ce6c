"""The wheel: what an empty environment gets from it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from broker_config.launcher import LocalBroker
from tests.source_names import ROOT

EDGE = """
edge:
  site: depot
  state_dir: {folder}
  cameras: {{gate: {{source: "test:1", questions: [car]}}}}
  questions: {{car: {{text: "Is there a car?", answer_type: yes_no}}}}
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
    no_torch = "import importlib.util as u, sys; sys.exit(u.find_spec('torch') is not None)"
    subprocess.run([python, "-c", no_torch], check=True, cwd=tmp_path, timeout=60)
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


def test_models_of_a_checkout_are_found_without_a_setting() -> None:
    code = "from pipeline.codec.bundled import bundled_codec_dir; print(bundled_codec_dir())"
    clean = {name: value for name, value in os.environ.items() if name != "LATENTBUS_MODELS_DIR"}
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT, env=clean, capture_output=True, text=True
    )
    assert Path(found.stdout.strip()) == ROOT / "models/codecs/meta_autoencoder"
