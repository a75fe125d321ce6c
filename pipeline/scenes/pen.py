"""A pen that draws one object on a transparent tile, in a local frame of [-1, 1] x [-1, 1] with y downwards."""

from __future__ import annotations

from typing import TypeAlias

from PIL import Image, ImageDraw

Rgb: TypeAlias = tuple[int, int, int]
Point: TypeAlias = tuple[float, float]


def shade(rgb: Rgb, factor: float) -> Rgb:
    """Darken (factor below 1) or lighten (above 1, towards white) a colour."""
    if factor <= 1:
        return int(rgb[0] * factor), int(rgb[1] * factor), int(rgb[2] * factor)
    share = min(factor - 1, 1)
    red, green, blue = (int(value + (255 - value) * share) for value in rgb)
    return red, green, blue


class Pen:
    """Draws in an object's local frame.

    Args:
        size: Width and height of the tile in pixels.
        faces_left: Mirror the drawing; it faces right otherwise.
    """

    def __init__(self, size: tuple[int, int], *, faces_left: bool) -> None:
        self.tile = Image.new("RGBA", size)
        self._draw = ImageDraw.Draw(self.tile)
        self._half = (size[0] - 1) / 2, (size[1] - 1) / 2
        self._mirror = -1.0 if faces_left else 1.0

    def _map(self, x: float, y: float) -> Point:
        return self._half[0] * (1 + self._mirror * x), self._half[1] * (1 + y)

    def _box(self, x0: float, y0: float, x1: float, y1: float) -> tuple[float, float, float, float]:
        (left, top), (right, bottom) = self._map(x0, y0), self._map(x1, y1)
        return min(left, right), top, max(left, right), bottom

    def polygon(self, points: list[Point], fill: Rgb) -> None:
        """Fill a polygon."""
        self._draw.polygon([self._map(x, y) for x, y in points], fill=fill)

    def rect(self, x0: float, y0: float, x1: float, y1: float, fill: Rgb) -> None:
        """Fill a rectangle."""
        self._draw.rectangle(self._box(x0, y0, x1, y1), fill=fill)

    def ellipse(self, x0: float, y0: float, x1: float, y1: float, fill: Rgb) -> None:
        """Fill an ellipse given by its bounding box."""
        self._draw.ellipse(self._box(x0, y0, x1, y1), fill=fill)

    def half_ellipse(self, x0: float, y0: float, x1: float, y1: float, fill: Rgb) -> None:
        """Fill the upper half of an ellipse given by its bounding box."""
        self._draw.pieslice(self._box(x0, y0, x1, y1), 180, 360, fill=fill)

    def disc(self, x: float, y: float, radius: float, fill: Rgb) -> None:
        """Fill a true circle; the radius is in half heights."""
        pixels = radius * self._half[1]
        cx, cy = self._map(x, y)
        self._draw.ellipse((cx - pixels, cy - pixels, cx + pixels, cy + pixels), fill=fill)

    def ring(self, x: float, y: float, radius: float, width: float, color: Rgb) -> None:
        """Draw a true circle's outline; radius and line width are in half heights."""
        pixels = radius * self._half[1]
        cx, cy = self._map(x, y)
        thickness = max(round(width * self._half[1]), 2)
        self._draw.ellipse((cx - pixels, cy - pixels, cx + pixels, cy + pixels), outline=color, width=thickness)

    def line(self, points: list[Point], width: float, fill: Rgb) -> None:
        """Draw a polyline; the width is in half heights."""
        thickness = max(round(width * self._half[1]), 2)
        self._draw.line([self._map(x, y) for x, y in points], fill=fill, width=thickness, joint="curve")
