"""Frames that were coded given a key frame: a log is understood with the key frame, and says so without it."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from analysis.inspection import inspect_logs
from analysis.latents import RecordedLatent, recorded_latent
from analysis.redact.redaction import Redaction, redactor
from analysis.replay.plan import Shortfalls
from analysis.replay.remap import CameraRemap
from analysis.replay.retained import cameras_without_keys, retained_key_frames
from analysis.replay.selection import TimeRange, TopicSelection
from analysis.traces import FrameTrace
from analysis.traffic import read_traffic
from analysis.workload import read_workload, round_trip_s
from latentbus.logs.inspect_view import print_inspection
from latentbus.replay.cameras import read_recorded
from latentbus.replay.options import CameraOptions
from latentbus.replay.report import shortfall_lines
from latentbus.what_if.recorded_content import Bound, Gaps, LatentSizes
from pipeline.recording.message import LoggedMessage, wire_bytes
from pipeline.recording.reader import open_logs
from schemas import topics
from schemas.errors import BitstreamError
from schemas.messages import Handover, KeyFrame, Open
from schemas.types import FrameId
from schemas.wire import decode_publish
from tests.analysis.test_replay_plan import CAR, frames, plan_of
from tests.edge.conftest import codec_dir
from tests.recording.fleet_log import FleetLog
from tests.recording.messages import write_log
from tests.recording.recorded_frames import BOOT, FINGERPRINT, LATENTS, PREDICTING, START_NS, TABLES, FrameLog

__all__ = ["codec_dir"]

FRAME = ("gate", FrameId(BOOT, 4))


def keyed_log() -> FrameLog:
    """A key frame, its own frame, and one that is coded given it."""
    log = FrameLog(tables=PREDICTING)
    log.edge("north", "gate")
    log.question("car", "Is there a car?")
    log.key_frame(0.9, "gate", 3)
    log.open(1.0, "gate", 3, CAR, key=3)
    log.open(2.0, "gate", 4, CAR, key=3)
    log.chunk(2.1, "gate", 4, 3, 5, key=3)
    return log


def trace_of(log: FrameLog, key: tuple[str, FrameId] = FRAME) -> FrameTrace:
    return read_traffic(log.messages).frames[key]


def latent_of(log: FrameLog, key: tuple[str, FrameId] = FRAME) -> RecordedLatent:
    return recorded_latent(trace_of(log, key), log.tables)


def without(log: FrameLog, part: str) -> FrameLog:
    return replace(log, messages=[message for message in log.messages if part not in message.topic])


# ---- latents --------------------------------------------------------------------------------------------------------


def test_a_frame_is_read_with_its_key_frame_and_goes_out_without() -> None:
    log = keyed_log()
    latent, alone = latent_of(log), log.latent(4)

    assert (latent.available, latent.whole) == (5, False)
    for start, stop in ((0, 3), (3, 5), (0, 5)):
        assert latent.payload(start, stop) == alone.payload(start, stop)
    assert trace_of(log).opens[0][1].payload != alone.payload(0, 3)


def test_a_key_frame_holds_all_latents_of_its_own_frame() -> None:
    log = keyed_log()
    key = ("gate", FrameId(BOOT, 3))
    latent = latent_of(log, key)
    assert latent.whole
    assert latent.payload(0, LATENTS) == log.latent(3).payload(0, LATENTS)
    only_as_key = trace_of(log, key)
    only_as_key.opens.clear()
    assert recorded_latent(only_as_key, PREDICTING).whole


def test_a_handover_is_read_with_its_key_frame_too() -> None:
    log = FrameLog(tables=PREDICTING)
    log.key_frame(0.9, "gate", 3)
    message = Handover(
        camera="gate", hops=1, frame=FRAME[1], attempt=1, site="north", fingerprint=FINGERPRINT, queries=(CAR,), stop=3,
        payload=log.coded(4, 3).payload(0, 3), key=3,
    )  # fmt: skip
    log.put(2.0, topics.handover_topic("w2"), message, qos=1)
    assert latent_of(log).available == 3


def test_a_log_without_the_key_frame_says_which_one_it_lacks() -> None:
    log = without(keyed_log(), "/key/")
    with pytest.raises(BitstreamError, match=r"latents 0\.\.3: .*the log has no key frame 3"):
        latent_of(log)

    # The same number of another camera, or of another run of the edge, is another frame.
    log.key_frame(0.1, "yard", 3)
    replace(log, boot=BOOT + 1).key_frame(0.2, "gate", 3)
    with pytest.raises(BitstreamError, match="no key frame 3"):
        latent_of(log)

    # The edge opened the frame again, coded by itself: then only the chunk is lost.
    log.open(2.2, "gate", 4, CAR, attempt=2)
    assert latent_of(log).available == 3


def test_a_key_frame_that_does_not_decode_is_none() -> None:
    log = keyed_log()
    messages = [redactor([Redaction.LATENTS])(m) if "/key/" in m.topic else m for m in log.messages]
    with pytest.raises(BitstreamError, match="key frame 3, which does not decode"):
        latent_of(replace(log, messages=messages))
    with pytest.raises(BitstreamError, match="codes each frame by itself"):
        recorded_latent(trace_of(log), TABLES)


@given(
    st.lists(
        st.tuples(st.integers(0, LATENTS - 1), st.integers(1, LATENTS), st.sampled_from([None, 1, 2])), max_size=8
    ),
    st.permutations(range(11)),
)
def test_what_can_be_decoded_gives_the_longest_prefix_without_a_gap(
    ranges: list[tuple[int, int, int | None]], order: list[int]
) -> None:
    """Key frame 1 is in the log, key frame 2 is not."""
    log, held = FrameLog(tables=PREDICTING), set[int]()
    log.key_frame(0.5, "gate", 1)
    for start, stop, key in ranges:
        if start < stop:
            log.chunk(1.0, "gate", 4, start, stop, key=key)
            held |= set(range(start, stop)) if key != 2 else set()
    mixed = [log.messages[place] for place in order if place < len(log.messages)]
    trace = read_traffic(mixed).frames.get(FRAME)
    if trace is None:
        return
    available = next(index for index in range(LATENTS + 1) if index not in held)
    if not available and any(key == 2 and start < stop for start, stop, key in ranges):
        with pytest.raises(BitstreamError, match="no key frame 2"):
            recorded_latent(trace, PREDICTING)
        return
    latent = recorded_latent(trace, PREDICTING)
    assert latent.available == available
    if available:
        assert latent.payload(0, available) == log.latent(4).payload(0, available)


# ---- plans of virtual cameras ---------------------------------------------------------------------------------------


def test_virtual_cameras_need_no_key_frames() -> None:
    log = keyed_log()
    found = {frame.frame.sequence: frame.latent for frame in frames(plan_of(log, tables=PREDICTING))}
    assert {sequence: latent.available for sequence, latent in found.items()} == {3: LATENTS, 4: 5}
    assert all(latent.payload(0, 3) == log.latent(number).payload(0, 3) for number, latent in found.items())


def test_a_plan_counts_frames_whose_key_frame_is_missing_and_says_why() -> None:
    log = without(keyed_log(), "/key/")
    with pytest.raises(BitstreamError, match="no key frame 3"):
        plan_of(log, tables=PREDICTING)
    log.open(5.0, "gate", 5, CAR)
    plan = plan_of(log, tables=PREDICTING)
    assert [frame.frame.sequence for frame in frames(plan)] == [5]
    assert plan.shortfalls.frames_damaged == 2
    assert plan.shortfalls.frames_without_latents == 0
    (line,) = shortfall_lines(Shortfalls(frames_damaged=2, why_damaged=plan.shortfalls.why_damaged))
    assert "the log has no key frame 3" in line


def test_a_key_frame_from_long_before_the_part_that_is_played_is_read(tmp_path: Path, codec_dir: Path) -> None:
    log = FrameLog(tables=PREDICTING)
    log.key_frame(0.0, "gate", 3)
    log.open(0.0, "gate", 3, CAR, key=3)
    log.open(1_000.0, "gate", 4, CAR, key=3)
    part = TimeRange(START_NS + 999 * 10**9, START_NS + 1_001 * 10**9)
    with open_logs([write_log(tmp_path / "run.mcap", log.messages)]) as logs:
        recorded = read_recorded(logs, part, CameraOptions(codec=codec_dir))
    assert list(recorded.traffic.frames) == [FRAME]
    assert recorded_latent(recorded.traffic.frames[FRAME], PREDICTING).available == 3


# ---- traffic, figures, sizes ----------------------------------------------------------------------------------------


def test_a_key_frame_costs_its_own_frame_and_counts_once() -> None:
    log = keyed_log()
    traffic, bare = read_traffic(log.messages), read_traffic(without(log, "/key/").messages)
    (published,) = (message for message in log.messages if "/key/" in message.topic)
    payload = log.latent(3).payload(0, LATENTS)
    key = ("gate", FrameId(BOOT, 3))

    assert [(name, found.published_ns) for name, found in traffic.key_frames.items()] == [(key, published.time_ns)]
    assert traffic.key_frames[key].message.payload == payload
    assert traffic.messages["key"] == 1
    assert traffic.frames[key].as_key is traffic.key_frames[key]
    assert traffic.frames[key].latent_bytes - bare.frames[key].latent_bytes == len(payload)
    assert traffic.frames[key].wire_bytes - bare.frames[key].wire_bytes == wire_bytes(published)
    assert traffic.frames[FRAME].wire_bytes == bare.frames[FRAME].wire_bytes
    assert traffic.uplink_bytes.total() == sum(frame.wire_bytes for frame in traffic.frames.values())

    again = read_traffic([*log.messages, published])
    assert (again.repeats, again.uplink_bytes) == (1, traffic.uplink_bytes)


def test_a_key_frame_that_was_retained_from_before_the_log_cost_nothing_in_it() -> None:
    log = FrameLog(tables=PREDICTING)
    log.key_frame(0.0, "gate", 3)
    log.put(0.1, topics.key_topic("main", "yard"), b"", qos=1, retain=True)
    log.open(1.0, "gate", 4, CAR, key=3)
    traffic = read_traffic(log.messages)
    assert list(traffic.frames) == [FRAME]
    assert traffic.uplink_bytes["gate"] == wire_bytes(log.messages[-1])
    assert read_workload(traffic).lacks.keys() & {"frames without a query"} == set()
    assert latent_of(log).available == 3


def test_inspect_counts_key_frames(tmp_path: Path) -> None:
    log = keyed_log()
    log.key_frame(7.0, "yard", 8)
    with open_logs([write_log(tmp_path / "run.mcap", log.messages)]) as logs:
        inspection = inspect_logs(logs)
    assert inspection.families["key"] == 2
    gate, yard = inspection.cameras["gate"], inspection.cameras["yard"]
    assert (gate.key_frames, gate.frames, yard.key_frames, yard.frames) == (1, 2, 1, 0)
    assert gate.latent_bytes > len(log.latent(3).payload(0, LATENTS))
    with Console(width=160, record=True) as console:
        print_inspection(inspection, console)
    assert "keys" in console.export_text()


def test_sizes_of_recorded_pieces_are_those_they_had() -> None:
    log = keyed_log()
    log.open(3.0, "gate", 6, CAR, key=3)
    log.chunk(3.1, "gate", 6, 3, 5, key=3)
    log.open(3.2, "gate", 6, CAR, attempt=2)
    workload = read_workload(read_traffic(log.messages))
    key, _, frame = workload.frames
    opened, chunk = frame.trace.opens[0][1], frame.trace.chunks[0][2]
    for tables in (PREDICTING, None):
        gaps = Gaps()
        sizes = LatentSizes(workload.frames, LATENTS, tables)
        latent = sizes.latent(2, frame.trace, Bound.PESSIMISTIC, gaps)
        assert len(latent.payload(0, 3)) == len(opened.payload) != len(log.latent(6).payload(0, 3))
        assert len(latent.payload(3, 5)) == len(chunk.payload)
        # A key frame is sent whole, and opened as it is coded given itself.
        whole = sizes.latent(0, key.trace, Bound.PESSIMISTIC, gaps)
        assert len(whole.payload(0, LATENTS)) == len(log.latent(3).payload(0, LATENTS))
        as_key = sizes.as_key(0, key.trace, Bound.PESSIMISTIC, gaps)
        assert as_key is not None
        assert len(as_key.payload(0, 3)) == len(key.trace.opens[0][1].payload)
        assert sizes.as_key(2, frame.trace, Bound.PESSIMISTIC, gaps) is None
        assert not gaps.ranges
        # What was not recorded: exact with the tables, else counted.
        expected = len(log.coded(3, 3).payload(0, 2)) if tables else sizes.extreme(0, 2, Bound.PESSIMISTIC)
        assert len(as_key.payload(0, 2)) == expected
        assert gaps.ranges == ({} if tables else {(0, 2): 1})
    coded = LatentSizes(workload.frames, LATENTS, PREDICTING)
    assert coded.exact(0, key.trace, 0, 3) == len(log.latent(3).payload(0, 3))
    assert coded.exact(2, frame.trace, 1, 4) == len(log.latent(6).payload(1, 4))


def test_a_round_trip_beside_a_key_frame_is_not_measured() -> None:
    log = FleetLog()
    log.question("car", "Is there a red car?")
    log.open(1.0, "gate", 1, "car")
    log.refine(1.2, "gate", 1)
    assert round_trip_s(read_traffic(log.sorted()), ("gate",), 64.0) == pytest.approx(0.02)
    key_frame = KeyFrame(frame=log.frame(1), fingerprint=log.fingerprint, payload=bytes(900))
    log.put(1.21, topics.key_topic("main", "gate"), key_frame, qos=1, retain=True)
    assert round_trip_s(read_traffic(log.sorted()), ("gate",), 64.0) is None


# ---- redaction and names --------------------------------------------------------------------------------------------


def test_redacted_key_frames_and_what_was_coded_given_them_hold_nothing() -> None:
    log = keyed_log()
    blank = [redactor([Redaction.LATENTS])(message) for message in log.messages]
    for before, after in zip(log.messages, blank, strict=True):
        _, message = decode_publish(after.topic, after.payload)
        _, original = decode_publish(before.topic, before.payload)
        assert len(after.payload) == len(before.payload)
        if isinstance(original, KeyFrame | Open):
            assert message == original.model_copy(update={"payload": bytes(len(original.payload))})
    for trace in read_traffic(blank).frames.values():
        with pytest.raises(BitstreamError):
            recorded_latent(trace, PREDICTING)
    assert [redactor([Redaction.TEXT])(message) for message in log.messages if "/key/" in message.topic] == [
        message for message in log.messages if "/key/" in message.topic
    ]


def test_the_key_frame_of_a_renamed_camera_keeps_its_number() -> None:
    log = keyed_log()
    renamed = replace(log, messages=[CameraRemap({"gate": "gate-2"})(message) for message in log.messages])
    assert [message.topic for message in renamed.messages if "/key/" in message.topic] == ["lb/v2/key/main/gate-2"]
    assert [message.payload for message in renamed.messages if "/key/" in message.topic] == [
        message.payload for message in log.messages if "/key/" in message.topic
    ]
    assert latent_of(renamed, ("gate-2", FRAME[1])).available == 5


# ---- what was retained when a part begins ---------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.sampled_from(["main/gate", "main/yard", "other/gate"]), st.booleans(), st.integers(0, 3)),
        max_size=20,
    ),
    st.integers(0, 40),
    st.integers(1, 5),
)
def test_the_last_key_frame_of_each_camera_is_what_was_retained(
    changes: list[tuple[str, bool, int]], before: int, flush_every: int
) -> None:
    messages: list[LoggedMessage] = []
    time_ns, retained = 0, dict[str, LoggedMessage]()
    for number, (place, deleted, step) in enumerate(changes):
        time_ns += step
        payload = b"" if deleted else number.to_bytes(2, "big")
        logged = LoggedMessage(START_NS + time_ns, f"lb/v2/key/{place}", payload, 1, True, sequence=number)
        messages.append(logged)
        if time_ns < before:
            retained.pop(logged.topic, None)
            if payload:
                retained[logged.topic] = logged
    messages.append(LoggedMessage(START_NS + time_ns, "lb/v2/key/Foreign/x/y", b"z", 1, True, sequence=len(messages)))
    with tempfile.TemporaryDirectory() as folder:
        path = write_log(Path(folder) / "run.mcap", messages, flush_every=flush_every)
        with open_logs([path]) as logs:
            assert retained_key_frames(logs, START_NS + before) == list(retained.values())
            assert retained_key_frames(logs, START_NS + before, TopicSelection(["lb/v2/key/+/gate"])) == [
                message for topic, message in retained.items() if topic.endswith("/gate")
            ]
            assert retained_key_frames(logs, START_NS + before, TopicSelection([], ["lb/v2/key/#"])) == []


def test_who_selects_opens_without_their_key_frames_is_told() -> None:
    recorded = ["lb/v2/key/main/gate", "lb/v2/key/main/yard", "lb/v2/open/main/gate", "lb/v2/key/Foreign/x", "house/a"]
    assert cameras_without_keys(recorded, TopicSelection(["lb/v2/open/#"])) == ["gate", "yard"]
    assert cameras_without_keys(recorded, TopicSelection(["lb/v2/open/+/gate"])) == ["gate"]
    for neither in (TopicSelection(), TopicSelection(["lb/v2/+/main/gate"]), TopicSelection(["lb/v2/answer/#"])):
        assert cameras_without_keys(recorded, neither) == []
