"""Who is told of an alert: signed, again where that may help, and only where it may go."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from latentbus.gateway import notify as notify_module
from latentbus.gateway.addresses import AllowedAddresses, AllowedResolver
from latentbus.gateway.models import AlertView
from latentbus.gateway.notify import Notifier, signature, text_of, title_of
from pipeline.config.gateway_settings import AlertSettings
from schemas.errors import ConfigError, NotificationError
from tests.gateway.views import view
from tests.gateway.waiting import until
from tests.source_names import ROOT

PATIENCE_S = 30.0
ALERT = AlertView(
    id=7,
    rule="car",
    source="answer",
    severity="warning",
    camera="gate",
    site="north",
    text="gate: Is there a car? yes",
    began=1000.0,
    answer=view(1),
)


@dataclass
class Receiver:
    """A web server that takes notifications."""

    statuses: list[int] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    came: asyncio.Condition = field(default_factory=asyncio.Condition)
    port: int = 0

    async def take(self, request: web.Request) -> web.Response:
        self.requests.append((request.path, dict(request.headers), await request.read()))
        async with self.came:
            self.came.notify_all()
        status = self.statuses.pop(0) if self.statuses else 200
        return web.Response(status=status, headers={"Location": "/other"} if 300 <= status < 400 else {})

    async def wait(self, count: int) -> None:
        async with self.came:
            await self.came.wait_for(lambda: len(self.requests) >= count)


@asynccontextmanager
async def receiving(*statuses: int) -> AsyncIterator[Receiver]:
    receiver = Receiver(list(statuses))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.port = runner.addresses[0][1]
    try:
        yield receiver
    finally:
        await runner.cleanup()


def settings(port: int, **given: Any) -> AlertSettings:
    hook = {"url": f"http://127.0.0.1:{port}/hook?key=1", "secret": "a-shared-secret"}
    return AlertSettings.model_validate({"webhooks": {"house": hook}, "allow": ["127.0.0.0/8"], **given})


@dataclass
class Waits:
    """Waits of retries, which cost no time here."""

    seconds: list[float] = field(default_factory=list)

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0)


async def told(notifier: Notifier, result: str, count: int = 1) -> None:
    await until(lambda: notifier.counts["house", result] >= count)


async def test_a_webhook_is_signed_and_holds_the_answer() -> None:
    async with receiving() as receiver, Notifier(settings(receiver.port)) as notifier, asyncio.timeout(PATIENCE_S):
        notifier.tell(ALERT)
        await receiver.wait(1)
        await told(notifier, "sent")
    path, headers, body = receiver.requests[0]
    assert path == "/hook"
    assert headers["Latentbus-Signature"] == signature("a-shared-secret", headers["Latentbus-Timestamp"], body)
    assert signature("another", headers["Latentbus-Timestamp"], body) != headers["Latentbus-Signature"]
    assert headers["Latentbus-Notification"] == "7-began"
    message = json.loads(body)
    assert message["title"] == "[warning] car"
    assert "prefix 9 of 48, 41 bytes" in message["text"]
    assert (message["alert"]["answer"]["text"], message["alert"]["camera"]) == ("yes", "gate")


async def test_the_example_of_the_documentation_checks_the_signature() -> None:
    page = (ROOT / "docs" / "gateway.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    found: dict[str, Any] = {}
    exec(example, found)
    headers = {"Latentbus-Timestamp": "1", "Latentbus-Signature": signature("s", "1", b"body")}
    assert found["is_ours"]("s", headers, b"body")
    assert not found["is_ours"]("s", headers, b"another body")


async def test_what_may_help_is_tried_again_and_nothing_else() -> None:
    waits = Waits()
    async with (
        receiving(500, 429, 200, 403, *[503] * 6) as receiver,
        Notifier(settings(receiver.port), sleep=waits) as notifier,
        asyncio.timeout(PATIENCE_S),
    ):
        notifier.tell(ALERT)
        await told(notifier, "sent")
        assert (len(receiver.requests), len(waits.seconds)) == (3, 2)
        assert {headers["Latentbus-Notification"] for _, headers, _ in receiver.requests} == {"7-began"}
        notifier.tell(ALERT)
        await told(notifier, "failed")
        assert len(receiver.requests) == 4, "a refusal is final"
        notifier.tell(ALERT)
        await told(notifier, "failed", 2)
        assert len(receiver.requests) == 10, "at last it is given up"
    assert waits.seconds[2:] == sorted(waits.seconds[2:]), "each wait is longer"
    assert notifier.counts == {("house", "sent"): 1, ("house", "retried"): 7, ("house", "failed"): 2}


async def test_a_redirect_is_not_followed() -> None:
    async with receiving(302) as receiver, Notifier(settings(receiver.port)) as notifier, asyncio.timeout(PATIENCE_S):
        notifier.tell(ALERT)
        await told(notifier, "failed")
    assert [path for path, _, _ in receiver.requests] == ["/hook"]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "10.1.2.3", "[::ffff:127.0.0.1]"]
)
async def test_an_address_of_the_own_network_is_not_reached_unless_it_is_named(host: str) -> None:
    async with receiving() as receiver:
        url = f"http://{host}:{receiver.port}/hook"
        given = AlertSettings.model_validate({"webhooks": {"house": {"url": url}}})
        async with Notifier(given, sleep=Waits()) as notifier, asyncio.timeout(PATIENCE_S):
            notifier.tell(ALERT)
            await told(notifier, "failed")
    assert receiver.requests == []
    assert notifier.counts["house", "retried"] == 0, "it will not be public the next time"


@dataclass
class Changing(AbstractResolver):
    """A name that is public when it is looked at and private when it is connected to."""

    addresses: list[str]

    async def resolve(self, host: str, port: int = 0, family: Any = None) -> list[ResolveResult]:
        address = self.addresses.pop(0)
        return [ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        pass


async def test_what_was_checked_is_what_is_connected_to() -> None:
    resolver = AllowedResolver(AllowedAddresses([]), Changing(["93.184.215.14", "127.0.0.1"]))
    assert [entry["host"] for entry in await resolver.resolve("rebinding.example", 80)] == ["93.184.215.14"]
    with pytest.raises(OSError, match="is no public address"):
        await resolver.resolve("rebinding.example", 80)


@pytest.mark.parametrize(
    ("host", "address", "allowed"),
    [
        ("x.example", "93.184.215.14", True),
        ("x.example", "2606:2800:21f::1", True),
        ("x.example", "127.0.0.1", False),
        ("x.example", "192.168.1.5", False),
        ("x.example", "10.9.0.1", True),
        ("hub.lan", "192.168.1.5", True),
        ("HUB.lan.", "192.168.1.5", True),
        ("x.example", "::ffff:10.9.0.1", True),
        ("x.example", "::ffff:192.168.1.5", False),
        ("x.example", "fe80::1%eth0", False),
        ("x.example", "0.0.0.0", False),
        ("x.example", "224.0.0.1", False),
        ("x.example", "100.64.0.1", False),
    ],
)
def test_which_addresses_may_be_reached(host: str, address: str, allowed: bool) -> None:
    assert AllowedAddresses(["10.9.0.0/16", "hub.lan"]).allows(host, address) is allowed


@pytest.mark.filterwarnings("ignore:'imghdr':DeprecationWarning")  # of one of its plug-ins
async def test_every_channel_of_apprise_gets_the_text() -> None:
    async with receiving() as receiver:
        address = f"json://127.0.0.1:{receiver.port}/apprise"
        given = AlertSettings.model_validate({"addresses": {"house": address}})
        async with Notifier(given) as notifier, asyncio.timeout(PATIENCE_S):
            notifier.tell(ALERT)
            await told(notifier, "sent")
    ((_, _, body),) = receiver.requests
    message = json.loads(body)
    assert message["title"] == "[warning] car"
    assert "answer: yes" in message["message"]


@pytest.mark.filterwarnings("ignore:'imghdr':DeprecationWarning")
def test_an_address_that_apprise_does_not_know_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigError, match=r"gateway\.alerts\.addresses\.phone") as refused:
        Notifier(AlertSettings.model_validate({"addresses": {"phone": "nonsense://secret"}}))
    assert "secret" not in str(refused.value)


@dataclass
class Scripted:
    """A channel that waits, or fails."""

    error: Exception | None = None
    open: asyncio.Event = field(default_factory=asyncio.Event)
    sent: list[int] = field(default_factory=list)

    async def send(self, alert: AlertView) -> None:
        await self.open.wait()
        if self.error is not None:
            raise self.error
        self.sent.append(alert.id)


async def test_a_channel_that_hangs_keeps_the_newest_and_costs_the_others_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notify_module, "MAX_WAITING", 3)
    stuck, quick = Scripted(), Scripted()
    quick.open.set()
    async with Notifier(AlertSettings(), channels={"house": stuck, "quick": quick}) as notifier:
        for number in range(10):
            notifier.tell(ALERT.model_copy(update={"id": number}))
            await until(lambda: len(quick.sent) > number)  # noqa: B023 - awaited here
        stuck.open.set()
        await until(lambda: len(stuck.sent) == 4)
    assert stuck.sent == [0, 7, 8, 9]
    assert quick.sent == list(range(10))
    assert notifier.counts["house", "dropped"] == 6


async def test_a_bug_of_a_library_ends_one_notification_alone() -> None:
    channel = Scripted(ZeroDivisionError("secret"))
    channel.open.set()
    async with Notifier(AlertSettings(), channels={"house": channel}) as notifier:
        notifier.tell(ALERT)
        await told(notifier, "failed")
        channel.error = None
        notifier.tell(ALERT)
        await told(notifier, "sent")
    assert channel.sent == [7]


async def test_only_the_channels_of_a_rule_are_told() -> None:
    one, two = Scripted(), Scripted()
    one.open.set()
    two.open.set()
    async with Notifier(AlertSettings(), channels={"house": one, "phone": two}) as notifier:
        notifier.tell(ALERT, ("house",))
        await told(notifier, "sent")
    assert (one.sent, two.sent) == ([7], [])


def test_a_notification_cannot_steer_a_terminal_or_a_header() -> None:
    hostile = ALERT.model_copy(update={"text": "a\x1b[2Jb\r\nX: y", "rule": "r\nBcc: z"})
    assert "\x1b" not in text_of(hostile)
    assert "\n" not in title_of(hostile)
    over = ALERT.model_copy(update={"ended": 2000.0})
    assert (title_of(over), text_of(over).splitlines()[-1]) == ("[over] car", "over since 1970-01-01T00:33:20+00:00")


def test_errors_say_which_channel_and_no_address() -> None:
    error = NotificationError("house", "answers with status 500", again=True)
    assert (str(error), error.again) == ("channel house: answers with status 500", True)
