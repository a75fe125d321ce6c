"""Two sites with one camera name: one is served, and both are told the cause."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from pipeline.protocol.edge_frames import EdgeFrames
from pipeline.protocol.edge_names import NAME_CONFLICT_S
from pipeline.protocol.effects import AskedQuery, Decision, PassAnswer, SendAnswer, SendControl
from pipeline.protocol.settings import EdgeProtocolSettings, WorkerProtocolSettings
from pipeline.protocol.worker_frames import WorkerFrames
from schemas.errors import CameraNameError
from schemas.messages import Accept, Chunk, Open, Reject, RejectReason, Revoke
from schemas.types import FrameId, Outcome
from tests.protocol.fake_latents import FakeLatent
from tests.protocol.harness import FINGERPRINT, POOL, STOP_RULE
from tests.protocol.questions import asked, content, published

NORTH, SOUTH = 7, 8
NORTH_HAS_IT = "site 'south' opens frames of camera 'gate', which site 'north' has"


def _edge(site: str, boot: int) -> EdgeFrames:
    return EdgeFrames(EdgeProtocolSettings(), site=site, pool=POOL, boot=boot, fingerprint=FINGERPRINT)


@dataclass
class Sites:
    """Two edges with a camera ``gate``, and a worker whose words about it both of them read."""

    north: EdgeFrames = field(default_factory=lambda: _edge("north", NORTH))
    south: EdgeFrames = field(default_factory=lambda: _edge("south", SOUTH))
    worker: WorkerFrames = field(
        default_factory=lambda: WorkerFrames(
            WorkerProtocolSettings(), worker="w0", pool=POOL, fingerprint=FINGERPRINT, stop_rule=STOP_RULE
        )
    )
    terminals: list[Decision] = field(default_factory=list)
    revoked: int = 0
    told: dict[str, list[str]] = field(default_factory=lambda: {"north": [], "south": [], "worker": []})
    """What each one logs."""

    def __post_init__(self) -> None:
        for site in ("north", "south"):
            self.worker.receive_question(published(content("q0", site=site)))

    def ask(self, site: str, now_s: float) -> None:
        """Take a frame at one of the two and let everybody speak until nobody has more to say."""
        edge = self.north if site == "north" else self.south
        edge.offer("gate", FakeLatent(), 4, [AskedQuery(content("q0", site=site), now_s + 9.0)], now_s)
        while self._round(now_s):
            pass

    def _round(self, now_s: float) -> bool:
        spoke = False
        for edge in (self.north, self.south):
            self.terminals += edge.take_decisions()
            for departure in edge.take_departures():
                spoke = True
                match departure.stamp(now_s):
                    case Open() as message:
                        with self._log("worker"):
                            self.worker.receive_open("gate", message, now_s)
                    case Revoke() as revoked:
                        self.revoked += 1
                        self.worker.receive_revoke("gate", revoked)
                    case Chunk() as chunk:
                        self.worker.receive_chunk("gate", chunk, now_s)
        for inference_pass in self.worker.passes.take(8, now_s):
            score = inference_pass.stop / STOP_RULE.ladder[-1]
            self.worker.passes.finish(
                inference_pass, [PassAnswer(query.query_id, "yes", score) for query in inference_pass.queries], now_s
            )
        for said in self.worker.take_effects():
            spoke = True
            for site, edge in (("north", self.north), ("south", self.south)):
                with self._log(site):
                    if isinstance(said, SendAnswer):
                        edge.receive_answer(said.message, now_s)
                    elif isinstance(said, SendControl):
                        edge.receive_control("gate", said.message, now_s)  # type: ignore[arg-type]
        return spoke

    def _log(self, who: str) -> Log:
        return Log(self.told[who])


@dataclass
class Log:
    """Keeps the text of a peer's mistake, as a process does."""

    lines: list[str]

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, CameraNameError):
            self.lines.append(str(error))
            return True
        return False


def test_the_first_site_is_served_and_all_three_logs_name_the_camera() -> None:
    sites = Sites()
    for now_s in range(5):
        sites.ask("north", float(now_s))
        sites.ask("south", now_s + 0.5)
    ended = {site: [t.outcome for t in sites.terminals if t.question.owner == f"site/{site}"] for site in sites.told}
    assert ended["north"] == [Outcome.ANSWERED] * 5
    assert ended["south"] == [Outcome.FAILED] * 5
    assert {t.reason for t in sites.terminals if t.outcome is Outcome.FAILED} == {
        "another site has a camera of this name: camera names are unique in a fleet, rename one of the two"
    }
    assert all(NORTH_HAS_IT in line for line in sites.told["worker"])
    assert all(NORTH_HAS_IT in line for line in sites.told["south"][1:])
    assert sites.told["south"]
    assert "another site opens frames of camera 'gate', which site 'north' has" in sites.told["north"][0]
    assert all("rename one of the two" in line for lines in sites.told.values() for line in lines)


def test_the_second_site_does_not_end_the_frames_of_the_first_once_it_has_heard_of_it() -> None:
    sites = Sites()
    sites.ask("north", 0.0)
    sites.ask("south", 0.5)
    sites.revoked = 0
    sites.ask("north", 1.0)
    assert sites.revoked == 0
    assert sites.terminals[-1].outcome is Outcome.ANSWERED


def test_frames_of_an_earlier_process_of_the_site_are_still_revoked() -> None:
    edge = _edge("north", NORTH)
    accept = Accept(worker="w0", frame=FrameId(3, 1), attempt=1, lease_ms=1_000)
    edge.receive_control("gate", accept, 0.0)
    assert [departure.stamp(0.0) for departure in edge.take_departures()] == [
        Revoke(camera="gate", frame=FrameId(3, 1), attempt=1)
    ]


@pytest.mark.parametrize(("later_s", "revoked"), [(NAME_CONFLICT_S - 1, 0), (NAME_CONFLICT_S, 1)])
def test_unknown_frames_are_left_alone_while_the_name_is_in_conflict(later_s: float, revoked: int) -> None:
    edge = _edge("north", NORTH)
    reject = Reject(worker="w0", frame=FrameId(SOUTH, 1), attempt=1, reason=RejectReason.CAMERA, fingerprint=bytes(4))
    with pytest.raises(CameraNameError):
        edge.receive_control("gate", reject, 0.0)
    assert edge.take_departures() == []
    for boot in (SOUTH, NORTH):
        accept = Accept(worker="w0", frame=FrameId(boot, 5), attempt=1, lease_ms=1_000)
        edge.receive_control("gate", accept, later_s)
    assert len(edge.take_departures()) == revoked + 1, "its own boot's unknown frames are gone in any case"


def test_a_query_of_the_site_ends_once_when_its_name_is_refused() -> None:
    edge = _edge("north", NORTH)
    frame = edge.offer("gate", FakeLatent(), 4, [asked("q0", 9.0)], 0.0)
    (opened,) = edge.take_departures()
    assert isinstance(opened.stamp(0.0), Open)
    reject = Reject(worker="w0", frame=frame, attempt=1, reason=RejectReason.CAMERA, fingerprint=bytes(4))
    for _again in range(2):
        with pytest.raises(CameraNameError, match="site 'north' opens frames of camera 'gate', which another site has"):
            edge.receive_control("gate", reject, 0.1)
    assert [decision.outcome for decision in edge.take_decisions()] == [Outcome.FAILED]
    assert edge.unfinished() == 0
