"""What would have been: a log in the simulator says what it said, and where the log is silent, so is the simulator."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from analysis.merged import merged
from analysis.model_times import measure_model_times
from analysis.traffic import Traffic, read_traffic
from analysis.workload import Workload, read_workload, round_trip_s
from cloud_workers.node import run_worker
from edge_nodes.node import run_edge
from latentbus.cli import app
from latentbus.what_if.figures import recorded_figures
from latentbus.what_if.options import WhatIfOptions
from latentbus.what_if.recorded_content import Bound, Gaps, LatentSizes, RecordedModel
from latentbus.what_if.run import what_if
from latentbus.what_if.simulate import Changes, Parameters, recorded_parameters, simulate_log
from pipeline.codec.bundled import MODELS_DIR_VARIABLE, bundled_codec_dir
from pipeline.codec.stop_file import load_stop_rule
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.question_settings import QuestionSettings
from pipeline.config.recording_settings import EdgeRecordingSettings, RecordingSettings
from pipeline.config.settings import LatentbusSettings
from pipeline.config.worker_settings import WorkerSettings
from pipeline.node.runtime import Stop
from pipeline.protocol.effects import ChunkData, InferencePass, PassQuery
from pipeline.protocol.stop_rule import StopRule
from pipeline.recording.message import LoggedMessage
from pipeline.recording.reader import open_logs
from pipeline.recording.stored_latent import StoredLatent, encode_stored_latent, latent_topic
from pipeline.recording.writer import LogWriter
from schemas import topics
from schemas.errors import ConfigError
from schemas.messages import KeyFrame, Open
from schemas.types import AnswerType, FrameId, Outcome
from schemas.wire import decode_publish, encode
from tests.edge.support import grey, write_video
from tests.integration.conftest import models_dir
from tests.protocol.questions import content
from tests.recording.fleet_log import CHUNK_PAYLOAD, OPEN_PAYLOAD, FleetLog, demo_log

__all__ = ["models_dir"]

LADDER = (8, 24)
RULE = StopRule(LADDER, (0.9, 0.0), {}, 0.02)
KBPS = {"north": 64.0}


def steady_log(frames: int = 20, *, every_s: float = 1.0, hard: int = 4, stored: bool = False) -> FleetLog:
    """One camera, one question; each ``hard``-th frame needs its chunk."""
    log = FleetLog()
    log.edge("north", "gate")
    log.worker("w1")
    log.question("car", "Is there a red car?")
    for number in range(frames):
        at_s = 1.0 + number * every_s
        if stored:
            whole = StoredLatent("gate", log.frame(number), 8, 24, OPEN_PAYLOAD + CHUNK_PAYLOAD)
            log.put(at_s - 0.01, latent_topic("gate"), encode_stored_latent(whole))
        log.open(at_s, "gate", number, "car")
        if number % hard:
            log.answer(at_s + 0.05, "gate", number, "car", "yes", score=0.97)
        else:
            log.answer(at_s + 0.05, "gate", number, "car", "no", outcome=None, score=0.4)
            log.refine(at_s + 0.051, "gate", number)
            log.answer(at_s + 0.121, "gate", number, "car", "yes", score=0.8, latents=24)
    return log


def understood(messages: list[LoggedMessage]) -> tuple[Workload, Traffic]:
    traffic = read_traffic(messages)
    return read_workload(traffic), traffic


def parameters(workload: Workload, traffic: Traffic, **more: object) -> Parameters:
    return recorded_parameters(workload, traffic, RULE, site_kbps=KBPS, **more)  # type: ignore[arg-type]


# ---- what a log gives -----------------------------------------------------------------------------------------------


def test_a_frame_was_captured_as_long_before_its_open_as_its_queries_had_lost() -> None:
    workload, _ = understood(steady_log(3).sorted())
    frame = workload.frames[0]
    # The question has 8,000 ms, the open leaves with 7,500.
    assert frame.captured_s == pytest.approx(1.0 - 0.5)
    assert frame.offered_s == pytest.approx(1.0)  # every frame waited so long: that is the encoder
    assert frame.queries[0].deadline_s == pytest.approx(0.5 + 8.0)
    assert frame.base_latents == 8
    assert [(inference_pass.prefix, inference_pass.text) for inference_pass in frame.queries[0].passes] == [
        (8, "no"),
        (24, "yes"),
    ]
    assert not workload.lacks


def test_what_a_log_cannot_give_is_counted() -> None:
    log = demo_log()
    log.outcome(5.0, "gate", 9, "car", Outcome.SUPERSEDED)  # it never left the edge
    workload, _ = understood(log.sorted())
    assert workload.lacks == Counter(
        {
            "frames whose latents never left the edge": 1,
            "queries of such frames": 1,
            "frames whose wait for the uplink is unknown, taken as none": 1,  # only an ad-hoc question was asked of it
        }
    )


def test_a_stored_latent_makes_up_for_an_open_that_never_left() -> None:
    log = steady_log(2)
    log.outcome(5.0, "gate", 9, "car", Outcome.SUPERSEDED)
    log.put(4.0, latent_topic("gate"), encode_stored_latent(StoredLatent("gate", log.frame(9), 8, 24, bytes(30))))
    workload, _ = understood(log.sorted())
    assert len(workload.frames) == 3
    assert workload.frames[-1].offered_s == pytest.approx(4.0)
    assert workload.frames[-1].queries[0].deadline_s == pytest.approx(12.0)
    assert not workload.lacks


def test_model_times_are_those_of_batches() -> None:
    log = FleetLog()
    log.worker("w1")
    log.question("car", "Is there a red car?")
    took_s = {1: 0.05, 2: 0.07, 4: 0.11}
    for batch, (count, seconds) in enumerate(took_s.items()):
        for number in range(count):
            log.open(1.0 + batch, f"cam{number}", batch, "car")
        for number in range(count):
            log.answer(1.0 + batch + seconds + number * 0.0002, f"cam{number}", batch, "car", "yes")
    times = measure_model_times(read_traffic(log.sorted()))
    assert (times.batches, times.idle_share) == (3, 1.0)
    assert times.frame_s == pytest.approx(0.02, abs=1e-3)
    assert times.batch_s == pytest.approx(0.03, abs=1e-3)


def test_a_batch_begins_when_the_one_before_ends() -> None:
    log = FleetLog()
    log.worker("w1")
    log.question("car", "Is there a red car?")
    for number in range(6):  # all there at once, answered one by one
        log.open(1.0, f"cam{number}", 0, "car")
        log.answer(1.0 + 0.1 * (number + 1), f"cam{number}", 0, "car", "yes")
    times = measure_model_times(read_traffic(log.sorted()))
    assert times.frame_s == pytest.approx(0.1)
    assert times.idle_share == pytest.approx(1 / 6)


def test_round_trips_are_measured_on_an_idle_uplink_only() -> None:
    log = steady_log(8)
    assert round_trip_s(read_traffic(log.sorted()), ("gate",), 64.0) == pytest.approx(0.02)
    log.open(1.0, "yard", 0, "car")
    traffic = read_traffic(log.sorted())
    # At 4 kbps an open message is on its way for half a second: each request met a busy uplink.
    assert round_trip_s(traffic, ("gate",), 4.0) is None
    assert round_trip_s(traffic, ("gate",), None) == pytest.approx(0.02)
    assert round_trip_s(traffic, ("nowhere",), None) is None


@given(st.lists(st.sampled_from("ab"), max_size=12), st.lists(st.sampled_from("ab"), max_size=12))
def test_copies_of_another_recorder_are_left_out_and_repetitions_are_kept(left: list[str], right: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / "broker.mcap", Path(folder) / "site.mcap"]
        for path, payloads in zip(paths, (left, right), strict=True):
            with LogWriter(path) as writer:
                for number, payload in enumerate(payloads):
                    writer.write(LoggedMessage(1_000 + number, "lb/v2/x", payload.encode(), sequence=number))
        with open_logs(paths) as logs:
            got = Counter(message.payload.decode() for message in merged(logs))
    assert got == Counter(left) | Counter(right)


def test_files_of_one_rotation_have_no_copies(tmp_path: Path) -> None:
    paths = [tmp_path / "run.mcap", tmp_path / "run.1.mcap"]
    for number, path in enumerate(paths):
        with LogWriter(path) as writer:
            writer.write(LoggedMessage(1_000 + number, "lb/v2/x", b"heartbeat", sequence=number))
    with open_logs(paths) as logs:
        assert len(list(merged(logs))) == 2


# ---- sizes and answers ----------------------------------------------------------------------------------------------


def sizes_of(log: FleetLog, latent_count: int = 24) -> tuple[LatentSizes, Workload]:
    workload, _ = understood(log.sorted())
    return LatentSizes(workload.frames, latent_count, None), workload


def test_recorded_ranges_weigh_what_they_weighed() -> None:
    sizes, workload = sizes_of(steady_log(4))
    gaps = Gaps()
    refined = sizes.latent(0, workload.frames[0].trace, Bound.PESSIMISTIC, gaps)
    assert len(refined.payload(0, 8)) == len(OPEN_PAYLOAD)
    assert len(refined.payload(8, 24)) == len(CHUNK_PAYLOAD)
    assert len(refined.payload(0, 24)) == len(OPEN_PAYLOAD) + len(CHUNK_PAYLOAD)
    assert not gaps.ranges


def test_a_stored_latent_gives_the_rest_of_a_latent() -> None:
    sizes, workload = sizes_of(steady_log(4, stored=True))
    gaps = Gaps()
    unrefined = sizes.latent(1, workload.frames[1].trace, Bound.PESSIMISTIC, gaps)
    assert len(unrefined.payload(8, 24)) == len(CHUNK_PAYLOAD)
    assert not gaps.ranges


def test_unknown_sizes_lie_between_those_of_other_frames_and_are_counted() -> None:
    log = steady_log(4)
    larger = StoredLatent("gate", log.frame(3), 8, 24, bytes(len(OPEN_PAYLOAD) + 2 * len(CHUNK_PAYLOAD)))
    log.put(9.0, latent_topic("gate"), encode_stored_latent(larger))
    sizes, workload = sizes_of(log)
    gaps = Gaps()
    known = {}
    for bound in Bound:
        latent = sizes.latent(1, workload.frames[1].trace, bound, gaps)
        known[bound] = len(latent.payload(8, 24))
        assert len(latent.payload(2, 5)) >= 1  # no frame has this range
    assert known == {Bound.OPTIMISTIC: len(CHUNK_PAYLOAD), Bound.PESSIMISTIC: 2 * len(CHUNK_PAYLOAD)}
    assert gaps.ranges == {(8, 24): 2, (2, 5): 2}


@pytest.mark.parametrize(
    ("bound", "prefix", "text", "score", "unknown"),
    [
        (Bound.PESSIMISTIC, 8, "no", 0.4, False),
        (Bound.OPTIMISTIC, 16, "yes", 0.8, False),
        (Bound.OPTIMISTIC, 12, "yes", 0.8, True),  # as good as the next longer prefix
        (Bound.PESSIMISTIC, 12, "no", 0.4, True),  # as bad as the next shorter one
        (Bound.PESSIMISTIC, 4, "", 0.0, True),
        (Bound.OPTIMISTIC, 20, "no", 1.0, True),  # any answer of the type: one of no form would not be safe
        (Bound.PESSIMISTIC, 20, "yes", 0.8, True),
        (Bound.PESSIMISTIC, 24, "no", 1.0, True),  # the whole latent is safe, whatever it says
    ],
)
def test_an_unknown_pass_is_marked_and_bounded(
    bound: Bound, prefix: int, text: str, score: float, unknown: bool
) -> None:
    log = FleetLog()
    log.question("car", "Is there a red car?")
    log.open(1.0, "gate", 0, "car")
    log.answer(1.1, "gate", 0, "car", "no", outcome=None, score=0.4, latents=8)
    log.answer(1.2, "gate", 0, "car", "yes", score=0.8, latents=16)
    workload, _ = understood(log.sorted())
    gaps = Gaps()
    model = RecordedModel(24, bound, gaps)
    model.know("simulated", workload.frames[0].queries[0])
    asked = PassQuery("simulated", content("car", answer_type=AnswerType.YES_NO))
    (answer,) = model.answer(
        InferencePass("gate", FrameId(1, 1), 1, (ChunkData(0, prefix, b"x"),), prefix, (asked,), number=1)
    )
    assert (answer.text, answer.score) == (text, score)
    assert gaps.passes == ({prefix: 1} if unknown else {})
    assert gaps.queries == ({"simulated"} if unknown else set())


# ---- runs -----------------------------------------------------------------------------------------------------------


def test_the_recorded_fleet_does_again_what_it_did() -> None:
    workload, traffic = understood(steady_log().sorted())
    recorded = recorded_figures(workload, traffic)
    (run,) = simulate_log(workload, parameters(workload, traffic))
    assert run.figures.outcomes == recorded.outcomes == {"answered": 20}
    assert (run.figures.refines, run.figures.opens) == (recorded.refines, recorded.opens) == (5, 20)
    assert run.figures.latent_bytes == recorded.latent_bytes
    # Worker names and stamped times may differ by a byte in a message.
    assert run.figures.uplink_bytes == pytest.approx(recorded.uplink_bytes, rel=0.02)
    assert run.figures.mean_latents == recorded.mean_latents
    assert run.figures.answer_ms_p50 == pytest.approx(recorded.answer_ms_p50, abs=60)
    assert (run.figures.texts_differ, run.figures.texts_unknown) == (0, 0)


def test_a_key_frame_leaves_ahead_of_its_own_frame() -> None:
    log = steady_log(3)
    key = log.frame(1)
    whole = KeyFrame(frame=key, fingerprint=log.fingerprint, payload=bytes(90))
    log.put(1.999, topics.key_topic("main", "gate"), whole, qos=1, retain=True)
    for number, logged in enumerate(log.messages):
        if logged.topic == topics.open_topic("main", "gate"):
            _, opened = decode_publish(logged.topic, logged.payload)
            assert isinstance(opened, Open)
            if opened.frame == key:
                given_itself = opened.model_copy(update={"payload": b"\xd9", "key": key.sequence})
                log.messages[number] = replace(logged, payload=encode(given_itself))
    workload, traffic = understood(log.sorted())
    recorded = recorded_figures(workload, traffic)
    (run,) = simulate_log(workload, parameters(workload, traffic))
    assert run.figures.outcomes == recorded.outcomes == {"answered": 3}
    assert run.figures.opens == recorded.opens == 3
    assert run.figures.latent_bytes == recorded.latent_bytes
    assert run.figures.uplink_bytes == pytest.approx(recorded.uplink_bytes, abs=6)  # names and times, as above


def test_the_same_seed_gives_the_same_figures() -> None:
    workload, traffic = understood(steady_log().sorted())
    given = parameters(workload, traffic)
    assert simulate_log(workload, given) == simulate_log(workload, given)


def test_a_thinner_uplink_takes_fewer_frames_and_answers_later() -> None:
    workload, traffic = understood(steady_log(40, every_s=0.25).sorted())
    recorded = parameters(workload, traffic)
    (wide,) = simulate_log(workload, Changes(site_kbps=math.inf).apply(recorded))
    (thin,) = simulate_log(workload, Changes(site_kbps=4).apply(recorded))
    assert wide.figures.answer_ms_p50 is not None
    assert thin.figures.answer_ms_p50 is not None
    assert thin.figures.answer_ms_p50 > wide.figures.answer_ms_p50 + 100
    assert thin.figures.not_asked > 0
    assert thin.figures.not_asked + thin.figures.queries == 40
    seconds = traffic.stop_ns - traffic.start_ns if traffic.stop_ns and traffic.start_ns else 0
    assert thin.figures.uplink_bytes * 8 / 4000 <= seconds / 1e9 + 10


def test_fewer_workers_and_slower_models_answer_later() -> None:
    workload, traffic = understood(steady_log().sorted())
    recorded = parameters(workload, traffic)
    (slow,) = simulate_log(workload, Changes(frame_ms=500).apply(recorded))
    (fast,) = simulate_log(workload, Changes(frame_ms=5, workers=3).apply(recorded))
    assert slow.figures.answer_ms_p50 is not None
    assert fast.figures.answer_ms_p50 is not None
    assert slow.figures.answer_ms_p50 >= fast.figures.answer_ms_p50 + 490


def test_whole_latents_at_once_need_no_refine() -> None:
    workload, traffic = understood(steady_log(stored=True).sorted())
    runs = simulate_log(workload, Changes(base_latents=24).apply(parameters(workload, traffic)))
    assert [run.bound for run in runs] == [Bound.PESSIMISTIC, Bound.OPTIMISTIC]  # 15 answers at 24 are not in the log
    for run in runs:
        assert run.figures.outcomes == {"answered": 20}
        assert run.figures.refines == 0
        assert run.figures.latent_bytes == 20 * (len(OPEN_PAYLOAD) + len(CHUNK_PAYLOAD))
        assert run.figures.texts_unknown == 15
        assert run.gaps.passes == {24: 15}
        assert not run.gaps.ranges


def test_a_shorter_base_is_bounded_from_both_sides() -> None:
    workload, traffic = understood(steady_log().sorted())
    rule = StopRule((4, 8, 24), (0.9, 0.9, 0.0), {}, 0.02)
    changed = Changes(base_latents=4, stop_rule=rule).apply(parameters(workload, traffic))
    pessimistic, optimistic = simulate_log(workload, changed)
    # At best a prefix of 4 says what one of 8 said: 15 are safe at once. At worst it says nothing.
    assert optimistic.figures.refines == 5 + 5
    assert pessimistic.figures.refines == 20 + 5
    assert optimistic.figures.uplink_bytes < pessimistic.figures.uplink_bytes
    assert optimistic.gaps.passes[4] == pessimistic.gaps.passes[4] == 20


def test_an_ad_hoc_question_is_asked_again_and_never_skipped() -> None:
    log = steady_log(40, every_s=0.25)
    log.ask(3.0, "gate", "ask-1", "Who parks at the ramp?")
    log.open(3.05, "gate", 100, "ask-1", ad_hoc=True)
    log.answer(3.1, "gate", 100, "ask-1", "none", ad_hoc=True, score=0.95)
    workload, traffic = understood(log.sorted())
    (run,) = simulate_log(workload, Changes(site_kbps=4).apply(parameters(workload, traffic)))
    assert run.figures.not_asked > 0
    assert run.figures.queries + run.figures.not_asked == 41
    assert sum(len(frame.queries) for frame in workload.frames if frame.queries[0].ad_hoc) == 1


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (Changes(workers=0), "workers"),
        (Changes(site_kbps=0.0), "site_kbps"),
        (Changes(site_kbps=math.nan), "site_kbps"),
        (Changes(frame_ms=-1.0), "frame_ms"),
        (Changes(frame_ms=math.inf), "frame_ms"),
        (Changes(base_latents=25), "base_latents: 25 is not in 1..24"),
        (Changes(order="dice"), "order: 'dice' is not one of"),
        (Changes(stop_rule=StopRule((8, 32), (0.9, 0.0), {}, 0.02)), "its ladder ends at 32 latents"),
    ],
)
def test_impossible_fleets_are_refused(changes: Changes, problem: str) -> None:
    workload, traffic = understood(steady_log(2).sorted())
    with pytest.raises(ConfigError, match=problem):
        changes.apply(parameters(workload, traffic))


def test_an_empty_log_is_refused() -> None:
    workload, traffic = understood([])
    with pytest.raises(ConfigError, match="no frame"):
        simulate_log(workload, parameters(workload, traffic))


# ---- the command ----------------------------------------------------------------------------------------------------

runner = CliRunner()


@pytest.fixture(autouse=True)
def other_models(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A codec that is not the logs', whichever models the project ships."""
    monkeypatch.setenv("LATENTBUS_MODELS_DIR", str(models_dir))


