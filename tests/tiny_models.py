"""Writes a tiny model of a real class, with random weights, where a command can load it::

python -m tests.tiny_models llava tiny-llava
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.cloud.tiny_models import FAMILIES


def write_tiny_model(family: str, folder: Path, seed: int = 0) -> Path:
    """A model and its processor in `save_pretrained` format.

    Args:
        family: a ``model_type`` of `tests.cloud.tiny_models.FAMILIES`.
        folder: made if it is not there.
        seed: of the weights.
    """
    model, processor = FAMILIES[family](seed)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", choices=sorted(FAMILIES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write_tiny_model(given.family, given.folder, given.seed)


if __name__ == "__main__":
    main()
