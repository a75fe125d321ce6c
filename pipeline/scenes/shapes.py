"""How each kind of object is drawn, in a local frame of [-1, 1] x [-1, 1] with y downwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from PIL import ImageDraw

Rgb: TypeAlias = tuple[int, int, int]
Point: TypeAlias = tuple[float, float]

_GLASS: Final[Rgb] = (168, 205, 222)
_TYRE: Final[Rgb] = (34, 34, 36)
_HUB: Final[Rgb] = (176, 176, 180)
_SKIN: Final[Rgb] = (222, 172, 136)
_BARK: Final[Rgb] = (104, 72, 44)
_DARK: Final[Rgb] = (52, 54, 62)


def shade(rgb: Rgb, factor: float) -> Rgb:
    """Darken (factor below 1) or lighten (above 1, towards white) a colour."""
    if factor <= 1:
        return int(rgb[0] * factor), int(rgb[1] * factor), int(rgb[2] * factor)
    share = min(factor - 1, 1)
    red, green, blue = (int(value + (255 - value) * share) for value in rgb)
    return red, green, blue


class Pen:
    """Draws in an object's local frame on a supersampled canvas."""

    def __init__(self, draw: ImageDraw.ImageDraw, *, center: Point, half_size: Point, faces_left: bool) -> None:
        """Bind a canvas to a place.

        Args:
            draw: Canvas in RGBA drawing mode.
            center: Centre of the object in canvas pixels.
            half_size: Half width and half height of its bounding box in canvas pixels.
            faces_left: Mirror the drawing.
        """
        self._draw = draw
        self._center = center
        self._half = half_size
        self._mirror = -1.0 if faces_left else 1.0

    def _map(self, x: float, y: float) -> Point:
        return self._center[0] + self._mirror * x * self._half[0], self._center[1] + y * self._half[1]

    def _box(self, x0: float, y0: float, x1: float, y1: float) -> tuple[float, float, float, float]:
        (left, top), (right, bottom) = self._map(x0, y0), self._map(x1, y1)
        return min(left, right), top, max(left, right), bottom

    def rect(self, x0: float, y0: float, x1: float, y1: float, fill: Rgb) -> None:
        """Fill a rectangle."""
        self._draw.rectangle(self._box(x0, y0, x1, y1), fill=fill)

    def ellipse(self, x0: float, y0: float, x1: float, y1: float, fill: Rgb | tuple[int, int, int, int]) -> None:
        """Fill an ellipse given by its bounding box."""
        self._draw.ellipse(self._box(x0, y0, x1, y1), fill=fill)

    def disc(self, x: float, y: float, radius: float, fill: Rgb) -> None:
        """Fill a true circle; the radius is in half heights."""
        pixels = radius * self._half[1]
        cx, cy = self._map(x, y)
        self._draw.ellipse((cx - pixels, cy - pixels, cx + pixels, cy + pixels), fill=fill)

    def ring(self, x: float, y: float, radius: float, width: float, color: Rgb) -> None:
        """Draw a true circle's outline; radius and line width are in half heights."""
        pixels = radius * self._half[1]
        cx, cy = self._map(x, y)
        box = (cx - pixels, cy - pixels, cx + pixels, cy + pixels)
        self._draw.ellipse(box, outline=color, width=max(round(width * self._half[1]), 2))

    def polygon(self, points: list[Point], fill: Rgb) -> None:
        """Fill a polygon."""
        self._draw.polygon([self._map(x, y) for x, y in points], fill=fill)

    def line(self, points: list[Point], width: float, fill: Rgb) -> None:
        """Draw a polyline; the width is in half heights."""
        thickness = max(round(width * self._half[1]), 2)
        self._draw.line([self._map(x, y) for x, y in points], fill=fill, width=thickness, joint="curve")

    def ground_shadow(self) -> None:
        """Darken the ground under the object."""
        self.ellipse(-0.95, 0.78, 1.0, 1.12, (0, 0, 0, 70))


def _wheels(pen: Pen, *xs: float, y: float = 0.72, radius: float = 0.3) -> None:
    for x in xs:
        pen.disc(x, y, radius, _TYRE)
        pen.disc(x, y, radius * 0.45, _HUB)


def _car(pen: Pen, rgb: Rgb) -> None:
    pen.polygon([(-0.62, -0.1), (-0.38, -0.9), (0.3, -0.9), (0.62, -0.1)], shade(rgb, 0.86))
    pen.polygon([(-0.48, -0.1), (-0.3, -0.72), (-0.06, -0.72), (-0.06, -0.1)], _GLASS)
    pen.polygon([(0.04, -0.1), (0.04, -0.72), (0.24, -0.72), (0.46, -0.1)], _GLASS)
    pen.polygon([(-1, -0.05), (-0.9, -0.18), (0.7, -0.18), (0.97, 0.06), (1, 0.66), (-1, 0.66)], rgb)
    pen.rect(-0.98, 0.46, 0.98, 0.66, shade(rgb, 0.7))
    pen.rect(0.88, 0.06, 1.0, 0.26, (250, 240, 190))
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


def _bike(pen: Pen, rgb: Rgb) -> None:
    for x in (-0.6, 0.6):
        pen.ring(x, 0.42, 0.56, 0.13, _TYRE)
    pen.line([(-0.6, 0.42), (-0.05, 0.42), (0.4, -0.45), (-0.25, -0.45), (-0.6, 0.42)], 0.26, rgb)
    pen.line([(-0.05, 0.42), (-0.3, -0.62)], 0.22, rgb)
    pen.line([(0.6, 0.42), (0.36, -0.82)], 0.22, rgb)
    pen.line([(-0.48, -0.68), (-0.12, -0.68)], 0.2, _DARK)
    pen.line([(0.22, -0.86), (0.52, -0.92)], 0.18, _DARK)


def _person(pen: Pen, rgb: Rgb) -> None:
    pen.polygon([(-0.42, 0.2), (0.42, 0.2), (0.4, 1), (0.08, 1), (0, 0.45), (-0.08, 1), (-0.4, 1)], _DARK)
    pen.polygon([(-0.6, -0.46), (0.6, -0.46), (0.52, 0.3), (-0.52, 0.3)], rgb)
    pen.polygon([(-0.6, -0.46), (-0.42, -0.46), (-0.7, 0.28), (-0.98, 0.22)], shade(rgb, 0.78))
    pen.polygon([(0.6, -0.46), (0.42, -0.46), (0.7, 0.28), (0.98, 0.22)], shade(rgb, 0.78))
    pen.disc(0, -0.73, 0.24, _SKIN)
    pen.ellipse(-0.44, -1.0, 0.44, -0.78, (70, 48, 34))


def _dog(pen: Pen, rgb: Rgb) -> None:
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


def _tree(pen: Pen, rgb: Rgb) -> None:
    pen.polygon([(-0.15, 0.1), (0.15, 0.1), (0.22, 1), (-0.22, 1)], _BARK)
    pen.ellipse(-0.98, -0.42, 0.3, 0.46, shade(rgb, 0.8))
    pen.ellipse(-0.3, -0.42, 0.98, 0.46, shade(rgb, 0.72))
    pen.ellipse(-0.7, -1.0, 0.7, 0.16, rgb)
    pen.ellipse(-0.5, -0.86, 0.1, -0.4, shade(rgb, 1.2))


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


DRAW: Final[dict[str, Callable[[Pen, Rgb], None]]] = {
    "car": _car,
    "truck": _truck,
    "bus": _bus,
    "bike": _bike,
    "person": _person,
    "dog": _dog,
    "tree": _tree,
    "box": _box,
    "cone": _cone,
    "ball": _ball,
}
