"""``latentbus edge --check``: what this device can do, and what the model sees."""

from __future__ import annotations

import asyncio
import json
import stat
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from broker_config.launcher import LocalBroker
from edge_nodes.check import device
from edge_nodes.check.device import check_device
from edge_nodes.check.findings import FIXES, Finding, Verdict, frames_a_minute, of_encoder, of_memory
from edge_nodes.check.memory import available_bytes, peak_bytes
from edge_nodes.sources import CapturedFrame
from latentbus.cli import app
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.settings import LatentbusSettings
from schemas.errors import ConfigError
from schemas.types import SourceReason
from tests.edge.support import IMAGE_PX, grey, write_video


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


def site(codec: Path, broker: BrokerSettings, **cameras: CameraSettings) -> LatentbusSettings:
    return LatentbusSettings(broker=broker, edge=EdgeSettings(site="depot", codec=codec, cameras=cameras))


async def check(settings: LatentbusSettings, pictures: Path) -> dict[str, Finding]:
    assert settings.edge is not None
    return by_name(await check_device(settings, settings.edge, pictures))


def test_frames_a_minute_are_held_against_what_the_encoder_can_do() -> None:
    assert frames_a_minute([1.0, 0.5, 60.0]) == 60 + 120 + 1
    assert of_encoder("fp32", 10.0, 20, [1.0] * 69).verdict is Verdict.GOOD
    assert of_encoder("fp32", 10.0, 20, [1.0] * 71).verdict is Verdict.TIGHT
    bad = of_encoder("int8", 10.0, 20, [1.0] * 101)
    assert bad.verdict is Verdict.BAD
    assert bad.fix is not None
    assert bad.figures["frames_per_minute"] == 6000
    assert bad.figures["frames_per_minute_wanted"] == 6060


def test_the_peak_is_held_against_what_is_free() -> None:
    assert of_memory(100_000_000, 126_000_000, 1).verdict is Verdict.GOOD
    assert of_memory(100_000_000, 120_000_000, 1).verdict is Verdict.TIGHT
    assert of_memory(100_000_000, 90_000_000, 1).verdict is Verdict.BAD
    assert of_memory(100_000_000, None, 2).verdict is Verdict.GOOD
    assert "100 MB at most, with the encoder and 2 cameras" in of_memory(100_000_000, None, 2).found


