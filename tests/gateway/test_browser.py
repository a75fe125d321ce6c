"""The dashboard in a real browser, with a real fleet behind a real gateway."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.async_api import ConsoleMessage, Page, Request, async_playwright, expect

from broker_config.launcher import LocalBroker
from latentbus.client.client import Client
from latentbus.fleet.launcher import Launcher, write_settings
from latentbus.fleet.settings import (
    WIDE_BUDGET,
    edge_node,
    rendered_cameras,
    standing_questions,
    worker_node,
    write_patient_codec,
)
from pipeline.codec.bundled import bundled_codec_dir
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.gateway_settings import GatewaySettings
from pipeline.config.settings import LatentbusSettings, LogSettings
from pipeline.config.worker_settings import WorkerSettings
from schemas.types import FrameId
from tests.cli.stand_in import standing_in
from tests.gateway.conftest import gateway_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCREENSHOTS = "LATENTBUS_SCREENSHOTS"
"""Folder that keeps the screenshots of a run, for whoever wants to look at them."""
PATIENCE_MS = 120_000
DESKTOP, PHONE = (1280, 900), (390, 844)
HOSTILE = "<img src=x onerror=\"document.title='taken'\">Is there a car?"

pytestmark = [
    pytest.mark.broker,
    pytest.mark.timeout(600),
    pytest.mark.skipif(CHROMIUM is None or "LATENTBUS_NO_SKIPS" not in os.environ,
                       reason="starts a browser and a whole fleet: make test-extras"),
]  # fmt: skip

CONTRAST = """
() => {
  const probe = document.createElement('i');
  document.body.append(probe);
  const rgb = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map(Number);
  };
  const light = (name) => rgb(name).map((value) => value / 255)
    .map((value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
  const ratio = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const pairs = [['text', 'page'], ['text', 'surface'], ['muted', 'surface'], ['muted', 'page'], ['muted', 'sunken'],
    ['accent', 'accent-soft'], ['accent-text', 'accent'], ['bad', 'surface'], ['bad', 'bad-soft'], ['good', 'surface'],
    ['warning', 'warning-soft']];
  const found = pairs.map(([one, other]) => [`${one} on ${other}`, ratio(one, other)])
    .filter(([, value]) => value < 4.5);
  probe.remove();
  return found;
}
"""


@dataclass
class Seen:
    """What the browser said and requested."""

    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)


@asynccontextmanager
async def page_of(
    url: str, size: tuple[int, int], scheme: str = "light", motion: str = "no-preference"
) -> AsyncIterator[tuple[Page, Seen]]:
    """A page of the dashboard, and what was seen of it."""
    assert CHROMIUM is not None
    seen = Seen()

    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            seen.errors.append(message.text)

    def on_request(request: Request) -> None:
        if not request.url.startswith(url):
            seen.foreign.append(request.url)

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = await browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=scheme,  # type: ignore[arg-type]
            reduced_motion=motion,  # type: ignore[arg-type]
        )
        context.set_default_timeout(PATIENCE_MS)
        page = await context.new_page()
        page.on("console", on_console)
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on("request", on_request)
        page.on("dialog", lambda dialog: seen.dialogs.append(dialog.message))
        await page.goto(url)
        try:
            yield page, seen
        finally:
            await browser.close()


async def shoot(page: Page, name: str, folder: Path) -> None:
    kept = Path(os.environ.get(SCREENSHOTS, folder))
    await page.evaluate("window.scrollTo(0, 0)")
    await page.screenshot(path=kept / f"{name}.png", full_page=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def start_fleet(launcher: Launcher, tmp_path: Path) -> BrokerSettings:
    """A site and a worker whose stop rule wants the whole latent, so that every answer improves in steps."""
    broker = await launcher.start_broker()
    codec = write_patient_codec(bundled_codec_dir(), tmp_path / "codec")
    questions = standing_questions(3, 10)
    edge = EdgeSettings(
        site="north",
        codec=codec,
        uplink_kbps=64,
        first_prefix="base",
        cameras=rendered_cameras(["gate", "yard", "lane", "dock"], list(questions), 2.0),
        questions=questions,
        client_budgets={"gateway": WIDE_BUDGET},
    )
    worker = await launcher.start_node("w1", worker_node(broker, WorkerSettings(name="w1", codec=codec, threads=1)))
    await launcher.wait_ready(worker)
    await launcher.wait_ready(await launcher.start_node("north", edge_node(broker, edge)))
    return broker


async def start_gateway(launcher: Launcher, broker: BrokerSettings, port: int, tmp_path: Path, name: str) -> None:
    settings = GatewaySettings(port=port, state_dir=tmp_path / "state")
    whole = LatentbusSettings(broker=broker, gateway=settings, log=LogSettings(json_lines=True))
    config = write_settings(name, whole, tmp_path)
    await launcher.wait_ready(await launcher.start_command(name, ["gateway", "--config", str(config)]))


async def frames_of(camera: str, count: int, broker: BrokerSettings) -> None:
    """Wait until so many further frames of a camera have answers."""
    async with Client(broker) as client:
        answers, frames = client.watch([camera]), set[FrameId]()
        async for answer in answers:
            frames.add(answer.frame)
            if len(frames) > count:
                break
        await answers.aclose()


async def test_the_dashboard_of_a_real_fleet(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://localhost:{port}/"
    async with Launcher(tmp_path) as launcher:
        broker = await start_fleet(launcher, tmp_path)
        await start_gateway(launcher, broker, port, tmp_path, "gateway")
        async with page_of(url, DESKTOP) as (page, seen):
            await expect(page.locator("#connection")).to_have_text("Live", timeout=PATIENCE_MS)
            await expect(page.locator("article.camera")).to_have_count(4, timeout=PATIENCE_MS)
            await expect(page.locator(".said[data-state=good]")).to_have_count(12, timeout=PATIENCE_MS)
            await page.locator(".tag[data-kind=improving]").first.wait_for()
            await expect(page.locator(".camera .prefix").first).to_contain_text(" of 32, ")
            await expect(page.locator("#totals")).to_contain_text("4 of 4 cameras online, 1 worker")

            # The ask box: the answer improves, and what was asked stays text.
            await page.select_option("#ask-camera", "yard")
            await page.fill("#ask-question", HOSTILE)
            await page.select_option("#ask-type", "yes_no")
            await page.press("#ask-question", "Enter")
            await page.locator("#ask-result .steps li").nth(1).wait_for()
            await expect(page.locator("#ask-result .tag")).to_have_text("final", timeout=PATIENCE_MS)
            await expect(page.locator("#ask-result .asked")).to_have_text(f"yard: {HOSTILE}")
            assert await page.locator("#ask-result img, .camera img").count() == 0
            assert await page.title() == "Latentbus"

            await page.fill("#history-text", "onerror")
            await page.press("#history-text", "Enter")
            await expect(page.locator("#outcomes > li")).to_have_count(1, timeout=PATIENCE_MS)
            await page.fill("#history-text", "")
            await page.press("#history-text", "Enter")
            await page.locator("#outcomes > li").nth(5).wait_for()
            assert await page.evaluate(CONTRAST) == []
            await shoot(page, "dashboard-desktop", tmp_path)
            assert seen.errors == []

            # Killed and started again: the page is right again by itself.
            strip = page.locator(".strip").first.locator("span:not(.empty-cell)")
            before = await strip.count()
            await launcher.processes["gateway"].kill()
            await expect(page.locator("#connection")).to_have_text("Reconnecting", timeout=PATIENCE_MS)
            await frames_of("gate", 3, broker)  # a shorter gap is not worth a notice
            await start_gateway(launcher, broker, port, tmp_path, "gateway-again")
            await expect(page.locator("#connection")).to_have_text("Live", timeout=PATIENCE_MS)
            await expect(page.locator("#notices")).to_contain_text(
                "the broker has kept the outcomes", timeout=PATIENCE_MS
            )
            assert await strip.count() >= min(before, 40)
            await page.locator(".tag[data-kind=improving]").first.wait_for()
            others = [
                text for text in seen.errors if "ERR_CONNECTION_REFUSED" not in text and "ERR_INCOMPLETE" not in text
            ]
            assert (others, seen.foreign, seen.dialogs) == ([], [], [])
        async with page_of(url, PHONE, "dark", "reduce") as (page, seen):
            await expect(page.locator(".said[data-state=good]").nth(11)).to_be_visible(timeout=PATIENCE_MS)
            assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            assert await page.evaluate(CONTRAST) == []
            duration = "getComputedStyle(document.querySelector('.bar > span')).transitionDuration"
            assert await page.evaluate(duration) == "0s"
            await shoot(page, "dashboard-phone", tmp_path)
            assert (seen.errors, seen.foreign) == ([], [])


async def test_one_logs_in_with_the_keyboard_alone(broker: LocalBroker, tmp_path: Path) -> None:
    token = "a-token-of-an-asker"
    settings = BrokerSettings(host=broker.host, port=broker.port)
    tokens = {"ann": {"token": token, "role": "asker"}, "bob": {"token": "a-token-of-a-viewer"}}
    async with standing_in(settings), gateway_of(settings, tokens=tokens) as web:
        async with page_of(web.served.url, PHONE) as (page, seen):
            await expect(page.locator("#log-in")).to_be_visible(timeout=PATIENCE_MS)
            await page.keyboard.type("wrong")
            await page.keyboard.press("Enter")
            await expect(page.locator("#log-in-problem")).to_have_text("this token is not known", timeout=PATIENCE_MS)
            await page.fill("#token", "")
            await page.focus("#token")
            await page.keyboard.type(token)
            await page.keyboard.press("Enter")
            await expect(page.locator("#connection")).to_have_text("Live", timeout=PATIENCE_MS)
            await expect(page.locator("article.camera")).to_have_count(2, timeout=PATIENCE_MS)
            assert await page.evaluate("document.cookie") == "", "no script can read it"
            # Everything that can be used is reached in order, and what is focused is seen.
            await page.focus(".skip")
            reached = []
            for _ in range(10):
                await page.keyboard.press("Tab")
                reached.append(await page.evaluate("document.activeElement.id || document.activeElement.className"))
                if reached[-1]:
                    outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                    assert outline != "none", f"{reached[-1]}: what is focused is seen"
            wanted = ["ask-camera", "ask-question", "ask-type", "ask-button", "history-camera", "history-text"]
            assert [name for name in reached if name in wanted] == wanted
            await page.click("#log-out")
            await expect(page.locator("#log-in")).to_be_visible(timeout=PATIENCE_MS)
            assert [text for text in seen.errors if "401" not in text] == []
        async with page_of(web.served.url, DESKTOP) as (page, _):
            await page.fill("#token", "a-token-of-a-viewer")
            await page.press("#token", "Enter")
            await expect(page.locator("#connection")).to_have_text("Live", timeout=PATIENCE_MS)
            await expect(page.locator("#ask")).to_be_hidden()
