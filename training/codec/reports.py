"""Reports of earlier runs, which lie beside weights: a damaged one is said before the work, not after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.codec.spec import read_json_file
from schemas.errors import ArtifactError


def read_report(path: Path) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
        ArtifactError: missing, damaged, or no object.
    """
    try:
        return dict(json.loads(read_json_file(path)))
    except OSError as error:
        raise ArtifactError(str(path), f"cannot be read: {error.strerror or error}") from None
    except (ValueError, TypeError, RecursionError):
        raise ArtifactError(str(path), "is no JSON object: damaged; make it again, or delete it") from None
