"""MQTT 5 topic aliases from a client to its broker (MQTT 5.0 section 3.3.2.3.4): a number in place of a name.

The connection spells topics with this, and the uplink counts with it what the connection will spell.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

MAX_ALIASES: Final = 256
"""Aliases that a client keeps, whatever its broker grants, and topics without one that it remembers."""


class TopicAliases:
    """Aliases of one connection; the next connection begins with none.

    A topic gets one when it is published for the second time: those of replies are published once and would only take
    the place of others. When all are taken, a topic takes the one that was used longest ago, if it was itself published
    since then: where more topics take turns than there are aliases, some of them keep theirs.

    Args:
        granted: the broker's Topic Alias Maximum; 0 grants none.
    """

    def __init__(self, granted: int = 0) -> None:
        self._maximum = min(granted, MAX_ALIASES)
        self._aliases: OrderedDict[str, tuple[int, int]] = OrderedDict()  # alias and last publish
        self._others: OrderedDict[str, int] = OrderedDict()  # last publish
        self._count = 0

    def spell(self, topic: str) -> tuple[str, int | None]:
        """Name and alias of the next publish to a topic, in the order in which publishes are written.

        Returns:
            The topic name, empty once the broker knows the alias; and the alias, None for no such property.
        """
        if not self._maximum:
            return topic, None
        self._count += 1
        if topic in self._aliases:
            alias, _ = self._aliases.pop(topic)
            self._aliases[topic] = (alias, self._count)
            return "", alias
        before = self._others.pop(topic, None)
        found = None if before is None else self._free(before)
        if found is None:
            self._others[topic] = self._count
            if len(self._others) > MAX_ALIASES:
                self._others.popitem(last=False)
        else:
            self._aliases[topic] = (found, self._count)
        return topic, found

    def _free(self, before: int) -> int | None:
        """An alias for a topic that was last published then."""
        if len(self._aliases) < self._maximum:
            return len(self._aliases) + 1
        oldest, (alias, used) = next(iter(self._aliases.items()))
        if used > before:
            return None
        del self._aliases[oldest]
        return alias
