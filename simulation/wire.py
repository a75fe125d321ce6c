"""What a simulated process publishes, on its way to the broker."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pipeline.protocol.ports import Delivery, Publish
from schemas.messages import Message
from simulation.broker import NO_SUBSCRIBERS, BrokerModel, Deleted
from simulation.clock import VirtualClock

TCP_RETRY_S = 0.25
"""A packet that was lost on the way is sent again by TCP, until the connection is given up."""


class Wire:
    """The connection of one process at a time, as its publishes see it. What has left arrives though the process died.

    As with a client library, a publish at QoS 0 is answered as soon as it has left.

    Args:
        clock: virtual clock.
        broker: model of the broker.
        name: of the process.
        answered: told the token of each publish of this process, and what became of it.
    """

    def __init__(
        self, clock: VirtualClock, broker: BrokerModel, name: str, answered: Callable[[int, Delivery], None]
    ) -> None:
        self._clock = clock
        self._broker = broker
        self._name = name
        self._answered = answered
        self._under_way: dict[int, Publish] = {}
        self._lost: dict[int, Message] = {}
        self._generation = 0

    def restart(self) -> None:
        """The process ends, or another one begins: nothing of the last one is its own."""
        self._generation += 1
        self._under_way.clear()
        self._lost.clear()

    def is_repeat(self, publish: Publish) -> bool:
        """Whether its message left before, and was lost with a connection."""
        return id(publish.message) in self._lost

    def put(self, publish: Publish, takes_s: float) -> None:
        """A publish leaves; it takes so long to the broker."""
        if publish.qos:
            self._under_way[publish.token] = publish
        self._clock.after(takes_s, partial(self._arrive, self._generation, publish))
        if not publish.qos:
            self._answered(publish.token, Delivery.DELIVERED)

    def refuse(self, publish: Publish) -> None:
        """The broker will not have a publish."""
        self._under_way[publish.token] = publish
        self._clock.after(0.0, partial(self._answer, self._generation, publish.token, Delivery.REFUSED))

    def connection_lost(self) -> None:
        """The process notices it: what the broker has not answered fails, and what is on its way is lost."""
        for token, publish in list(self._under_way.items()):
            self._lost[id(publish.message)] = publish.message
            self._answer(self._generation, token, Delivery.CONNECTION_LOST)

    def _arrive(self, generation: int, publish: Publish) -> None:
        mine = generation == self._generation
        if mine and publish.qos and publish.token not in self._under_way:
            return  # lost with its connection
        if not self._broker.is_up(self._name):
            if mine and publish.qos:
                self._clock.after(TCP_RETRY_S, partial(self._arrive, generation, publish))
            return
        message = publish.message if publish.payload else Deleted()
        code = self._broker.publish(self._name, publish.topic, message, qos=publish.qos, retain=publish.retain)
        if publish.qos:
            delivery = Delivery.NO_SUBSCRIBERS if code == NO_SUBSCRIBERS else Delivery.DELIVERED
            self._answer(generation, publish.token, delivery)

    def _answer(self, generation: int, token: int, delivery: Delivery) -> None:
        if generation == self._generation and self._under_way.pop(token, None) is not None:
            self._answered(token, delivery)
