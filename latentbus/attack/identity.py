"""Attacks on whose question it is: answers of others taken, changed, or sent to the wrong place."""

from __future__ import annotations

import asyncio
from typing import Final

from latentbus.attack import forged
from latentbus.attack.attacker import Stage
from latentbus.attack.fleet import (
    BYSTANDERS,
    CAMERAS,
    MALLORY,
    POOL,
    STOLEN_CAMERA,
    STOLEN_EDGE,
    STOLEN_WORKER,
    TRUDY,
    WORKERS,
)
from schemas import topics, wire
from schemas.counting import counted
from schemas.identity import ad_hoc_query_id
from schemas.topics import MESSAGES, ROOT, Family
from schemas.types import AnswerType

_TERMINAL_TIMEOUT_S: Final = 20.0
_BETWEEN_S: Final = 0.1
_ALL_CAMERAS: Final = tuple(camera for cameras in CAMERAS.values() for camera in cameras)


async def capture(stage: Stage) -> None:
    """Ask under the ids of standing questions, also retained, and restart a worker, which reads it again."""
    async with stage.attacker(MALLORY, [topics.reply_filter(MALLORY)]) as mallory:
        for retain in (False, True):
            for camera in _ALL_CAMERAS:
                for question_id in ("car", "people"):
                    await mallory.publish(
                        topics.ask_topic(camera, MALLORY),
                        forged.ask(question_id, "How many trees are there?", answer_type=AnswerType.COUNT),
                        retain=retain,
                        response_topic=topics.reply_topic(MALLORY, camera, question_id),
                    )
        if not stage.options.short:
            # Whoever subscribes now is sent the retained asks.
            status = await stage.fleet.restart(WORKERS[1])
            if status:
                stage.tally.failed.append(f"{WORKERS[1]} ended with status {status} when it was told to stop")
        for camera in _ALL_CAMERAS:
            await mallory.publish(topics.ask_topic(camera, MALLORY), b"", retain=True)


async def same_ids(stage: Stage) -> None:
    """Ask other questions of the same cameras under the ids that the bystanders use."""
    async with stage.attacker(MALLORY, [topics.reply_filter(MALLORY)]) as mallory:
        for ahead in range(stage.options.count(60, 15)):
            # What they ask next, and a little later.
            number = max(bystander.asked for bystander in stage.bystanders) + ahead % 5
            query_id = f"q{number}"
            for camera in _ALL_CAMERAS:
                await mallory.publish(
                    topics.ask_topic(camera, MALLORY),
                    forged.ask(query_id, "What color is the bus?", answer_type=AnswerType.WORD),
                    response_topic=topics.reply_topic(MALLORY, camera, query_id),
                )
            await asyncio.sleep(_BETWEEN_S)


async def foreign_replies(stage: Stage) -> None:
    """Request replies on topics that others read, or where they would be mistaken for something else."""
    victims = [topics.reply_topic(name, "gate", f"q{number}") for name in BYSTANDERS for number in range(5)]
    elsewhere = [
        *victims, topics.control_topic("gate"), topics.answer_topic("gate"), topics.status_topic("edge", "north"),
        topics.reply_topic(TRUDY, "gate", "another"), topics.question_topic("north", "car"), f"{ROOT}/reply/trudy/#",
        "$CONTROL/dynamic-security/v1", "", "x" * 200, f"{ROOT}/reply/alice/gate/q1/deeper",
    ]  # fmt: skip
    filters = [topics.reply_filter(TRUDY), topics.answer_topic("gate"), topics.outcome_topic("gate")]
    async with stage.attacker(TRUDY, filters) as trudy:
        asked = set()
        for number, reply in enumerate(elsewhere):
            query_id = f"f{number}"
            asked.add(ad_hoc_query_id("gate", TRUDY, query_id))
            await trudy.publish(
                topics.ask_topic("gate", TRUDY),
                forged.ask(query_id, "Is there a car?", 15_000, answer_type=AnswerType.YES_NO),
                response_topic=reply or None,
            )
        # Each has its end on the public topics all the same.
        await stage.watcher.wait_until(lambda: asked <= trudy.terminals, _TERMINAL_TIMEOUT_S)
        if missing := asked - trudy.terminals:
            stage.tally.failed.append(f"{counted(len(missing), 'ask')} with a foreign reply topic had no end")


