from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edge_nodes import frame_log as frame_log_module
from edge_nodes.encoder import OnnxEncoder
from edge_nodes.frame_log import FrameLog
from edge_nodes.observer import OfferedFrame
from edge_nodes.sources import CapturedFrame
from pipeline.protocol.effects import Decision
from pipeline.protocol.ports import Sent
from schemas.errors import ConfigError
from schemas.types import FrameId, Outcome
from tests.edge.support import SkippingClock, grey
from tests.protocol.questions import content
from tests.protocol.test_ad_hoc_questions import answer


async def test_every_event_is_a_line(tmp_path: Path, codec_dir: Path) -> None:
    path = tmp_path / "run" / "frames.jsonl"
    log = FrameLog(path, SkippingClock(5.0))
    (latent,) = OnnxEncoder(codec_dir).encode([grey(140)])
    frame = FrameId(255, 3)
    captured = CapturedFrame("gate", 17, 1.7, np.zeros((2, 2, 3), np.uint8))
    log.source_changed("gate", True)
    log.frame_offered(OfferedFrame(captured, frame, latent, 4, ["gate/000000ff-3/car"], 4.5, 0.004))
    log.message_sent(Sent("gate", "open", frame, 20, 300, 6.0))
    log.message_sent(Sent(None, "status", None, 0, 400, 6.5))
    terminal = Decision("gate", frame, "gate/@me/q1", content("q1", ad_hoc=True), Outcome.ANSWERED, answer=answer())
    log.query_ended(terminal, 0.75)
    log.query_ended(Decision("gate", frame, "gate/000000ff-3/q2", content("q2"), Outcome.EXPIRED, "deadline"), 1.0)
    await log.close()
    source, offered, sent, status, ended, expired = map(json.loads, path.read_text().splitlines())
    assert source == {"kind": "source", "camera": "gate", "up": True, "at_s": 5.0}
    assert offered == {
        "kind": "frame",
        "camera": "gate",
        "frame": "000000ff-3",
        "index": 17,
        "time_s": 1.7,
        "query_ids": ["gate/000000ff-3/car"],
        "base_latents": 4,
        "latent_bytes": latent.size_bytes(8),
        "captured_s": 4.5,
        "encode_s": 0.004,
        "at_s": 5.0,
    }
    assert (sent["frame"], sent["message"], sent["latent_bytes"], sent["wire_bytes"]) == ("000000ff-3", "open", 20, 300)
    assert (status["camera"], status["frame"]) == (None, None)
    assert (ended["text"], ended["latents"], ended["delay_s"], ended["ad_hoc"]) == ("yes", 4, 0.75, True)
    assert (ended["query_id"], ended["question_id"]) == ("gate/@me/q1", "q1")
    assert (expired["outcome"], expired["text"], expired["reason"]) == ("expired", None, "deadline")


async def test_it_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_log_module, "MAX_PENDING_LINES", 2)
    monkeypatch.setattr(frame_log_module, "MAX_FILE_BYTES", 100)
    path = tmp_path / "frames.jsonl"
    log = FrameLog(path, SkippingClock())
    for _ in range(5):
        log.source_changed("gate", True)
    assert log.dropped == 3
    log._flush()
    log.source_changed("gate", False)
    await log.close()
    assert log.dropped == 4
    assert len(path.read_text().splitlines()) == 2


def test_a_file_that_cannot_be_written_is_a_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"edge\.frame_log"):
        FrameLog(tmp_path / "file" / "frames.jsonl", SkippingClock())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
async def test_a_full_disk_ends_nothing() -> None:
    log = FrameLog(Path("/dev/full"), SkippingClock())
    log.source_changed("gate", True)
    await log.close()
