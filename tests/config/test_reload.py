"""What a running process takes over of settings that are read again."""

from __future__ import annotations

from typing import Any

import pytest

from edge_nodes.asking import check_reload
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.reload import check_shared
from pipeline.config.settings import LatentbusSettings, LogSettings
from schemas.errors import ConfigError


def edge(camera: dict[str, Any] | None = None, **more: Any) -> EdgeSettings:
    given = {"site": "depot", "cameras": {"gate": {"source": "test:1", **(camera or {})}}}
    return EdgeSettings.model_validate({**given, **more})


@pytest.mark.parametrize(
    "after",
    [
        edge(),
        edge({"interval_s": 7, "priority": 2, "change_gate": False, "schedule": "08:00-09:00"}),
        edge({"questions": ["car"]}, questions={"car": {"text": "A car?"}}),
        edge(profiles={"night": {}}, profile="night", time_zone="Asia/Tokyo", change_gate={"renew_s": 5}),
    ],
)
def test_what_is_asked_and_when_may_change(after: EdgeSettings) -> None:
    check_reload(edge(), after)


@pytest.mark.parametrize(
    ("after", "keys"),
    [
        (edge({"source": "test:2"}), "edge.cameras.gate.source"),
        (edge(uplink_kbps=64, threads=2), "edge.uplink_kbps, edge.threads"),
        (edge({"interval_s": 3, "masks": [[0, 0, 0.5, 0.5]]}), "edge.cameras.gate.masks"),
        (edge(cameras={"gate": {"source": "test:1"}, "yard": {"source": "test:2"}}), "edge.cameras.yard"),
        (edge(change_gate={"enabled": False}), "edge.change_gate.enabled"),
        (edge(site="other"), "edge.site"),
    ],
)
def test_what_opens_a_device_or_a_file_needs_a_restart(after: EdgeSettings, keys: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_reload(edge(), after)
    assert str(caught.value) == f"{keys}: takes effect after a restart"


def test_the_connection_and_the_log_are_made_at_the_start() -> None:
    before = LatentbusSettings()
    check_shared(before, LatentbusSettings(edge=edge()))
    after = LatentbusSettings(broker=BrokerSettings(port=1884), log=LogSettings(level="debug"))
    with pytest.raises(ConfigError, match=r"broker.port, log.level: takes effect after a restart"):
        check_shared(before, after)
