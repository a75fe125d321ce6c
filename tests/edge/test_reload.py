"""A running edge on a real broker: settings that are read again, and what operators say on its config topic."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.config.broker_settings import BrokerSettings
from schemas import topics, wire
from schemas.messages import Question, Receipt, SiteConfig
from tests.edge.running import listening
from tests.edge.support import ScriptedWorker

pytestmark = [pytest.mark.broker, pytest.mark.timeout(120)]


def write(path: Path, broker: BrokerSettings, codec_dir: Path, text: str, **camera: object) -> None:
    gate = {"source": "test:1", "interval_s": 0.2, "questions": ["car", "dog"], **camera}
    edge = {
        "codec": str(codec_dir),
        "cameras": {"gate": gate},
        "questions": {"car": {"text": text}, "dog": {"text": "A dog?"}},
        "profiles": {"night": {"questions": ["dog"]}},
        "change_gate": {"enabled": False},
    }
    path.write_text(yaml.safe_dump({"broker": {"port": broker.port}, "sites": {"depot": edge}, "log": {"json": True}}))


async def until_asked(worker: ScriptedWorker, digests: set[bytes]) -> None:
    """The next frame that is asked exactly this; all are answered."""
    while True:
        camera, opened = await worker.next_open()
        await worker.answer_all(camera, opened)
        if {ref.digest for ref in opened.queries} == digests:
            return


def digest(question_id: str, text: str) -> bytes:
    return Question(site="depot", question_id=question_id, text=text).content().digest


async def said(process: asyncio.subprocess.Process, words: str) -> str:
    """The next log line with these words."""
    assert process.stderr is not None
    while line := await process.stderr.readline():
        if words in line.decode():
            return line.decode()
    raise AssertionError(f"the edge ended without saying {words!r}")


async def test_sighup_and_the_config_topic_change_what_is_asked_and_nothing_is_half_done(
    broker_settings: BrokerSettings, codec_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "fleet.yaml"
    write(path, broker_settings, codec_dir, "A car?")
    command = [sys.executable, "-m", "latentbus", "edge", "--config", str(path), "--site", "depot"]
    dog = digest("dog", "A dog?")
    async with ScriptedWorker(broker_settings) as worker, listening(broker_settings, "lb/v2/receipt/boss/#") as boss:
        process = await asyncio.create_subprocess_exec(
            *command, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, start_new_session=True
        )
        try:
            await until_asked(worker, {digest("car", "A car?"), dog})
            await said(process, '"ready"')

            write(path, broker_settings, codec_dir, "A red car?", interval_s=-1)
            os.kill(process.pid, signal.SIGHUP)
            line = await said(process, "not taken over")
            assert "fleet.yaml" in line
            assert "sites.depot.cameras.gate.interval_s: must be at least 0.02" in line

            write(path, broker_settings, codec_dir, "A red car?", source="test:2")
            os.kill(process.pid, signal.SIGHUP)
            assert "edge.cameras.gate.source: takes effect after a restart" in await said(process, "not taken over")
            await until_asked(worker, {digest("car", "A car?"), dog})

            write(path, broker_settings, codec_dir, "A red car?")
            os.kill(process.pid, signal.SIGHUP)
            await said(process, "read again")
            await until_asked(worker, {digest("car", "A red car?"), dog})

            await boss.bus.publish(
                topics.config_topic("depot"),
                wire.encode(SiteConfig(site="depot", profile="night")),
                qos=1,
                retain=True,
                response_topic="lb/v2/receipt/boss/depot/change",
            )
            _, receipt = await boss.next(Receipt)
            assert isinstance(receipt, Receipt)
            assert (receipt.accepted, receipt.reason) == (True, "profile night")
            await until_asked(worker, {dog})
        finally:
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0
