"""``latentbus watch``: filters, lines for people and for programs, topics as they are."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from latentbus.cli import app
from latentbus.client.watching import Until, Wanted, watch_and_print, watch_topics_and_print
from pipeline.config.broker_settings import BrokerSettings
from pipeline.node.runtime import Stop
from schemas import topics, wire
from schemas.errors import ConfigError
from schemas.messages import Answer, Ask, Message, QueryOutcome, Refine
from schemas.types import FrameId, Outcome
from tests.cli.stand_in import StandIn, answer_to, standing_in

pytestmark = pytest.mark.broker
PATIENCE_S = 60.0


def standing(number: int, *, camera: str = "gate", site: str = "north", question: str = "car", **given: Any) -> Answer:
    """The answer to a standing question."""
    fields: dict[str, Any] = {
        "query_id": f"{camera}/00000001-{number}/{question}",
        "owner": f"site/{site}",
        "camera": camera,
        "frame": FrameId(1, number),
        "attempt": 1,
        "question_id": question,
        "worker": "w1",
        "outcome": Outcome.ANSWERED,
        "text": "yes",
        "score": 0.9,
        "latents": 9,
        "payload_bytes": 41,
        "looks": 1,
    }
    return Answer.model_validate(fields | given)


async def say(far: StandIn, message: Answer | QueryOutcome) -> None:
    build = topics.answer_topic if isinstance(message, Answer) else topics.outcome_topic
    await far.bus.publish(build(message.camera), wire.encode(message), qos=1)


async def heard(far: StandIn, watching: asyncio.Task[int], message: Message, topic: str) -> None:
    """Publish until somebody reads a topic: the broker says of a publish whether anybody does."""
    while (await far.bus.publish(topic, wire.encode(message), qos=1)).no_subscribers:
        assert not watching.done()


async def watched(far: StandIn, watching: asyncio.Task[int]) -> None:
    """Wait until answers are read."""
    await heard(far, watching, standing(0, camera="nobody", outcome=None), topics.answer_topic("nobody"))


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was printed; logs of a test go there too."""
    return [line for line in capsys.readouterr().out.splitlines() if "[info" not in line]


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        (Wanted(), {"standing", "provisional", "yard", "people", "ad hoc"}),
        (Wanted(finals=True), {"standing", "yard", "people", "ad hoc"}),
        (Wanted(cameras=frozenset({"yard"})), {"yard"}),
        (Wanted(sites=frozenset({"south"})), {"yard"}),
        (Wanted(sites=frozenset({"north"})), {"standing", "provisional", "people", "ad hoc"}),
        (Wanted(questions=frozenset({"people"})), {"people"}),
        (Wanted(owners=frozenset({"client"})), {"ad hoc"}),
        (Wanted(owners=frozenset({"client/bob"})), {"ad hoc"}),
        (Wanted(owners=frozenset({"client/alice"})), set()),
        (Wanted(owners=frozenset({"site"})), {"standing", "provisional", "yard", "people"}),
        (Wanted(owners=frozenset({"site/south", "client"}), finals=True), {"yard", "ad hoc"}),
    ],
)
def test_what_is_shown(wanted: Wanted, shown: set[str]) -> None:
    messages = {
        "standing": (standing(1), "north"),
        "provisional": (standing(2, outcome=None), "north"),
        "yard": (standing(3, camera="yard", site="south"), "south"),
        "people": (standing(4, question="people"), "north"),
        "ad hoc": (answer_to("gate", "bob", Ask(query_id="q1", text="a car?"), Outcome.ANSWERED, "yes", 8), "north"),
    }
    assert {name for name, (message, site) in messages.items() if wanted.admits(message, site)} == shown


