"""The Python client over a real broker, against a stand-in for edge and worker."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from broker_config.launcher import LocalBroker
from latentbus.client import Client, mailbox
from latentbus.client.questions import ask_of, client_name
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from pipeline.protocol.settings import ClientProtocolSettings
from schemas import topics
from schemas.errors import (
    CameraUnknownError,
    ConfigError,
    ConnectionLostError,
    NoOutcomeError,
    NotAuthorizedError,
    QuestionRefusedError,
    StateError,
    TooManyQuestionsError,
)
from schemas.messages import Answer, QueryOutcome, Receipt
from schemas.types import AnswerType, FrameId, Outcome
from tests.cli.stand_in import standing_in, twice
from tests.source_names import ROOT

pytestmark = pytest.mark.broker
QUICK = ClientProtocolSettings(status_patience_s=0.1, reply_margin_s=0.1, idle_camera_s=0.05)
PATIENCE_S = 30.0


async def told(answers: AsyncIterator[Answer | QueryOutcome]) -> list[tuple[str | None, str]]:
    return [
        (message.outcome, message.text if isinstance(message, Answer) else message.reason) async for message in answers
    ]


async def test_many_questions_at_once_each_get_their_own_answers(broker_settings: BrokerSettings) -> None:
    async with standing_in(broker_settings) as far, Client(broker_settings) as client, asyncio.timeout(PATIENCE_S):
        asked = [client.ask(("gate", "yard")[number % 2], f"question {number}?") for number in range(200)]
        found = await asyncio.gather(*map(told, asked))
    assert found == [[(None, "perhaps"), ("answered", f"question {number}? yes")] for number in range(200)]
    assert len(far.asked) == 200
    assert {name for _, name, _ in far.asked} == {client.name}


async def test_what_is_watched_is_what_everybody_is_told(
    broker_settings: BrokerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        standing_in(broker_settings) as far,
        Client(broker_settings, name="alice") as alice,
        Client(broker_settings, name="screen") as screen,
        asyncio.timeout(PATIENCE_S),
    ):
        seen: dict[str, list[tuple[str, str | None]]] = {"one": [], "all": []}

        async def watch(name: str, cameras: list[str] | None, count: int) -> None:
            async for message in screen.watch(cameras):
                seen[name].append((message.query_id, message.outcome))
                if len(seen[name]) == count:
                    return

        granted, subscribed = asyncio.Event(), screen._session.subscribed

        def on_subscribed(*arguments: Any) -> None:
            subscribed(*arguments)
            sizes = screen._session.sizes()
            if sizes["filters"] == 2 + 2 + 2 and not sizes["subscribing"]:
                granted.set()

        monkeypatch.setattr(screen._session, "subscribed", on_subscribed)
        readers = [asyncio.create_task(watch("one", ["gate"], 2)), asyncio.create_task(watch("all", None, 4))]
        await granted.wait()
        await told(alice.ask("yard", "who?", query_id="q1"))
        await told(alice.ask("gate", "who?", query_id="q1"))
        await asyncio.gather(*readers)
    gate = [("gate/@alice/q1", None), ("gate/@alice/q1", "answered")]
    assert seen == {"one": gate, "all": [("yard/@alice/q1", None), ("yard/@alice/q1", "answered"), *gate]}
    assert len(far.asked) == 2


async def test_whoever_leaves_the_loop_waits_for_nothing(broker_settings: BrokerSettings) -> None:
    async with (
        standing_in(broker_settings, script=lambda camera, client, ask: twice(camera, client, ask)[:1]),
        Client(broker_settings, settings=QUICK) as client,
        asyncio.timeout(PATIENCE_S),
    ):
        answers = client.ask("gate", "a car?", query_id="q1")
        assert (await anext(answers)).outcome is None
        with pytest.raises(StateError, match="is asked already"):
            await anext(client.ask("gate", "a car?", query_id="q1"))
        await answers.aclose()
        assert client._session.unfinished() == 0
        assert (await anext(client.ask("gate", "a car?", query_id="q1"))).outcome is None


async def test_it_is_asked_again_when_the_broker_is_back(broker: LocalBroker) -> None:
    settings = BrokerSettings(host=broker.host, port=broker.port)
    async with (
        standing_in(settings, script=lambda camera, client, ask: []) as far,
        Client(settings, name="alice") as client,
        asyncio.timeout(PATIENCE_S),
    ):
        asking = asyncio.create_task(told(client.ask("gate", "a car?", query_id="q1")))
        await far.wait_asked(1)
        far.script = twice
        broker.kill()
        await asyncio.to_thread(broker.restart)
        assert (await asking)[-1] == ("answered", "a car? yes")
    assert len(far.asked) >= 2
    assert len({(camera, ask.query_id, ask.text) for camera, _, ask in far.asked}) == 1


async def test_what_went_wrong_is_a_typed_error(broker_settings: BrokerSettings) -> None:
    def script(camera: str, client: str, ask: Any) -> list[Any]:
        if ask.query_id != "bad":
            return []
        return [Receipt(site="north", about="bad", accepted=False, reason="options: unknown key")]

    async with (
        standing_in(broker_settings, script=script),
        Client(broker_settings, settings=ClientProtocolSettings(0.1, 0.1, max_questions=1)) as client,
        asyncio.timeout(PATIENCE_S),
    ):
        with pytest.raises(CameraUnknownError, match="cameras on this broker: gate, yard") as unknown:
            await told(client.ask("nosuch", "a car?"))
        assert unknown.value.camera == "nosuch"
        with pytest.raises(QuestionRefusedError, match="edge north does not take it: options: unknown key") as refused:
            await told(client.ask("gate", "a car?", query_id="bad"))
        assert (refused.value.site, refused.value.reason) == ("north", "options: unknown key")
        with pytest.raises(NoOutcomeError, match=r"camera gate: no outcome within 0 s$") as silent:
            await told(client.ask("gate", "a car?", deadline_s=0.2))
        assert silent.value.limit_s == pytest.approx(0.3)
        running = client.ask("gate", "a car?")
        first = asyncio.ensure_future(anext(running))
        await asyncio.sleep(0)
        with pytest.raises(TooManyQuestionsError, match="1 questions of this client"):
            await told(client.ask("gate", "another?"))
        first.cancel()
        mistakes: tuple[tuple[Callable[[], object], str], ...] = (
            (lambda: client.ask("Front Door", "a car?"), "camera"),
            (lambda: client.ask("gate", " "), "text"),
            (lambda: client.ask("gate", "a car?", query_id="Q 1"), "query_id"),
            (lambda: client.ask("gate", "a car?", deadline_s=float("inf")), "deadline_s"),
            (lambda: client.ask("gate", "a car?", deadline_s=-1), "deadline_s"),
            (lambda: client.ask("gate", "a car?", AnswerType.CHOICE), "options"),
            (lambda: client.watch(["Front Door"]), "cameras"),
            (lambda: client.watch([]), "cameras"),
        )
        for wrong, where in mistakes:
            with pytest.raises(ConfigError) as raised:
                wrong()
            assert raised.value.where == where
    with pytest.raises(ConfigError, match=r"^name: "):
        Client(broker_settings, name="Alice Doe")


async def test_what_the_broker_refuses_is_said_with_the_topic(
    broker_settings: BrokerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = MqttBus.publish

    async def refuse(self: MqttBus, topic: str, payload: bytes, **options: Any) -> Any:
        if topic == topics.ask_topic("gate", "alice"):
            raise NotAuthorizedError(topic)
        return await publish(self, topic, payload, **options)

    monkeypatch.setattr(MqttBus, "publish", refuse)
    async with (
        standing_in(broker_settings),
        Client(broker_settings, name="alice") as client,
        asyncio.timeout(PATIENCE_S),
    ):
        with pytest.raises(NotAuthorizedError, match=r"lb/v2/ask/gate/alice.*check the broker's rules"):
            await told(client.ask("gate", "a car?"))
        assert (await told(client.ask("yard", "a car?")))[-1][0] == "answered"


async def test_a_client_that_is_closed_keeps_nobody_waiting(broker_settings: BrokerSettings) -> None:
    client = Client(broker_settings)
    with pytest.raises(StateError, match="not entered"):
        await told(client.ask("gate", "a car?"))
    async with standing_in(broker_settings, script=lambda camera, name, ask: []), client:
        readers = [
            asyncio.create_task(told(client.ask("gate", "a car?"))),
            asyncio.create_task(told(client.watch(["gate"]))),
        ]
        await asyncio.sleep(0)
    for reader in readers:
        with pytest.raises(ConnectionLostError, match="the client is closed"):
            await reader
    with pytest.raises(ConnectionLostError, match="the client is closed"):
        await told(client.watch())


async def test_a_task_that_is_cancelled_leaves_in_good_order(broker_settings: BrokerSettings) -> None:
    """What Ctrl-C does to a program under ``asyncio.run``."""
    entered = asyncio.Event()
    clients: list[Client] = []

    async def main() -> None:
        async with Client(broker_settings) as client:
            clients.append(client)
            entered.set()
            await told(client.ask("gate", "a car?", check=False))

    before = asyncio.all_tasks()
    task = asyncio.create_task(main())
    await entered.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert clients[0]._session.unfinished() == 0
    assert not clients[0]._bus.statistics().connected
    assert asyncio.all_tasks() == before


async def test_without_a_broker_the_address_is_named() -> None:
    with pytest.raises(ConnectionLostError, match=r"127\.0\.0\.1:1"):
        async with Client(BrokerSettings(port=1), connect_timeout_s=0.3):
            pass


async def test_a_bug_in_the_client_is_told_to_every_reader(
    broker_settings: BrokerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with standing_in(broker_settings), Client(broker_settings) as client, asyncio.timeout(PATIENCE_S):

        def broken(*arguments: Any) -> None:
            raise ZeroDivisionError("a bug")

        monkeypatch.setattr(client._session, "published", broken)
        with pytest.raises(ZeroDivisionError):
            await told(client.ask("gate", "a car?"))


async def test_a_reader_that_is_too_slow_misses_the_oldest(
    broker_settings: BrokerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "MAX_UNREAD_ANSWERS", 2)
    ended, end = asyncio.Event(), mailbox.Mailbox.end

    def on_end(self: Any, error: Exception | None = None) -> None:
        end(self, error)
        ended.set()

    monkeypatch.setattr(mailbox.Mailbox, "end", on_end)

    def script(camera: str, client: str, ask: Any) -> list[Any]:
        provisional, final = twice(camera, client, ask)
        assert isinstance(provisional, Answer)
        frames = [provisional.model_copy(update={"frame": FrameId(1, number)}) for number in range(5)]
        return [*frames, final]

    async with (
        standing_in(broker_settings, script=script),
        Client(broker_settings) as client,
        asyncio.timeout(PATIENCE_S),
    ):
        answers = client.ask("gate", "a car?")
        first = await anext(answers)
        await ended.wait()
        rest = [message async for message in answers]
    assert first.frame == FrameId(1, 0)
    assert [(message.frame, message.outcome) for message in rest] == [
        (FrameId(1, 4), None),
        (FrameId(1, 0), Outcome.ANSWERED),
    ]
    assert client._problems.counts["client/unread"] >= 1


def test_names_are_drawn_where_none_can_be_used() -> None:
    assert client_name("alice") == "alice"
    assert re.fullmatch(r"ask-[0-9a-f]{8}", client_name("Alice Doe"))
    assert re.fullmatch(r"ask-[0-9a-f]{12}", ask_of("a car?").query_id)


async def test_the_examples_of_the_documentation_run(broker_settings: BrokerSettings) -> None:
    page = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    printed = []
    environment = {**os.environ, "LATENTBUS_BROKER__PORT": str(broker_settings.port), "PYTHONPATH": str(ROOT)}
    async with standing_in(broker_settings), asyncio.timeout(PATIENCE_S):
        for example in examples:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", example, env=environment, stdout=asyncio.subprocess.PIPE
            )
            out, _ = await process.communicate()
            assert process.returncode == 0
            printed.append(out.decode().splitlines())
    assert printed == [
        ["provisional perhaps", "answered Is there a red car? yes"],
        ["gate: Is there a red car? yes", "yard: Is there a red car? yes"],
    ]
