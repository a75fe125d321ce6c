"""How each kind of object is drawn. Those that walk have a pose: legs spread in motion, side by side at rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pipeline.scenes.pen import Pen, Rgb, shade

_GLASS: Final[Rgb] = (150, 188, 208)
_TYRE: Final[Rgb] = (34, 34, 36)
_HUB: Final[Rgb] = (176, 176, 180)
_SKIN: Final[Rgb] = (222, 172, 136)
_BARK: Final[Rgb] = (104, 72, 44)
_DARK: Final[Rgb] = (52, 54, 62)
_STEEL: Final[Rgb] = (150, 152, 158)


def _wheels(pen: Pen, *xs: float, y: float = 0.72, radius: float = 0.3) -> None:
    for x in xs:
        pen.disc(x, y, radius, _TYRE)
        pen.disc(x, y, radius * 0.45, _HUB)


def _car(pen: Pen, rgb: Rgb) -> None:
    pen.polygon([(-0.62, -0.1), (-0.38, -0.95), (0.3, -0.95), (0.62, -0.1)], shade(rgb, 0.86))
    pen.polygon([(-0.48, -0.1), (-0.3, -0.76), (-0.06, -0.76), (-0.06, -0.1)], _GLASS)
    pen.polygon([(0.04, -0.1), (0.04, -0.76), (0.24, -0.76), (0.46, -0.1)], _GLASS)
    pen.polygon([(-1, -0.05), (-0.9, -0.18), (0.7, -0.18), (0.97, 0.06), (1, 0.66), (-1, 0.66)], rgb)
    pen.rect(-0.98, 0.46, 0.98, 0.66, shade(rgb, 0.7))
    pen.rect(0.88, 0.06, 1.0, 0.26, (250, 240, 190))
    pen.rect(-1.0, 0.02, -0.92, 0.22, (190, 30, 30))
    _wheels(pen, -0.56, 0.56, y=0.66, radius=0.34)


def _truck(pen: Pen, rgb: Rgb) -> None:
    pen.rect(-1, -1, 0.36, 0.55, rgb)
    pen.rect(-1, -1, 0.36, -0.82, shade(rgb, 1.25))
    for x in (-0.72, -0.38, -0.04):
        pen.rect(x, -0.78, x + 0.05, 0.5, shade(rgb, 0.78))
    pen.polygon([(0.44, -0.45), (0.8, -0.45), (1, 0.1), (1, 0.6), (0.44, 0.6)], shade(rgb, 0.8))
    pen.polygon([(0.56, -0.3), (0.76, -0.3), (0.9, 0.08), (0.56, 0.08)], _GLASS)
    pen.rect(-1, 0.55, 1, 0.68, _DARK)
    _wheels(pen, -0.72, -0.32, 0.7, y=0.72, radius=0.28)


def _bus(pen: Pen, rgb: Rgb) -> None:
    pen.rect(-1, -0.95, 1, 0.68, rgb)
    pen.rect(-1, -0.95, 1, -0.8, shade(rgb, 0.75))
    pen.rect(-1, 0.38, 1, 0.68, shade(rgb, 0.7))
    for x in (-0.92, -0.54, -0.16, 0.22):
        pen.rect(x, -0.62, x + 0.29, -0.02, _GLASS)
    pen.rect(0.62, -0.62, 1, 0.12, _GLASS)
    _wheels(pen, -0.58, 0.58, y=0.7, radius=0.28)


def _van(pen: Pen, rgb: Rgb) -> None:
    pen.polygon([(-1, -0.9), (0.4, -0.95), (0.72, -0.2), (1, 0.02), (1, 0.66), (-1, 0.66)], rgb)
    pen.polygon([(0.12, -0.78), (0.36, -0.78), (0.6, -0.2), (0.12, -0.2)], _GLASS)
    pen.rect(-0.98, 0.2, 0.98, 0.3, shade(rgb, 0.6))
    pen.rect(-0.5, -0.9, -0.46, 0.6, shade(rgb, 0.7))
    pen.rect(0.9, 0.08, 1.0, 0.26, (250, 240, 190))
    _wheels(pen, -0.6, 0.6, y=0.7, radius=0.29)


def _motorcycle(pen: Pen, rgb: Rgb) -> None:
    for x in (-0.62, 0.62):
        pen.disc(x, 0.46, 0.52, _TYRE)
        pen.disc(x, 0.46, 0.24, _HUB)
    pen.polygon([(-0.4, 0.4), (-0.2, -0.05), (0.3, -0.05), (0.42, 0.4), (0.1, 0.6), (-0.2, 0.6)], _DARK)
    pen.polygon(
        [(-0.98, -0.12), (-0.86, -0.3), (-0.2, -0.16), (0.1, -0.5), (0.46, -0.46), (0.5, 0.1), (-0.3, 0.16)], rgb
    )
    pen.line([(0.62, 0.46), (0.4, -0.62)], 0.16, _STEEL)
    pen.line([(0.22, -0.78), (0.5, -0.66)], 0.16, _DARK)
    pen.disc(0.56, -0.42, 0.16, (250, 240, 190))


def _bike(pen: Pen, rgb: Rgb) -> None:
    for x in (-0.6, 0.6):
        pen.ring(x, 0.42, 0.56, 0.13, _TYRE)
    pen.line([(-0.6, 0.42), (-0.05, 0.42), (0.4, -0.45), (-0.25, -0.45), (-0.6, 0.42)], 0.26, rgb)
    pen.line([(-0.05, 0.42), (-0.3, -0.62)], 0.22, rgb)
    pen.line([(0.6, 0.42), (0.36, -0.82)], 0.22, rgb)
    pen.line([(-0.48, -0.68), (-0.12, -0.68)], 0.2, _DARK)
    pen.line([(0.22, -0.86), (0.52, -0.92)], 0.18, _DARK)


def _person(pen: Pen, rgb: Rgb, moving: bool) -> None:
    if moving:
        pen.line([(0, 0.2), (0.5, 0.56), (0.72, 0.98)], 0.15, _DARK)
        pen.line([(0, 0.2), (-0.3, 0.6), (-0.86, 0.9)], 0.15, shade(_DARK, 0.8))
        pen.line([(-0.3, -0.4), (-0.86, 0.0)], 0.13, shade(rgb, 0.78))
    else:
        pen.polygon([(-0.42, 0.2), (0.42, 0.2), (0.4, 1), (0.08, 1), (0, 0.45), (-0.08, 1), (-0.4, 1)], _DARK)
    pen.polygon([(-0.6, -0.46), (0.6, -0.46), (0.52, 0.3), (-0.52, 0.3)], rgb)
    if moving:
        pen.line([(0.3, -0.36), (0.62, -0.1), (0.92, -0.26)], 0.13, shade(rgb, 0.7))
    else:
        pen.polygon([(-0.6, -0.46), (-0.42, -0.46), (-0.7, 0.28), (-0.98, 0.22)], shade(rgb, 0.78))
        pen.polygon([(0.6, -0.46), (0.42, -0.46), (0.7, 0.28), (0.98, 0.22)], shade(rgb, 0.78))
    pen.disc(0, -0.73, 0.24, _SKIN)
    pen.ellipse(-0.44, -1.0, 0.44, -0.78, (70, 48, 34))


def _dog(pen: Pen, rgb: Rgb, moving: bool) -> None:
    if moving:
        for x, way in ((-0.5, -0.42), (-0.36, 0.16), (0.3, -0.1), (0.42, 0.46)):
            pen.line([(x, 0.2), (x + way, 0.94)], 0.17, shade(rgb, 0.72))
    else:
        for x in (-0.62, -0.36, 0.22, 0.46):
            pen.rect(x, 0.2, x + 0.18, 1, shade(rgb, 0.72))
    pen.line([(-0.68, -0.05), (-0.96, -0.7)], 0.2, rgb)
    pen.ellipse(-0.8, -0.32, 0.66, 0.52, rgb)
    pen.polygon([(0.3, 0.0), (0.42, -0.6), (0.72, -0.5), (0.7, 0.12)], rgb)
    pen.ellipse(0.36, -0.94, 0.9, -0.22, rgb)
    pen.ellipse(0.66, -0.62, 1.0, -0.28, shade(rgb, 0.85))
    pen.polygon([(0.36, -0.86), (0.52, -0.9), (0.46, -0.3), (0.32, -0.36)], shade(rgb, 0.6))
    pen.ellipse(0.9, -0.58, 1.0, -0.42, (15, 15, 15))
    pen.ellipse(0.6, -0.74, 0.7, -0.6, (245, 245, 245))


def _cat(pen: Pen, rgb: Rgb, moving: bool) -> None:
    if moving:
        for x, way in ((-0.5, -0.4), (-0.3, 0.14), (0.2, -0.1), (0.36, 0.42)):
            pen.line([(x, 0.4), (x + way, 0.95)], 0.14, shade(rgb, 0.75))
        pen.ellipse(-0.74, -0.06, 0.54, 0.58, rgb)
    else:
        pen.ellipse(-0.6, -0.2, 0.4, 1.0, rgb)
        for x in (0.12, 0.34):
            pen.rect(x, 0.3, x + 0.17, 1, shade(rgb, 0.8))
    pen.line([(-0.58, 0.5), (-0.92, 0.2), (-0.86, -0.5), (-0.66, -0.66)], 0.15, shade(rgb, 0.85))
    pen.polygon([(0.02, -0.5), (0.08, -1.0), (0.34, -0.72)], shade(rgb, 0.8))
    pen.polygon([(0.5, -0.72), (0.78, -1.0), (0.84, -0.5)], shade(rgb, 0.8))
    pen.ellipse(0.0, -0.84, 0.88, 0.06, rgb)
    for x in (0.24, 0.58):
        pen.ellipse(x, -0.54, x + 0.13, -0.32, (240, 225, 90))
    pen.polygon([(0.4, -0.22), (0.54, -0.22), (0.47, -0.12)], (214, 120, 130))


def _tree(pen: Pen, rgb: Rgb) -> None:
    pen.polygon([(-0.15, 0.1), (0.15, 0.1), (0.22, 1), (-0.22, 1)], _BARK)
    pen.ellipse(-0.98, -0.42, 0.3, 0.46, shade(rgb, 0.8))
    pen.ellipse(-0.3, -0.42, 0.98, 0.46, shade(rgb, 0.72))
    pen.ellipse(-0.7, -1.0, 0.7, 0.16, rgb)
    pen.ellipse(-0.5, -0.86, 0.1, -0.4, shade(rgb, 1.2))


def _bench(pen: Pen, rgb: Rgb) -> None:
    for x in (-0.86, 0.74):
        pen.rect(x, -0.96, x + 0.1, 1.0, _STEEL)
    for y in (-0.98, -0.6, -0.22):
        pen.rect(-1, y, 1, y + 0.26, rgb)
    pen.polygon([(-0.96, 0.12), (0.96, 0.12), (1, 0.4), (-1, 0.4)], shade(rgb, 0.72))


def _sign(pen: Pen, rgb: Rgb) -> None:
    pen.rect(-0.1, -0.2, 0.1, 1.0, _STEEL)
    pen.polygon([(0, -1), (1, -0.5), (0, 0.02), (-1, -0.5)], (245, 245, 245) if max(rgb) < 235 else _DARK)
    pen.polygon([(0, -0.9), (0.8, -0.5), (0, -0.08), (-0.8, -0.5)], rgb)


def _umbrella(pen: Pen, rgb: Rgb) -> None:
    pen.rect(-0.05, -0.8, 0.05, 0.8, _DARK)
    pen.line([(0, 0.8), (0.1, 0.96), (0.26, 0.9), (0.28, 0.76)], 0.1, _DARK)
    pen.half_ellipse(-1, -0.95, 1, 0.75, rgb)
    pen.half_ellipse(-0.36, -0.95, 0.36, 0.75, shade(rgb, 0.72))
    for x in (-0.68, 0.0, 0.68):
        pen.half_ellipse(x - 0.34, -0.22, x + 0.34, 0.02, shade(rgb, 0.5))


def _suitcase(pen: Pen, rgb: Rgb) -> None:
    pen.line([(-0.4, -0.6), (-0.4, -0.94), (0.4, -0.94), (0.4, -0.6)], 0.12, _STEEL)
    pen.rect(-1, -0.62, 1, 0.84, rgb)
    for x in (-0.62, -0.06, 0.5):
        pen.rect(x, -0.5, x + 0.12, 0.72, shade(rgb, 0.66))
    pen.rect(-1, -0.62, 1, -0.5, shade(rgb, 1.3))
    for x in (-0.7, 0.7):
        pen.disc(x, 0.88, 0.12, _TYRE)


def _barrel(pen: Pen, rgb: Rgb) -> None:
    pen.rect(-0.94, -0.8, 0.94, 0.84, rgb)
    pen.ellipse(-0.94, 0.62, 0.94, 1.0, rgb)
    pen.rect(0.5, -0.8, 0.94, 0.84, shade(rgb, 0.7))
    for y in (-0.4, 0.1, 0.56):
        pen.rect(-0.98, y, 0.98, y + 0.12, shade(rgb, 0.55))
    pen.ellipse(-0.94, -1.0, 0.94, -0.6, shade(rgb, 1.3))
    pen.ellipse(-0.66, -0.92, 0.66, -0.68, shade(rgb, 0.45))


def _box(pen: Pen, rgb: Rgb) -> None:
    pen.polygon([(-1, -0.55), (-0.5, -1), (1, -1), (0.55, -0.55)], shade(rgb, 1.3))
    pen.polygon([(0.55, -0.55), (1, -1), (1, 0.5), (0.55, 1)], shade(rgb, 0.6))
    pen.rect(-1, -0.55, 0.55, 1, rgb)
    pen.rect(-0.36, -0.55, -0.1, 1, (196, 160, 110))
    pen.polygon([(-0.36, -0.55), (0.12, -1), (0.38, -1), (-0.1, -0.55)], (212, 180, 132))


def _cone(pen: Pen, rgb: Rgb) -> None:
    pen.polygon([(-0.16, -1), (0.16, -1), (0.72, 0.72), (-0.72, 0.72)], rgb)
    pen.polygon([(0.0, -1), (0.16, -1), (0.72, 0.72), (0.3, 0.72)], shade(rgb, 0.75))
    pen.polygon([(-0.33, -0.46), (0.33, -0.46), (0.46, -0.06), (-0.46, -0.06)], (206, 206, 210))
    pen.polygon([(-0.98, 0.68), (0.98, 0.68), (0.98, 1), (-0.98, 1)], shade(rgb, 0.85))


def _ball(pen: Pen, rgb: Rgb) -> None:
    pen.ellipse(-1, -1, 1, 1, shade(rgb, 0.68))
    pen.ellipse(-0.98, -0.98, 0.82, 0.82, rgb)
    pen.line([(-0.95, 0.1), (-0.4, 0.34), (0.3, 0.3), (0.93, -0.05)], 0.12, shade(rgb, 0.45))
    pen.ellipse(-0.6, -0.72, -0.12, -0.3, shade(rgb, 1.55))


_DRAW: Final[dict[str, Callable[[Pen, Rgb], None]]] = {
    "car": _car,
    "truck": _truck,
    "bus": _bus,
    "van": _van,
    "motorcycle": _motorcycle,
    "bike": _bike,
    "tree": _tree,
    "bench": _bench,
    "sign": _sign,
    "umbrella": _umbrella,
    "suitcase": _suitcase,
    "barrel": _barrel,
    "box": _box,
    "cone": _cone,
    "ball": _ball,
}
_DRAW_POSED: Final[dict[str, Callable[[Pen, Rgb, bool], None]]] = {"person": _person, "dog": _dog, "cat": _cat}


def draw(kind: str, pen: Pen, rgb: Rgb, *, moving: bool) -> None:
    """Draw an object of a kind.

    Args:
        kind: Key of `KINDS`.
        pen: Draws on the object's tile.
        rgb: Its colour.
        moving: Chooses the pose of those that have legs.
    """
    if kind in _DRAW_POSED:
        _DRAW_POSED[kind](pen, rgb, moving)
    else:
        _DRAW[kind](pen, rgb)
