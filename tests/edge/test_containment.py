"""Bugs placed into a running edge: one message ends, the site lives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_nodes.encoder import EncoderThread
from edge_nodes.first_prefix import FirstPrefix
from edge_nodes.site import Site
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.camera_settings import CameraSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.question_settings import QuestionSettings
from pipeline.config.settings import LatentbusSettings
from pipeline.protocol.edge_frames import EdgeFrames
from pipeline.protocol.edge_opens import EdgeOpens
from pipeline.protocol.edge_session import EdgeSession
from schemas.messages import Answer, Ask
from schemas.types import Outcome
from tests.edge.running import listening, running
from tests.edge.support import ScriptedWorker

pytestmark = [pytest.mark.broker, pytest.mark.usefixtures("contained")]


def once(method: Callable[..., Any]) -> tuple[Callable[..., Any], list[object]]:
    """The method with a bug that shows at its first call, and what was raised."""
    raised: list[object] = []

    def with_bug(*args: Any, **kwargs: Any) -> Any:
        if not raised:
            raised.append(KeyError("a bug"))
            raise KeyError("a bug")
        return method(*args, **kwargs)

    return with_bug, raised


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (EdgeFrames, "receive_answer"),
        (EdgeFrames, "tick"),
        (EdgeFrames, "_open_delivered"),
        (EdgeOpens, "_leaves"),
        (EdgeSession, "_decided"),
        (Site, "_ended"),
    ],
)
async def test_a_site_lives_on_and_gets_later_answers(
    broker_settings: BrokerSettings, codec_dir: Path, monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    with_bug, raised = once(getattr(owner, name))
    monkeypatch.setattr(owner, name, with_bug)
    edge = EdgeSettings(
        site="depot",
        codec=codec_dir,
        cameras={"gate": CameraSettings(source="test:1", interval_s=0.1, questions=("car",))},
        questions={"car": QuestionSettings(text="Is there a car?", deadline_ms=5_000)},
    )
    async with (
        asyncio.timeout(30),
        ScriptedWorker(broker_settings) as worker,
        running(LatentbusSettings(broker=broker_settings, edge=edge)) as site,
    ):
        while not (raised and any(end.outcome is Outcome.ANSWERED for end in site.watcher.ended)):
            camera, opened = await worker.next_open()
            await worker.answer_all(camera, opened)
        assert not site.task.done()


@pytest.mark.parametrize(
    ("owner", "name"), [(EdgeSession, "offer"), (EncoderThread, "encode"), (FirstPrefix, "choose")]
)
async def test_an_ad_hoc_question_waits_for_the_next_frame_when_its_frame_comes_to_nothing(
    broker_settings: BrokerSettings, codec_dir: Path, monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    with_bug, raised = once(getattr(owner, name))
    monkeypatch.setattr(owner, name, with_bug)
    edge = EdgeSettings(
        site="depot", codec=codec_dir, cameras={"gate": CameraSettings(source="test:1", interval_s=0.1)}
    )
    async with (
        asyncio.timeout(30),
        listening(broker_settings, "lb/v2/answer/gate") as client,
        ScriptedWorker(broker_settings) as worker,
        running(LatentbusSettings(broker=broker_settings, edge=edge)) as site,
    ):
        await client.ask("gate", Ask(query_id="q1", text="Is the gate open?", deadline_ms=25_000))
        camera, opened = await worker.next_open()
        assert raised, "the first frame with the question met the bug"
        assert [ref.question_id for ref in opened.queries] == ["q1"]
        await worker.answer_all(camera, opened)
        _, answer = await client.next(Answer)
        assert isinstance(answer, Answer)
        assert (answer.query_id, answer.outcome) == ("gate/@me/q1", Outcome.ANSWERED)
        assert not site.task.done()
