"""Captions: the text that teaches the language model to read visual tokens before it answers questions."""

from __future__ import annotations

from typing import Final

from pipeline.scenes.catalogue import COUNT_WORDS, KINDS, POSITIONS
from pipeline.scenes.photographs import PhotoScene
from pipeline.scenes.phrasings import plural_of, with_color
from pipeline.scenes.scene import Scene, cell_index

CAPTION_PROMPT: Final = "Describe the image."
_ROWS: Final = 8
_NAMED: Final = 3


def caption_of(scene: Scene | PhotoScene) -> str:
    """Describe a frame: "color kind position;" of every object in raster order, then how many there are of each kind.

    Raster order is that of the visual tokens, so that the model learns to walk over them. Of a picture, the colour is
    that of its frame.
    """
    ordered = sorted(scene.objects, key=lambda item: (int(item.y * _ROWS), item.x))
    parts = []
    for item in ordered:
        moving = " moving" if item.moving else ""
        parts.append(f" {with_color(item.kind, item.color)} {POSITIONS[cell_index(item.x, item.y)]}{moving};")
    names = [*KINDS, *(name for name in scene.kinds if name not in KINDS)]
    counts = [(name, sum(item.kind == name for item in scene.objects)) for name in names]
    totals = [f" {COUNT_WORDS[min(n, 6)]} {name if n == 1 else plural_of(name)}" for name, n in counts if n]
    return "".join(parts) + " total" + ",".join(totals or [" zero"]) + "."


def description_of(scene: Scene | PhotoScene) -> str:
    """One short sentence: light, weather, and the three largest objects with their places."""
    where = "Pictures"
    if isinstance(scene, Scene):
        where = {"day": "By day", "dusk": "At dusk", "night": "At night"}[scene.light]
        where += {"clear": "", "rain": " in rain", "fog": " in fog"}[scene.weather]
    largest = sorted(scene.objects, key=lambda item: -item.size)[:_NAMED]
    named = [
        f"{'an' if with_color(item.kind, item.color)[0] in 'aeiou' else 'a'} {with_color(item.kind, item.color)}"
        f"{' moving' if item.moving else ''} {POSITIONS[cell_index(item.x, item.y)]}"
        for item in largest
    ]
    return f"{where}: {', '.join(named) if named else 'nothing'}."
