"""Logs of wire version 1, which no process speaks any more: shown, compared, and published as they are."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
from typer.testing import CliRunner

from analysis.inspection import Inspection, inspect_logs
from analysis.replay.plan import ReplayFrame
from analysis.traffic import read_traffic
from latentbus.cli import app
from latentbus.replay.options import ReplayOptions
from latentbus.replay.run import replay_verbatim
from pipeline.config.broker_settings import BrokerSettings
from pipeline.node.runtime import Stop
from pipeline.recording.message import LoggedMessage
from pipeline.recording.reader import LogReader, open_logs
from schemas import topics, wire
from schemas.messages import Ask, Chunk, Open, Question
from schemas.types import AnswerType, Outcome
from tests.analysis.test_replay_plan import plan_of
from tests.integration.conftest import PATIENCE_S
from tests.recording.fleet_log import demo_log
from tests.recording.golden_log import path_of
from tests.recording.messages import write_log
from tests.recording.recorded_frames import FrameLog, ref
from tests.recording.test_replay import Listener, quiet

FLEET, AGAIN = path_of("v1_fleet"), path_of("v1_fleet_again")


def _inspected(path: Path) -> Inspection:
    with open_logs([path]) as logs:
        return inspect_logs(logs)


def test_inspect_shows_what_it_showed_when_the_log_was_written() -> None:
    found = _inspected(FLEET)

    assert (found.messages, found.duration_s) == (22, 9.9)
    assert found.outcomes == {"answered": 4, "expired": 1}
    gate, yard = found.cameras["gate"], found.cameras["yard"]
    assert (gate.frames, gate.key_frames, gate.queries, gate.outcomes) == (3, 1, 4, {"answered": 3, "expired": 1})
    assert (yard.frames, yard.queries, yard.outcomes) == (1, 1, {"answered": 1})
    assert (gate.uplink_bytes, yard.uplink_bytes) == (989, 292)
    car, count, ad_hoc = found.questions["car"], found.questions["count"], found.questions["(ad hoc)"]
    assert (car.text, car.queries, car.answers) == ("Is there a red car?", 3, {"yes": 2})
    assert (count.text, count.answers, count.median_latency_ms) == ("How many people wait?", {"three": 1}, 300.0)
    assert (ad_hoc.queries, ad_hoc.answers) == (1, {"nobody at all": 1})
    assert found.fingerprints == {"c0ffee01": 6}
    assert found.processes == {"edge/north": "", "worker/w1": "c0ffee01"}
    assert found.undecodable == {"foreign/topic": 1, "reply/malformed": 1}
    assert found.families == {
        "answer": 5,
        "ask": 1,
        "chunk": 2,
        "control": 1,
        "key": 1,
        "open": 4,
        "outcome": 1,
        "question": 3,
        "status": 2,
    }


def test_a_message_of_every_kind_of_version_one_is_understood() -> None:
    messages: list[LoggedMessage] = []
    for name in ("v1", "v1_key_frames"):
        with LogReader(path_of(name)) as reader:
            messages += list(reader.messages())
    traffic = read_traffic(messages)

    assert traffic.undecodable == {"foreign/topic": 1, "open/malformed": 1}
    assert traffic.messages.total() == len(messages) - 2


def test_the_question_of_a_client_has_its_text_and_its_answer() -> None:
    with LogReader(FLEET) as reader:
        traffic = read_traffic(reader.messages())
    [query] = [query for query in traffic.queries.values() if query.ad_hoc]

    assert (query.text, query.answer_type) == ("Who parks at the ramp?", AnswerType.COUNT)
    assert (query.camera, query.outcome, query.answer_text) == ("yard", Outcome.ANSWERED, "nobody at all")
    assert query.deadline_ms == 20_000
    assert query.latency_ms == pytest.approx(300.0)


def test_compare_brings_two_old_logs_together(tmp_path: Path) -> None:
    out = tmp_path / "cmp.json"
    result = CliRunner().invoke(app, ["compare", str(FLEET), str(AGAIN), "--json", str(out)])
    figures: dict[str, Any] = json.loads(out.read_text())

    assert result.exit_code == 1
    assert "1 of 5 queries changed" in result.output
    assert "answered 'yes' -> answered 'no'" in result.output
    assert figures["matched_by"] == "query id"


def mixed(folder: Path) -> tuple[Path, Path]:
    """A log that holds a fleet of version 1 and, a minute later, one of version 2; and that of version 2 alone."""
    with LogReader(FLEET) as reader:
        old = list(reader.messages())
    begun_ns = old[-1].time_ns + 60_000_000_000
    log = demo_log(boot=0x77, ask_id="ask-80")
    shift_ns = begun_ns - log.messages[0].time_ns
    new = [replace(m, time_ns=m.time_ns + shift_ns, sequence=m.sequence + len(old)) for m in log.sorted()]
    return write_log(folder / "mixed.mcap", [*old, *new]), write_log(folder / "new.mcap", new)


def test_a_log_of_both_versions_is_one_log(tmp_path: Path) -> None:
    both, new = mixed(tmp_path)
    old_alone, new_alone, found = (_inspected(path) for path in (FLEET, new, both))

    assert found.messages == old_alone.messages + new_alone.messages
    assert found.outcomes == {
        outcome: old_alone.outcomes[outcome] + new_alone.outcomes[outcome] for outcome in old_alone.outcomes
    }
    assert found.undecodable == old_alone.undecodable
    for camera, alone in old_alone.cameras.items():
        assert found.cameras[camera].queries == alone.queries + new_alone.cameras[camera].queries
    # Version 1 did not say whose question it is: it is asked of every site, and counts with the site's own.
    assert (found.questions["north/car"].queries, found.questions["unknown/car"].queries) == (5, 0)
    # The same two logs, opened side by side.
    with open_logs([FLEET, new]) as logs:
        side_by_side = inspect_logs(logs)
    assert (side_by_side.messages, side_by_side.outcomes) == (found.messages, found.outcomes)


def test_a_query_of_version_one_keeps_its_text_when_a_question_of_version_two_has_its_id() -> None:
    with LogReader(FLEET) as reader:
        old = list(reader.messages())
    later = Question(site="north", question_id="car", text="Is there a lorry?", answer_type=AnswerType.YES_NO)
    said = LoggedMessage(old[-1].time_ns + 1, topics.question_topic("north", "car"), wire.encode(later), 1, retain=True)

    texts = {q.text for q in read_traffic([*old, said]).queries.values() if q.question_id == "car"}
    assert texts == {"Is there a red car?"}


def test_old_and_new_queries_meet_in_a_comparison(tmp_path: Path) -> None:
    both, new = mixed(tmp_path)
    runner = CliRunner()
    same, only = tmp_path / "same.json", tmp_path / "only.json"

    assert runner.invoke(app, ["compare", str(both), str(both), "--json", str(same)]).exit_code == 0
    assert json.loads(same.read_text())["compared"] == 9
    runner.invoke(app, ["compare", str(both), str(new), "--json", str(only)])
    assert json.loads(only.read_text())["compared"] == 4


def in_version_one(logged: LoggedMessage) -> LoggedMessage:
    """A message of version 2 as version 1 had it, as far as that could say it."""
    topic, message = wire.decode_publish(logged.topic, logged.payload)
    old_topic = logged.topic.replace("lb/v2/", "lb/v1/")
    match message:
        case Open():
            queries = [(query.question_id, query.remaining_ms, query.ad_hoc) for query in message.queries]
            fields = [message.frame, message.attempt, message.fingerprint, queries, message.stop, message.payload]
            return replace(logged, topic=old_topic, payload=msgpack.packb([1, int(message.kind), *fields]))
        case Chunk():
            return replace(logged, topic=old_topic, payload=logged.payload[:1] + b"\x01" + logged.payload[2:])
        case Question():
            old = json.loads(logged.payload)
            kept = {name: old[name] for name in ("question_id", "text", "answer_type", "deadline_ms", "risk")}
            old_topic = f"lb/v1/question/{message.question_id}"
        case Ask():
            old = json.loads(logged.payload)
            kept = {name: old[name] for name in ("query_id", "text", "answer_type", "deadline_ms")}
            old_topic = f"lb/v1/ask/{topic.name('camera')}"
        case _:
            kept = json.loads(logged.payload)
            kept.pop("versions")
    return replace(logged, topic=old_topic, payload=json.dumps({**kept, "v": 1}).encode())


def test_frames_of_version_one_are_planned_as_those_of_version_two() -> None:
    log = FrameLog()
    log.edge("north", "gate")
    log.question("car", "Is there a car?")
    log.open(1.0, "gate", 4, ref("car", 9_600, "Is there a car?"))
    log.chunk(1.2, "gate", 4, 3, 8)
    log.ask(2.0, "gate", "q1", "How many cars?")
    log.open(2.1, "gate", 5, ref("q1", 19_900, "How many cars?", ad_hoc=True))
    old = FrameLog(messages=[in_version_one(message) for message in log.messages])
    plans = [plan_of(either) for either in (log, old)]

    assert all(message.topic.startswith("lb/v1/") for message in old.messages)
    first, second = ([item for item in plan.items if isinstance(item, ReplayFrame)] for plan in plans)
    assert [(f.time_ns, f.site, f.camera, f.frame, f.queries) for f in second] == [
        (f.time_ns, f.site, f.camera, f.frame, f.queries) for f in first
    ]
    assert [f.latent.payload(0, f.latent.available) for f in second] == [
        f.latent.payload(0, f.latent.available) for f in first
    ]
    assert plans[1].shortfalls == plans[0].shortfalls


@pytest.mark.broker
async def test_a_log_of_both_versions_is_published_as_it_is(broker_settings: BrokerSettings, tmp_path: Path) -> None:
    both, _ = mixed(tmp_path)
    with LogReader(both) as reader:
        recorded = list(reader.messages())
    listener = Listener(broker_settings, "#")
    async with listener.bus:
        await listener.bus.wait_connected(PATIENCE_S)
        await replay_verbatim(ReplayOptions((both,), rate=math.inf, retained=True), broker_settings, Stop(), quiet())
        heard = await listener.until(len(recorded))

    assert sorted((topic, payload) for topic, payload, *_ in heard) == sorted(
        (message.topic, message.payload) for message in recorded
    )


@pytest.mark.broker
async def test_verbatim_replay_publishes_the_bytes_of_then(broker_settings: BrokerSettings) -> None:
    with LogReader(FLEET) as reader:
        recorded = list(reader.messages())
    listener = Listener(broker_settings, "#")
    async with listener.bus:
        await listener.bus.wait_connected(PATIENCE_S)
        report = await replay_verbatim(ReplayOptions((FLEET,), rate=math.inf), broker_settings, Stop(), quiet())
        heard = await listener.until(len(recorded))

    assert report.count.published == len(recorded)
    assert sorted((topic, payload) for topic, payload, *_ in heard) == sorted(
        (message.topic, message.payload) for message in recorded
    )
