"""The calibrated stop rule of a codec folder, ``stop.json``."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.codec.spec import STOP_FILE
from pipeline.protocol.stop_rule import StopRule
from schemas.errors import ArtifactError


def load_stop_rule(codec_dir: Path) -> StopRule:
    """The stop rule of a codec folder.

    Raises:
        ArtifactError: missing or wrong; the message names the command that makes it.
    """
    path = codec_dir / STOP_FILE
    try:
        return StopRule.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ArtifactError(str(path), f"no usable stop rule ({error}); run `latentbus codec calibrate-stop`") from None
