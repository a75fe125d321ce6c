"""What a broker retains on the topics that a log would replace."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from pipeline.bus.base import Inbound, Subscription
from pipeline.bus.mqtt import MqttBus
from pipeline.config.broker_settings import BrokerSettings
from pipeline.recording.message import LoggedMessage
from schemas.errors import NotAuthorizedError, PublishRefusedError

CONNECT_TIMEOUT_S: Final = 10.0


def retained_payloads(
    messages: Iterable[LoggedMessage], change: Callable[[LoggedMessage], LoggedMessage]
) -> dict[str, bytes | None]:
    """What a replay would have a broker retain, by topic; None where it is several payloads one after another.

    Args:
        messages: what is to be played.
        change: applied to each of them.
    """
    found: dict[str, bytes | None] = {}
    for message in messages:
        # A topic with a wildcard is none; the broker will refuse it.
        if message.retain and not message.topic.startswith("$") and not set("+#") & set(message.topic):
            changed = change(message)
            known = found.setdefault(changed.topic, changed.payload)
            found[changed.topic] = changed.payload if known == changed.payload else None
    return found


async def held_topics(broker: BrokerSettings, wanted: Mapping[str, bytes | None]) -> frozenset[str]:
    """Topics on which a broker retains something that a replay would replace.

    Args:
        broker: the broker.
        wanted: what the replay would have it retain, by topic.

    Returns:
        Those where the broker retains anything but the only payload that the replay has for it, and those that this
        identity may not read.

    Raises:
        ConnectionLostError: the broker cannot be reached, or did not come back.
    """
    held: set[str] = set()
    if not wanted:
        return frozenset()
    async with MqttBus(broker, client_id=f"lb-replay-look-{secrets.token_hex(4)}") as bus:
        await bus.wait_connected(CONNECT_TIMEOUT_S)
        for topic_filter, topics in _filters(wanted).items():
            try:
                await bus.subscribe(Subscription(topic_filter))
                # A broker sends what it retains before it answers the next request.
                await bus.unsubscribe(topic_filter)
            except (NotAuthorizedError, PublishRefusedError):
                held.update(topics)
            while bus.statistics().incoming_messages:
                for event in await bus.receive_batch():
                    if not isinstance(event, Inbound) or not event.retain or event.topic not in wanted:
                        continue
                    if wanted[event.topic] != event.payload:
                        held.add(event.topic)
    return frozenset(held)


def _filters(wanted: Iterable[str]) -> dict[str, list[str]]:
    """Topics by filter: one for all that differ in their last level only."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for topic in wanted:
        groups[topic.rpartition("/")[0]].append(topic)
    together = {f"{head}/+": topics for head, topics in groups.items() if head and len(topics) > 1}
    alone = {topic: [topic] for head, topics in groups.items() if not head or len(topics) == 1 for topic in topics}
    return together | alone
