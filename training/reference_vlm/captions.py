"""Captions: the text that teaches the language model to read visual tokens before it answers questions."""

from __future__ import annotations

from typing import Final

from pipeline.scenes.catalogue import COUNT_WORDS, KINDS, POSITIONS
from pipeline.scenes.scene import Scene, cell_index

CAPTION_PROMPT: Final = "Describe the image."


def caption_of(scene: Scene) -> str:
    """Describe a scene: "color kind position" of every object in raster order, then how many there are of each kind.

    Raster order is that of the visual tokens, so that the model learns to walk over them.
    """
    ordered = sorted(scene.objects, key=lambda item: (int(item.y * 8), item.x))
    parts = [f" {item.color} {item.kind} {POSITIONS[cell_index(item.x, item.y)]};" for item in ordered]
    counts = [(kind, scene.count(name)) for name, kind in KINDS.items()]
    totals = [f" {COUNT_WORDS[min(n, 6)]} {kind.name if n == 1 else kind.plural}" for kind, n in counts if n]
    return "".join(parts) + " total" + ",".join(totals) + "."
