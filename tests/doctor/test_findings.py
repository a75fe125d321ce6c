"""What the doctor makes of what it sees: versions, abilities, clock, disk, models."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge_nodes.check.findings import Verdict
from latentbus.doctor.broker import judge_abilities, judge_version, worst
from latentbus.doctor.known_bugs import BUGS, Software, bugs_of, parse_version
from latentbus.doctor.machine import check_clock, check_disks, folders_of
from latentbus.doctor.models import check_edge_models, check_worker_models, compare_fingerprint
from latentbus.doctor.run import device_of, judge_fleet
from latentbus.doctor.tls import check_own_certificate, is_loopback
from pipeline.bus.base import BrokerAbilities
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.settings import LatentbusSettings
from pipeline.config.worker_settings import WorkerSettings
from tests.bus.broker_files import certificates
from tests.cli.stand_in import EDGE, WORKER

GATE = {"site": "north", "cameras": {"gate": {"source": "test:1"}}}


@pytest.mark.parametrize(
    ("topic", "payload", "found"),
    [
        ("$SYS/broker/version", b"mosquitto version 2.0.11", Software("mosquitto", (2, 0, 11))),
        ("$SYS/brokers/emqx@10.0.0.1/version", b"5.8.1", Software("emqx", (5, 8, 1))),
        ("$SYS/broker/version", b"something 1.2", Software("broker", (1, 2))),
        ("$SYS/broker/version", b"\xff\xfe", None),
    ],
)
def test_versions_are_read(topic: str, payload: bytes, found: Software | None) -> None:
    assert parse_version(topic, payload) == found


@pytest.mark.parametrize(
    ("version", "count"),
    [((2, 0, 11), 6), ((2, 0, 12), 5), ((2, 0, 18), 2), ((2, 0, 22), 0), ((2, 1, 0), 2), ((2, 1, 3), 0), ((1, 6), 6)],
)
def test_known_bugs_go_by_version(version: tuple[int, ...], count: int) -> None:
    assert len(bugs_of(Software("mosquitto", version))) == count
    assert bugs_of(Software("emqx", version)) == []


def test_a_version_with_bugs_names_them_and_the_one_without() -> None:
    finding = judge_version(Software("mosquitto", (2, 0, 11)))
    assert finding.verdict is Verdict.WARN
    assert all(bug.text in finding.found for bug in bugs_of(Software("mosquitto", (2, 0, 11))))
    assert finding.fix is not None
    assert finding.fix.startswith("install 2.0.22 or later")
    later = judge_version(Software("mosquitto", (2, 1, 0)))
    assert later.fix is not None
    assert later.fix.startswith("install 2.1.3 or later")
    assert judge_version(Software("mosquitto", (2, 0, 22))).verdict is Verdict.GOOD
    assert judge_version(None).verdict is Verdict.UNKNOWN
    assert [bug.fixed for bug in BUGS] == sorted(bug.fixed for bug in BUGS)


@pytest.mark.parametrize(
    ("abilities", "verdict", "words"),
    [
        (BrokerAbilities(topic_aliases=64), Verdict.GOOD, "64 topic aliases"),
        (BrokerAbilities(topic_aliases=10), Verdict.TIGHT, "10 topic aliases"),
        (BrokerAbilities(shared_subscriptions=False), Verdict.BAD, "share groups"),
        (BrokerAbilities(retain=False), Verdict.BAD, "retained"),
        (BrokerAbilities(maximum_qos=0), Verdict.BAD, "QoS 1"),
        (BrokerAbilities(packet_bytes=1_000), Verdict.BAD, "it takes 1,000"),
        (BrokerAbilities(wildcards=False), Verdict.BAD, "wildcards"),
    ],
)
def test_abilities(abilities: BrokerAbilities, verdict: Verdict, words: str) -> None:
    finding = judge_abilities(abilities)
    assert finding.verdict is verdict
    assert words in finding.found


def test_clock() -> None:
    assert check_clock(0.0, True).verdict is Verdict.BAD
    later_s = time.time() + 86_400
    assert check_clock(later_s, True).verdict is Verdict.GOOD
    assert check_clock(later_s, False).verdict is Verdict.WARN
    assert check_clock().found.startswith(time.strftime("%Y"))


def test_disks_are_looked_at_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [("edge.state_dir", tmp_path / "not" / "made"), ("edge.recording.file", tmp_path)]
    for free, verdict in ((90_000_000_000, Verdict.GOOD), (4_000_000_000, Verdict.TIGHT), (1_000_000, Verdict.BAD)):
        usage = SimpleNamespace(total=100_000_000_000, free=free)
        monkeypatch.setattr("latentbus.doctor.machine.shutil.disk_usage", lambda path, usage=usage: usage)
        [finding] = check_disks(folders)
        assert finding.verdict is verdict
        assert finding.found.startswith("edge.state_dir, edge.recording.file: ")
    [none] = check_disks([])
    assert none.verdict is Verdict.GOOD


def test_a_folder_that_cannot_be_written_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentbus.doctor.machine.os.access", lambda path, mode: False)
    [finding] = check_disks([("edge.state_dir", tmp_path)])
    assert finding.verdict is Verdict.BAD
    assert "not writable" in finding.found


def test_folders_are_those_of_the_settings(tmp_path: Path) -> None:
    settings = LatentbusSettings.model_validate(
        {
            "edge": {**GATE, "state_dir": tmp_path / "s", "recording": {"file": tmp_path / "r" / "a.mcap"}},
            "gateway": {"state_dir": tmp_path / "g"},
        }
    )
    assert folders_of(settings) == {
        "edge.state_dir": tmp_path / "s",
        "edge.recording.file": tmp_path / "r",
        "gateway.state_dir": tmp_path / "g",
    }


def test_bundled_models_are_whole() -> None:
    findings, fingerprint = check_edge_models(EdgeSettings.model_validate(GATE))
    assert [finding.verdict for finding in findings] == [Verdict.GOOD]
    findings, of_worker = check_worker_models(WorkerSettings())
    assert [finding.verdict for finding in findings] == [Verdict.GOOD, Verdict.GOOD]
    assert fingerprint == of_worker
    assert fingerprint is not None


def test_a_codec_that_is_not_there_is_bad(tmp_path: Path) -> None:
    findings, fingerprint = check_edge_models(EdgeSettings.model_validate({**GATE, "codec": tmp_path}))
    assert [finding.verdict for finding in findings] == [Verdict.BAD]
    assert fingerprint is None
    [codec, model], _ = check_worker_models(WorkerSettings(vlm=str(tmp_path)))
    assert (codec.verdict, model.verdict) == (Verdict.GOOD, Verdict.BAD)
    [_, hub], _ = check_worker_models(WorkerSettings(vlm="owner/model"))
    assert hub.verdict is Verdict.UNKNOWN


def test_fingerprints_are_compared_with_the_other_side() -> None:
    assert compare_fingerprint("p", "00000001", [EDGE, WORKER], of="edge").verdict is Verdict.GOOD
    bad = compare_fingerprint("p", "00000002", [EDGE, WORKER], of="edge")
    assert bad.verdict is Verdict.BAD
    assert "this edge has 00000002, the workers of pool p have 00000001" in bad.found
    assert compare_fingerprint("p", "00000002", [EDGE], of="edge").verdict is Verdict.UNKNOWN
    assert compare_fingerprint("q", "00000001", [EDGE, WORKER], of="worker").verdict is Verdict.UNKNOWN


def test_the_fleet_is_judged_by_its_statuses() -> None:
    assert [finding.verdict for finding in judge_fleet([EDGE, WORKER])] == [Verdict.GOOD]
    assert [finding.verdict for finding in judge_fleet([])] == [Verdict.UNKNOWN]
    mismatch = WORKER.model_copy(update={"fingerprint": "00000002"})
    [finding] = judge_fleet([EDGE, mismatch])
    assert finding.verdict is Verdict.BAD
    assert finding.fix is not None
    assert "same codec folder" in finding.fix


def test_who_this_is_comes_from_the_settings() -> None:
    edge = device_of(LatentbusSettings.model_validate({"edge": GATE}), None)
    assert (edge.kind, edge.name, edge.cameras) == ("edge", "north", ("gate",))
    assert device_of(LatentbusSettings.model_validate({"worker": {"name": "w-9"}}), None).name == "w-9"
    assert device_of(LatentbusSettings.model_validate({"gateway": {}}), None).kind == "gateway"
    client = device_of(LatentbusSettings(), "alice")
    assert (client.kind, client.name) == ("client", "alice")


def test_the_worst_verdict_counts() -> None:
    findings = [judge_version(None), judge_version(Software("mosquitto", (2, 0, 11)))]
    assert worst(findings) is Verdict.WARN
    assert worst([]) is Verdict.GOOD


def test_own_certificate(tmp_path: Path) -> None:
    certificates(tmp_path, "north")
    soon = check_own_certificate(tmp_path / "north.crt")
    assert soon.verdict is Verdict.WARN
    assert "more days" in soon.found
    assert check_own_certificate(tmp_path / "missing.crt").verdict is Verdict.BAD
    assert check_own_certificate(tmp_path / "north.key").verdict is Verdict.BAD


@pytest.mark.parametrize(
    ("host", "local"), [("localhost", True), ("127.0.0.1", True), ("::1", True), ("broker.example", False)]
)
def test_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) is local