def written(
    path: Path, log: FleetLog, rule: StopRule | None = RULE, *, settings: str = "config/edge/north.yaml"
) -> Path:
    with LogWriter(path) as writer:
        if rule is not None:
            data = {
                "version": 1,
                "ladder": rule.ladder,
                "default": rule.default,
                "thresholds": dict(rule.thresholds),
                "risk": rule.risk,
            }
            writer.attach("stop.json", "application/json", json.dumps(data).encode())
        writer.attach(
            settings, "application/yaml", b"edge: {site: north, uplink_kbps: 32, cameras: {gate: {priority: 2}}}"
        )
        for message in log.sorted():
            writer.write(message)
    return path


def test_the_command_prints_and_writes_the_figures(tmp_path: Path) -> None:
    log, figures = written(tmp_path / "run.mcap", steady_log()), tmp_path / "what-if.json"
    arguments = ["what-if", str(log), "--uplink-kbps", "8", "--workers", "2", "--json", str(figures)]
    result = runner.invoke(app, arguments, env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    for words in ("recorded", "as recorded", "what if", "uplink bytes on the wire", "answered"):
        assert words in result.output
    report = json.loads(figures.read_text())
    assert report["recorded_parameters"]["site_kbps"] == {"north": 32.0}
    assert report["what_if_parameters"]["site_kbps"] == {"north": 8.0}
    assert report["what_if_parameters"]["workers"] == 2
    assert report["recorded"]["queries"] == report["as_recorded"][0]["queries"] == 20


def test_without_a_change_it_only_checks_itself(tmp_path: Path) -> None:
    report = what_if(WhatIfOptions((written(tmp_path / "run.mcap", steady_log()),)), Console(stderr=True))
    assert report.what_if == []
    assert report.changed == report.parameters


@pytest.mark.parametrize("settings", ["config/edge/north.yaml", "site.yaml", "edge.yml"])
def test_settings_say_the_uplink_whoever_attached_them(tmp_path: Path, settings: str) -> None:
    """An edge's own log has them by its name, ``latentbus record --attach`` by the file's."""
    log = written(tmp_path / "run.mcap", steady_log(3), settings=settings)
    found = what_if(WhatIfOptions((log,)), Console(stderr=True)).parameters
    assert (found.site_kbps, found.priorities) == ({"north": 32.0}, {"gate": 2.0})


def test_what_was_assumed_is_said(tmp_path: Path) -> None:
    options = WhatIfOptions((written(tmp_path / "run.mcap", steady_log()),), risk=0.01, site_kbps=1000)
    notes = "\n".join(what_if(options, Console(stderr=True)).notes)
    assert "calibrate-stop" in notes
    assert "frames that the log does not have" in notes
    assert "is not the log's codec" in notes
    assert "the log has no answer" in notes


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--stop", "missing.json"], "missing.json is no stop rule"),
        (["--stop", "missing.json", "--risk", "0.1"], "give one of them"),
        (["--base-latents", "99"], "99 is not in 1..24"),
    ],
)
def test_options_that_do_not_fit_are_errors(tmp_path: Path, options: list[str], problem: str) -> None:
    log = written(tmp_path / "run.mcap", steady_log(3))
    result = runner.invoke(app, ["what-if", str(log), *options])
    assert problem in str(result.exception)


