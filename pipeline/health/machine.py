"""When a condition begins and ends. Signs and the time go in, changes come out; none flaps.

A condition must hold for ``patience_s`` before it begins, and must be gone for as long before it ends. Each time that
it begins again within an hour it must be gone four times as long, up to an hour. So whatever the signs do, a condition
begins at most :data:`BEGINS_PER_HOUR` times in an hour with a patience of 30 s.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from pipeline.health.conditions import Sign

MAX_STATES: Final = 16_384
"""Conditions that hold, or have held within the last hour."""
MEMORY_S: Final = 3_600.0
"""How long a beginning counts against the next one."""
GROWTH: Final = 4.0
LONGEST_PATIENCE_S: Final = 3_600.0
BEGINS_PER_HOUR: Final = 5
"""That a patience of 30 s lets pass."""


@dataclass(frozen=True, slots=True)
class Change:
    """A condition that begins or ends.

    Attributes:
        sign: it; of one that ends as it was seen last.
        begins: it begins.
    """

    sign: Sign
    begins: bool


@dataclass(slots=True)
class _State:
    sign: Sign
    bad: bool
    since_s: float
    going_on: bool = False
    begun_s: deque[float] = field(default_factory=lambda: deque(maxlen=BEGINS_PER_HOUR + 1))

    def recent(self, now_s: float) -> int:
        return sum(now_s - begun_s < MEMORY_S for begun_s in self.begun_s)


class HealthMachine:
    """The conditions of a process or a fleet.

    Args:
        patience_s: how long a condition must hold before it begins, and be gone before it ends; at least.

    Attributes:
        patience_s: as given.
    """

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s
        self._states: dict[tuple[str, str, str], _State] = {}
        self._seen: set[str] = set()

    def observe(self, signs: Iterable[Sign], now_s: float) -> list[Change]:
        """Look at everything once; to be called every second or few.

        Args:
            signs: all that can be judged at this moment. What is not among them does not hold.
            now_s: monotonic time.
        """
        given = {sign.key: sign for sign in signs}
        self._seen.update(sign.kind for sign in given.values())
        changes = []
        for key, sign in given.items():
            state = self._states.get(key)
            if state is None:
                if not sign.bad or len(self._states) >= MAX_STATES:
                    continue
                state = self._states[key] = _State(sign, True, now_s)
            changes += self._judge(state, sign, now_s)
        for key, state in list(self._states.items()):
            if key not in given:
                changes += self._judge(state, None, now_s)
            if not (state.bad or state.going_on or state.recent(now_s)):
                del self._states[key]
        return changes

    def resume(self, sign: Sign, now_s: float) -> None:
        """A condition went on when an earlier process ended."""
        self._states[sign.key] = _State(sign, True, now_s, going_on=True, begun_s=deque([now_s], BEGINS_PER_HOUR + 1))

    def going_on(self) -> list[Sign]:
        """Conditions that have begun and not ended, as they were seen last."""
        return [state.sign for state in list(self._states.values()) if state.going_on]

    def counts(self) -> dict[str, int]:
        """How many conditions of each kind go on; 0 of a kind that was looked at."""
        found = Counter(sign.kind for sign in self.going_on())
        return {kind: found[kind] for kind in sorted({*self._seen, *found})}

    def __len__(self) -> int:
        """Conditions that are remembered."""
        return len(self._states)

    def _judge(self, state: _State, sign: Sign | None, now_s: float) -> list[Change]:
        bad = state.bad if sign is not None and sign.bad is None else sign is not None and bool(sign.bad)
        if sign is not None and bad:
            state.sign = sign
        if state.bad != bad:
            state.bad, state.since_s = bad, now_s
        lasted_s = now_s - state.since_s
        if bad and not state.going_on and lasted_s >= self.patience_s:
            state.going_on = True
            state.begun_s.append(now_s)
            return [Change(state.sign, begins=True)]
        if not bad and state.going_on and lasted_s >= self._end_patience_s(state, now_s):
            state.going_on = False
            return [Change(state.sign, begins=False)]
        return []

    def _end_patience_s(self, state: _State, now_s: float) -> float:
        longer = GROWTH ** max(0, state.recent(now_s) - 1)
        return max(self.patience_s, min(LONGEST_PATIENCE_S, self.patience_s * longer))
