"""Whole latents in an edge's own log, and not a byte more on the uplink."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.latents import recorded_latent
from analysis.traffic import read_traffic
from pipeline.codec.spec import TABLES_FILE
from pipeline.codec.tables import FrequencyTables
from pipeline.config.broker_settings import BrokerSettings
from pipeline.config.recording_settings import EdgeRecordingSettings
from pipeline.recording.reader import LogReader
from pipeline.recording.stored_latent import StoredLatent, decode_stored_latent, encode_stored_latent, latent_topic
from schemas.errors import WireError
from schemas.types import FrameId
from tests.edge.conftest import codec_dir
from tests.edge.support import LATENTS
from tests.recording.recorded_edge import ask_and_answer, edge_settings

__all__ = ["codec_dir"]

STORED = StoredLatent("gate", FrameId(0x1A2B3C4D, 417), 8, 32, bytes(range(20)))
GOLDEN = bytes.fromhex("9601ce1a2b3c4dcd01a10820c414") + bytes(range(20))
"""The format of version 1; it never changes."""


def test_the_bytes_of_a_stored_latent_are_those_of_version_1() -> None:
    assert encode_stored_latent(STORED) == GOLDEN
    assert decode_stored_latent("$local/latent/gate", GOLDEN) == STORED
    assert latent_topic("gate") == "$local/latent/gate"


@pytest.mark.parametrize("cut", range(len(GOLDEN)))
def test_a_cut_stored_latent_is_an_error(cut: int) -> None:
    with pytest.raises(WireError):
        decode_stored_latent("$local/latent/gate", GOLDEN[:cut])


@pytest.mark.broker
@pytest.mark.parametrize("refine", [False, True])
async def test_whole_latents_are_in_the_log_and_not_on_the_uplink(
    tmp_path: Path, broker_settings: BrokerSettings, codec_dir: Path, refine: bool
) -> None:
    path = tmp_path / "site.mcap"
    plain = await ask_and_answer(edge_settings(broker_settings, codec_dir, "plain"), 3, refine=refine)
    recording = EdgeRecordingSettings(file=path, full_latents=True)
    kept = await ask_and_answer(
        edge_settings(broker_settings, codec_dir, "keeps", recording=recording, state_dir=None), 3, refine=refine
    )
    # Two runs see the same frames of the rendered camera only by chance; headers and counts are the same for certain.
    for notes in (plain, kept):
        assert [sent.label for sent in notes.sent if sent.label in ("open", "chunk")] == ["open", "chunk"][
            : 1 + refine
        ] * 3
    plain_bytes, kept_bytes = (
        sorted((sent.label, sent.wire_bytes - sent.latent_bytes) for sent in notes.sent if sent.label != "status")
        for notes in (plain, kept)
    )
    assert plain_bytes == kept_bytes
    tables = FrequencyTables.load(codec_dir / TABLES_FILE)
    with LogReader(path) as reader:
        traffic = read_traffic(reader.messages())
    assert len(traffic.frames) == len(kept.latents) == 3
    for (_, frame), trace in traffic.frames.items():
        assert trace.stored_latent is not None
        assert trace.stored_ns is not None
        assert (trace.stored_latent.base, trace.stored_latent.stop) == (trace.opens[0][1].stop, LATENTS)
        assert trace.stored_ns <= trace.opens[0][0]
        latent = recorded_latent(trace, tables)
        assert latent.whole
        assert latent.payload(0, LATENTS) == kept.latents[frame].payload(0, LATENTS)
        # What was sent is in the log beside it, and no more than that was sent.
        assert trace.latent_bytes == sum(
            sent.latent_bytes for sent in kept.sent if sent.frame == frame and sent.label in ("open", "chunk")
        )
