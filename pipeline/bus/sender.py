"""Publishes what a machine gives its shell, in order, and tells the machine what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pipeline.bus.base import Bus
from pipeline.containment import Containment
from pipeline.logs import OncePerKind
from pipeline.protocol.ports import Delivery, Publish
from schemas.errors import BusError, ConnectionLostError


class Sender:
    """One connection's publishes. The machine bounds how many it hands out before the first are answered.

    Args:
        bus: the connection.
        published: told the token of each publish, once, and what became of it.
        problems: log of what the broker would not have.
        containment: takes what nobody else has handled.
    """

    def __init__(
        self,
        bus: Bus,
        published: Callable[[int, Delivery], None],
        *,
        problems: OncePerKind,
        containment: Containment,
    ) -> None:
        self._bus = bus
        self._published = published
        self._problems = problems
        self._containment = containment
        self._waiting: asyncio.Queue[Publish] = asyncio.Queue()

    def put(self, publish: Publish) -> None:
        """Take a publish; it leaves after those before it."""
        self._waiting.put_nowait(publish)

    async def run(self) -> None:
        """Publish until cancelled."""
        async with asyncio.TaskGroup() as under_way:
            while True:
                publish = await self._waiting.get()
                if publish.qos:
                    # Not awaited: the next one must not wait for this one's round trip, only for its turn.
                    under_way.create_task(self._publish(publish), name=f"publish {publish.label}")
                    await asyncio.sleep(0)
                else:
                    # In line: what follows about the same frame must not overtake it.
                    await self._publish(publish)

    async def _publish(self, publish: Publish) -> None:
        delivery = await self._try(publish)
        with self._containment.around("published"):
            self._published(publish.token, delivery)

    async def _try(self, publish: Publish) -> Delivery:
        try:
            result = await self._bus.publish(
                publish.topic,
                publish.payload,
                qos=publish.qos,
                retain=publish.retain,
                response_topic=publish.response_topic,
                correlation_data=publish.correlation_data,
                expiry_s=publish.expiry_s,
                content_type=publish.content_type,
            )
        except ConnectionLostError as error:
            self._report(publish, error)
            return Delivery.CONNECTION_LOST
        except BusError as error:
            self._report(publish, error)
            return Delivery.REFUSED
        except Exception as error:  # noqa: BLE001 - it ends this message, not the process
            self._containment.note("publish", error)
            return Delivery.REFUSED
        return Delivery.NO_SUBSCRIBERS if result.no_subscribers else Delivery.DELIVERED

    def _report(self, publish: Publish, error: BusError) -> None:
        self._problems.report(f"publish/{publish.label}/{type(error).__name__}", str(error), topic=publish.topic)
