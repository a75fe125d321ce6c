"""A process that looks after itself: what it finds on its disk, what it tells, and what Prometheus sees."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from structlog.testing import capture_logs

from broker_config.certificates import CertificateAuthority
from pipeline.bus.base import ConnectionChange
from pipeline.config.broker_settings import BrokerSettings, TlsSettings
from pipeline.config.recording_settings import RecordingSettings
from pipeline.health.conditions import Sign
from pipeline.node.metrics import Metrics
from pipeline.node.process_health import Belongings, ProcessHealth, ProcessProbe, belongings_of
from pipeline.protocol.asking_rules import CLOCK_IS_SET_S
from schemas.messages import Condition


class Process:
    """A process whose clock the test turns."""

    def __init__(self, belongings: Belongings) -> None:
        self.now_s = 0.0
        self.wall_s = CLOCK_IS_SET_S + 1_000.0
        self.more: list[Sign] = []
        self.told: list[list[str]] = []
        self.metrics = Metrics()
        probe = ProcessProbe("site", "north", belongings, self.metrics, clock=lambda: (self.wall_s, self.now_s))
        self.health = ProcessHealth(probe, self.metrics, tell=self._tell, more=lambda: self.more)

    def _tell(self, conditions: Sequence[Condition]) -> None:
        self.told.append([f"{condition.kind} {condition.about}".strip() for condition in conditions])

    def pass_s(self, seconds: int) -> None:
        for _ in range(0, seconds, 5):
            self.now_s += 5
            self.wall_s += 5
            self.health.look()

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"latentbus_{name}", labels)


def test_what_is_wrong_is_told_when_it_changes_the_worst_first() -> None:
    process = Process(Belongings({}, {}))
    process.pass_s(60)
    assert process.told == []
    process.more = [Sign("camera-stalled", "site", "north", True, "gate"), Sign("pool-empty", "site", "north", True)]
    with capture_logs() as logs:
        process.pass_s(60)
        process.more = []
        process.pass_s(60)
    assert process.told == [["pool-empty", "camera-stalled gate"], []]
    assert [line["event"] for line in logs] == ["unhealthy"] * 2 + ["healthy again"] * 2
    assert logs[0]["advice"]
    assert process.sample("health_conditions", condition="camera-stalled") == 0
    assert process.sample("health_conditions", condition="clock-wrong") == 0


def test_a_clock_that_is_set_is_told_and_counted() -> None:
    process = Process(Belongings({}, {}))
    process.pass_s(60)
    process.wall_s += 3_600
    process.pass_s(60)
    assert process.told == [["clock-wrong"]]
    assert process.sample("clock_steps_total") == 1
    assert process.sample("health_conditions", condition="clock-wrong") == 1
    process.pass_s(700)
    assert process.told[-1] == []


def test_disks_and_certificates_are_read_and_one_that_is_missing_is_left_out(tmp_path: Path) -> None:
    certificate = CertificateAuthority.create(datetime.now(UTC), days=10).certificate
    (tmp_path / "ca.pem").write_bytes(certificate)
    (tmp_path / "bad.pem").write_text("nonsense")
    process = Process(
        Belongings(
            {"state_dir": tmp_path, "recording": tmp_path / "missing", "log": None},
            {"ca_file": tmp_path / "ca.pem", "cert_file": tmp_path / "bad.pem", "other": tmp_path / "none.pem"},
        )
    )
    space, ends = process.health.probe.read()
    process.health.probe.connection(ConnectionChange(True, 1, "", certificate_end_s=process.wall_s + 86_400))
    process.health.probe.connection(ConnectionChange(False, 1, "gone"))
    assert process.sample("certificate_end_timestamp_seconds", certificate="broker") == process.wall_s + 86_400
    process.pass_s(60)
    assert process.told == [["certificate-ending broker"]]
    assert set(space) == {"state_dir"}
    assert set(ends) == {"ca_file"}
    assert space["state_dir"].free_bytes <= space["state_dir"].total_bytes


def test_what_an_edge_keeps_on_disk_is_named_as_in_its_settings(tmp_path: Path) -> None:
    broker = BrokerSettings(tls=TlsSettings(ca_file=tmp_path / "ca.pem"))
    found = belongings_of(broker, tmp_path, RecordingSettings(file=tmp_path / "logs" / "a.mcap"))
    assert found.folders == {"state_dir": tmp_path, "recording": tmp_path / "logs"}
    assert found.certificates == {"ca_file": tmp_path / "ca.pem", "cert_file": None}
    assert belongings_of(BrokerSettings(), None, None) == Belongings({"state_dir": None, "recording": None}, {})
