"""An edge that came back asks a client's question of another frame, while the worker still holds the first one."""

from __future__ import annotations

from pipeline.protocol.effects import PassAnswer, SendAnswer
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.stop_rule import StopRule
from pipeline.protocol.worker_frames import WorkerFrames
from schemas.messages import Open
from schemas.types import FrameId, Outcome
from tests.protocol.questions import CLIENT, SITE, ask_message, content, published, ref

LADDER = (8, 16)
ASKED = content("people", ad_hoc=True)
STANDING = content("cars")


def _worker() -> WorkerFrames:
    worker = WorkerFrames(
        WorkerProtocolSettings(),
        worker="w1",
        pool="main",
        fingerprint=b"code",
        stop_rule=StopRule(LADDER, (0.9, 0.9), {}, 0.02),
    )
    worker.receive_ask("gate", CLIENT, ask_message(ASKED), None)
    return worker


def _open(boot: int, deadline_ms: int, *, standing: bool = False) -> Open:
    queries = (ref(ASKED, deadline_ms), *((ref(STANDING, 9_000),) if standing else ()))
    return Open(
        frame=FrameId(boot, 0), attempt=1, site=SITE, fingerprint=b"code", queries=queries, stop=8, payload=b"x"
    )


def _answers(worker: WorkerFrames) -> list[tuple[str, Outcome | None]]:
    said = [effect.message for effect in worker.take_effects() if isinstance(effect, SendAnswer)]
    return [(answer.query_id, answer.outcome) for answer in said]


def test_what_was_answered_in_one_frame_is_not_read_in_another() -> None:
    worker = _worker()
    worker.receive_open("gate", _open(1, 8_000), 0.0)
    worker.receive_open("gate", _open(2, 4_000), 0.0)
    (inference_pass,) = worker.passes.take(1, 0.1)
    query_id = inference_pass.queries[0].query_id
    worker.passes.finish(inference_pass, [PassAnswer(query_id, "two", 0.99)], 0.2)
    assert _answers(worker) == [(query_id, Outcome.ANSWERED)]
    assert worker.passes.take(1, 0.3) == []
    assert worker.unfinished() == 0
    assert worker.next_wake_s() is None
    assert worker.sizes()["timers"] == 0


def test_two_passes_at_once_say_one_terminal_answer() -> None:
    worker = _worker()
    worker.receive_open("gate", _open(1, 8_000), 0.0)
    worker.receive_open("gate", _open(2, 4_000), 0.0)
    passes = worker.passes.take(2, 0.1)
    assert len(passes) == 2
    for inference_pass, text in zip(passes, ("two", "three"), strict=True):
        worker.passes.finish(inference_pass, [PassAnswer(inference_pass.queries[0].query_id, text, 0.99)], 0.2)
    assert [outcome for _, outcome in _answers(worker)] == [Outcome.ANSWERED]
    assert worker.unfinished() == 0


def test_the_other_questions_of_the_frame_go_on() -> None:
    worker = _worker()
    worker.receive_question(published(STANDING))
    worker.receive_open("gate", _open(1, 8_000, standing=True), 0.0)
    worker.receive_open("gate", _open(2, 4_000), 0.0)
    (inference_pass,) = worker.passes.take(1, 0.1)
    assert inference_pass.frame.boot == 2
    worker.passes.finish(inference_pass, [PassAnswer(inference_pass.queries[0].query_id, "two", 0.99)], 0.2)
    (rest,) = worker.passes.take(1, 0.3)
    assert [query.question for query in rest.queries] == [STANDING]