def test_a_log_without_its_stop_rule_needs_the_codec(tmp_path: Path) -> None:
    log = written(tmp_path / "run.mcap", steady_log(3), rule=None)
    with pytest.raises(ConfigError, match="name the codec folder"):
        what_if(WhatIfOptions((log,)), Console(stderr=True))


# ---- validation on a real run ---------------------------------------------------------------------------------------


@pytest.mark.broker
async def test_a_real_fleet_is_reproduced(
    tmp_path: Path, broker_settings: BrokerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The bundled model: some answers of one of random weights have no words, and the log lacks what nobody is told.
    monkeypatch.delenv(MODELS_DIR_VARIABLE)
    video = write_video(tmp_path / "gate.mp4", [grey(40 + 4 * number) for number in range(40)], fps=10)
    camera = CameraSettings(source=str(video), interval_s=0.25, questions=("car", "count"), loop=False)
    edge = EdgeSettings(
        site="north",
        uplink_kbps=64,
        cameras={"gate": camera, "yard": camera},
        questions={
            "car": QuestionSettings(text="Is there a car?", answer_type=AnswerType.YES_NO, deadline_ms=60_000),
            "count": QuestionSettings(
                text="How many cars are there?", answer_type=AnswerType.COUNT, deadline_ms=60_000
            ),
        },
        recording=EdgeRecordingSettings(file=tmp_path / "site.mcap", full_latents=True),
    )
    worker = WorkerSettings(name="w-1", threads=1, recording=RecordingSettings(file=tmp_path / "worker.mcap"))
    stop = Stop(drain_timeout_s=20)
    async with asyncio.timeout(60):
        working = asyncio.create_task(run_worker(LatentbusSettings(broker=broker_settings, worker=worker), stop))
        await stop.ready.wait()
        assert await run_edge(LatentbusSettings(broker=broker_settings, edge=edge), Stop(drain_timeout_s=20)) == 0
        stop.request()
        assert await working == 0
    report = what_if(WhatIfOptions((tmp_path / "site.mcap", tmp_path / "worker.mcap")), Console(stderr=True))
    recorded = report.recorded
    (run,) = report.as_recorded
    assert recorded.outcomes == {"answered": recorded.queries}
    assert run.figures.outcomes == recorded.outcomes
    assert (run.figures.queries, run.figures.not_asked) == (recorded.queries, 0)
    assert run.figures.latent_bytes == pytest.approx(recorded.latent_bytes, rel=0.05)
    assert run.figures.uplink_bytes == pytest.approx(recorded.uplink_bytes, rel=0.05)
    assert run.figures.texts_differ == 0
    assert report.parameters.site_kbps == {"north": 64.0}
    assert report.parameters.stop_rule == load_stop_rule(bundled_codec_dir())
