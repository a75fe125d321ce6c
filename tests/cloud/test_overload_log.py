from __future__ import annotations

from structlog.testing import capture_logs

from cloud_workers.overload_log import REPEAT_S, OverloadLog
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_session import WorkerSession
from tests.cloud.scripted import FINGERPRINT, RULE


def test_an_overload_is_told_now_and_then_and_its_end_once() -> None:
    session = WorkerSession(
        WorkerProtocolSettings(), worker="w-1", pool="main", fingerprint=FINGERPRINT, stop_rule=RULE
    )
    log = OverloadLog(session)
    with capture_logs() as lines:
        log.look(0.0)
        assert lines == []
        session.counters["busy"] += 3
        session.outcomes()["degraded", "standing"] += 1
        session.outcomes()["answered", "ad_hoc"] += 3
        log.look(1.0)
        session.counters["busy"] += 1
        log.look(2.0)
        assert [(line["busy"], line["degraded_percent"]) for line in lines] == [(3, 25)]
        log.look(1.0 + REPEAT_S)
        assert lines[1]["busy"] == 1
        log.look(1.0 + 2 * REPEAT_S)
        log.look(1.0 + 3 * REPEAT_S)
    assert [line["log_level"] for line in lines] == ["warning", "warning", "info"]
