"""What each client may cost a site: asks, and the bytes on the uplink that they cause.

A client is the last level of the ask's topic, which a secured broker ties to a certificate. Who is not named in
``edge.client_budgets`` has ``edge.client_budget``: the edge cannot see which of them are gateways or operators.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pipeline.protocol.token_bucket import TokenBucket
from pipeline.protocol.uplink import CHARGE_TLS
from schemas.wire_cost import puback_wire_bytes

MAX_CLIENTS: Final = 1024
"""Clients whose budgets are known; the one that was silent longest is forgotten, and has a whole budget again."""
ASK_TOKENS: Final = 200
"""Tokens that one ask of a budget pays for: the longest question in plain English with its answer. The time of the
model is shared, so a question of more tokens counts as several."""
BURST_S: Final = 8.0
"""A client may cause so much of its bytes at once, in seconds of their rate."""


@dataclass(frozen=True, slots=True)
class ClientBudget:
    """What one client may cost a site.

    Attributes:
        asks_per_s: ad-hoc questions a second, in the long run; further ones are refused.
        burst_asks: ad-hoc questions at once.
        open_asks: ad-hoc questions without an outcome.
        kbps: rate of what it causes on the uplink: acknowledgements, refusals, replies. Beyond it refusals are silent.
    """

    asks_per_s: float = 2.0
    burst_asks: int = 60
    open_asks: int = 64
    kbps: float = 8.0


@dataclass(slots=True)
class _Client:
    asks: TokenBucket
    bytes: TokenBucket
    counts: Counter[str] = field(default_factory=Counter)


class ClientBudgets:
    """Budgets by client.

    Args:
        default: of every client that has none of its own.
        named: by client.
    """

    def __init__(self, default: ClientBudget, named: Mapping[str, ClientBudget] | None = None) -> None:
        self._default = default
        self._named = named or {}
        self._clients: OrderedDict[str, _Client] = OrderedDict()

    def of(self, client: str) -> ClientBudget:
        """The budget of a client."""
        return self._named.get(client, self._default)

    def ask(self, client: str, now_s: float, tokens: int = 0) -> bool:
        """Whether a client may ask now. The acknowledgement of its message is charged in any case.

        Args:
            client: who asks.
            now_s: the edge's monotonic time.
            tokens: of question and answer, about.
        """
        known = self._known(client, now_s)
        self._charge(known, puback_wire_bytes(CHARGE_TLS), now_s)
        if known.asks.take(max(1, math.ceil(tokens / ASK_TOKENS)), now_s):
            return True
        known.counts["asks_refused"] += 1
        return False

    def say(self, client: str, wire_bytes: int, now_s: float) -> bool:
        """Whether the edge may tell a client something of this size that it need not be told; it is charged then."""
        known = self._known(client, now_s)
        if known.bytes.take(wire_bytes, now_s):
            known.counts["wire_bytes"] += wire_bytes
            return True
        known.counts["silent"] += 1
        return False

    def charge(self, client: str, wire_bytes: int, now_s: float) -> None:
        """A client is told what it must be told: its outcomes."""
        self._charge(self._known(client, now_s), wire_bytes, now_s)

    def counts(self, kind: str) -> dict[str, float]:
        """By client: ``wire_bytes`` that were charged, ``asks_refused``, and what it was not told (``silent``)."""
        return {name: known.counts[kind] for name, known in self._clients.copy().items()}

    def _charge(self, known: _Client, wire_bytes: int, now_s: float) -> None:
        known.bytes.charge(wire_bytes, now_s)
        known.counts["wire_bytes"] += wire_bytes

    def _known(self, client: str, now_s: float) -> _Client:
        known = self._clients.get(client)
        if known is None:
            budget = self.of(client)
            bytes_per_s = budget.kbps * 1000 / 8
            known = self._clients[client] = _Client(
                asks=TokenBucket(budget.asks_per_s, budget.burst_asks, now_s),
                bytes=TokenBucket(bytes_per_s, bytes_per_s * BURST_S, now_s),
            )
            if len(self._clients) > MAX_CLIENTS:
                self._clients.popitem(last=False)
        self._clients.move_to_end(client)
        return known
