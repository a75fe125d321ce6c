"""The compose file and everything that it mounts: parsed and held against what the processes accept."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker_config.launcher import LocalBroker, find_mosquitto
from broker_config.limits import LIMITS
from pipeline.config.settings import load_settings

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return parsed


def test_services_and_their_order(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {"broker", "edge", "worker"}
    for name in ("edge", "worker"):
        assert services[name]["depends_on"] == {"broker": {"condition": "service_healthy"}}
        assert services[name]["healthcheck"]["test"][0] == "CMD"
    assert "healthcheck" in services["broker"]


def test_images_are_for_servers_and_for_boards(compose: dict[str, Any]) -> None:
    for name in ("edge", "worker"):
        assert compose["services"][name]["build"]["platforms"] == ["linux/amd64", "linux/arm64"]
    text = (ROOT / "docker/Dockerfile").read_text()
    # Nothing in the recipe is of one architecture, and no binary is fetched.
    assert re.findall(r"^(?:FROM --platform|ADD|RUN .*(?:curl|wget))", text, re.MULTILINE) == []


def test_the_image_of_the_edge_has_no_models_but_the_encoder(compose: dict[str, Any]) -> None:
    text = (ROOT / "docker/Dockerfile").read_text()
    stages = dict(re.findall(r"^FROM \S+ AS (\w+)\n(.*?)(?=^FROM|\Z)", text, re.MULTILINE | re.DOTALL))
    assert re.findall(r"^COPY (\S+)", stages["edge"], re.MULTILINE) == ["models/codecs/meta_autoencoder"]
    assert "'.[edge]'" in stages["edge"]
    assert "./models '.[cloud]'" in stages["worker"], "an installed worker has its models from a package of their own"


def test_workers_can_be_scaled(compose: dict[str, Any]) -> None:
    worker = compose["services"]["worker"]
    assert "container_name" not in worker
    assert "ports" not in worker, "a fixed host port would admit one worker only"
    assert "name" not in yaml.safe_load((ROOT / "docker/worker.yaml").read_text())["worker"]


def test_the_broker_is_recent_enough(compose: dict[str, Any]) -> None:
    version = re.fullmatch(r"eclipse-mosquitto:(\d+)\.(\d+)\.(\d+)", compose["services"]["broker"]["image"])
    assert version is not None
    assert tuple(map(int, version.groups())) >= (2, 0, 22)


def test_the_broker_without_passwords_is_not_published(compose: dict[str, Any]) -> None:
    assert "ports" not in compose["services"]["broker"]


def test_every_mount_and_volume_exists(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            known = (ROOT / source).exists() if source.startswith(".") else source in compose["volumes"]
            assert known, f"{name}: {source}"


def test_everything_that_the_images_copy_exists(compose: dict[str, Any]) -> None:
    text = (ROOT / "docker/Dockerfile").read_text()
    targets = set(re.findall(r"^FROM \S+ AS (\w+)", text, re.MULTILINE))
    for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
    for name in ("edge", "worker"):
        build = compose["services"][name]["build"]
        assert build["target"] in targets
        assert (ROOT / build["dockerfile"]).is_file()


@pytest.mark.parametrize(("name", "role"), [("edge", "edge"), ("worker", "worker")])
def test_the_mounted_settings_are_valid(
    compose: dict[str, Any], name: str, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = compose["services"][name]
    for variable, value in service["environment"].items():
        monkeypatch.setenv(variable, value)
    settings = load_settings(ROOT / f"docker/{name}.yaml")
    section = getattr(settings, role)
    assert section is not None
    assert settings.broker.host == "broker"
    healthcheck = (ROOT / "docker/healthcheck.py").read_text()
    assert f":{section.metrics_port}/metrics" in healthcheck
    assert service["command"][0] == role
    assert service["command"][2].endswith(f"/{name}.yaml")


def test_the_broker_configuration_has_the_limits_of_production() -> None:
    lines = (ROOT / "docker/mosquitto.conf").read_text().splitlines()
    found = dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))
    assert {name: found.get(name) for name in LIMITS} == LIMITS


def test_mosquitto_accepts_the_configuration(tmp_path: Path) -> None:
    with LocalBroker() as broker:  # a port that is free a moment later
        port = broker.port
    text = (ROOT / "docker/mosquitto.conf").read_text()
    text = text.replace("listener 1883", f"listener {port} 127.0.0.1").replace("/mosquitto/data/", f"{tmp_path}/")
    config = tmp_path / "mosquitto.conf"
    config.write_text(text.replace("log_dest stdout", "log_dest stderr"))
    with subprocess.Popen(
        [find_mosquitto(), "-v", "-c", str(config)], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line)
            if "running" in line or "Error" in line:
                break
        # A polite request between its last line and its main loop would be forgotten.
        process.kill()
    assert lines, "it wrote nothing"
    assert lines[-1].rstrip().endswith("running"), "".join(lines)
