"""Both shells of a client session keep one contract; one script gives the same publishes and answers in each."""

from __future__ import annotations

import asyncio
import types
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from latentbus.client import client
from pipeline.bus.base import ConnectionChange, Inbound
from pipeline.config.broker_settings import BrokerSettings
from pipeline.protocol.client_ports import AnswerRead, Ending, QueryEnded, Subscribe, WatchEnded
from pipeline.protocol.ports import Unsubscribe
from schemas import topics, wire
from schemas.errors import LatentbusError
from schemas.messages import Answer, JsonMessage, QueryOutcome
from schemas.types import FrameId, Outcome
from tests.protocol import client_driver
from tests.protocol.client_driver import EDGE, ME, WORKER, Driver, answer, outcome, public, question, reply
from tests.protocol.shell_contract import (
    CONTRACT,
    AskCamera,
    Hear,
    Link,
    RecordingClient,
    Script,
    Shell,
    Watch,
    check_heard,
    said,
)
from tests.protocol.virtual_loop import ScriptedBus, run_virtually, sleep_until

# ---- the script -----------------------------------------------------------------------------------------------------


def status(time_s: float, message: Any) -> Hear:
    return Hear(time_s, topics.status_topic(message.kind, message.id), message, qos=1, retained=True)


def hear(time_s: float, message: Answer | QueryOutcome, *, mine: bool = True) -> tuple[Hear, ...]:
    """On the public topic, and at its client."""
    own = (Hear(time_s, reply(message), message, qos=1),) if mine else ()
    return (*own, Hear(time_s, public(message), message, qos=1))


SCRIPT = Script(
    (
        status(0.1, EDGE),
        status(0.1, WORKER),
        # Answered, the provisional answers in between.
        AskCamera(2.0, "gate", question("q-1"), 60.0),
        *hear(2.2, answer(text="maybe", latents=4)),
        *hear(2.4, answer(Outcome.ANSWERED, latents=8)),
        # No such camera.
        AskCamera(3.0, "nosuch", question("q-2"), 60.0),
        # Asked again after a reconnect, and ended by the edge.
        AskCamera(5.0, "gate", question("q-3"), 60.0),
        Link(5.5, connected=False),
        Link(6.5, connected=True),
        status(6.6, EDGE),
        *hear(8.0, outcome(Outcome.FAILED, "the edge was stopped", query="q-3")),
        # Nobody answers.
        AskCamera(10.0, "yard", question("q-4", deadline_ms=3_000), 60.0),
        # Given up by who asked.
        AskCamera(12.0, "gate", question("q-5"), 14.0),
        # Watched: somebody else's question.
        Watch(20.0, frozenset({"yard"})),
        *hear(21.0, answer(text="two", camera="yard", query="q0", client=None, frame=FrameId(1, 5)), mine=False),
        *hear(
            21.5,
            answer(Outcome.ANSWERED, "three", camera="yard", query="q0", client=None, frame=FrameId(1, 5), latents=8),
            mine=False,
        ),
    ),
    end_s=90.0,
)


# ---- the shells -----------------------------------------------------------------------------------------------------


class Process(Shell[RecordingClient]):
    """The Python client, on a bus that grants everything."""

    def play(self, script: Script) -> RecordingClient:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(client, "ClientSession", RecordingClient)
            return run_virtually(self._play(script, patch))

    async def _play(self, script: Script, patch: pytest.MonkeyPatch) -> RecordingClient:
        loop, bus = asyncio.get_running_loop(), ScriptedBus()
        patch.setattr(client, "MqttBus", lambda *_, **__: bus)
        patch.setattr(client, "time", types.SimpleNamespace(monotonic=loop.time))
        readers: set[asyncio.Task[None]] = set()
        async with client.Client(BrokerSettings(), name=ME) as asking:
            session = asking._session
            assert isinstance(session, RecordingClient)
            bus.give(ConnectionChange(True, 1, "test"))
            for step in script.steps:
                await sleep_until(step.time_s)
                match step:
                    case Hear():
                        data = wire.encode(step.message)
                        bus.give(Inbound(step.topic, data, step.qos, step.retained, None, None, 1, 1, step.time_s))
                    case Link():
                        bus.give(ConnectionChange(step.connected, 2, "test"))
                    case AskCamera():
                        readers.add(loop.create_task(_read(asking.follow(step.camera, step.message), step.until_s)))
                    case Watch():
                        readers.add(loop.create_task(_read(asking.watch(step.cameras), None)))
            await sleep_until(script.end_s)
            played = list(session.records)
        await asyncio.gather(*readers)
        session.records = played  # what closing makes of it is another matter
        return session


