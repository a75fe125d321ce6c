"""A site to which nothing happens: what its connection sends is keepalives."""

from __future__ import annotations

import asyncio

import pytest
from paho.mqtt import client as paho

from broker_config.launcher import LocalBroker
from edge_nodes.shell import EdgeShell
from pipeline.bus.mqtt import MqttBus
from pipeline.config.logs import get_logger
from pipeline.node.ask_journal import AskJournal
from pipeline.node.clock import MonotonicClock
from pipeline.node.containment import Containment
from pipeline.protocol.edge_session import EdgeOutput, EdgeSession
from pipeline.protocol.journal_requests import ReadUnfinished
from pipeline.protocol.settings import EdgeProtocolSettings
from pipeline.protocol.site_settings import SiteSettings
from schemas.messages import Question
from tests.bus.support import PUBACK, WAIT_S, Relay

pytestmark = pytest.mark.broker
PINGREQ, PINGRESP = 12, 13


class IdleSite(EdgeShell):
    """A session with its connection and a journal in memory, without cameras."""

    _asks = AskJournal.open_or_in_memory(None)

    def carry_out(self, output: EdgeOutput) -> None:
        if isinstance(output, ReadUnfinished):
            self.session.stored(output.token, self._asks.perform(output), self.clock.now_s())


async def test_hours_without_a_question_cost_pings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes for the client library, which has the only timer that sends; the session has none."""
    passed_s = 0.0
    real = paho.time_func
    monkeypatch.setattr(paho, "time_func", lambda: real() + passed_s)
    question = Question(site="north", question_id="car", text="Is there a car?", set_by="settings")
    settings = SiteSettings("north", "main", {"gate": ("car",)}, {"car": question})
    session = EdgeSession(EdgeProtocolSettings(), settings, boot=1, fingerprint=b"\1\2\3\4")
    async with LocalBroker() as broker, Relay(broker) as relay:
        keepalive_s = 600
        where = relay.settings.model_copy(update={"keepalive_s": keepalive_s})
        subscriptions, will = session.subscriptions(), session.will()
        async with MqttBus(where, client_id="edge-north", subscriptions=subscriptions, will=will) as bus:
            site = IdleSite(session, bus, MonotonicClock(), Containment(get_logger(__name__)))

            async def receive() -> None:
                while True:
                    for event in await bus.receive_batch():
                        site.receive(event)

            tasks = [asyncio.create_task(work) for work in (site.send(), receive())]
            async with asyncio.timeout(WAIT_S):
                await site.until(lambda: session.sync.out and session.idle() and not bus.statistics().outgoing_messages)
            # Its own question comes back, and is acknowledged.
            await relay.until(lambda: len(relay.seen("up", PUBACK)) == 1)
            assert bus._link is not None
            client = bus._link._client
            before, said_bytes = len(relay.packets), relay.stream_bytes["up"]
            pings = 6  # an hour
            for number in range(pings):
                passed_s += keepalive_s + 1
                client.loop_misc()
                await relay.until(lambda count=number + 1: len(relay.seen("down", PINGRESP)) == count)  # type: ignore[misc]
                site.pump()
            sent = [packet.kind for packet in relay.packets[before:] if packet.direction == "up"]
            assert sent == [PINGREQ] * pings
            assert relay.stream_bytes["up"] - said_bytes == 2 * pings
            assert session.next_wake_s() is None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
