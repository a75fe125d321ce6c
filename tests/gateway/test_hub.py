"""Events for many: one who does not read costs the others nothing."""

from __future__ import annotations

import asyncio
import json

import pytest

from latentbus.gateway import hub as hub_module
from latentbus.gateway.access import ANYBODY, Principal
from latentbus.gateway.hub import Hub, Subscriber, encoded, json_line

GATE = Principal("ann", "viewer", frozenset({"gate"}))


async def all_of(subscriber: Subscriber) -> list[bytes]:
    return [chunk async for chunk in subscriber.chunks(0)]


async def test_everybody_gets_what_he_may_see() -> None:
    hub = Hub()
    everybody, held = hub.subscribe(ANYBODY, b"first\n\n"), hub.subscribe(GATE)
    for camera in ("gate", "yard", None):
        hub.publish("answer", f'"{camera}"', camera=camera)
    hub.publish_to(GATE, "fleet", '"own"')
    hub.close("stopping")
    assert b"".join(await all_of(everybody)).split(b"\n\n")[:-1] == [
        b"first", b'event: answer\ndata: "gate"', b'event: answer\ndata: "yard"', b'event: answer\ndata: "None"',
        b'event: end\ndata: {"reason":"stopping"}',
    ]  # fmt: skip
    assert b"".join(await all_of(held)).split(b"\n\n")[:-1] == [
        b'event: answer\ndata: "gate"', b'event: fleet\ndata: "own"', b'event: end\ndata: {"reason":"stopping"}',
    ]  # fmt: skip


@pytest.mark.parametrize("bound", ["MAX_QUEUED_EVENTS", "MAX_QUEUED_BYTES"])
async def test_one_who_does_not_read_is_dropped_and_told_why(monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    event = encoded("answer", "1")
    monkeypatch.setattr(hub_module, bound, 10 if bound == "MAX_QUEUED_EVENTS" else 10 * len(event))
    hub = Hub()
    stalled, quick = hub.subscribe(ANYBODY), hub.subscribe(ANYBODY)
    read: list[bytes] = []

    heard = asyncio.Condition()

    async def follow() -> None:
        async for chunk in quick.chunks(0):
            async with heard:
                read.append(chunk)
                heard.notify_all()

    task = asyncio.create_task(follow())
    for number in range(1, 101):
        hub.publish("answer", "1")
        async with heard:
            await heard.wait_for(lambda: b"".join(read).count(b"answer") >= number)  # noqa: B023 - awaited here
    assert len(hub) == 1
    assert (stalled.ended, quick.ended) == ("too_slow", None)
    assert stalled._size_bytes == 0, "what waited is not kept"
    assert hub.counters == {"too_slow": 1}
    assert await all_of(stalled) == [b'event: end\ndata: {"reason":"too_slow"}\n\n']
    hub.close("stopping")
    await task
    assert b"".join(read).count(b"event: answer") == 100


async def test_many_events_become_one_write() -> None:
    hub = Hub()
    subscriber = hub.subscribe(ANYBODY)
    for _ in range(50):
        hub.publish("answer", "1")
    hub.close("stopping")
    assert [chunk.count(b"event: ") for chunk in await all_of(subscriber)] == [50, 1]


async def test_who_comes_after_the_end_is_told() -> None:
    hub = Hub()
    hub.close("stopping")
    assert await all_of(hub.subscribe(ANYBODY)) == [b'event: end\ndata: {"reason":"stopping"}\n\n']


def test_json_is_one_line_that_no_page_takes_for_markup() -> None:
    value = {"text": "</script><script>alert(1)</script>\n\u2028 & \ud800 ü"}
    line = json_line(value)
    assert not set("<>&\n\u2028") & set(line)
    assert line.isascii()
    assert json.loads(line) == value
