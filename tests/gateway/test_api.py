"""The API over a real broker: questions, answers, history, and what goes wrong."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import aiohttp
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from latentbus.gateway.endpoints import ENDPOINTS
from latentbus.gateway.openapi import document
from pipeline.config.broker_settings import BrokerSettings
from schemas import topics, wire
from schemas.identity import owner_of, standing_query_id
from schemas.messages import Answer, Ask, JsonMessage, QueryOutcome, Question, Receipt
from schemas.types import FrameId, Outcome
from tests.cli.stand_in import StandIn, answer_to, standing_in, twice
from tests.gateway.conftest import PATIENCE_S, gateway_of

pytestmark = pytest.mark.broker
SCRIPT = "<script>alert(1)</script>"


def standing(
    number: int, text: str = "yes", outcome: Outcome | None = Outcome.ANSWERED, camera: str = "gate", **given: Any
) -> Answer:
    """An answer to the standing question ``car`` of site north."""
    frame = FrameId(1, number)
    fields = {
        "query_id": standing_query_id(camera, frame, "car"), "owner": owner_of("site", "north"), "camera": camera,
        "frame": frame, "attempt": 1, "question_id": "car", "worker": "w1", "outcome": outcome, "text": text,
        "score": 0.75, "latents": 9, "payload_bytes": 41, "looks": 1,
    }  # fmt: skip
    return Answer.model_validate(fields | given)


async def publish(far: StandIn, *messages: Answer | QueryOutcome) -> None:
    for message in messages:
        build = topics.answer_topic if isinstance(message, Answer) else topics.outcome_topic
        await far.bus.publish(build(message.camera), wire.encode(message), qos=1)


async def ask_text(far: StandIn, site: str, question_id: str, text: str) -> None:
    question = Question(site=site, question_id=question_id, text=text)
    await far.bus.publish(topics.question_topic(site, question_id), wire.encode(question), qos=1, retain=True)


async def test_answers_come_as_they_improve_and_then_the_final_one(broker_settings: BrokerSettings) -> None:
    async with standing_in(broker_settings), gateway_of(broker_settings) as web, asyncio.timeout(PATIENCE_S):
        await web.until_ready("gate")
        (first, provisional), (last, final) = await web.ask("gate", "a car?")
    assert (first, last) == ("answer", "final")
    assert (provisional["outcome"], provisional["text"], provisional["latents"]) == (None, "perhaps", 4)
    assert (final["outcome"], final["text"], final["latents"]) == ("answered", "a car? yes", 32)
    assert (final["payload_bytes"], final["confidence"], final["question"]) == (90, 0.9, "a car?")
    assert provisional["elapsed_ms"] <= final["elapsed_ms"]
    assert final["query_id"].startswith("gate/@gateway/ask-")


async def test_who_wants_json_waits_for_the_final_answer(broker_settings: BrokerSettings) -> None:
    async with standing_in(broker_settings) as far, gateway_of(broker_settings) as web, asyncio.timeout(PATIENCE_S):
        await web.until_ready("gate")
        body = {"camera": "gate", "question": "which?", "answer_type": "choice", "options": ["a", "b"], "deadline_s": 9}
        status, found = await web.status("POST", "/v1/ask", json=body, headers={"Accept": "application/json"})
    assert status == 200
    assert [one["text"] for one in found["provisional"]] == ["perhaps"]
    assert found["final"]["outcome"] == "answered"
    ((_, client, ask),) = far.asked
    assert (client, ask.options, ask.deadline_ms) == ("gateway", ("a", "b"), 9000)


async def test_a_question_about_the_past_says_which_frame(broker_settings: BrokerSettings) -> None:
    async with standing_in(broker_settings) as far, gateway_of(broker_settings) as web, asyncio.timeout(PATIENCE_S):
        await web.until_ready("gate")
        *_, (_, final) = await web.ask("gate", "a car?", ago_s=5)
        await web.ask("gate", "which colour?", frame=final["frame"])
        status, problem = await web.status(
            "POST", "/v1/ask", json={"camera": "gate", "question": "?", "ago_s": 1, "frame": final["frame"]}
        )
    assert [(ask.ago_ms, ask.frame) for _, _, ask in far.asked] == [(5000, None), (None, FrameId(1, 0))]
    assert (status, problem["code"]) == (400, "bad_request")


async def test_asked_again_the_same_answer_comes_and_nobody_is_asked(broker_settings: BrokerSettings) -> None:
    async with standing_in(broker_settings) as far, gateway_of(broker_settings) as web, asyncio.timeout(PATIENCE_S):
        await web.until_ready("gate")
        async with web.events() as events:
            *_, (_, first) = await web.ask("gate", "a car?", id="q1")
            await events.until("answer", lambda data: data["outcome"] == "answered")
        while web.gateway.store.text("gate/@gateway/q1") is not None:
            await web.get("/v1/history")  # the outcome is on its way to the disk
        (again,) = await web.ask("gate", "a car?", id="q1")
        assert again[0] == "final"
        assert (again[1]["query_id"], again[1]["text"]) == (first["query_id"], first["text"])
        await web.ask("gate", "a car?", id="q2")
    assert [ask.query_id for _, _, ask in far.asked] == ["q1", "q2"]


async def test_what_goes_wrong_has_a_status_and_a_reason(
    broker_settings: BrokerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(camera: str, client: str, ask: Ask) -> list[JsonMessage]:
        if ask.query_id == "bad":
            return [Receipt(site="north", about="bad", accepted=False, reason="options: unknown key")]
        return [] if ask.query_id in ("silent", "open") else list(twice(camera, client, ask))

    async def status(**body: Any) -> tuple[int, str, str]:
        accept = {"Accept": "application/json"}
        found, answer = await web.status(
            "POST", "/v1/ask", json={"camera": "gate", "question": "?", **body}, headers=accept
        )
        return found, answer.get("code", ""), answer.get("problem", "")

    async with (
        standing_in(broker_settings, script=script) as far,
        gateway_of(broker_settings) as web,
        asyncio.timeout(PATIENCE_S),
    ):
        web.gateway.client._session._settings = type(web.gateway.client._session._settings)(
            status_patience_s=0.05, reply_margin_s=0.05
        )
        await web.until_ready("gate")
        assert await status(camera="nosuch") == (
            404, "not_found", "no edge that is online serves camera nosuch; cameras on this broker: gate, yard",
        )  # fmt: skip
        assert await status(id="bad") == (422, "refused", "edge north does not take it: options: unknown key")
        found = await status(id="silent", deadline_s=0.5)
        assert (found[0], found[1]) == (504, "no_outcome")
        monkeypatch.setattr("latentbus.gateway.api.FIRST_STATUS_S", 0.0)
        events = await web.ask("gate", "?", id="silent", deadline_s=0.5)
        assert [(name, data["code"]) for name, data in events] == [("error", "no_outcome")], "a stream that has begun"
        monkeypatch.undo()
        running = asyncio.create_task(status(id="open", deadline_s=60))
        await far.wait_asked(4)
        assert (await status(id="open"))[:2] == (409, "conflict")
        running.cancel()
        for wrong, problem in (
            ({"camera": "Front Door"}, "camera: "),
            ({"question": ""}, "question: must not be empty"),
            ({"question": " "}, "question: "),
            ({"question": "x" * 501}, "question: must be at most 500"),
            ({"answer_type": "poem"}, "answer_type: "),
            ({"answer_type": "choice"}, "options"),
            ({"deadline_s": 0}, "deadline_s: must be at least 0.5"),
            ({"deadline_s": "soon"}, "deadline_s: must be a number"),
            ({"id": "Q 1"}, "id: "),
            ({"colour": "red"}, "colour: unknown key"),
        ):
            found = await status(**wrong)
            assert found[:2] == (400, "bad_request"), wrong
            assert problem in found[2]
        async with web.http.post("/v1/ask", data=b'{"camera": "gate", "question": "?"}') as plain:
            assert plain.status == 400, "a form of another page could send this"
        headers = {"Content-Type": "application/json"}
        assert (await web.status("POST", "/v1/ask", data=b"{", headers=headers))[0] == 400
        assert (await web.status("GET", "/v1/ask"))[0] == 405
        assert (await web.status("GET", "/v1/history?limit=100000"))[0] == 400
        assert (await web.status("GET", "/v1/history?color=red"))[0] == 400
        found_status, answer = await web.status("POST", "/v1/ask", json={"camera": "nosuch", "question": "?"})
        assert (found_status, answer["code"]) == (404, "not_found"), "of a stream, too"


async def test_without_a_broker_it_says_so(nowhere: BrokerSettings) -> None:
    async with gateway_of(nowhere) as web:
        assert await web.status("GET", "/readyz") == (
            503,
            {"ready": False, "problems": ["the broker is not connected"]},
        )
        assert (await web.status("GET", "/healthz"))[0] == 200
        status, problem = await web.status("POST", "/v1/ask", json={"camera": "gate", "question": "a car?"})
        assert (status, problem["code"]) == (503, "unavailable")


async def test_a_client_that_hangs_up_is_not_waited_for(broker_settings: BrokerSettings) -> None:
    async with (
        standing_in(broker_settings, script=lambda camera, client, ask: list(twice(camera, client, ask))[:1]) as far,
        gateway_of(broker_settings) as web,
        asyncio.timeout(PATIENCE_S),
    ):
        await web.until_ready("gate")
        dropped, drop = asyncio.Event(), web.gateway.client._session.drop

        def on_drop(query_id: str, now_s: float) -> None:
            drop(query_id, now_s)
            dropped.set()

        web.gateway.client._session.drop = on_drop  # type: ignore[method-assign]
        for accept in ("text/event-stream", "application/json"):
            dropped.clear()
            async with aiohttp.ClientSession(web.served.url) as http:
                asking = asyncio.create_task(
                    http.post("/v1/ask", json={"camera": "gate", "question": "?"}, headers={"Accept": accept})
                )
                await far.wait_asked(1 if accept == "text/event-stream" else 2)
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            await dropped.wait()
            assert web.gateway.client.unfinished() == 0


async def test_standing_answers_are_the_latest_of_their_camera(broker_settings: BrokerSettings) -> None:
    async with standing_in(broker_settings) as far, gateway_of(broker_settings) as web, asyncio.timeout(PATIENCE_S):
        await web.until_ready("gate")
        async with web.events() as events:
            await ask_text(far, "north", "car", "Is there a car?")
            await publish(far, standing(1, "no"), standing(2, "perhaps", None), standing(2, "yes"))
            await publish(far, standing(3, "", Outcome.FAILED, reason="engine"), standing(4, "no", None))
            late = standing(0, "old", age_ms=3_600_000)
            await publish(far, late, standing(9, "no", camera="yard"))
            await events.until("answer", lambda data: data["camera"] == "yard")
        camera = await web.get("/v1/cameras/gate")
        (question,) = camera["questions"]
        assert (camera["online"], camera["site"], question["question"]) == (True, "north", "Is there a car?")
        assert question["answer"]["text"] == "yes"
        assert (question["latest"]["outcome"], question["latest"]["reason"]) == ("failed", "engine")
        assert question["provisional"]["text"] == "no"
        assert [one["text"] for one in question["strip"]] == ["no", "yes", ""]
        answers = (await web.get("/v1/answers"))["answers"]
        assert [(one["camera"], one["text"]) for one in answers] == [("gate", "yes"), ("yard", "no")]
        found = (await web.get("/v1/history?camera=gate&question=car"))["outcomes"]
        assert [(one["text"], one["late"]) for one in found] == [
            ("old", True),
            ("", False),
            ("yes", False),
            ("no", False),
        ]
        fleet = await web.get("/v1/workers")
        assert [(site["site"], site["frames_per_minute"]) for site in fleet["sites"]] == [("north", 6)]
        assert [(worker["worker"], worker["capacity"]) for worker in fleet["workers"]] == [("w1", 8)]


async def test_history_has_filters_text_search_and_pages(broker_settings: BrokerSettings) -> None:
    async with standing_in(broker_settings) as far, gateway_of(broker_settings) as web, asyncio.timeout(PATIENCE_S):
        await web.until_ready("gate")
        async with web.events() as events:
            for number in range(10):
                await publish(far, standing(number, f"answer {number}", camera=("gate", "yard")[number % 2]))
            await events.until("answer", lambda data: data["text"] == "answer 9")
        while len((await web.get("/v1/history"))["outcomes"]) < 10:
            pass  # the last one is on its way to the disk

        async def texts(query: str) -> list[str]:
            return [one["text"][7:] for one in (await web.get(f"/v1/history?{query}"))["outcomes"]]

        assert await texts("camera=yard&limit=2") == ["9", "7"]
        assert await texts("text=ANSWER%203") == ["3"]
        assert await texts("outcome=degraded") == []
        page = await web.get("/v1/history?limit=4")
        assert await texts(f"limit=4&before={page['next_before']}") == ["5", "4", "3", "2"]


async def test_a_token_that_is_held_to_a_camera_sees_nothing_else(broker_settings: BrokerSettings) -> None:
    tokens = {"ann": {"token": "a-token-of-gate-alone", "role": "operator", "cameras": ["gate"]}}
    async with (
        standing_in(broker_settings) as far,
        gateway_of(broker_settings, token="a-token-of-gate-alone", tokens=tokens) as web,
        asyncio.timeout(PATIENCE_S),
    ):
        await web.until_ready("gate")
        async with web.events() as events:
            assert [camera["camera"] for camera in (await events.until("snapshot"))["cameras"]] == ["gate"]
            await publish(far, standing(1, "secret", camera="yard"), standing(2, "open", camera="gate"))
            assert (await events.until("answer"))["text"] == "open"
        while not (await web.get("/v1/history"))["outcomes"]:
            pass
        for path in ("/v1/cameras", "/v1/history", "/v1/answers", "/v1/alerts", "/v1/history?camera=yard",
                     "/v1/answers?camera=yard", "/v1/workers"):  # fmt: skip
            text = str(await web.get(path))
            assert "secret" not in text, path
            assert "yard" not in text, path
        assert (await web.status("GET", "/v1/cameras/yard"))[0] == 404
        assert (await web.status("POST", "/v1/ask", json={"camera": "yard", "question": "?"}))[0] == 404
        assert (await web.status("GET", "/metrics"))[0] == 403
        assert far.asked == []


async def test_scripts_in_answers_questions_and_reasons_are_text(broker_settings: BrokerSettings) -> None:
    def script(camera: str, client: str, ask: Ask) -> list[JsonMessage]:
        answer = answer_to(camera, client, ask, Outcome.DEGRADED, f"{SCRIPT}\r\n\r\nevent: final\u2028", 4)
        return [answer.model_copy(update={"reason": SCRIPT})]

    async with (
        standing_in(broker_settings, script=script) as far,
        gateway_of(broker_settings) as web,
        asyncio.timeout(PATIENCE_S),
    ):
        await web.until_ready("gate")
        await ask_text(far, "north", "car", SCRIPT)
        async with web.events() as events:
            ((name, final),) = await web.ask("gate", f"{SCRIPT}?")
            assert (name, final["reason"]) == ("final", SCRIPT)
            assert final["text"] == f"{SCRIPT}\r\n\r\nevent: final\u2028"
            await publish(far, standing(1, SCRIPT))
            await events.until("answer", lambda data: data["question_id"] == "car")
        for path in (
            "/v1/cameras",
            "/v1/history",
            "/v1/answers",
            "/v1/cameras/gate",
            f"/v1/cameras/{SCRIPT}",
            f"/{SCRIPT}",
        ):
            async with web.http.get(path) as response:
                body = await response.text()
                assert "<" not in body, path
                assert response.headers["Content-Type"].startswith("application/json")
        async with web.http.get("/metrics") as response:
            assert "script" not in await response.text()


async def test_every_address_is_in_a_valid_openapi_document(broker_settings: BrokerSettings) -> None:
    found = document()
    assert list(OpenAPIV31SpecValidator(found).iter_errors()) == []
    assert {(path, method.upper()) for path, methods in found["paths"].items() for method in methods} == {
        (endpoint.path, endpoint.method) for endpoint in ENDPOINTS
    }
    for name, schema in found["components"]["schemas"].items():
        for field, described in schema.get("properties", {}).items():
            assert described.get("description") or "$ref" in described, f"{name}.{field}"
    async with standing_in(broker_settings), gateway_of(broker_settings) as web, asyncio.timeout(PATIENCE_S):
        assert await web.get("/openapi.json") == found
        await web.until_ready("gate")
        for endpoint in ENDPOINTS:
            if endpoint.method == "GET" and not endpoint.stream:
                path = re.sub(r"\{camera\}", "gate", endpoint.path)
                async with web.http.get(path) as response:
                    assert response.status == 200, path
                    if endpoint.response is not None:
                        endpoint.response.model_validate_json(await response.read())
