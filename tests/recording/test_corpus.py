"""The regression corpus: a recorded fleet asked again gives the same answers from the same bytes."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from analysis.compare.compared_log import ComparedLog
from analysis.compare.comparison import Comparison, compare_logs
from analysis.compare.matching import MatchedBy, ReplayOrigin, match_queries
from analysis.latents import recorded_latent
from analysis.redact.redacted_copy import copy_redacted
from analysis.redact.redaction import Redaction
from analysis.traces import FrameTrace
from analysis.traffic import read_traffic
from cloud_workers.node import run_worker
from latentbus.cli import app
from latentbus.replay.options import CameraOptions, Deadlines, ReplayOptions
from latentbus.replay.report import CameraReport
from latentbus.replay.run import replay_cameras
from pipeline.codec.bundled import bundled_codec_dir
from pipeline.codec.spec import STOP_FILE, TABLES_FILE, WEIGHTS_FILE, hash_file, load_codec_spec
from pipeline.codec.tables import FrequencyTables
from pipeline.config.broker_settings import BrokerSettings
from pipeline.node.runtime import Stop
from pipeline.recording.reader import LogReader
from schemas.errors import ConfigError
from schemas.types import FrameId
from tests.corpus.record import CORPUS, MAX_BYTES, SCORE_TOLERANCE, late, running, unfit, worker_settings

pytestmark = pytest.mark.broker
ABSOLUTE_PATH = re.compile(rb"(?<![\w+#-])/[A-Za-z]{2,}/")
"""Such as a home or a temporary folder; topics begin with no slash."""


@pytest.fixture(scope="module", autouse=True)
def of_these_models() -> None:
    """Other models give other answers: that is no error of the code, and has its own fix."""
    with LogReader(CORPUS) as reader:
        then = set(read_traffic(reader.messages()).fingerprints), json.loads(reader.attachments()[STOP_FILE])
    codec = bundled_codec_dir()
    now = {load_codec_spec(codec).fingerprint4.hex()}, json.loads((codec / STOP_FILE).read_bytes())
    assert now == then, (
        "the bundled model, codec or stop rule is not the one of the corpus. If that is meant, record it again: "
        "python -m tests.corpus.record"
    )


@dataclass(frozen=True)
class Replayed:
    """A replay of the corpus, and the log that it wrote."""

    report: CameraReport
    path: Path
    log: ComparedLog


def read(path: Path) -> ComparedLog:
    with LogReader(path) as reader:
        return ComparedLog(path.name, read_traffic(reader.messages()), reader.metadata(), reader.complete)


async def replayed(
    broker: BrokerSettings, record: Path, *, log: Path = CORPUS, pool_codec: Path | None = None
) -> Replayed:
    """Ask the corpus again, as fast as the model can; outcomes must not depend on how fast that is."""
    settings = worker_settings(broker, codec=pool_codec)
    options = ReplayOptions(logs=(log,), rate=math.inf)
    cameras = CameraOptions(record=record, deadlines=Deadlines.RECORDED, pool_codec=pool_codec)
    async with running(lambda stop: run_worker(settings, stop)):
        report = await replay_cameras(options, cameras, broker, Stop(5.0), Console(file=io.StringIO()))
    return Replayed(report, record, read(record))


def test_the_corpus_is_small_and_fit_for_its_purpose() -> None:
    assert sum(path.stat().st_size for path in CORPUS.parent.glob("*.mcap")) <= MAX_BYTES
    log = read(CORPUS)
    assert (late(log.traffic), unfit(log.traffic)) == ([], [])
    assert log.complete
    assert not log.traffic.undecodable
    assert any(query.ad_hoc for query in log.traffic.queries.values())


def test_the_corpus_names_no_machine() -> None:
    with LogReader(CORPUS) as reader:
        held = [*reader.attachments().values(), json.dumps(reader.metadata()).encode()]
        held += [message.payload for message in reader.messages()]
    assert not [data for data in held if ABSOLUTE_PATH.search(data) or b"127.0.0.1" in data]


async def test_the_same_model_gives_the_same_answers_from_the_same_bytes(
    broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    again = await replayed(broker_settings, tmp_path / "again.mcap")
    recorded = read(CORPUS)
    assert again.report.exit_status == 0
    assert again.report.frames == len(recorded.traffic.frames)

    result = compare_logs(recorded, again.log)
    assert result.matched_by is MatchedBy.REPLAY
    assert result.compared == len(recorded.traffic.queries) > 150
    assert (result.changes, result.only_a, result.only_b, result.undecided_a) == ((), 0, 0, 0)
    assert (result.answers_differ, result.outcomes_differ, result.latents_differ) == (0, 0, 0)

    origin = ReplayOrigin.of(again.log.metadata)
    assert origin is not None
    for before, after in match_queries(recorded.traffic, again.log.traffic, None, origin).pairs:
        (_, first), (_, second) = before.answers[-1], after.answers[-1]
        assert (first.text, first.latents, first.looks) == (second.text, second.latents, second.looks)
        given = recorded.traffic.frames[before.camera, before.frame].opens[0][1].key is not None
        assert given or first.payload_bytes == second.payload_bytes
        assert before.score == pytest.approx(after.score, abs=SCORE_TOLERANCE)
    check_bytes(recorded, again.log, origin)
    # The command agrees, and its page has nothing to list.
    page = tmp_path / "report.html"
    told = CliRunner().invoke(app, ["compare", str(CORPUS), str(again.path), "--html", str(page)])
    assert (told.exit_code, "0 of" in told.output) == (0, True)
    assert "same outcome, with the same answer" in page.read_text()


def check_bytes(recorded: ComparedLog, again: ComparedLog, origin: ReplayOrigin) -> None:
    """Open messages and chunks carry the same latents: byte for byte, unless they were coded given a key frame."""
    tables = FrequencyTables.load(bundled_codec_dir() / TABLES_FILE)

    def sent(frame: FrameTrace) -> dict[tuple[int, int], tuple[bytes, int | None]]:
        opened = frame.opens[0][1]
        chunks = {(chunk.start, chunk.stop): (chunk.payload, chunk.key) for _, _, chunk in frame.chunks}
        return {(0, opened.stop): (opened.payload, opened.key), **chunks}

    replays = {
        (camera, FrameId(origin.boots[frame.boot], frame.sequence)): trace
        for (camera, frame), trace in again.traffic.frames.items()
    }
    assert replays.keys() == recorded.traffic.frames.keys()
    for key, trace in recorded.traffic.frames.items():
        other = replays[key]
        latent, before, after = recorded_latent(trace, tables), sent(trace), sent(other)
        assert before.keys() == after.keys()
        assert after == {(start, stop): (latent.payload(start, stop), None) for start, stop in before}
        given = {place for place, (_, key) in before.items() if key is not None}
        assert all(before[place] == after[place] for place in before.keys() - given)
        # Further attempts, on a machine that is very busy, cost more; ids of ad-hoc queries are longer in a replay.
        ad_hoc = any(ref.ad_hoc for ref in trace.opens[0][1].queries)
        if len(other.opens) == 1 and not ad_hoc and not given and trace.as_key is None:
            # A replay is a site of its own, whose name stands in each open message.
            site_bytes = len(other.opens[0][1].site) - len(trace.opens[0][1].site)
            assert (trace.latent_bytes, trace.wire_bytes) == (other.latent_bytes, other.wire_bytes - site_bytes)


def other_decoder(folder: Path) -> Path:
    """The bundled codec with a worse decoder: the same tables, another fingerprint."""
    folder.mkdir()
    source = bundled_codec_dir()
    weights = load_file(source / WEIGHTS_FILE)
    rng = np.random.default_rng(5)
    for name, values in weights.items():
        # Whatever kind of codec it is: matrices are weights, the rest are its steps and sizes.
        if values.ndim > 1 and np.issubdtype(values.dtype, np.floating):
            weights[name] = (values + 0.5 * values.std() * rng.standard_normal(values.shape)).astype(values.dtype)
    with safe_open(source / WEIGHTS_FILE, framework="np") as file:
        save_file(weights, folder / WEIGHTS_FILE, metadata=file.metadata())
    for name in (TABLES_FILE, STOP_FILE):
        shutil.copy(source / name, folder / name)
    spec = load_codec_spec(source)
    changes = {"codec_sha256": hash_file(folder / WEIGHTS_FILE), "encoder_sha256": None}
    spec.model_copy(update=changes).save(folder)
    return folder


async def test_another_decoder_gives_other_answers_and_the_comparison_says_which(
    broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    codec = other_decoder(tmp_path / "codec")
    again = await replayed(broker_settings, tmp_path / "again.mcap", pool_codec=codec)
    result: Comparison = compare_logs(read(CORPUS), again.log)
    assert result.compared > 150
    assert 0.05 < result.changed_share <= 1
    assert result.answers_differ > 0
    assert any("Other codec fingerprints" in note for note in result.notes)
    told = CliRunner().invoke(app, ["compare", str(CORPUS), str(again.path), "--fail-over", "1%"])
    assert told.exit_code == 1


async def test_redacted_latents_are_no_cameras(broker_settings: BrokerSettings, tmp_path: Path) -> None:
    path = tmp_path / "redacted.mcap"
    with LogReader(CORPUS) as reader:
        copy_redacted(reader, path, [Redaction.LATENTS])
    options = ReplayOptions(logs=(path,), rate=math.inf)
    with pytest.raises(ConfigError, match="redacted"):
        await replay_cameras(options, CameraOptions(), broker_settings, Stop(5.0), Console(file=io.StringIO()))
