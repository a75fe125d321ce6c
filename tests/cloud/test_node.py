from __future__ import annotations

import asyncio

import pytest
import structlog

from broker_config.launcher import LocalBroker
from cloud_workers.node import run_worker
from pipeline.bus.base import Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.settings import LatentbusSettings
from pipeline.node.runtime import EXIT_NOT_DRAINED, Stop
from pipeline.protocol.settings import WorkerProtocolSettings
from pipeline.protocol.worker_status import STATUS_EXPIRY_S, WILL_EXPIRY_S, WorkerIdentity
from schemas import topics, wire
from schemas.errors import ConfigError
from schemas.messages import Answer, Busy, NeedText, Refine, Reject, RejectReason, Status
from schemas.types import FrameId, Outcome
from tests.cloud.scripted import (
    CLIENT,
    FINGERPRINT,
    WAIT_S,
    WHO_1,
    WHO_1_QUERY,
    ScriptedEdge,
    running_worker,
)
from tests.protocol.questions import SITE, content

pytestmark = pytest.mark.broker

UNHEARD = content("unheard", "Is there a bus?")


async def test_a_prefix_is_refined_until_its_answer_is_safe(broker: LocalBroker) -> None:
    async with ScriptedEdge(broker) as edge, running_worker(broker) as worker:
        await edge.question()
        await edge.open(1)
        provisional = await edge.answer(1, final=False)
        assert (provisional.text, provisional.latents, provisional.question_id) == ("seen 3", 3, "car")
        inbound, refine = await edge.expect(Refine)
        assert inbound.topic == topics.control_topic("gate")
        assert (refine.worker, refine.start, refine.stop) == ("w-1", 3, 5)
        await edge.chunk("w-1", 1, 3, 5)
        answer = await edge.answer(1)
        assert (answer.outcome, answer.text, answer.latents) == (Outcome.ANSWERED, "seen 5", 5)
        assert answer.payload_bytes == len(b"payload") + len(b"more payload")
        assert worker.sample("worker_batch_frames_sum") == 2
        assert worker.sample("session_events_total", event="outcome_answered") == 1


async def test_the_text_of_an_unknown_question_is_asked_for(broker: LocalBroker) -> None:
    async with ScriptedEdge(broker) as edge, running_worker(broker):
        await edge.open(1, question=UNHEARD)
        _, need = await edge.expect(NeedText)
        assert need.digests == (UNHEARD.digest,)
        await edge.text("w-1", UNHEARD)
        assert (await edge.answer(1, final=False)).text == "seen 3"


async def test_a_question_that_is_deleted_or_changed_while_its_frames_wait_is_answered_as_it_was_asked(
    broker: LocalBroker,
) -> None:
    async with ScriptedEdge(broker) as edge, running_worker(broker) as worker:
        await edge.question()
        worker.engine.gate.clear()
        for sequence in range(1, 5):
            await edge.open(sequence)
        await edge.status(lambda status: status.parked == 4)
        await edge.bus.publish(topics.question_topic(SITE, "car"), b"", qos=1, retain=True)
        await edge.question(text="Is it raining?")
        await edge.open(5, question=content("car", "Is it raining?"))
        await edge.status(lambda status: status.parked == 5)
        worker.engine.gate.set()
        for sequence in range(1, 6):
            await edge.answer(sequence, final=False)
            await edge.expect(Refine, lambda refine, at=sequence: refine.frame.sequence == at)  # type: ignore[misc]
            await edge.chunk("w-1", sequence, 3, 5)
            assert (await edge.answer(sequence)).outcome is Outcome.ANSWERED
        asked = {
            inference_pass.frame.sequence: inference_pass.queries[0].text
            for batch in worker.engine.batches
            for inference_pass in batch
        }
        assert asked == {**dict.fromkeys(range(1, 5), "Is there a car?"), 5: "Is it raining?"}


async def test_an_ad_hoc_question_is_answered_to_its_client_too(broker: LocalBroker) -> None:
    async with ScriptedEdge(broker) as edge, running_worker(broker):
        reply = topics.reply_topic(CLIENT, "gate", "who-1")
        await edge.ask("who-1", response_topic=reply, correlation_data=b"42")
        await edge.open(1, question=WHO_1)
        for topic in (topics.answer_topic("gate"), reply):
            inbound, answer = await edge.expect(Answer, topic=topic)
            assert (answer.query_id, answer.owner) == (WHO_1_QUERY, WHO_1.owner)
        assert inbound.correlation_data == b"42"


