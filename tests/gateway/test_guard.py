"""What every request passes first: host, origin, token, rate and size."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from latentbus.gateway.guard import COOKIE, MAX_BODY_BYTES
from pipeline.config.broker_settings import BrokerSettings
from tests.gateway.conftest import gateway_of

TOKEN = "a-token-of-a-viewer"
ASKER = "a-token-of-an-asker"
TOKENS: dict[str, Any] = {
    "tokens": {
        "ann": {"token": TOKEN, "cameras": ["gate"]},
        "bob": {"token": ASKER, "role": "asker"},
        "eve": {"token": "a-token-of-an-operator", "role": "operator"},
    }
}
QUESTION = {"camera": "gate", "question": "a car?"}


async def test_a_host_name_that_is_not_known_is_refused(nowhere: BrokerSettings) -> None:
    async with gateway_of(nowhere, hosts=["screens.example"]) as web:
        known = (
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1:1",
            "[::1]:8080",
            "192.0.2.7",
            "screens.example",
            "screens.example.:1",
        )
        foreign = ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[", "evil.example:80")
        assert [(await web.status("GET", "/healthz", headers={"Host": host}))[0] for host in known] == [200] * len(
            known
        )
        for host in foreign:
            status, problem = await web.status("GET", "/healthz", headers={"Host": host})
            assert (status, problem["code"]) == (421, "misdirected"), host


async def test_another_page_may_not_call_even_on_loopback(nowhere: BrokerSettings) -> None:
    async with gateway_of(nowhere) as web:
        own = web.served.url
        for origin in ("https://evil.example", "null", "http://localhost:1", f"{own}.evil.example", "file://"):
            status, problem = await web.status("POST", "/v1/ask", json=QUESTION, headers={"Origin": origin})
            assert (status, problem["code"]) == (403, "forbidden"), origin
        status, _ = await web.status("GET", "/v1/events", headers={"Sec-Fetch-Site": "cross-site"})
        assert status == 403
        async with web.http.get("/", headers={"Sec-Fetch-Site": "cross-site"}) as page:
            assert page.status == 200, "a link from elsewhere to the dashboard is no call"
        status, problem = await web.status("POST", "/v1/ask", json=QUESTION, headers={"Origin": own})
        assert (status, problem["code"]) == (503, "unavailable"), "its own page may: there is no broker"


async def test_pages_that_are_named_may_call_from_elsewhere(nowhere: BrokerSettings) -> None:
    origin = "https://screens.example"
    async with gateway_of(nowhere, token=ASKER, origins=[origin], **TOKENS) as web:
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        async with web.http.options("/v1/ask", headers=headers) as preflight:
            assert preflight.status == 204
            assert preflight.headers["Access-Control-Allow-Origin"] == origin
            assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]
        async with web.http.get("/v1/session", headers={"Origin": origin}) as response:
            assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (200, origin)
            assert "Access-Control-Allow-Credentials" not in response.headers, "cookies are for the own page alone"


async def test_without_a_token_nothing_but_the_page_is_shown(nowhere: BrokerSettings) -> None:
    async with gateway_of(nowhere, **TOKENS) as web:
        for path in ("/v1/cameras", "/v1/events", "/v1/history", "/v1/alerts", "/v1/workers", "/v1/answers", "/metrics",
                     "/v1/session", "/v1/cameras/gate"):  # fmt: skip
            for headers in (
                {},
                {"Authorization": "Bearer wrong"},
                {"Authorization": TOKEN},
                {"Cookie": f"{COOKIE}=no"},
            ):
                status, problem = await web.status("GET", path, headers=headers)
                assert (status, problem["code"]) == (401, "unauthenticated"), (path, headers)
        status, _ = await web.status("POST", "/v1/ask", json=QUESTION)
        assert status == 401
        for path in ("/healthz", "/openapi.json"):
            assert (await web.status("GET", path))[0] == 200
        async with web.http.get("/") as page, web.http.get("/static/app.js") as script:
            assert (page.status, script.status) == (200, 200)


async def test_a_role_may_do_what_it_may(nowhere: BrokerSettings) -> None:
    async with gateway_of(nowhere, **TOKENS) as web:

        async def status(method: str, path: str, token: str, **options: Any) -> int:
            found, _ = await web.status(method, path, headers={"Authorization": f"Bearer {token}"}, **options)
            return found

        assert await status("GET", "/v1/cameras", TOKEN) == 200
        assert await status("POST", "/v1/ask", TOKEN, json=QUESTION) == 403
        assert await status("POST", "/v1/ask", ASKER, json=QUESTION) == 503
        assert await status("GET", "/metrics", ASKER) == 403
        async with web.http.get("/metrics", headers={"Authorization": "Bearer a-token-of-an-operator"}) as metrics:
            assert metrics.status == 200
            assert 'latentbus_gateway_requests_total{route="ask",status="403"} 1.0' in await metrics.text()


async def test_a_browser_keeps_its_token_as_a_cookie(nowhere: BrokerSettings) -> None:
    async with gateway_of(nowhere, **TOKENS) as web:
        assert (await web.status("POST", "/v1/session", json={"token": "wrong"}))[0] == 401
        async with web.http.post("/v1/session", json={"token": TOKEN}) as response:
            assert await response.json() == {"name": "ann", "role": "viewer", "cameras": ["gate"]}
            cookie = response.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        value = cookie.partition(";")[0]
        status, session = await web.status("GET", "/v1/session", headers={"Cookie": value})
        assert (status, session["name"]) == (200, "ann")
        async with web.http.delete("/v1/session", headers={"Cookie": value}) as response:
            assert response.status == 204
            assert "Max-Age=0" in response.headers["Set-Cookie"]


async def test_a_client_that_asks_too_much_is_told_when_to_come_back(nowhere: BrokerSettings) -> None:
    limits = {"requests_per_s": 0.5, "burst_requests": 5}
    async with gateway_of(nowhere, limits=limits, **TOKENS) as web:
        found = [await web.status("GET", "/v1/session", headers={"Authorization": f"Bearer {TOKEN}"}) for _ in range(7)]
        assert [status for status, _ in found] == [200] * 5 + [429] * 2
        async with web.http.get("/v1/session", headers={"Authorization": f"Bearer {TOKEN}"}) as response:
            assert int(response.headers["Retry-After"]) >= 1
        status, _ = await web.status("GET", "/v1/session", headers={"Authorization": f"Bearer {ASKER}"})
        assert status == 200, "another client has its own budget"
        guesses = [await web.status("GET", "/v1/session", headers={"Authorization": f"Bearer g{n}"}) for n in range(7)]
        assert [status for status, _ in guesses] == [401] * 5 + [429] * 2, "guesses are counted by address"


async def test_a_body_that_is_too_large_is_not_read(nowhere: BrokerSettings) -> None:
    async with gateway_of(nowhere) as web:
        headers = {"Content-Type": "application/json"}
        for body in (b"x" * (MAX_BODY_BYTES + 1), chunked(b"x" * 1000, 20)):
            status, problem = await web.status("POST", "/v1/ask", data=body, headers=headers)
            assert (status, problem["code"]) == (413, "too_large")


async def chunked(piece: bytes, count: int) -> Any:
    for _ in range(count):
        yield piece


async def test_a_body_that_does_not_come_is_not_waited_for(
    nowhere: BrokerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentbus.gateway.guard.BODY_TIMEOUT_S", 0.05)
    async with gateway_of(nowhere) as web:
        port = int(web.served.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /v1/ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
        )
        assert (await reader.readline()).startswith(b"HTTP/1.1 503")
        writer.close()


async def test_a_connection_without_a_whole_request_is_closed(
    nowhere: BrokerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentbus.gateway.process.IDLE_CHECK_S", 0.05)
    async with gateway_of(nowhere) as web:
        port = int(web.served.url.rpartition(":")[2])
        whole = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for sent in (b"", b"GET /healthz HTTP/1.1\r\nHost: loc", whole + b"GET /healthz HTTP/1.1\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            assert (await reader.read()).count(b"HTTP/1.1 200") == sent.count(whole)
            writer.close()
        async with web.events() as events:
            await events.until("snapshot")
            web.gateway.hub.publish("answer", "1")
            assert await events.until("answer") == 1, "one that is being answered stays"


async def test_headers_of_every_response(nowhere: BrokerSettings) -> None:
    async with gateway_of(nowhere) as web:
        for path in ("/", "/static/app.js", "/healthz", "/nosuch", "/openapi.json"):
            async with web.http.get(path) as response:
                policy = response.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                assert response.headers["X-Frame-Options"] == "DENY"
                assert response.headers["Referrer-Policy"] == "no-referrer"
                assert "server" not in response.headers


async def test_what_is_no_http_ends_its_connection_alone(nowhere: BrokerSettings) -> None:
    async with gateway_of(nowhere) as web:
        port = int(web.served.url.rpartition(":")[2])
        for garbage in (
            b"\x16\x03\x01\x00",
            b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            b"G" * 100_000,
            b"\0" * 64,
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, family=socket.AF_INET)
            writer.write(garbage)
            writer.write_eof()
            await reader.read()
            writer.close()
        assert (await web.status("GET", "/healthz"))[0] == 200
