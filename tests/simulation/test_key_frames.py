"""Key frames in the simulator: contents that tell a wrong one, edges that send them, faults that break them."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from pipeline.protocol.edge_frame import EdgeEvent, EdgeStage
from pipeline.protocol.edge_session import EdgeSession
from pipeline.protocol.effects import AskedQuery, ChunkData, KeyData
from pipeline.protocol.settings import EdgeProtocolSettings
from pipeline.protocol.site_settings import SiteSettings
from schemas.errors import BitstreamError
from schemas.messages import Reject, RejectReason
from schemas.types import FrameId
from simulation.content import (
    FINGERPRINT,
    LATENTS,
    LatentGivenKey,
    SimulatedLatent,
    damaged,
    read_prefix,
)
from simulation.draw_plan import draw_plan
from simulation.encoder import SimulatedEncoder
from simulation.episode import Episode, EpisodeReport
from simulation.faults import Fault, FaultKind
from simulation.mutations import MUTATIONS, detect
from simulation.plan import EpisodePlan, WorkerPlan
from simulation.questions import ad_hoc
from simulation.run import record_moves
from tests.protocol.test_key_frames import key_of

KEY, OTHER = (SimulatedLatent(mark).payload(0, LATENTS) for mark in (b"key-1", b"key-2"))


def _chunk(start: int, stop: int, *, made_for: bytes | None = None, key: bytes | None = None) -> ChunkData:
    latent = SimulatedLatent() if made_for is None else LatentGivenKey(made_for)
    return ChunkData(start, stop, latent.payload(start, stop), None if key is None else KeyData(3, key))


@pytest.mark.parametrize(
    "chunks",
    [
        [_chunk(0, 8), _chunk(8, 32)],
        [_chunk(0, 8, made_for=KEY, key=KEY), _chunk(8, 16, made_for=KEY, key=KEY)],
        [_chunk(0, 8, made_for=KEY, key=KEY), _chunk(8, 16)],
        [ChunkData(0, 32, KEY)],
    ],
)
def test_latents_are_read_with_the_key_frame_that_they_were_made_for(chunks: list[ChunkData]) -> None:
    read_prefix(chunks)


@pytest.mark.parametrize(
    "chunks",
    [
        [_chunk(0, 8, made_for=KEY)],
        [_chunk(0, 8, made_for=KEY, key=OTHER)],
        [_chunk(0, 8, key=KEY)],
        [_chunk(0, 8, made_for=KEY, key=KEY), _chunk(8, 16, made_for=KEY)],
        [_chunk(0, 8), _chunk(16, 24)],
        [_chunk(0, 8), _chunk(0, 8)],
        [_chunk(0, 8), ChunkData(8, 16, KEY[8 * 6 : 16 * 6])],
    ],
)
def test_latents_that_are_read_without_it_are_noticed(chunks: list[ChunkData]) -> None:
    with pytest.raises(ValueError, match="latents"):
        read_prefix(chunks)


def test_a_damaged_key_frame_does_not_decode() -> None:
    with pytest.raises(BitstreamError, match="key frame 3"):
        read_prefix([_chunk(0, 8, made_for=KEY, key=damaged(KEY))])


def test_an_edge_names_its_latest_key_frame_until_a_worker_misses_it() -> None:
    site = SiteSettings("site", "main", asked_of={"gate": ()})
    session = EdgeSession(EdgeProtocolSettings(), site, boot=1, fingerprint=FINGERPRINT)
    encoder = SimulatedEncoder(session, "site/1", 8)

    def offer(count: int) -> list[tuple[FrameId, int | None]]:
        """Further frames of a camera, and the key frame that each is given."""
        frames = []
        for _ in range(count):
            query = AskedQuery(ad_hoc("client", next(names)), 9.0)
            frame = encoder.offer("gate", [query], 0.0).frame
            assert frame is not None
            frames.append((frame, key_of(session.frames, "gate", frame)))
        return frames

    names = (f"a{number}" for number in itertools.count())
    first = offer(4)
    assert first[0][1] == 0
    assert {key for _, key in first} == {0, None}, "some are coded by themselves all the same"
    (frame, *_) = [frame for frame, key in first[1:] if key == 0]
    encoder.lost("gate", 5)
    assert 0 in {key for _, key in offer(2)}
    reject = Reject(worker="w0", frame=frame, attempt=1, reason=RejectReason.KEY_FRAME, fingerprint=FINGERPRINT)
    session.frames.receive_control("gate", reject, 0.0)
    (lost,) = session.frames.take_lost_keys()
    encoder.lost(lost.camera, lost.sequence)
    assert {key for _, key in offer(2)} == {None}
    assert {key for _, key in offer(8)} == {8, None}


def _plan(*, faults: tuple[Fault, ...] = (), batch_s: float = 0.02) -> EpisodePlan:
    """Sites with key frames and wide uplinks, and two workers."""
    plan = draw_plan(7_000_000)
    return replace(
        plan,
        keepalive_s=4.0,
        late_wills_s=0.0,
        batch_tokens=math.inf,
        sites=tuple(replace(site, key_every=4, uplink_kbps=1000.0) for site in plan.sites),
        workers=tuple(WorkerPlan(f"w{index}", batch_s, 0.002) for index in range(2)),
        worker=replace(plan.worker, capacity_frames=1024, key_frame_bytes=1 << 20),
        faults=faults,
    )


def _run(plan: EpisodePlan) -> EpisodeReport:
    report = Episode(plan).run()
    assert report.violations == []
    return report


def test_where_nothing_breaks_no_worker_misses_a_key_frame() -> None:
    report = _run(_plan())
    assert report.counters["edge_key_frames"] > 0
    assert report.counters["worker_key_frames"] == 2 * report.counters["edge_key_frames"]
    assert report.counters["worker_key_frame_missing"] == 0


def test_a_worker_that_starts_again_gets_what_is_retained() -> None:
    crash = tuple(Fault(time_s, FaultKind.WORKER_CRASH, "w0", 0.5, 0.0) for time_s in (5.0, 9.0, 13.0))
    report = _run(_plan(faults=crash))
    assert report.counters["worker_key_frame_missing"] == 0


def test_a_broker_that_forgets_key_frames_leaves_new_workers_without() -> None:
    faults = tuple(
        fault
        for time_s in (5.0, 9.0, 13.0)
        for fault in (
            Fault(time_s, FaultKind.BROKER_RESTART, "", 0.1, 1.0),
            Fault(time_s + 0.05, FaultKind.WORKER_CRASH, "w0", 0.2, 0.0),
        )
    )
    report = _run(_plan(faults=faults))
    assert report.counters["worker_key_frame_missing"] > 0
    assert report.counters["edge_key_frame_missing"] > 0


def test_damaged_key_frames_cost_an_attempt_and_no_outcome() -> None:
    damage = tuple(Fault(time_s, FaultKind.WORKER_KEYS, "w0", 1.0, 0.0) for time_s in (5.0, 9.0, 13.0))
    with record_moves() as visited:
        report = _run(_plan(faults=damage, batch_s=3.0))
    assert report.counters["worker_pass_failed_bitstream"] > 0
    assert report.counters["edge_reopens"] > 0
    assert {(EdgeStage.OPENED, EdgeEvent.KEY_MISSING), (EdgeStage.OWNED, EdgeEvent.KEY_MISSING)} & visited
    # Some clients ask about frames that are not kept any more: nothing else fails.
    assert report.outcomes["failed"] == report.counters["edge_past_not_held"]


@pytest.mark.parametrize(
    "name",
    ["a missing key frame is not", "any key frame", "chunks do not", "a missing key frame fails", "rejected though"],
)
def test_the_simulator_finds_what_was_broken_about_key_frames(name: str) -> None:
    (mutation,) = [mutation for mutation in MUTATIONS if mutation.name.startswith(name)]
    assert detect(mutation, events=60_000).caught_by is not None