async def test_an_ask_that_names_a_foreign_response_topic_is_answered_on_the_public_topic(broker: LocalBroker) -> None:
    async with ScriptedEdge(broker) as edge, running_worker(broker):
        await edge.ask("who-1", response_topic=topics.control_topic("gate"), correlation_data=b"42")
        await edge.open(1, question=WHO_1)
        inbound, answer = await edge.expect(Answer)
        assert (inbound.topic, answer.query_id) == (topics.answer_topic("gate"), WHO_1_QUERY)


async def test_an_ask_with_more_correlation_data_than_anybody_keeps_is_dropped(broker: LocalBroker) -> None:
    async with ScriptedEdge(broker) as edge, running_worker(broker) as worker:
        await edge.ask(
            "who-1", response_topic=topics.reply_topic(CLIENT, "gate", "who-1"), correlation_data=bytes(65_000)
        )
        await edge.open(1, question=WHO_1)
        await edge.expect(NeedText)
        assert worker.sample("messages_dropped_total", kind="ask/oversize") == 1


async def test_latents_of_another_codec_are_rejected_and_reported(broker: LocalBroker) -> None:
    async with ScriptedEdge(broker) as edge, running_worker(broker) as worker:
        await edge.question()
        await edge.open(1, fingerprint=b"else")
        _, reject = await edge.expect(Reject)
        assert (reject.reason, reject.fingerprint) == (RejectReason.FINGERPRINT, FINGERPRINT)
        assert worker.sample("messages_dropped_total", kind="open/fingerprint") == 1
        assert not worker.engine.batches


async def test_bad_bytes_on_every_topic_stop_nothing(broker: LocalBroker) -> None:
    addressed = [
        topics.open_topic("main", "gate"),
        topics.chunk_topic("w-1", "gate"),
        topics.handover_topic("w-1"),
        topics.question_topic(SITE, "car"),
        topics.ask_topic("gate", CLIENT),
        topics.load_topic("main", "w-9"),
        f"{topics.ROOT}/open/main/NOT-A-NAME",
    ]
    strange = wire.encode(Status(kind="worker", id="other", boot=1, online=True))
    async with ScriptedEdge(broker) as edge, running_worker(broker) as worker:
        await edge.question("known")
        for payload in (b"\xc1", b"\x92\x63\x01", b'{"v": 99}', b"x" * 100_000, strange):
            for topic in addressed:
                await edge.bus.publish(topic, payload, qos=1)
        with structlog.testing.capture_logs() as logs:
            await edge.open(1, question=content("known", "Is there a car?"))
            assert (await edge.answer(1, final=False)).text == "seen 3"
        assert worker.bus.statistics().unacknowledged_messages == 0
        assert not [entry for entry in logs if entry["log_level"] == "error"]
        dropped = {
            sample.labels["kind"]: sample.value
            for family in worker.metrics.registry.collect()
            if family.name == "latentbus_messages_dropped"
            for sample in family.samples
        }
        assert sum(dropped.values()) == 5 * len(addressed)
        for family in ("open", "chunk", "handover", "question", "ask", "load"):
            assert {f"{family}/malformed", f"{family}/oversize"} <= dropped.keys()
        assert {"open/version", "question/version", "load/topic", "topic/topic"} <= dropped.keys()


async def test_a_worker_of_version_one_is_noticed_named_and_counted(broker: LocalBroker) -> None:
    status = b'{"v":1,"kind":"worker","id":"w-old","boot":1,"online":true,"pool":"main"}'
    async with ScriptedEdge(broker) as edge:
        await edge.bus.publish("lb/v1/status/worker/w-old", status, qos=1, retain=True)
        with structlog.testing.capture_logs() as logs:
            async with running_worker(broker) as worker:
                await edge.bus.publish("lb/v1/status/worker/w-old", status, qos=1, retain=True)
                await edge.question()
                await edge.open(1)
                assert (await edge.answer(1, final=False)).text == "seen 3"
                assert worker.sample("messages_dropped_total", kind="topic/version") == 2
    (told,) = [entry for entry in logs if entry.get("kind") == "topic/version"]
    assert told["topic"] == "lb/v1/status/worker/w-old"
    assert "wire version 1 of the peer, this process speaks 2: update the older side, the peer" in told["problem"]