async def forbidden_topics(stage: Stage) -> None:
    """Publish and subscribe to topics of others: forged answers, claims, frames, statuses, rules."""
    wide = ["#", f"{ROOT}/#", "+/#", f"$share/{POOL}/{ROOT}/open/{POOL}/+", f"{ROOT}/+/gate", "$CONTROL/#", "$SYS/#"]
    wide += [topics.reply_filter(name) for name in BYSTANDERS]
    await _forbidden(stage, MALLORY, [*wide, *map(topics.family_filter, (Family.OPEN, Family.ASK, Family.QUESTION))])
    await _forbidden(stage, STOLEN_EDGE, [*wide, *map(topics.family_filter, (Family.ASK, Family.CONTROL, Family.KEY))])
    await _forbidden(stage, STOLEN_WORKER, [*wide[:3], topics.inbox_filter(WORKERS[0]), *wide[5:]])


async def camera_claim(stage: Stage) -> None:
    """With a stolen edge's certificate, claim the cameras of other sites."""
    topic = topics.status_topic("edge", STOLEN_EDGE)
    async with stage.attacker(STOLEN_EDGE) as west:
        for cameras in (_ALL_CAMERAS, ("gate",), (STOLEN_CAMERA, *_ALL_CAMERAS)):
            await west.publish(topic, forged.status("edge", STOLEN_EDGE, cameras=cameras), retain=True)
            await asyncio.sleep(stage.options.count(5, 1))
        await west.publish(topic, forged.status("edge", STOLEN_EDGE, online=False), retain=True)
        await west.publish(topic, b"", retain=True)


async def _forbidden(stage: Stage, device: str, filters: list[str]) -> None:
    async with stage.attacker(device) as attacker:
        for topic, payload in _of_others(device):
            await attacker.publish(topic, payload, forbidden=True)
            await attacker.publish(topic, payload, retain=True, forbidden=True)
        for topic_filter in filters:
            await attacker.subscribe(topic_filter)


def _of_others(device: str) -> list[tuple[str, bytes]]:
    """Topics that are not a device's own, with a valid message for each."""
    messages = forged.every_message("gate", BYSTANDERS[0])

    def of(family: Family) -> list[bytes]:
        return [wire.encode(message) for message in messages if isinstance(message, MESSAGES[family])]

    everybody = {
        Family.OPEN: [topics.open_topic(POOL, "gate")],
        Family.CHUNK: [topics.chunk_topic(WORKERS[0], "gate")],
        Family.KEY: [topics.key_topic(POOL, "gate"), topics.key_topic("other", "gate")],
        Family.OUTCOME: [topics.outcome_topic("gate")],
        Family.QUESTION: [topics.question_topic("north", "car"), topics.question_topic("north", "new")],
        Family.ASK: [topics.ask_topic("gate", BYSTANDERS[0]), topics.ask_topic("invented", MALLORY)],
        Family.STATUS: [topics.status_topic("edge", "north"), topics.status_topic("worker", WORKERS[0])],
        Family.LOAD: [topics.load_topic(POOL, WORKERS[0])],
        Family.CONTROL: [topics.control_topic("gate")],
        Family.ANSWER: [topics.answer_topic("gate")],
        Family.HANDOVER: [topics.handover_topic(WORKERS[0])],
        Family.REPLY: [topics.reply_topic(BYSTANDERS[0], "gate", "q1")],
        Family.RECEIPT: [topics.receipt_topic("olga", "north", "car")],
        **{
            family: [topics.request_topic(family, "gate", BYSTANDERS[0]), topics.request_topic(family, "gate", MALLORY)]
            for family in (Family.RING, Family.PICTURES, Family.ERASE)
        },
        **{
            family: [topics.event_topic(family, "olga", "gate", "r1")]
            for family in (Family.EVENTS, Family.CLIP, Family.PICTURE)
        },
    }
    own = {
        MALLORY: frozenset[Family](),
        STOLEN_EDGE: frozenset[Family](),
        # A worker is trusted with answers for every camera of its pool, see docs/security.md.
        STOLEN_WORKER: frozenset({Family.REPLY, Family.CONTROL, Family.ANSWER, Family.HANDOVER}),
    }[device]
    found = [
        (topic, payload) for family, names in everybody.items() if family not in own for topic in names
        for payload in of(family)
    ]  # fmt: skip
    old = [(f"lb/v1/{family}/gate", b"{}") for family in Family]
    return [*found, *old, ("$CONTROL/dynamic-security/v1", b'{"commands":[]}'), (f"{ROOT}/config/north", b"{}")]
