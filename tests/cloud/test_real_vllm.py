"""A real vLLM against the model in process, with the bundled model.

``LATENTBUS_VLLM`` names the environment of ``scripts/vllm.sh install``; without it there is none to test.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from cloud_workers.inference.backend import InferenceAnswer, InferenceItem
from cloud_workers.inference.in_process import InProcessBackend
from cloud_workers.inference.registry import load_model
from cloud_workers.inference.vllm.backend import VllmBackend, check_server
from cloud_workers.inference.vllm.language_model import export_language_model
from cloud_workers.inference.vllm.prompt_embeddings import load_prompt_embeddings
from pipeline.codec.bundled import bundled_vlm_dir
from pipeline.config.serving_settings import VllmSettings
from pipeline.scenes.renderer import render
from pipeline.scenes.scene import sample_scene
from schemas.types import AnswerType
from tests.cloud.engines import THREAD

ENVIRONMENT = os.environ.get("LATENTBUS_VLLM")
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "vllm.sh"
START_S = 240
PROBABILITY_TOLERANCE = 0.001
ENTROPY_TOLERANCE_NATS = 0.01

pytestmark = [
    pytest.mark.skipif(ENVIRONMENT is None, reason="no vLLM: sh scripts/vllm.sh install FOLDER, LATENTBUS_VLLM=FOLDER"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Address of a server and the name of its model."""
    folder = tmp_path_factory.mktemp("language")
    name = export_language_model(bundled_vlm_dir(), folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["sh", str(SCRIPT), "start", str(ENVIRONMENT), str(folder), str(port)]
    with (folder / "vllm.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            yield f"http://127.0.0.1:{port}", name
        finally:
            # Its engine is a process of its own, in the same group.
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    print((folder / "vllm.log").read_text()[-4_000:])


async def test_answers_and_scores_are_those_of_the_model_in_process(
    served: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud_workers.inference.vllm.backend.START_TRIES", START_S)
    url, name = served
    settings = VllmSettings(url=url, timeout_s=120)
    prompts = load_prompt_embeddings(bundled_vlm_dir())
    await check_server(settings, prompts, name)
    vlm = load_model(bundled_vlm_dir())
    pictures = np.stack([render(sample_scene(85_000_000 + number), vlm.frame_size_px) for number in range(4)])
    frames = await THREAD.call(vlm.encode_pixels, pictures)
    asked = [
        InferenceItem(frame, text, kind)
        for frame in frames
        for text, kind in (
            ("Is there a car?", AnswerType.YES_NO),
            ("How many people are there?", AnswerType.COUNT),
            ("What color is the car?", AnswerType.WORD),
            ("What is there?", AnswerType.TEXT),
        )
    ]
    expected = await InProcessBackend(vlm, THREAD).submit(asked)
    backend = VllmBackend(settings, prompts, THREAD, model=name)
    try:
        found = await backend.submit(asked)
        wide = InferenceItem(torch.zeros(prompts.prompts.placeholder_count, 7), "a", AnswerType.WORD)
        (refused,) = await backend.submit([wide])
    finally:
        await backend.close()
    assert not isinstance(refused, InferenceAnswer)
    for one, other in zip(expected, found, strict=True):
        assert isinstance(one, InferenceAnswer)
        assert isinstance(other, InferenceAnswer), other
        assert (other.text, other.token_count) == (one.text, one.token_count)
        assert other.probability == pytest.approx(one.probability, abs=PROBABILITY_TOLERANCE)
        assert other.margin == pytest.approx(one.margin, abs=PROBABILITY_TOLERANCE)
        assert other.entropy_nats == pytest.approx(one.entropy_nats, abs=ENTROPY_TOLERANCE_NATS)