async def test_the_loop_works_on_while_the_model_computes(broker: LocalBroker) -> None:
    async with (
        ScriptedEdge(broker) as edge,
        running_worker(broker, capacity_frames=1) as worker,
    ):
        await edge.question()
        worker.engine.gate.clear()
        await edge.open(1)
        await worker.engine.entered.wait()
        # The model's thread stands still. All of this is received, decided, and sent meanwhile.
        for sequence in range(2, 12):
            await edge.open(sequence)
            _, busy = await edge.expect(Busy)
            assert busy.frame == FrameId(1, sequence)
        await edge.status(lambda status: status.parked == 1 and status.capacity == 1)
        assert not [message for _, message in edge.heard if isinstance(message, Answer)]
        worker.engine.gate.set()
        assert (await edge.answer(1, final=False)).text == "seen 3"


async def test_frames_that_wait_for_the_model_go_in_one_batch(broker: LocalBroker) -> None:
    async with ScriptedEdge(broker) as edge, running_worker(broker) as worker:
        await edge.question()
        worker.engine.gate.clear()
        await edge.open(1)
        await worker.engine.entered.wait()
        for sequence in range(2, 8):
            await edge.open(sequence, camera=f"camera-{sequence}", remaining_ms=15_000 - 1_000 * sequence)
        await edge.status(lambda status: status.parked == 7)
        worker.engine.gate.set()
        for sequence in range(1, 8):
            await edge.answer(sequence, final=False)
        sizes = [len(batch) for batch in worker.engine.batches]
        assert sizes == [1, 4, 2]
        # The earliest deadline first.
        assert [inference_pass.frame.sequence for inference_pass in worker.engine.batches[1]] == [7, 6, 5, 4]


async def test_a_deadline_finds_the_best_answer_so_far(broker: LocalBroker) -> None:
    protocol = WorkerProtocolSettings(finalise_margin_s=0.3)
    async with ScriptedEdge(broker) as edge, running_worker(broker, protocol=protocol):
        await edge.question()
        await edge.open(1, remaining_ms=800)
        answer = await edge.answer(1)
        assert (answer.outcome, answer.text, answer.latents) == (Outcome.DEGRADED, "seen 3", 3)


async def test_a_worker_speaks_for_an_edge_that_is_gone(broker: LocalBroker) -> None:
    async with ScriptedEdge(broker) as edge, running_worker(broker) as worker:
        await edge.question()
        will = wire.encode(Status(kind="edge", id="north", boot=1, online=False, pool="main"))
        await edge.bus.publish(topics.status_topic("edge", "north"), will, qos=1, retain=True)
        await edge.open(1, remaining_ms=1_000)
        answer = await edge.answer(1)
        assert (answer.outcome, answer.reason, answer.text) == (Outcome.DEGRADED, "edge_lost", "seen 3")
        assert worker.sample("query_outcomes_total", outcome="degraded", asked="standing", reason="edge_lost") == 1


async def test_a_full_worker_hands_over_to_a_free_one(broker: LocalBroker) -> None:
    async with (
        ScriptedEdge(broker) as edge,
        running_worker(broker, "free"),
        running_worker(broker, "full", capacity_frames=1) as full,
    ):
        await edge.question()
        full.engine.gate.clear()
        # Wait for a load of the free one that the full one has heard as well.
        await edge.status(lambda status: status.id == "full")
        edge.heard.clear()
        await edge.status(lambda status: status.id == "free")
        await edge.hand_over("full", 1)
        await full.engine.entered.wait()
        await edge.hand_over("full", 2)
        assert (await edge.answer(2, final=False)).worker == "free"
        full.engine.gate.set()
        assert (await edge.answer(1, final=False)).worker == "full"


async def test_the_worker_returns_after_the_broker_went_away(broker: LocalBroker) -> None:
    async with ScriptedEdge(broker) as edge, running_worker(broker):
        await edge.status(lambda status: status.online)
        await asyncio.to_thread(broker.restart)
        # Born again, on a broker that has forgotten everything.
        await edge.bus.wait_connected(WAIT_S)
        await edge.question()
        while not await edge.open(1):
            await edge.status(lambda status: status.online)  # nobody has joined the share group yet
        await edge.answer(1, final=False)


