"""Write what is generated: ``python -m tests.reference``."""

from __future__ import annotations

import sys

from schemas import export
from tests.reference import ASYNCAPI, documents, refreshed


def main() -> int:
    """Write every generated part that is not current."""
    ASYNCAPI.write_text(export.render(), encoding="utf-8")
    for path in documents():
        text = path.read_text(encoding="utf-8")
        if (current := refreshed(text)) != text:
            path.write_text(current, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
