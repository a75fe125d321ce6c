"""Attacks on memory, the uplink, and the patience of everybody else."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
from typing import Final

from broker_config.limits import MAX_PACKET_BYTES
from latentbus.attack import forged
from latentbus.attack.attacker import Stage, at_rate
from latentbus.attack.bystanders import QUESTIONS, Bystander
from latentbus.attack.fleet import CAMERAS, LATECOMER, MALLORY
from latentbus.fleet.client import reading
from latentbus.fleet.ledger import READ_LAG_S
from pipeline.config.edge_settings import ClientBudgetSettings
from schemas import topics
from schemas.limits import MAX_CHOICE_OPTIONS, MAX_QUESTION_CHARS
from schemas.types import AnswerType

BALLAST_BYTES: Final = MAX_PACKET_BYTES - 1_000
"""As much as the broker takes with an ask; a client that sends more is thrown out."""
FLOOD_PER_S: Final = 300.0
CONNECTIONS: Final = 2_000
_LONG_DEADLINE_MS: Final = 20_000
_READABLE_CHARS: Final = 450
"""Of four tokens each: just under the 2,048 tokens that the bundled model reads, frame and answer included."""
_ALL_CAMERAS: Final = tuple(camera for cameras in CAMERAS.values() for camera in cameras)


async def flood(stage: Stage) -> None:
    """One client asks 300 times a second."""
    async with stage.attacker(MALLORY, [topics.reply_filter(MALLORY)]) as mallory:
        await at_rate(
            FLOOD_PER_S,
            stage.options.count(20, 4),
            lambda number: asyncio.create_task(
                mallory.publish(
                    topics.ask_topic("gate", MALLORY),
                    forged.ask(f"r{number}", "Is there a car?", 30_000, answer_type=AnswerType.YES_NO),
                    response_topic=topics.reply_topic(MALLORY, "gate", f"r{number}"),
                )
            ),
        )


async def burst(stage: Stage) -> None:
    """Asks at QoS 0 as fast as the broker accepts them: nothing slows a client down there."""
    async with stage.attacker(MALLORY) as mallory:
        await asyncio.gather(
            *(
                mallory.publish(topics.ask_topic("yard", MALLORY), forged.ask(f"z{number}", deadline_ms=2_000), qos=0)
                for number in range(stage.options.count(10_000, 2_000))
            )
        )


async def long_questions(stage: Stage) -> None:
    """The longest questions that are allowed or that a model reads: many at once, then as fast as a budget lets in."""
    async with stage.attacker(MALLORY, [topics.reply_filter(MALLORY)]) as mallory:

        async def ask(number: int, chars: int, options: int) -> None:
            camera, query_id = _ALL_CAMERAS[number % len(_ALL_CAMERAS)], f"l{number}"
            await mallory.publish(
                topics.ask_topic(camera, MALLORY),
                forged.costly_ask(query_id, _LONG_DEADLINE_MS, chars=chars, options=options),
                response_topic=topics.reply_topic(MALLORY, camera, query_id),
            )

        # The longest that the bundled model reads first: the others take more of the budget and none of its time.
        at_once = stage.options.count(60, 12)
        half = at_once // 2
        await asyncio.gather(*(ask(number, _READABLE_CHARS, 0) for number in range(half)))
        await asyncio.gather(*(ask(number, MAX_QUESTION_CHARS, MAX_CHOICE_OPTIONS) for number in range(half, at_once)))
        await at_rate(
            ClientBudgetSettings().asks_per_s,
            stage.options.count(20, 3),
            lambda number: asyncio.create_task(ask(at_once + number, _READABLE_CHARS, 0)),
        )


async def correlation(stage: Stage) -> None:
    """Asks with as much CorrelationData as the broker accepts, which every reply would return over the thin link."""
    async with stage.attacker(MALLORY, [topics.reply_filter(MALLORY)]) as mallory:
        for number in range(stage.options.count(4_100, 100)):
            await mallory.publish(
                topics.ask_topic("gate", MALLORY),
                forged.ask(f"c{number}", deadline_ms=30_000),
                response_topic=topics.reply_topic(MALLORY, "gate", f"c{number}"),
                correlation_data=b"c" * BALLAST_BYTES,
            )


async def properties(stage: Stage) -> None:
    """Asks with as many user properties as the broker accepts, which nobody reads."""
    ballast = [("x", "y" * BALLAST_BYTES)]
    async with stage.attacker(MALLORY) as mallory:
        for number in range(stage.options.count(3_000, 100)):
            await mallory.publish(
                topics.ask_topic("gate", MALLORY),
                forged.ask(f"p{number}", deadline_ms=30_000),
                user_properties=ballast,
            )


async def retained(stage: Stage) -> None:
    """Retained asks, to cameras that exist and to thousands that do not."""
    ballast = b"z" * BALLAST_BYTES
    async with stage.attacker(MALLORY) as mallory:
        await asyncio.gather(
            *(
                mallory.publish(topics.ask_topic(f"x{number}", MALLORY), ballast, retain=True, forbidden=True)
                for number in range(stage.options.count(6_000, 300))
            )
        )
        for camera in ("gate", "dock", "yard"):
            await mallory.publish(topics.ask_topic(camera, MALLORY), ballast, retain=True)
            await mallory.publish(topics.ask_topic(camera, MALLORY), b"", retain=True)


async def connections(stage: Stage) -> None:
    """Connections without a certificate: silent ones, broken handshakes, garbage. Honest clients must still get in."""
    count = min(stage.options.count(CONNECTIONS, 500), raise_descriptors() // 2)
    port = stage.fleet.broker.port
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.ExitStack() as held:
        for number in range(count):
            made = await asyncio.to_thread(_dial, port, number, context)
            held.callback(made.close)
        stage.tally.taken += count
        bystander = Bystander(
            stage.fleet.broker_settings(LATECOMER), LATECOMER, stage.ledger, deadline_s=stage.options.deadline_s
        )
        async with reading(bystander):
            query_id = await bystander.ask("yard", *QUESTIONS[0])
            await stage.watcher.wait_until(
                lambda: query_id not in stage.ledger.open_queries(), stage.options.deadline_s + 2 * READ_LAG_S
            )
    stage.tally.notes.append(f"{count} connections held while {LATECOMER} came in")


def _dial(port: int, number: int, context: ssl.SSLContext) -> socket.socket:
    """Three ways of never becoming a client."""
    made = socket.create_connection(("127.0.0.1", port), timeout=10)
    with contextlib.suppress(OSError):
        if number % 3 == 1:
            made.sendall(b"\x10\x0c\x00\x04MQTT\x05\x02\x00\x3c\x00")  # a CONNECT in plain text
        elif number % 3 == 2:
            # The first message of a handshake that is never ended.
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            half = context.wrap_bio(incoming, outgoing)
            with contextlib.suppress(ssl.SSLWantReadError):
                half.do_handshake()
            made.sendall(outgoing.read())
    return made


def raise_descriptors() -> int:
    """Open files that this process may have, as many as it can get."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] if hard else soft