def test_memory_is_that_of_the_system_within_the_limits_of_its_groups(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) is None
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 900 kB\nMemAvailable:     800 kB\n")
    assert available_bytes(tmp_path) == 800 * 1024
    (tmp_path / "proc/self/cgroup").write_text("0::/system.slice/latentbus-edge.service\n")
    for path, limit in (("system.slice", "max"), ("system.slice/latentbus-edge.service", "512000")):
        folder = tmp_path / "sys/fs/cgroup" / path
        folder.mkdir(parents=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text("12000\n")
    assert available_bytes(tmp_path) == 500_000
    (tmp_path / "sys/fs/cgroup/system.slice/memory.max").write_text("20000\n")
    assert available_bytes(tmp_path) == 8_000, "the slice around it is tighter"


def test_a_process_knows_its_peak() -> None:
    assert 10_000_000 < peak_bytes() < 100_000_000_000


def test_every_reason_has_a_fix() -> None:
    assert set(FIXES) == set(SourceReason)


@pytest.mark.broker
async def test_a_device_that_can_do_it_shows_what_the_model_sees(
    codec_dir: Path, broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    video = write_video(tmp_path / "clip.avi", [grey(200, 96, 128)] * 4)
    masked = CameraSettings(source=str(video), interval_s=2.0, fit="letterbox", masks=((0.0, 0.0, 1.0, 0.5),))
    found = await check(site(codec_dir, broker_settings, gate=masked), tmp_path / "seen")
    assert {name: each.verdict for name, each in found.items()} == dict.fromkeys(
        ("memory", "encoder", "camera gate", "broker"), Verdict.GOOD
    )
    assert found["camera gate"].figures["width_px"] == 128
    assert found["encoder"].figures["frames_per_minute_wanted"] == 30
    picture = tmp_path / "seen/gate.jpg"
    assert stat.S_IMODE(picture.stat().st_mode) == 0o600, "pixels of a camera are for the operator alone"
    assert stat.S_IMODE(picture.parent.stat().st_mode) == 0o700
    pixels = np.asarray(Image.open(picture))
    assert pixels.shape == (IMAGE_PX, IMAGE_PX, 3)
    assert pixels[2].max() < 20, "a border of the letterbox"
    assert pixels[10].max() < 40, "the mask"
    assert pixels[22].min() > 150, "what is not masked"


async def test_what_is_wrong_is_said_part_by_part(
    codec_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "BROKER_LIMIT_S", 0.01)
    with LocalBroker() as broker:
        nowhere = BrokerSettings(host=broker.host, port=broker.port)
    (tmp_path / "no.mp4").write_bytes(b"no video")
    settings = site(
        codec_dir,
        nowhere,
        yard=CameraSettings(source=str(tmp_path / "no.mp4")),
        gate=CameraSettings(source=str(tmp_path / "missing.mp4")),
        dock=CameraSettings(source="nothing://user:secret@host/"),
        hall=CameraSettings(source="test:1"),
    )
    found = await check(settings, tmp_path / "seen")
    verdicts = {name: each.verdict for name, each in found.items()}
    assert [name for name, verdict in verdicts.items() if verdict is Verdict.BAD] == [
        "camera yard",
        "camera gate",
        "camera dock",
        "broker",
    ]
    assert found["camera gate"].figures["reason"] is SourceReason.NOT_FOUND
    assert found["camera gate"].fix == FIXES[SourceReason.NOT_FOUND]
    assert "secret" not in str(found)
    assert [path.name for path in (tmp_path / "seen").iterdir()] == ["hall.jpg"]


async def test_a_camera_that_hangs_keeps_nobody_waiting(
    codec_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fake:
        def __init__(self, name: str) -> None:
            self.counters: Counter[str] = Counter()
            self.hangs = name == "dead"

        async def open(self) -> None:
            if self.hangs:
                await asyncio.Event().wait()

        async def newest(self) -> CapturedFrame | None:
            return CapturedFrame("gate", 0, 0.0, grey(90))

        async def close(self) -> None:
            if self.hangs:
                await asyncio.Event().wait()

    monkeypatch.setattr(device, "OPEN_LIMIT_S", 0.01)
    monkeypatch.setattr(device, "CLOSE_LIMIT_S", 0.01)
    monkeypatch.setattr(device, "BROKER_LIMIT_S", 0.01)
    monkeypatch.setattr(device, "make_source", lambda name, camera: Fake(name))
    with LocalBroker() as broker:
        nowhere = BrokerSettings(host=broker.host, port=broker.port)
    settings = site(codec_dir, nowhere, dead=CameraSettings(source="test:1"), gate=CameraSettings(source="test:2"))
    found = await check(settings, tmp_path / "seen")
    assert "open has not returned" in found["camera dead"].found
    assert found["camera dead"].fix == FIXES[SourceReason.TIMEOUT]
    assert found["camera gate"].verdict is Verdict.GOOD


@pytest.mark.broker
async def test_an_encoder_that_is_missing_is_a_finding_and_the_cameras_are_looked_at_all_the_same(
    codec_dir: Path, broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    settings = site(codec_dir, broker_settings, gate=CameraSettings(source="test:1"))
    assert settings.edge is not None
    edge = settings.edge.model_copy(update={"precision": "int8"})
    found = by_name(await check_device(settings, edge, tmp_path / "seen"))
    assert found["encoder"].verdict is Verdict.BAD
    assert "codec export" in found["encoder"].found
    assert found["camera gate"].verdict is Verdict.GOOD


async def test_a_folder_that_cannot_be_made_is_a_wrong_option(codec_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = site(codec_dir, BrokerSettings(), gate=CameraSettings(source="test:1"))
    assert settings.edge is not None
    with pytest.raises(ConfigError, match="--pictures"):
        await check_device(settings, settings.edge, tmp_path / "file/below")


@pytest.mark.broker
def test_the_command_has_the_exit_statuses_that_are_documented(
    codec_dir: Path, broker: LocalBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(**cameras: str) -> tuple[int, str]:
        settings = {
            "broker": {"host": broker.host, "port": broker.port},
            "edge": {
                "site": "depot",
                "codec": str(codec_dir),
                "cameras": {name: {"source": source} for name, source in cameras.items()},
            },
        }
        (tmp_path / "site.yaml").write_text(yaml.safe_dump(settings))
        done = CliRunner().invoke(app, ["edge", "-c", "site.yaml", "--check", "--json", "found.json"])
        return done.exit_code, done.stdout

    monkeypatch.chdir(tmp_path)
    status, shown = run(gate="test:1")
    assert status == 0, shown
    assert "camera gate" in shown
    assert json.loads((tmp_path / "found.json").read_text())["can"] is True
    assert (tmp_path / "edge-check/gate.jpg").is_file()
    status, shown = run(gate="test:1", yard="/nowhere/[odd].mp4")
    assert status == 1
    assert "[odd]" in shown, "what looks like markup is shown as it is"
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["can"] is False
    assert [each["verdict"] for each in found["findings"] if each["what"] == "camera yard"] == ["bad"]
    done = CliRunner().invoke(app, ["edge", "-c", "site.yaml", "--json", "found.json"])
    assert isinstance(done.exception, ConfigError)
    assert "--check" in str(done.exception)