async def _read(told: AsyncGenerator[Answer | QueryOutcome, None], until_s: float | None) -> None:
    try:
        async with asyncio.timeout_at(until_s):
            async for _ in told:
                pass
    except (TimeoutError, LatentbusError):
        """Given up; or how it ended is in the session's outputs."""
    finally:
        await told.aclose()


class Harness(Shell[RecordingClient]):
    def play(self, script: Script) -> RecordingClient:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(client_driver, "ClientSession", RecordingClient)
            driver = Driver(now_s=0.0)
        driver.start()
        session = driver.session
        assert isinstance(session, RecordingClient)
        ends: list[tuple[float, str]] = []
        tokens = 0
        for step in script.steps:
            for at_s, query_id in [end for end in ends if end[0] <= step.time_s]:
                ends.remove((at_s, query_id))
                self._drop(driver, at_s, query_id)
            driver.at(step.time_s)
            match step:
                case Hear():
                    tokens += 1
                    assert isinstance(step.message, JsonMessage)
                    driver.give(step.topic, step.message, retained=step.retained, token=tokens if step.qos else None)
                case Link(connected=False):
                    driver.disconnect()
                case Link():
                    driver.connect()
                case AskCamera():
                    ends.append((step.until_s, session.ask(step.camera, step.message, driver.now_s)))
                    driver.step()
                case Watch():
                    session.watch(step.cameras)
                    driver.step()
        for at_s, query_id in sorted(ends):
            self._drop(driver, at_s, query_id)
        driver.at(script.end_s)
        return session

    def _drop(self, driver: Driver, at_s: float, query_id: str) -> None:
        """Who asked gives up; nobody does where the question is over."""
        driver.at(at_s)
        if query_id not in {ended.query_id for ended in driver.ended if ended.mine}:
            driver.session.drop(query_id, driver.now_s)
            driver.step()


SHELLS: dict[str, Callable[[], Shell[RecordingClient]]] = {"process": Process, "harness": Harness}


def told(session: RecordingClient) -> list[object]:
    """What is told to who asked and who watches, in order."""
    return [output for output in session.outputs() if isinstance(output, AnswerRead | QueryEnded | WatchEnded)]


def filters(session: RecordingClient) -> list[str]:
    """What is subscribed to and left, in order."""
    return [
        output.subscription.filter if isinstance(output, Subscribe) else f"-{output.filter}"
        for output in session.outputs()
        if isinstance(output, Subscribe | Unsubscribe)
    ]


@pytest.fixture(params=SHELLS)
def played(request: pytest.FixtureRequest) -> RecordingClient:
    return SHELLS[request.param]().play(SCRIPT)


@pytest.mark.parametrize("clause", CONTRACT)
def test_a_shell_keeps_the_contract(played: RecordingClient, clause: Callable[[RecordingClient], None]) -> None:
    clause(played)


def test_one_script_gives_the_same_publishes_and_answers_in_both_shells() -> None:
    process, other = (make().play(SCRIPT) for make in SHELLS.values())
    endings = [output.ending for output in told(process) if isinstance(output, QueryEnded) and output.mine]
    assert endings == [Ending.OUTCOME, Ending.CAMERA_UNKNOWN, Ending.OUTCOME, Ending.NO_OUTCOME]
    assert [topic.rsplit("/", 2)[1] for topic, *_ in said(process)] == ["gate", "gate", "gate", "yard", "gate"]
    assert [record.argument for record in process.records if record.call == "drop"], "one was given up"
    check_heard(process, SCRIPT)
    check_heard(other, SCRIPT)
    assert said(other) == said(process)
    assert told(other) == told(process)
    assert filters(other) == filters(process)
    assert other.counters == process.counters
