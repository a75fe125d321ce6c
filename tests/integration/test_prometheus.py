"""A real Prometheus scrapes a real fleet: every expression of every rule, alert and panel returns data."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker_config.certificates import CertificateAuthority
from latentbus.fleet.launcher import Launcher
from latentbus.fleet.settings import edge_node, rendered_cameras, standing_questions, worker_node
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.worker_settings import WorkerSettings
from tests.prometheus import PROMETHEUS, alerts, as_judgement, panels, recorded, with_variables

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed"),
    pytest.mark.skipif(
        not os.environ.get("LATENTBUS_NO_SKIPS"), reason="starts a whole fleet and Prometheus: make test-extras"
    ),
]
TOKEN = "a-token-of-an-operator-who-scrapes"
LIMIT_S, PATIENCE_S = 400.0, 150.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def gateway_settings(broker: BrokerSettings, folder: Path, port: int) -> Path:
    """A gateway that serves HTTPS, so that there is a certificate that ends."""
    now = datetime.now(UTC)
    authority = CertificateAuthority.create(now)
    issued = authority.issue_broker(["localhost", "127.0.0.1"], now)
    assert issued.key is not None
    (folder / "ca.pem").write_bytes(authority.certificate)
    (folder / "cert.pem").write_bytes(issued.certificate)
    (folder / "key.pem").write_bytes(issued.key)
    (folder / "key.pem").chmod(0o600)
    gateway = {
        "port": port,
        "state_dir": "gateway-state",
        "tls": {"cert_file": "cert.pem", "key_file": "key.pem"},
        "tokens": {"prometheus": {"token": TOKEN, "role": "operator"}},
    }
    path = folder / "gateway.yaml"
    path.write_text(
        yaml.safe_dump({"broker": {"host": broker.host, "port": broker.port}, "gateway": gateway}), encoding="utf-8"
    )
    return path


def prometheus_settings(folder: Path, ports: dict[str, int]) -> Path:
    """The configuration that is deployed, with the addresses of this fleet."""
    settings: dict[str, Any] = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    settings["rule_files"] = [str(PROMETHEUS / name) for name in settings["rule_files"]]
    (folder / "token").write_text(TOKEN, encoding="utf-8")
    for job in settings["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": [f"127.0.0.1:{ports.pop(job['job_name'])}"]}]
        if job["job_name"] == "latentbus-gateway":
            job |= {"scheme": "https", "tls_config": {"ca_file": str(folder / "ca.pem")}}
            job["authorization"]["credentials_file"] = str(folder / "token")
    assert not ports, "every process is scraped by a job"
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


@asynccontextmanager
async def prometheus(settings: Path, folder: Path) -> AsyncIterator[str]:
    """A running Prometheus; where it is."""
    address = f"127.0.0.1:{free_port()}"
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            "prometheus",
            f"--config.file={settings}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address={address}",
            stdout=log,
            stderr=log,
        )
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        await process.wait()


def get(url: str, **parameters: str) -> Any:
    query = urllib.parse.urlencode(parameters)
    with urllib.request.urlopen(f"{url}?{query}", timeout=30) as response:
        return json.load(response)["data"]


async def without_data(url: str, expressions: dict[str, str]) -> dict[str, str]:
    """Those that return nothing yet."""
    left = {}
    for name, expression in expressions.items():
        try:
            found = await asyncio.to_thread(get, f"{url}/api/v1/query", query=expression)
        except OSError as error:
            left[name] = f"{expression}: {error}"
        else:
            if not found["result"]:
                left[name] = expression
    return left


async def test_every_expression_returns_data(tmp_path: Path) -> None:
    ports = {job: free_port() for job in ("latentbus-edge", "latentbus-worker", "latentbus-gateway")}
    questions = standing_questions(2, deadline_s=20.0)
    cameras = rendered_cameras(["gate", "yard"], list(questions), interval_s=2.0)
    async with Launcher(tmp_path) as fleet, asyncio.timeout(LIMIT_S):
        broker = await fleet.start_broker()
        worker = WorkerSettings(metrics_port=ports["latentbus-worker"])
        edge = EdgeSettings(
            site="north",
            cameras=cameras,
            questions=questions,
            metrics_port=ports["latentbus-edge"],
            state_dir=tmp_path / "state",
        )
        gateway = gateway_settings(broker, tmp_path, ports["latentbus-gateway"])
        await fleet.start_command("gateway", ["gateway", "--config", str(gateway)])
        await fleet.start_node("worker", worker_node(broker, worker))
        await fleet.start_node("edge", edge_node(broker, edge))
        await fleet.wait_ready(timeout_s=120)
        expressions = {
            **{name: name for name in recorded()},
            **{rule["alert"]: as_judgement(rule["expr"]) for rule in alerts()},
            **{f"{title}, {number}": with_variables(text) for number, (title, text) in enumerate(panels())},
        }
        async with prometheus(prometheus_settings(tmp_path, dict(ports)), tmp_path) as url:
            patience_s = asyncio.get_running_loop().time() + PATIENCE_S
            while left := await without_data(url, expressions):
                assert not fleet.ended, left
                assert asyncio.get_running_loop().time() < patience_s, left
                await asyncio.sleep(1)
            groups = (await asyncio.to_thread(get, f"{url}/api/v1/rules"))["groups"]
            health = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
            targets = (await asyncio.to_thread(get, f"{url}/api/v1/targets"))["activeTargets"]
    assert set(health.values()) == {"ok"}, health
    assert {target["labels"]["job"]: target["health"] for target in targets} == dict.fromkeys(ports, "up")
