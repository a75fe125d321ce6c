"""Timers against the plain search for the earliest due time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.protocol.timers import Timers

OPERATIONS = st.lists(
    st.tuples(st.integers(0, 5), st.one_of(st.none(), st.integers(0, 20)), st.integers(0, 3)), max_size=60
)


@given(OPERATIONS)
def test_due_keys_are_those_of_a_plain_search(operations: list[tuple[int, int | None, int]]) -> None:
    due: dict[int, float] = {}
    timers: Timers[int] = Timers(due.get)
    now_s = 0.0
    for key, due_s, step_s in operations:
        if due_s is None:
            due.pop(key, None)
        else:
            due[key] = due_s
        timers.touch(key)
        assert timers.next_s() == min(due.values(), default=None)
        now_s += step_s
        taken = timers.take_due(now_s)
        assert sorted(taken) == sorted(key for key, time_s in due.items() if time_s <= now_s)
        for gone in taken:
            del due[gone]


def test_a_key_that_stays_due_is_given_once_a_call() -> None:
    timers: Timers[str] = Timers(lambda key: 1.0)
    timers.touch("a")
    assert timers.take_due(2.0) == ["a"]
    assert timers.take_due(2.0) == ["a"]
