"""What dead cameras, sites and workers left on a broker: judged, listed, removed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from broker_config.launcher import LocalBroker
from latentbus.broker.retained import Entry, Held, Kind, State, classify
from latentbus.broker.retained_store import RetainedStore
from latentbus.cli import app
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from schemas import topics, wire
from schemas.errors import ConfigError
from schemas.messages import KeyFrame, Message, Question, Status
from schemas.types import FrameId

WAIT_S = 20.0
runner = CliRunner()


def status(kind: str, name: str, *, online: bool = True, cameras: tuple[str, ...] = ()) -> tuple[str, bytes]:
    message = Status.model_validate(
        {"kind": kind, "id": name, "boot": 7, "online": online, "pool": "main", "cameras": cameras}
    )
    return topics.status_topic(kind, name), wire.encode(message)


def load(name: str) -> tuple[str, bytes]:
    return topics.load_topic("main", name), status("worker", name)[1]


def key(camera: str, pool: str = "main") -> tuple[str, bytes]:
    message: Message = KeyFrame(frame=FrameId(7, 1), fingerprint=b"abcd", payload=b"latents")
    return topics.key_topic(pool, camera), wire.encode(message)


def question(site: str, question_id: str, set_by: str = "settings") -> tuple[str, bytes]:
    message = Question.model_validate({"site": site, "question_id": question_id, "text": "A car?", "set_by": set_by})
    return topics.question_topic(site, question_id), wire.encode(message)


LEFT = dict(
    [
        status("edge", "north", cameras=("gate",)),
        status("edge", "south", online=False),
        status("worker", "w1"),
        status("worker", "w2", online=False),
        load("w1"),
        load("w2"),
        load("w3"),
        key("gate"),
        key("yard"),
        key("gate", "old"),
        question("north", "car"),
        question("north", "bus", "operator"),
        question("south", "car"),
        question("south", "bus", "operator"),
        question("west", "bus", "operator"),
        ("lb/v2/ask/gate/alice", b'{"v":2}'),
        ("lb/v2/ask/invented/mallory", b"\x00" * 100),
        ("lb/v2/status/worker/w9", b"no status"),
        ("lb/v2/question/south/odd", b"{"),
        ("lb/v2/open/main/gate", b"x"),
        ("lb/v1/status/worker/w1", b"{}"),
        ("lb/elsewhere", b"x"),
    ]
)
DEAD = {
    "lb/v2/status/edge/south", "lb/v2/status/worker/w2", "lb/v2/load/main/w2", "lb/v2/load/main/w3",
    "lb/v2/key/main/yard", "lb/v2/key/old/gate", "lb/v2/question/south/car", "lb/v2/question/west/bus",
    "lb/v2/ask/gate/alice", "lb/v2/ask/invented/mallory", "lb/v2/status/worker/w9", "lb/v2/question/south/odd",
    "lb/v2/open/main/gate", "lb/v1/status/worker/w1", "lb/elsewhere",
}  # fmt: skip
KEPT = {"lb/v2/question/south/bus"}


def classified(left: dict[str, bytes], heard: set[str] | None = None) -> dict[str, Entry]:
    return {entry.held.topic: entry for entry in classify([Held.of(*one) for one in left.items()], heard)}


def of_state(entries: dict[str, Entry], state: State) -> set[str]:
    return {topic for topic, entry in entries.items() if entry.state is state}


def test_what_is_dead_is_told_from_what_somebody_stands_for() -> None:
    entries = classified(LEFT)
    assert of_state(entries, State.DEAD) == DEAD
    assert of_state(entries, State.KEPT) == KEPT
    assert of_state(entries, State.LIVE) == set(LEFT) - DEAD - KEPT
    assert entries["lb/v2/key/main/yard"].why == "no edge of pool main that is online has camera yard"
    assert "other" in {entries[topic].held.kind for topic in ("lb/v1/status/worker/w1",)}
    kinds = {topic: entry.held.kind for topic, entry in entries.items()}
    assert kinds["lb/v2/open/main/gate"] is kinds["lb/elsewhere"] is Kind.OTHER
    assert kinds["lb/v2/status/worker/w9"] is Kind.STATUS


def test_once_the_status_of_a_site_is_gone_its_operator_s_questions_are_dead() -> None:
    entries = classified({topic: payload for topic, payload in LEFT.items() if topic != "lb/v2/status/edge/south"})
    assert of_state(entries, State.KEPT) == set()
    assert entries["lb/v2/question/south/bus"].state is State.DEAD


def test_who_says_it_is_online_and_was_not_heard_is_dead_with_all_that_it_left() -> None:
    entries = classified(LEFT, {"edge/north"})
    assert entries["lb/v2/status/worker/w1"].why == "worker/w1 says it is online and was not heard"
    assert {"lb/v2/status/worker/w1", "lb/v2/load/main/w1"} <= of_state(entries, State.DEAD)
    assert "lb/v2/key/main/gate" in of_state(entries, State.LIVE)
    entries = classified(LEFT, {"worker/w1"})
    assert {"lb/v2/status/edge/north", "lb/v2/key/main/gate", "lb/v2/question/north/car"} <= of_state(
        entries, State.DEAD
    )
    assert "lb/v2/question/north/bus" in of_state(entries, State.KEPT)


@pytest.fixture
def broker() -> Iterator[LocalBroker]:
    with LocalBroker() as running:
        asyncio.run(publish(running.port, LEFT))
        yield running
        running.kill()


async def publish(port: int, messages: dict[str, bytes], *, retain: bool = True) -> None:
    async with MqttBus(BrokerSettings(port=port), client_id="leaver") as bus:
        await bus.wait_connected(WAIT_S)
        for topic, payload in messages.items():
            await bus.publish(topic, payload, qos=1, retain=retain)


async def remaining(port: int) -> set[str]:
    async with MqttBus(BrokerSettings(port=port), client_id="looker") as bus:
        await bus.wait_connected(WAIT_S)
        return {held.topic for held in await RetainedStore(bus).read()}


def command(*arguments: object, status: int = 0, text: str = "") -> Any:
    result = runner.invoke(app, ["broker", "retained", *map(str, arguments)], input=text)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


@pytest.mark.broker
def test_a_list_changes_nothing_and_a_removal_takes_the_dead_alone(broker: LocalBroker) -> None:
    listed = json.loads(command("--port", broker.port, "--json").stdout)
    assert {entry["topic"] for entry in listed if entry["state"] == "dead"} == DEAD
    assert not [entry for entry in listed if entry["removed"]]
    assert asyncio.run(remaining(broker.port)) == set(LEFT)

    said = command("--port", broker.port, "--kind", "key", "--kind", "load", "--remove", "--yes").stdout
    assert "removed 4 of 4" in said
    left = set(LEFT) - {topic for topic in DEAD if "/key/" in topic or "/load/" in topic}
    assert asyncio.run(remaining(broker.port)) == left

    command("--port", broker.port, "--name", "mallory", "--remove", "--yes")
    left -= {"lb/v2/ask/invented/mallory"}
    assert asyncio.run(remaining(broker.port)) == left

    done = json.loads(command("--port", broker.port, "--remove", "--yes", "--json").stdout)
    assert {entry["topic"] for entry in done if entry["removed"]} == left & DEAD
    # The site's status is gone, so nobody will ask for what its operator set.
    assert "removed 1 of 1" in command("--port", broker.port, "--remove", "--yes").stdout
    assert asyncio.run(remaining(broker.port)) == set(LEFT) - DEAD - KEPT


@pytest.mark.broker
def test_nothing_is_removed_where_nobody_can_be_asked(broker: LocalBroker) -> None:
    with pytest.raises(ConfigError, match="--yes"):
        command("--port", broker.port, "--remove", text="y\n")
    with pytest.raises(ConfigError, match="--config"):
        command("--fleet", "folder", "--config", "file.yaml")
    assert asyncio.run(remaining(broker.port)) == set(LEFT)


@pytest.mark.broker
async def test_what_changed_or_came_back_since_the_list_stays() -> None:
    async with LocalBroker() as running:
        await publish(running.port, LEFT)
        async with MqttBus(BrokerSettings(port=running.port), client_id="looker") as bus:
            await bus.wait_connected(WAIT_S)
            store = RetainedStore(bus)
            entries = [entry for entry in classify(await store.read()) if entry.state is State.DEAD]
            back = status("edge", "south", cameras=("yard",))
            await publish(
                running.port, {**dict([back, key("gate", "old")]), "lb/elsewhere": b"", "lb/v2/load/main/w3": b"y"}
            )
            results = await store.remove(entries)
        assert {topic: why for topic, why in results.items() if why} == {
            "lb/v2/status/edge/south": "it has changed since it was listed",
            "lb/v2/key/main/yard": "by now edge/south has camera yard",
            "lb/v2/question/south/car": "by now edge/south is online",
            "lb/elsewhere": "it is gone already",
            "lb/v2/load/main/w3": "it has changed since it was listed",
        }
        assert await remaining(running.port) >= {"lb/v2/key/main/yard", "lb/v2/question/south/car"}


@pytest.mark.broker
async def test_a_process_that_speaks_is_heard() -> None:
    async with LocalBroker() as running:
        await publish(running.port, LEFT)
        async with MqttBus(BrokerSettings(port=running.port), client_id="listener") as bus:
            await bus.wait_connected(WAIT_S)
            store = RetainedStore(bus)
            listening = asyncio.create_task(store.listen(3.0))
            async with MqttBus(BrokerSettings(port=running.port), client_id="speaker") as speaker:
                await speaker.wait_connected(WAIT_S)
                while not listening.done():
                    await speaker.publish(*load("w1"), qos=1)
                    await speaker.publish(*status("edge", "east"), qos=1)
            heard = await listening
        assert heard == {"worker/w1", "edge/east"}, "what is retained was said by nobody alive"


@pytest.mark.broker
async def test_more_than_a_broker_sends_at_once_is_found_in_rounds() -> None:
    count, payload = 4_600, b"x" * 200
    async with LocalBroker() as running:
        await publish(running.port, {f"lb/v2/ask/gate/c{number}": payload for number in range(count)})
        async with MqttBus(BrokerSettings(port=running.port), client_id="looker", receive_maximum=256) as bus:
            await bus.wait_connected(WAIT_S)
            store = RetainedStore(bus)
            removed, rounds = 0, 0
            while found := classify(await store.read()):
                rounds += 1
                assert rounds < 5
                results = await store.remove(found)
                assert set(results.values()) == {""}
                removed += len(results)
        assert removed == count


def test_help_says_why_nothing_is_chosen_by_age() -> None:
    shown = " ".join(runner.invoke(app, ["broker", "retained", "--help"], env={"COLUMNS": "200"}).output.split())
    assert "statuses have no time in them" in shown
    assert "--older-than" not in shown