async def test_lines_of_json_name_the_site_and_end_with_the_count(
    broker_settings: BrokerSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = Wanted(sites=frozenset({"north"}), finals=True)
    async with standing_in(broker_settings) as far, asyncio.timeout(PATIENCE_S):
        watching = asyncio.create_task(watch_and_print(broker_settings, wanted, Until(2), Stop(), as_json=True))
        await watched(far, watching)
        await say(far, standing(1, outcome=None))
        await say(far, standing(2, site="south"))
        await say(far, standing(3))
        # An ad-hoc question belongs to the site that has its camera.
        await say(far, answer_to("yard", "bob", Ask(query_id="q1", text="a car?"), Outcome.ANSWERED, "no", 8))
        assert await watching == 0
    lines = [json.loads(line) for line in printed(capsys)]
    assert [(line["site"], line["query_id"], line["text"]) for line in lines] == [
        ("north", "gate/00000001-3/car", "yes"),
        ("north", "yard/@bob/q1", "no"),
    ]


async def test_people_read_camera_question_answer_and_cost(
    broker_settings: BrokerSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    async with standing_in(broker_settings) as far, asyncio.timeout(PATIENCE_S):
        watching = asyncio.create_task(
            watch_and_print(broker_settings, Wanted(finals=True), Until(2), Stop(), as_json=False)
        )
        await watched(far, watching)
        await say(far, standing(1, text="\x1b[31myes"))
        outcome = QueryOutcome(
            query_id="gate/00000001-2/car", owner="site/north", camera="gate", frame=FrameId(1, 2), question_id="car",
            outcome=Outcome.EXPIRED, reason="deadline while opened",
        )  # fmt: skip
        await say(far, outcome)
        assert await watching == 0
    first, second = printed(capsys)
    assert first.split("  ", 1)[1].startswith(
        "north/gate  car  answered  \\x1b[31myes  (score 0.90, 9 latents, 41 bytes"
    )
    assert second.split("  ", 1)[1] == "north/gate  car  expired  deadline while opened"


async def test_nothing_in_time_is_an_exit_status(broker_settings: BrokerSettings) -> None:
    assert await watch_and_print(broker_settings, Wanted(), Until(None, 0.1), Stop(), as_json=True) == 1


async def test_a_stop_ends_it_in_order(broker_settings: BrokerSettings) -> None:
    stop = Stop()
    async with standing_in(broker_settings) as far, asyncio.timeout(PATIENCE_S):
        watching = asyncio.create_task(watch_and_print(broker_settings, Wanted(), Until(), stop, as_json=True))
        await watched(far, watching)
        stop.request()
        assert await watching == 0


async def test_topics_are_decoded_and_bad_messages_named(
    broker_settings: BrokerSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    refine = Refine(frame=FrameId(1, 7), attempt=1, worker="w1", start=16, stop=32, lease_ms=900)
    async with standing_in(broker_settings) as far, asyncio.timeout(PATIENCE_S):
        filters = ["lb/v2/control/+", "lb/v2/status/edge/+"]
        watching = asyncio.create_task(watch_topics_and_print(broker_settings, filters, Until(3), Stop(), as_json=True))
        await heard(far, watching, refine, "lb/v2/control/gate")
        await far.bus.publish("lb/v2/control/gate", b"\xff\x00", qos=1)
        assert await watching == 0
    lines = [json.loads(line) for line in printed(capsys)]
    status, decoded, bad = sorted(lines, key=lambda line: (not line["retain"], "problem" in line))
    assert (status["kind"], status["message"]["id"]) == ("Status", "north")
    assert (decoded["kind"], decoded["message"]["frame"]) == ("Refine", [1, 7])
    assert decoded["payload_bytes"] == len(wire.encode(refine))
    assert "problem" in bad
    assert "message" not in bad


async def test_a_share_group_is_refused(broker_settings: BrokerSettings) -> None:
    with pytest.raises(ConfigError, match="lost to the workers"):
        await watch_topics_and_print(broker_settings, ["$share/main/lb/v2/open/main/+"], Until(), Stop(), as_json=True)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--owner", "north"], "--owner: 'north' is none: write site/NAME"),
        (["--owner", "client/"], "--owner"),
        (["--camera", "Front Door"], "--camera"),
        (["-t", "lb/v2/answer/+", "--site", "north"], "--topic: shows topics as they are"),
        (["-i", "No Name"], "--id"),
    ],
)
def test_wrong_filters_name_the_option(arguments: list[str], problem: str) -> None:
    result = CliRunner().invoke(app, ["watch", *arguments])
    assert isinstance(result.exception, ConfigError)
    assert problem in str(result.exception)


def test_flags_as_mqtt_users_know_them(broker_settings: BrokerSettings, tmp_path: Path) -> None:
    arguments = ["watch", "-H", broker_settings.host, "-p", str(broker_settings.port), "-i", "screen", "-W", "0.1"]
    assert CliRunner().invoke(app, [*arguments, "-t", "lb/v2/answer/+"]).exit_code == 1
