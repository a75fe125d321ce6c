"""Names of cameras are unique in a fleet: a site that sends frames has the name until it says otherwise."""

from __future__ import annotations

import pytest

from pipeline.protocol.effects import SendControl
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_caches import SITE_RECENT_S
from pipeline.protocol.worker_frames import WorkerFrames
from schemas.errors import CameraNameError
from schemas.messages import Open, Reject, RejectReason, Status
from schemas.types import FrameId
from tests.protocol.fake_latents import FakeLatent
from tests.protocol.harness import FINGERPRINT, POOL, STOP_RULE
from tests.protocol.questions import ref

BOOTS = {"north": 7, "south": 8}


def _worker() -> WorkerFrames:
    return WorkerFrames(WorkerProtocolSettings(), worker="w0", pool=POOL, fingerprint=FINGERPRINT, stop_rule=STOP_RULE)


def _open(worker: WorkerFrames, site: str, sequence: int, now_s: float) -> None:
    payload = FakeLatent().payload(0, 4)
    message = Open(
        frame=FrameId(BOOTS[site], sequence), attempt=1, site=site, fingerprint=FINGERPRINT, queries=(ref("q", 9_000),),
        stop=4, payload=payload,
    )  # fmt: skip
    worker.receive_open("gate", message, now_s)


def _status(site: str, *cameras: str, online: bool = True, boot: int | None = None) -> Status:
    return Status(kind="edge", id=site, boot=BOOTS[site] if boot is None else boot, online=online, cameras=cameras)


def test_the_frames_of_a_second_site_are_refused_and_told_why() -> None:
    worker = _worker()
    _open(worker, "north", 1, 0.0)
    worker.take_effects()
    with pytest.raises(CameraNameError, match="site 'south' opens frames of camera 'gate', which site 'north' has"):
        _open(worker, "south", 1, 1.0)
    (told,) = [effect.message for effect in worker.take_effects() if isinstance(effect, SendControl)]
    assert isinstance(told, Reject)
    assert told.reason is RejectReason.CAMERA
    _open(worker, "north", 2, 2.0)
    assert worker.counters["rejected"] == 1


def test_a_name_is_free_once_its_site_was_silent_for_a_minute() -> None:
    worker = _worker()
    _open(worker, "north", 1, 0.0)
    _open(worker, "south", 1, SITE_RECENT_S)
    with pytest.raises(CameraNameError):
        _open(worker, "north", 2, SITE_RECENT_S + 1)


@pytest.mark.parametrize("last", [_status("north", online=False), _status("north", "yard", boot=9), _status("north")])
def test_a_name_is_free_at_once_when_its_site_has_ended_or_has_the_camera_no_more(last: Status) -> None:
    worker = _worker()
    worker.receive_edge_status(_status("north", "gate"), 0.0)
    _open(worker, "north", 1, 0.0)
    worker.receive_edge_status(last, 1.0)
    _open(worker, "south", 1, 1.0)
    assert worker.counters["rejected"] == 0


@pytest.mark.parametrize(
    "said", [_status("north", "gate"), _status("north", online=False, boot=6), _status("south", online=False)]
)
def test_a_name_is_kept_while_its_site_is_there(said: Status) -> None:
    worker = _worker()
    worker.receive_edge_status(_status("south", "gate"), 0.0)
    worker.receive_edge_status(_status("north", "gate"), 0.0)
    _open(worker, "north", 1, 0.0)
    worker.receive_edge_status(said, 1.0)
    with pytest.raises(CameraNameError):
        _open(worker, "south", 1, 1.0)
