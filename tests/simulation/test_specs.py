"""An edge or a worker that nobody judges ends its run at the first broken rule."""

from __future__ import annotations

import random

import pytest

from pipeline.protocol.effects import InferencePass, PassAnswer
from simulation.broker import BrokerModel
from simulation.clock import VirtualClock
from simulation.edge_actor import EdgeActor
from simulation.links import LinkFaults
from simulation.questions import published, standing
from simulation.specs import EdgeCallbacks, EdgeSpec, WorkerCallbacks, WorkerSpec
from simulation.worker_actor import WorkerActor

SITE, POOL, CAMERA = "north", "main", "gate"
QUESTIONS = published((SITE,), ("q0",))


class ReadsTooMuch:
    """A model whose pass reads what it must not."""

    def answer(self, inference_pass: InferencePass) -> list[PassAnswer]:
        raise ValueError(f"latents after {inference_pass.stop} were read")


def run(on_problem: list[str] | None) -> None:
    clock = VirtualClock()
    broker = BrokerModel(clock, random.Random(1), LinkFaults())
    callbacks = WorkerCallbacks() if on_problem is None else WorkerCallbacks(on_problem=on_problem.append)
    spec = WorkerSpec("w0", POOL, batch_s=0.01, frame_s=0.01, questions=QUESTIONS)
    WorkerActor(clock, broker, random.Random(1), spec, ReadsTooMuch(), callbacks).start()
    edge = EdgeActor(clock, broker, EdgeSpec(SITE, POOL, (CAMERA,), 1000.0, questions=QUESTIONS), EdgeCallbacks())
    edge.start()
    clock.at(1.0, lambda: edge.capture_standing(CAMERA, ("q0",)))
    while (next_s := clock.next_s()) is not None and next_s < 5.0:
        clock.step()


def test_a_pass_that_reads_too_much_ends_the_run_unless_somebody_is_told() -> None:
    with pytest.raises(AssertionError, match=r"^latents after \d+ were read$"):
        run(None)
    told: list[str] = []
    run(told)
    assert told


def test_a_broken_rule_at_an_edge_names_rule_subject_and_what_was_seen() -> None:
    with pytest.raises(AssertionError, match=r"^no terminal: q1: seen$"):
        EdgeCallbacks().on_problem("no terminal", "q1", "seen")


def test_a_site_asks_every_question_of_its_settings_of_every_camera() -> None:
    spec = EdgeSpec(
        SITE, POOL, ("gate", "yard"), 24.0, questions=published((SITE,), ("q0", "q1")), priorities={"gate": 2.0}
    )
    settings = spec.site_settings()
    assert settings.asked_of == {"gate": ("q0", "q1"), "yard": ("q0", "q1")}
    assert {key: question.text for key, question in settings.questions.items()} == {
        key: standing(SITE, key).text for key in ("q0", "q1")
    }
    assert (settings.site, settings.pool, settings.uplink_kbps) == (SITE, POOL, 24.0)
    assert settings.priorities == {"gate": 2.0}
