"""What a simulated process publishes, on its way to the broker."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pipeline.protocol.ports import Delivery, Publish
from schemas.messages import Message
from simulation.broker import NO_SUBSCRIBERS, BrokerModel, Deleted
from simulation.clock import VirtualClock

_TO_BROKER_S = 0.005
_TCP_RETRY_S = 0.25
"""A packet that was lost on the way is sent again by TCP, until the connection is given up."""


class Publishes:
    """The publishes of one process that nobody has answered.

    Args:
        clock: virtual clock.
        broker: model of the broker.
        name: of the process there.
        answered: called with the token of each publish and what became of it, once.
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
        self._ended = False

    def is_repeat(self, publish: Publish) -> bool:
        """Whether it was given before, and lost with a connection."""
        return id(publish.message) in self._lost

    def put(self, publish: Publish) -> None:
        """A publish leaves the process."""
        self._under_way[publish.token] = publish
        self._clock.after(_TO_BROKER_S, partial(self._arrive, publish))

    def connection_lost(self) -> None:
        """The process has noticed that its connection is gone, and with it the answers."""
        under_way, self._under_way = self._under_way, {}
        for token, publish in under_way.items():
            if publish.qos:
                self._lost[id(publish.message)] = publish.message
            self._answered(token, Delivery.CONNECTION_LOST)

    def end(self) -> None:
        """The process is gone. What it has sent still arrives; nobody hears the answers."""
        self._ended = True

    def _arrive(self, publish: Publish) -> None:
        if publish.token not in self._under_way:
            return  # lost with its connection
        if not self._broker.is_up(self._name):
            if not self._ended:
                self._clock.after(_TCP_RETRY_S, partial(self._arrive, publish))
            return
        del self._under_way[publish.token]
        message = publish.message if publish.payload else Deleted()
        code = self._broker.publish(self._name, publish.topic, message, qos=publish.qos, retain=publish.retain)
        if not self._ended:
            no_subscribers = code == NO_SUBSCRIBERS and publish.qos
            self._answered(publish.token, Delivery.NO_SUBSCRIBERS if no_subscribers else Delivery.DELIVERED)
