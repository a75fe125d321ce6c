"""Bugs placed into a running worker: one message or frame ends, the worker lives and answers the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from broker_config.launcher import LocalBroker
from cloud_workers.pass_engine import PassResult
from pipeline.protocol.effects import InferencePass
from pipeline.protocol.worker_admission import Admission
from pipeline.protocol.worker_frame import WorkerFrame
from pipeline.protocol.worker_messages import WorkerMessages
from pipeline.protocol.worker_passes import InferencePasses
from pipeline.protocol.worker_progress import Progress
from schemas.types import Outcome
from tests.cloud.scripted import RunningWorker, ScriptedEdge, ScriptedEngine, running_worker

pytestmark = [pytest.mark.broker, pytest.mark.usefixtures("contained")]

POISONED = 1
"""Sequence of the frame that meets the bug."""


def meets_a_bug(method: Callable[..., Any], number_of: Callable[..., int]) -> Callable[..., Any]:
    """The method, with a bug in it that shows at one frame."""

    def with_bug(self: Any, *args: Any, **kwargs: Any) -> Any:
        if number_of(*args) == POISONED:
            raise KeyError("a bug")
        return method(self, *args, **kwargs)

    return with_bug


async def both_frames(edge: ScriptedEdge, worker: RunningWorker) -> None:
    """Two frames; the second one is answered whatever becomes of the first."""
    await edge.question()
    await edge.open(POISONED)
    await edge.open(2)
    assert (await edge.answer(2, final=False)).text == "seen 3"
    await edge.chunk("w-1", 2, 3, 5)
    assert (await edge.answer(2)).outcome is Outcome.ANSWERED
    assert not worker.task.done()


@pytest.mark.parametrize(
    ("where", "owner", "name", "number_of"),
    [
        ("receive/open", Admission, "_admit", lambda camera, message, *_: message.frame.sequence),
        ("pass taken", WorkerFrame, "inference_pass", None),
        ("pass", InferencePasses, "finish", lambda inference_pass, *_: inference_pass.frame.sequence),
        ("pass", Progress, "refine", lambda frame, *_: frame.frame.sequence),
        ("pass", WorkerMessages, "refine", lambda frame, *_: frame.frame.sequence),
    ],
)
async def test_a_bug_at_one_frame_ends_that_frame_alone(
    broker: LocalBroker,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    owner: type,
    name: str,
    number_of: Callable[..., int] | None,
) -> None:
    method = getattr(owner, name)
    if number_of is None:

        def inference_pass(self: WorkerFrame, *args: Any) -> Any:
            if self.frame.sequence == POISONED:
                raise KeyError("a bug")
            return method(self, *args)

        monkeypatch.setattr(owner, name, inference_pass)
    else:
        monkeypatch.setattr(owner, name, meets_a_bug(method, number_of))
    async with ScriptedEdge(broker) as edge, running_worker(broker) as worker:
        await both_frames(edge, worker)
        assert worker.sample("contained_total", kind=f"{where}/KeyError") == 1
        assert worker.session.unfinished() == 0
        if where != "receive/open":  # that one was never held
            answer = await edge.answer(POISONED)
            assert (answer.outcome, answer.reason) == (Outcome.FAILED, "internal: KeyError")


async def test_a_timer_that_fails_at_one_frame_leaves_those_of_the_others(
    broker: LocalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Progress,
        "finalise_late",
        meets_a_bug(Progress.finalise_late, lambda frame, *_: frame.frame.sequence),
    )
    async with ScriptedEdge(broker) as edge, running_worker(broker) as worker:
        worker.engine.gate.clear()
        await edge.question()
        # The first pass stays at the model; deadlines come all the same.
        await edge.open(POISONED, remaining_ms=1_000)
        answer = await edge.answer(POISONED)
        assert (answer.outcome, answer.reason) == (Outcome.FAILED, "internal: KeyError")
        worker.engine.gate.set()
        await edge.open(2)
        assert (await edge.answer(2, final=False)).text == "seen 3"


async def test_a_batch_that_raises_as_a_whole_fails_its_frames_and_the_next_one_is_answered(
    broker: LocalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ScriptedEngine.run

    async def raising(self: ScriptedEngine, passes: Sequence[InferencePass]) -> list[PassResult]:
        if passes[0].frame.sequence == POISONED:
            raise KeyError("a bug")
        return await run(self, passes)

    monkeypatch.setattr(ScriptedEngine, "run", raising)
    async with ScriptedEdge(broker) as edge, running_worker(broker) as worker:
        await edge.question()
        await edge.open(POISONED)
        answer = await edge.answer(POISONED)
        assert answer.outcome is Outcome.FAILED
        assert answer.reason.startswith("model: KeyError")
        await edge.open(2)
        assert (await edge.answer(2, final=False)).text == "seen 3"
        assert worker.sample("contained_total", kind="batch/KeyError") == 1
