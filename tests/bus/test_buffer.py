"""Bounds, order and cancellation of the bus' buffers, without a broker."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bus.base import ConnectionChange, Inbound, QueueLimits
from pipeline.bus.buffer import AcknowledgeWindow, InboundBuffer, SendWindow
from schemas.errors import ConnectionLostError, StateError


def message(number: int = 0, *, qos: int = 0, size_bytes: int = 9) -> Inbound:
    return Inbound("t", b"x" * size_bytes, qos, False, None, None, 1, number, 0.0)


def up(generation: int) -> ConnectionChange:
    return ConnectionChange(True, generation, "new session")


def down(generation: int) -> ConnectionChange:
    return ConnectionChange(False, generation, "broke")


def test_the_inbound_buffer_is_bounded_in_messages() -> None:
    buffer = InboundBuffer(max_messages=8, max_bytes=10_000)
    assert [buffer.put(message(n)) for n in range(7)] == [True] * 6 + [False]  # a quarter is kept for QoS 1
    assert [buffer.put(message(n, qos=1)) for n in range(3)] == [True, True, False]
    assert buffer.messages == 8


def test_the_inbound_buffer_is_bounded_in_bytes() -> None:
    buffer = InboundBuffer(max_messages=100, max_bytes=40)
    assert [buffer.put(message(n)) for n in range(4)] == [True, True, True, False]
    assert [buffer.put(message(n, qos=1)) for n in range(2)] == [True, False]
    assert buffer.size_bytes == 40


async def test_taking_gives_room_back_and_keeps_order() -> None:
    buffer = InboundBuffer(8, 10_000)
    for number in range(6):
        buffer.put(message(number))
    batch = await buffer.take(4) + await buffer.take(4)
    assert [event.packet_id for event in batch if isinstance(event, Inbound)] == list(range(6))
    assert (buffer.messages, buffer.size_bytes) == (0, 0)
    assert buffer.put(message())


async def test_a_connection_is_heard_of_before_its_messages() -> None:
    buffer = InboundBuffer(8, 10_000)
    buffer.hold()
    buffer.put(message(1))
    waiting = asyncio.create_task(buffer.take(10))
    await asyncio.sleep(0)
    assert not waiting.done()
    buffer.release(up(1))
    buffer.put(message(2))
    assert await waiting == [up(1), message(1), message(2)]


async def test_messages_of_a_connection_that_was_never_ready_are_forgotten() -> None:
    buffer = InboundBuffer(8, 10_000)
    buffer.put(message(1))
    buffer.lost(down(1))
    buffer.hold()
    buffer.put(message(2))
    assert buffer.discard() == 1
    assert (buffer.messages, buffer.size_bytes) == (1, 10)
    assert await buffer.take(10) == [message(1), down(1)]


async def test_a_flapping_connection_does_not_fill_the_buffer() -> None:
    buffer = InboundBuffer(8, 10_000)
    buffer.put(message(1))
    for generation in range(1, 1001):
        buffer.lost(down(generation))
        buffer.hold()
        buffer.release(up(generation + 1))
    assert await buffer.take(5000) == [message(1), down(1), up(1001)]


@given(cancel_after=st.integers(0, 4), puts=st.lists(st.integers(1, 3), min_size=1, max_size=6))
def test_a_cancelled_take_loses_nothing(cancel_after: int, puts: list[int]) -> None:
    async def scenario() -> list[int]:
        buffer = InboundBuffer(1000, 1_000_000)
        taken: list[int] = []
        number = 0

        async def take() -> None:
            taken.extend(e.packet_id for e in await buffer.take(2) if isinstance(e, Inbound))

        for count in puts:
            reader = asyncio.create_task(take())
            await asyncio.sleep(0)
            for _ in range(count):
                buffer.put(message(number))
                number += 1
            for _ in range(cancel_after):
                await asyncio.sleep(0)
            reader.cancel()
            await asyncio.wait({reader})
        while buffer.messages:
            await take()
        assert taken == list(range(number))
        return taken

    assert asyncio.run(scenario())


async def test_two_readers_are_refused() -> None:
    buffer = InboundBuffer(8, 10_000)
    first = asyncio.create_task(buffer.take(1))
    await asyncio.sleep(0)
    with pytest.raises(StateError, match="two tasks"):
        await buffer.take(1)
    buffer.put(message(1))
    assert await first == [message(1)]


async def test_a_closed_buffer_gives_what_it_has_and_then_the_reason() -> None:
    buffer = InboundBuffer(8, 10_000)
    buffer.put(message(1))
    buffer.close(RuntimeError("a bug"))
    buffer.close()
    assert await buffer.take(1) == [message(1)]
    with pytest.raises(RuntimeError, match="a bug"):
        await buffer.take(1)


@given(st.permutations(range(1, 9)), st.integers(0, 8))
def test_acknowledgements_leave_in_the_order_of_arrival(order: list[int], settled: int) -> None:
    window = AcknowledgeWindow()
    for packet_id in range(1, 9):
        window.received(packet_id)
    sent: list[int] = []
    for packet_id in order[:settled]:
        due = window.settle(packet_id)
        assert due is not None
        sent += due
    longest = next((n for n in range(8) if n + 1 not in order[:settled]), 8)  # settled without a gap
    assert sent == list(range(1, longest + 1))
    assert len(window) == 8 - len(sent)


def test_a_message_is_settled_once() -> None:
    window = AcknowledgeWindow()
    window.received(1)
    window.received(2)
    assert window.settle(2) == []
    assert window.settle(2) is None
    assert window.settle(1) == [1, 2]
    assert window.settle(1) is None
    assert window.settle(77) is None


async def test_the_send_window_serves_in_line() -> None:
    window = SendWindow(max_messages=2, max_bytes=100)
    served: list[int] = []

    async def send(number: int, size_bytes: int) -> None:
        await window.acquire(size_bytes)
        served.append(number)

    async with asyncio.TaskGroup() as group:
        for number, size_bytes in enumerate([60, 60, 10, 10]):
            group.create_task(send(number, size_bytes))
        await asyncio.sleep(0)
        assert (served, window.waiting, window.size_bytes) == ([0], 3, 60)  # 10 does not overtake 60
        window.release(60)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (served, window.waiting) == ([0, 1, 2], 1)
        window.release(60)
    assert served == [0, 1, 2, 3]


async def test_a_message_larger_than_the_window_passes_alone() -> None:
    window = SendWindow(max_messages=2, max_bytes=100)
    await window.acquire(500)
    second = asyncio.create_task(window.acquire(1))
    await asyncio.sleep(0)
    assert not second.done()
    window.release(500)
    await second


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["acquire", "cancel", "release", "tick"]), st.integers(0, 50)), max_size=60
    )
)
def test_the_send_window_never_leaks_room(steps: list[tuple[str, int]]) -> None:
    async def scenario() -> None:
        window = SendWindow(max_messages=3, max_bytes=60)
        tasks: list[asyncio.Task[int]] = []

        async def acquire(size_bytes: int) -> int:
            await window.acquire(size_bytes)
            return size_bytes

        held: list[asyncio.Task[int]] = []
        for step, number in steps:
            if step == "acquire":
                tasks.append(asyncio.create_task(acquire(number)))
            elif step == "cancel" and tasks:
                tasks[number % len(tasks)].cancel()
            elif step == "release":
                done = [t for t in tasks if t.done() and not t.cancelled() and t not in held]
                if done:
                    window.release(done[0].result())
                    held.append(done[0])
            else:
                await asyncio.sleep(0)
            assert window.messages <= 3
            assert window.size_bytes <= 60
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled() and task not in held:
                window.release(task.result())
        assert (window.messages, window.size_bytes, window.waiting) == (0, 0, 0)

    asyncio.run(scenario())


async def test_a_closed_send_window_turns_everybody_away() -> None:
    window = SendWindow(max_messages=1, max_bytes=100)
    await window.acquire(1)
    waiting = asyncio.create_task(window.acquire(1))
    await asyncio.sleep(0)
    window.close()
    with pytest.raises(ConnectionLostError):
        await waiting
    with pytest.raises(ConnectionLostError):
        await window.acquire(1)


@pytest.mark.parametrize(
    "bad",
    [{"incoming_messages": 0}, {"outgoing_messages": 70_000}, {"packet_bytes": 0}, {"incoming_bytes": 131_073}],
)
def test_limits_that_cannot_work_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        QueueLimits(**bad)