async def test_a_draining_worker_takes_nothing_new_and_finishes_what_it_has(broker: LocalBroker) -> None:
    async with ScriptedEdge(broker) as edge, running_worker(broker) as worker:
        await edge.question()
        worker.engine.gate.clear()
        await edge.open(1)
        await worker.engine.entered.wait()
        worker.stop.request()
        await edge.status(lambda status: status.online and status.capacity == 0)
        assert not await edge.open(2)
        worker.engine.gate.set()
        await edge.expect(Refine)
        await edge.chunk("w-1", 1, 3, 5)
        assert (await edge.answer(1)).outcome is Outcome.ANSWERED
        assert await worker.task == 0
        inbound = (await edge.expect(Status, lambda status: not status.online))[0]
        assert inbound.topic == topics.status_topic("worker", "w-1")


async def test_a_worker_that_cannot_drain_in_time_says_so(broker: LocalBroker) -> None:
    async with ScriptedEdge(broker) as edge:
        async with running_worker(broker, drain_timeout_s=1.2) as worker:
            await edge.question()
            worker.engine.gate.clear()
            await edge.open(1)
            await worker.engine.entered.wait()
            worker.stop.request()
            assert await worker.task == EXIT_NOT_DRAINED
        await edge.status(lambda status: not status.online)


@pytest.mark.parametrize("drawn", [True, False])
async def test_a_worker_under_a_drawn_name_leaves_nothing_retained(broker: LocalBroker, drawn: bool) -> None:
    async with ScriptedEdge(broker) as edge:
        async with running_worker(broker, drawn=drawn) as worker:
            await edge.status(lambda status: status.online)
            worker.stop.request()
            assert await worker.task == 0
        await edge.expect(Status, lambda status: not status.online)  # told all the same, to those who listen
    retained = await _retained_statuses(broker)
    assert [(status.id, status.online) for status, _ in retained] == ([] if drawn else [("w-1", False)])


@pytest.mark.parametrize("drawn", [True, False])
async def test_a_status_and_a_will_under_a_drawn_name_expire(broker: LocalBroker, drawn: bool) -> None:
    async with ScriptedEdge(broker) as edge, running_worker(broker, drawn=drawn):
        await edge.status(lambda status: status.online)
        ((birth, expiry_s),) = await _retained_statuses(broker)
        assert birth.online
        assert (expiry_s is not None and STATUS_EXPIRY_S - 60 < expiry_s <= STATUS_EXPIRY_S) if drawn else not expiry_s
    will = WorkerIdentity("w-1", "main", 7, FINGERPRINT, drawn=drawn).will()
    assert will.expiry_s == (WILL_EXPIRY_S if drawn else None)


async def _retained_statuses(broker: LocalBroker) -> list[tuple[Status, int | None]]:
    """What the broker retains, and in how many seconds it forgets it."""
    found: list[tuple[Status, int | None]] = []
    filters = [Subscription("lb/v2/status/worker/+", qos=1), Subscription("end", qos=1)]
    settings = BrokerSettings(host=broker.host, port=broker.port)
    async with MqttBus(settings, client_id="reader", subscriptions=filters, all_properties=True) as bus:
        await bus.wait_connected(WAIT_S)
        await bus.publish("end", b"", qos=1)
        while True:
            for event in await bus.receive_batch():
                if isinstance(event, Inbound) and event.topic == "end":
                    return found
                if isinstance(event, Inbound) and event.retain:
                    message = wire.decode_publish(event.topic, event.payload)[1]
                    assert isinstance(message, Status)
                    found.append((message, event.properties.expiry_s if event.properties else None))


async def test_a_worker_without_a_broker_waits_and_stops_when_asked(broker: LocalBroker) -> None:
    broker.stop()
    async with running_worker(broker, await_ready=False, drain_timeout_s=2.0) as worker:
        assert not worker.stop.ready.is_set()
        worker.stop.request()
        assert await worker.task == 0


async def test_the_process_needs_its_section(broker: LocalBroker) -> None:
    settings = LatentbusSettings(broker=BrokerSettings(port=broker.port))
    with pytest.raises(ConfigError, match="worker section"):
        await run_worker(settings, Stop())
