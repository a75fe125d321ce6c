"""Attacks with messages that used to end a process."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from latentbus.attack import forged
from latentbus.attack.attacker import Stage, at_rate
from latentbus.attack.fleet import (
    CAMERAS,
    MALLORY,
    OPERATOR,
    POOL,
    STOLEN_CAMERA,
    STOLEN_EDGE,
    STOLEN_WORKER,
    TRUDY,
    WORKERS,
)
from schemas import topics, wire
from schemas.messages import Question
from schemas.types import AnswerType

TEXTS_PER_S: Final = 1_000.0
"""As fast as an edge surely reads: what is aimed at are the texts, not the broker's queue."""
_HELD_S: Final = 0.7


async def deletion(stage: Stage) -> None:
    """Set a standing question, let frames be asked about it, delete it while they are under way; again and again."""
    question = Question(
        site="north",
        question_id="extra",
        text="Is there a bus?",
        answer_type=AnswerType.YES_NO,
        cameras=CAMERAS["north"],
    )
    topic = topics.question_topic("north", "extra")
    async with stage.attacker(OPERATOR) as olga, stage.attacker(TRUDY) as trudy:
        for number in range(stage.options.count(18, 5)):
            await olga.publish(topic, wire.encode(question), retain=True)
            # An ask makes the camera take a frame now, with the new question on it.
            await trudy.publish(topics.ask_topic("gate", TRUDY), forged.ask(f"d{number}"))
            # About as long as a frame of one of the cameras is away.
            await asyncio.sleep(_HELD_S)
            await olga.publish(topic, b"", retain=True)


async def text_flood(stage: Stage) -> None:
    """More small asks than a worker remembers texts."""
    topic = topics.ask_topic("gate", MALLORY)
    async with stage.attacker(MALLORY) as mallory:
        await at_rate(
            TEXTS_PER_S,
            stage.options.count(8_632, 4_500) / TEXTS_PER_S,
            lambda number: asyncio.create_task(
                mallory.publish(topic, forged.ask(f"t{number}", f"Is there a thing {number}?", 1_000))
            ),
        )


async def expiry(stage: Stage) -> None:
    """Unknown texts, on frames of which one query expires while another remains; asks that expire at once."""
    async with stage.attacker(STOLEN_EDGE) as west, stage.attacker(MALLORY) as mallory:
        fingerprint = stage.fleet.fingerprint
        for number in range(stage.options.count(50, 10)):
            payload = forged.opened(number, 50 + 10 * number, 1_000, 3_000, fingerprint=fingerprint)
            await west.publish(topics.open_topic(POOL, STOLEN_CAMERA), payload)
            await mallory.publish(topics.ask_topic("gate", MALLORY), forged.ask(f"e{number}", deadline_ms=number))


async def malformed(stage: Stage) -> None:
    """Every kind of invalid bytes on every topic that certificates of a client, an edge and a worker may write to."""
    rng = random.Random(stage.options.seed)
    places = {
        MALLORY: [topics.ask_topic("gate", MALLORY)],
        STOLEN_EDGE: [
            topics.open_topic(POOL, STOLEN_CAMERA),
            topics.key_topic(POOL, STOLEN_CAMERA),
            *(topics.chunk_topic(worker, STOLEN_CAMERA) for worker in WORKERS),
            topics.outcome_topic(STOLEN_CAMERA),
            topics.question_topic(STOLEN_EDGE, "car"),
            topics.status_topic("edge", STOLEN_EDGE),
        ],
        STOLEN_WORKER: [
            topics.control_topic("gate"),
            topics.answer_topic("gate"),
            *(topics.handover_topic(worker) for worker in WORKERS),
            topics.status_topic("worker", STOLEN_WORKER),
            topics.load_topic(POOL, STOLEN_WORKER),
        ],
    }
    for device, found in places.items():
        async with stage.attacker(device) as attacker:
            for topic in found:
                payloads = list(forged.no_messages(rng, each=stage.options.count(3, 1)))
                for payload in payloads:
                    await attacker.publish(topic, payload)
                await attacker.publish(topic, b"", retain=True)


async def version_1(stage: Stage) -> None:
    """Peers of wire version 1, by topic and by payload."""
    async with stage.attacker(STOLEN_EDGE) as west, stage.attacker(MALLORY) as mallory:
        for _ in range(stage.options.count(200, 20)):
            await west.publish("lb/v1/open/main/pier", b"\x8b\x01", forbidden=True)
            await mallory.publish("lb/v1/ask/gate", b'{"v":1,"query_id":"q1","text":"a?"}', forbidden=True)
            await mallory.publish(topics.ask_topic("gate", MALLORY), b'{"v":1,"query_id":"q1","text":"a?"}')
            await west.publish(
                topics.status_topic("edge", STOLEN_EDGE),
                b'{"v":1,"kind":"edge","id":"west","boot":1,"online":true,"pool":"main"}',
            )


async def busy_storm(stage: Stage) -> None:
    """Fill the pool with frames that live for a day, ask for a day, and let frames meet *busy*."""
    async with stage.attacker(STOLEN_EDGE) as west, stage.attacker(MALLORY) as mallory:
        fingerprint = stage.fleet.fingerprint
        topic = topics.open_topic(POOL, STOLEN_CAMERA)
        await asyncio.gather(
            *(
                west.publish(topic, forged.opened(10_000 + number, forged.DAY_MS, fingerprint=fingerprint))
                for number in range(stage.options.count(1_100, 300))
            )
        )
        await at_rate(
            20,
            stage.options.count(5, 1),
            lambda number: asyncio.create_task(
                mallory.publish(topics.ask_topic("yard", MALLORY), forged.ask(f"b{number}", deadline_ms=forged.DAY_MS))
            ),
        )
