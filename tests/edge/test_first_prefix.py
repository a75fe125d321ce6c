"""What the first message of a frame carries, by setting, statistics and what workers said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edge_nodes.encoder import OnnxEncoder
from edge_nodes.first_prefix import FirstPrefix, first_latents
from pipeline.codec.latent import EncodedLatent
from pipeline.codec.prefix_policy import PrefixChoice
from pipeline.codec.spec import STOP_FILE, load_codec_spec
from pipeline.codec.stop_file import StopFile, save_stop_file
from pipeline.codec.stop_statistics import StopStatistics
from pipeline.config.edge_settings import FirstPrefixRule
from pipeline.protocol.edge_frames import EdgeFrames
from pipeline.protocol.settings import EdgeProtocolSettings
from pipeline.protocol.stop_rule import StopRule
from schemas.errors import ArtifactError
from schemas.identity import owner_of
from schemas.messages import Answer
from schemas.types import AnswerType, FrameId
from tests.edge.support import LATENTS, grey
from tests.protocol.questions import SITE, asked

LADDER = (4, LATENTS)
QUESTIONS = [AnswerType.YES_NO]


def codec_with(codec_dir: Path, folder: Path, share: float | None) -> Path:
    """The codec with a stop rule whose first pass is safe in this share of the questions; None has no statistics."""
    shutil.copytree(codec_dir, folder)
    statistics = None
    if share is not None:
        statistics = StopStatistics(LADDER, (), {AnswerType.YES_NO: ((share,), (1.0,))})
    save_stop_file(folder, StopFile(StopRule.never_early(LADDER), statistics=statistics))
    return folder


@pytest.fixture(scope="module")
def latent(codec_dir: Path) -> EncodedLatent:
    return OnnxEncoder(codec_dir).encode([grey(90)])[0]


def chosen(rule: FirstPrefixRule, folder: Path, latent: EncodedLatent, *, kbps: float | None = 64.0) -> int:
    first = FirstPrefix(rule, folder, load_codec_spec(folder), kbps)
    return first_latents(first.choose("gate", latent, QUESTIONS, 0.1))


def test_fixed_rules_need_no_statistics(codec_dir: Path, latent: EncodedLatent) -> None:
    assert chosen("base", codec_dir, latent) == 4
    assert chosen("whole", codec_dir, latent) == LATENTS


@pytest.mark.parametrize("rule", ["bytes", "delay"])
def test_statistics_decide(rule: FirstPrefixRule, codec_dir: Path, latent: EncodedLatent, tmp_path: Path) -> None:
    assert chosen(rule, codec_with(codec_dir, tmp_path / "never", 0.0), latent) == LATENTS
    assert chosen(rule, codec_with(codec_dir, tmp_path / "always", 1.0), latent) == 4
    assert chosen(rule, codec_with(codec_dir, tmp_path / "uncalibrated", None), latent) == 4, "the codec's base prefix"


def test_damaged_statistics_are_refused_at_start(codec_dir: Path, tmp_path: Path) -> None:
    folder = codec_with(codec_dir, tmp_path / "damaged", 0.5)
    stop = json.loads((folder / STOP_FILE).read_text())
    (folder / STOP_FILE).write_text(json.dumps(stop | {"statistics": {"safe_share": 7}}))
    with pytest.raises(ArtifactError, match="calibrate-stop"):
        FirstPrefix("bytes", folder, load_codec_spec(folder), None)


def test_workers_teach_it(codec_dir: Path, latent: EncodedLatent, tmp_path: Path) -> None:
    """First passes that are not safe make the first prefixes of this camera longer."""
    folder = codec_with(codec_dir, tmp_path / "hopeful", 0.99)
    first = FirstPrefix("bytes", folder, load_codec_spec(folder), None)
    session = EdgeFrames(EdgeProtocolSettings(), site=SITE, pool="main", boot=7, fingerprint=b"\0" * 4)
    lengths = []
    for number in range(40):
        choice = first.choose("gate", latent, QUESTIONS, session.response_s)
        lengths.append(first_latents(choice))
        frame = session.offer("gate", latent, lengths[-1], [asked(f"q{number}", 99.0)], float(number))
        query_id = f"gate/{frame}/q{number}"
        first.offered("gate", [query_id], choice)
        first.answered(answer_of(frame, query_id, f"q{number}", lengths[-1]))
    assert lengths[0] == 4
    assert lengths[-1] == LATENTS
    assert isinstance(first.choose("yard", latent, QUESTIONS, 0.1), PrefixChoice)
    assert first_latents(first.choose("yard", latent, QUESTIONS, 0.1)) == 4


def answer_of(frame: FrameId, query_id: str, question_id: str, latents: int) -> Answer:
    """A provisional answer: not safe yet."""
    return Answer(
        query_id=query_id,
        owner=owner_of("site", SITE),
        camera="gate",
        frame=frame,
        attempt=1,
        question_id=question_id,
        worker="w-1",
        text="yes",
        score=0.4,
        latents=latents,
        looks=1,
        payload_bytes=20,
    )
