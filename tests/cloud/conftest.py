from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.cloud.tiny_codec import write_codec, write_vlm


@pytest.fixture(scope="session")
def vlm_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vlm(tmp_path_factory.mktemp("vlm"))


@pytest.fixture(scope="session")
def codec_dir(tmp_path_factory: pytest.TempPathFactory, vlm_dir: Path) -> Path:
    return write_codec(tmp_path_factory.mktemp("codec") / "klt", vlm_dir)


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """On tiny models more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
