"""``latentbus gateway`` as an operator starts it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import ssl
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from typer.testing import CliRunner

from broker_config.certificates import CertificateAuthority
from latentbus.cli import app
from latentbus.demo.dashboard import start_dashboard
from latentbus.fleet.launcher import Launcher
from latentbus.gateway.api import STATIC
from latentbus.gateway.options import gateway_settings
from latentbus.options.validate import load_and_check
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.settings import load_settings
from schemas.errors import ConfigError
from tests.gateway.conftest import PATIENCE_S, gateway_of
from tests.gateway.test_away import free_port
from tests.source_names import ROOT


def write(folder: Path, **gateway: Any) -> Path:
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump({"broker": {"port": 1}, "gateway": gateway}))
    return path


def test_options_override_the_file(tmp_path: Path) -> None:
    settings = gateway_settings(write(tmp_path, name="web"), "broker.example", 1884, "[::1]:9000", tmp_path / "state")
    assert settings.gateway is not None
    assert (settings.broker.host, settings.broker.port) == ("broker.example", 1884)
    assert (settings.gateway.host, settings.gateway.port, settings.gateway.name) == ("::1", 9000, "web")
    assert settings.gateway.state_dir == tmp_path / "state"


def test_without_a_file_it_takes_the_defaults() -> None:
    settings = gateway_settings(None, None, None, None, None)
    assert settings.gateway is not None
    assert (settings.gateway.host, settings.gateway.port) == ("127.0.0.1", 8080)


@pytest.mark.parametrize(
    ("listen", "problem"), [("8080", "is not ADDRESS:PORT"), ("x:port", "is not ADDRESS:PORT"), ("x:0", "at least 1")]
)
def test_what_cannot_be_listened_on(listen: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as refused:
        gateway_settings(None, None, None, listen, None)
    assert refused.value.where == "--listen"


def test_a_file_without_a_gateway_section_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("broker: {}")
    with pytest.raises(ConfigError, match=r"no gateway section: add `gateway: \{\}`"):
        gateway_settings(path, None, None, None, None)


def test_paths_count_from_the_folder_of_the_file_and_secrets_are_not_echoed(tmp_path: Path) -> None:
    path = write(tmp_path, state_dir="state", codecs=["codec"], tls={"cert_file": "a.crt", "key_file": "a.key"})
    gateway = load_settings(path).gateway
    assert gateway is not None
    assert (gateway.state_dir, gateway.codecs) == (tmp_path / "state", (tmp_path / "codec",))
    assert gateway.tls is not None
    assert gateway.tls.key_file == tmp_path / "a.key"
    for wrong in ({"tokens": {"ann": {"token": 1234567}}}, {"alerts": {"webhooks": {"x": {"url": 1234567}}}},
                  {"alerts": {"addresses": {"x": 1234567}}}):  # fmt: skip
        with pytest.raises(ConfigError) as refused:
            load_settings(write(tmp_path, **wrong))
        assert str(refused.value).endswith("must be a text: put it in quotes")
    path = write(tmp_path, tls={"cert_file": "a.crt", "key_file": "a.key"})
    with pytest.raises(ConfigError, match=r"gateway\.tls\.cert_file: no such file"):
        load_and_check(path)


def test_help_says_how_to_ask() -> None:
    done = CliRunner().invoke(app, ["gateway", "--help"], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    assert "curl -N" in done.output


@pytest.mark.parametrize("taken", ["port", "address", "certificate"])
async def test_what_it_cannot_use_is_said_in_one_line(tmp_path: Path, taken: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        (tmp_path / "nonsense.pem").write_text("nonsense")
        given: dict[str, Any] = {
            "port": {"port": port},
            "address": {"host": "192.0.2.1", "auth": False},
            "certificate": {"port": free_port(), "tls": {"cert_file": "nonsense.pem", "key_file": "nonsense.pem"}},
        }[taken]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "latentbus", "gateway", "--config", str(write(tmp_path, **given))),
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(PATIENCE_S):
            _, stderr = await process.communicate()
    last = stderr.decode().strip().splitlines()[-1]
    assert process.returncode == 2
    assert last.startswith("latentbus: gateway.tls" if taken == "certificate" else "latentbus: gateway.port")
    assert "Traceback" not in stderr.decode()


async def test_it_makes_a_token_says_so_once_and_stops_in_good_order(tmp_path: Path) -> None:
    port = free_port()
    config = write(tmp_path, host="0.0.0.0", port=port, state_dir="state", hosts=["screens.example"])
    printed = []
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "latentbus", "gateway", "--config", str(config)),
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        lines: list[str] = []
        async with asyncio.timeout(PATIENCE_S):
            while not lines or "unencrypted" not in lines[-1]:
                lines.append((await process.stderr.readline()).decode())
            process.send_signal(signal.SIGTERM)
            await process.stderr.read()
            assert await process.wait() == 0
        printed.append("".join(lines))
    token = (tmp_path / "state" / "operator.token").read_text().strip()
    assert [text.count(token) for text in printed] == [1, 0]
    assert f"http://screens.example:{port}/" in printed[0]


async def test_sighup_lets_it_read_its_file_again_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    port = free_port()
    rule = {"question": "car", "equals": "yes"}
    config = write(tmp_path, port=port)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "latentbus", "gateway", "--config", str(config)),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None

    async def until_said(words: str) -> str:
        assert process.stderr is not None
        while words not in (line := (await process.stderr.readline()).decode()):
            assert line, f"it ended without saying {words!r}"
        return line

    async with asyncio.timeout(PATIENCE_S):
        await until_said("history is kept in memory")
        write(tmp_path, port=port, alerts={"rules": {"car": {"question": "car"}}})
        process.send_signal(signal.SIGHUP)
        assert "needs one condition" in await until_said("not taken over")
        write(tmp_path, port=port + 1, alerts={"rules": {"car": rule}})
        process.send_signal(signal.SIGHUP)
        assert "gateway.port: takes effect after a restart" in await until_said("not taken over")
        write(tmp_path, port=port, alerts={"rules": {"car": rule}})
        process.send_signal(signal.SIGHUP)
        await until_said("read again")
        process.send_signal(signal.SIGTERM)
        await process.stderr.read()
        assert await process.wait() == 0


async def test_it_serves_https(nowhere: BrokerSettings, tmp_path: Path) -> None:
    issued = CertificateAuthority.create(datetime.now(UTC))
    server = issued.issue_broker(["localhost", "127.0.0.1"], datetime.now(UTC), days=2)
    (tmp_path / "ca.crt").write_bytes(issued.certificate)
    (tmp_path / "a.crt").write_bytes(server.certificate)
    assert server.key is not None
    (tmp_path / "a.key").write_bytes(server.key)
    tls = {"cert_file": tmp_path / "a.crt", "key_file": tmp_path / "a.key"}
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    async with gateway_of(nowhere, tls=tls, tokens={"ann": {"token": "a-token-of-a-viewer"}}) as web:
        assert web.served.url.startswith("https://localhost:")
        async with aiohttp.ClientSession(web.served.url) as http:
            login = http.post("/v1/session", json={"token": "a-token-of-a-viewer"}, ssl=context)
            async with login as response:
                assert response.status == 200
                assert "Secure" in response.headers["Set-Cookie"]


@pytest.mark.broker
async def test_the_dashboard_of_the_demo_is_served(tmp_path: Path) -> None:
    async with asyncio.timeout(2 * PATIENCE_S), Launcher(tmp_path) as launcher:
        process, url = await start_dashboard(launcher, await launcher.start_broker(), tmp_path)
        async with aiohttp.ClientSession() as http, http.get(url) as page:
            assert (page.status, "<title>Latentbus</title>" in await page.text()) == (200, True)
        assert await process.drain() == 0


def test_the_page_needs_nothing_from_elsewhere_and_no_script_of_its_own() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r"<script(?![^>]*\bsrc=)[^>]*>|<style|\bstyle=|\bon\w+=|javascript:", page)
    assert all(found.startswith(("/static/", "#")) for found in re.findall(r'(?:src|href)="([^"]*)"', page))
    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8")
        foreign = [found for found in re.findall(r"https?://[^\s\"')]+", text) if "www.w3.org" not in found]
        assert foreign == [], path.name
        if path.suffix == ".js":
            assert not re.search(
                r"innerHTML|outerHTML\s*=|insertAdjacentHTML|document\.write|eval\(|new Function", text
            ), path.name


def test_every_control_of_the_page_has_a_name() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    controls = re.findall(r'<(?:input|select)[^>]*\bid="([\w-]+)"', page)
    labelled = set(re.findall(r'<label[^>]*\bfor="([\w-]+)"', page)) | set(
        re.findall(r'<label.*?id="([\w-]+)"[^>]*></label>', page, re.DOTALL)
    )
    assert len(controls) > 6
    assert [control for control in controls if control not in labelled] == []
    sections = re.findall(r'aria-labelledby="([\w-]+)"', page)
    assert [name for name in sections if f'id="{name}"' not in page] == []
