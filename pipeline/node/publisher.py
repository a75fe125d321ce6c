"""Carries out what a machine wants published, and tells it what became of each publish."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pipeline.bus.base import Bus
from pipeline.config.logs import OncePerKind
from pipeline.node.containment import Containment
from pipeline.protocol.ports import Delivery, Publish
from schemas.errors import BusError, ConnectionLostError


async def deliver(bus: Bus, publish: Publish) -> tuple[Delivery, BusError | None]:
    """Publish one message.

    Returns:
        What became of it, and the error if it was refused.
    """
    try:
        result = await bus.publish(
            publish.topic,
            publish.payload,
            qos=publish.qos,
            retain=publish.retain,
            response_topic=publish.response_topic,
            correlation_data=publish.correlation_data,
            expiry_s=publish.expiry_s,
            content_type=publish.content_type,
            user_properties=publish.user_properties,
        )
    except ConnectionLostError:
        return Delivery.CONNECTION_LOST, None
    except BusError as error:
        return Delivery.REFUSED, error
    return Delivery.NO_SUBSCRIBERS if result.no_subscribers else Delivery.DELIVERED, None


class Publisher:
    """Publishes in the order given; the broker's words on QoS 1 are not waited for one by one.

    It keeps no bounds of its own: a machine bounds what it has under way.

    Args:
        bus: where to.
        answered: called with the token of each publish and what became of it, once.
        problems: log of what the broker or the client library refuses.
        containment: takes what nobody else has handled.
    """

    def __init__(
        self,
        bus: Bus,
        answered: Callable[[int, Delivery], None],
        *,
        problems: OncePerKind,
        containment: Containment,
    ) -> None:
        self._bus = bus
        self._answered = answered
        self._problems = problems
        self._containment = containment
        self._waiting: list[Publish] = []
        self._filled = asyncio.Event()

    def put(self, publish: Publish) -> None:
        """Take a publish."""
        self._waiting.append(publish)
        self._filled.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._filled.wait()
                self._filled.clear()
                waiting, self._waiting = self._waiting, []
                # What waits is handed over in one turn of the loop, so that it leaves in one segment.
                tasks = [
                    (publish.qos, group.create_task(self._publish(publish), name=f"publish[{publish.topic}]"))
                    for publish in waiting
                ]
                await asyncio.sleep(0)
                # At QoS 1 the next messages must not wait for the round trip of these, only for their turn.
                if unsent := [task for qos, task in tasks if not qos]:
                    await asyncio.wait(unsent)

    async def _publish(self, publish: Publish) -> None:
        delivery = await self._deliver(publish)
        with self._containment.around("published"):
            self._answered(publish.token, delivery)

    async def _deliver(self, publish: Publish) -> Delivery:
        try:
            delivery, refusal = await deliver(self._bus, publish)
        except Exception as error:  # noqa: BLE001 - it ends this message, not the process
            self._containment.note("publish", error)
            return Delivery.REFUSED
        if refusal is not None:
            self._problems.report(f"publish/{type(refusal).__name__}", str(refusal), topic=publish.topic)
        return delivery
