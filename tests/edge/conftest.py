from __future__ import annotations

from pathlib import Path

import pytest

from tests.edge.support import write_codec


@pytest.fixture(scope="session")
def codec_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_codec(tmp_path_factory.mktemp("codec"))
