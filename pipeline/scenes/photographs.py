"""Frames of real photographs: mosaics, and pictures cut into rendered scenes, with what can be asked about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.scenes.catalogue import COLORS, KINDS, MAX_COUNT
from pipeline.scenes.photo_library import EDGE_PX, PhotoLibrary, Split
from pipeline.scenes.questions import Framed
from pipeline.scenes.renderer import render
from pipeline.scenes.scene import Scene, SceneObject, sample_scene

__all__ = ["PhotoLibrary", "PhotoObject", "PhotoScene", "sample_photo_scene"]

_GRIDS: Final = ((1, 1), (1, 2), (2, 2), (2, 2), (2, 3), (3, 2), (3, 3), (3, 3), (4, 4))
_MOSAIC_SHARE: Final = 0.6
_EMPTY_SHARE: Final = 0.12
_REPEAT_SHARE: Final = 0.4
_CUT_IN_EDGE: Final = (0.22, 0.5)
_FRAME_SHARE: Final = 0.06
_FILTERS: Final = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)


@dataclass(frozen=True, slots=True)
class PhotoObject(Framed):
    """One photograph in a frame. Coordinates are shares of the frame, origin at the top left.

    Attributes:
        kind: Its class.
        color: Colour of its frame, key of `COLORS`; None without a frame.
        x: Centre, horizontally.
        y: Centre, vertically.
        size: Edge.
        moving: Pictures do not move.
    """

    kind: str
    color: str | None
    x: float
    y: float
    size: float
    moving: bool = False

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Bounding box (left, top, right, bottom) as shares of the frame."""
        half = self.size / 2
        return self.x - half, self.y - half, self.x + half, self.y + half


@dataclass(frozen=True, slots=True)
class PhotoScene:
    """What a frame of photographs shows.

    Attributes:
        objects: Photographs, after the rendered objects around them.
        kinds: Every kind that could be asked about.
        colored_kinds: Those among them whose objects have a colour of their own: the rendered ones.
    """

    objects: tuple[SceneObject | PhotoObject, ...]
    kinds: tuple[str, ...]
    colored_kinds: tuple[str, ...]


def sample_photo_scene(
    seed: int, library: PhotoLibrary, split: Split, size: int = 256
) -> tuple[NDArray[np.uint8], PhotoScene]:
    """Draw a frame of photographs: a mosaic, or pictures in coloured frames within a rendered scene.

    Photographs of the training part are mirrored, cropped and tinted at random.

    Args:
        seed: Same seed and library, same frame.
        library: Where photographs come from.
        split: Which part of it.
        size: Height and width of the frame in pixels.

    Returns:
        RGB frame, uint8 [size, size, 3], and what it shows.
    """
    rng = np.random.default_rng([seed, 41])
    photos, labels = library.part(split)
    draw = _Drawer(rng, library.classes, photos, labels, augment=split == "train")
    return draw.mosaic(size) if rng.random() < _MOSAIC_SHARE else draw.cut_ins(seed, size)


class _Drawer:
    def __init__(
        self,
        rng: np.random.Generator,
        classes: Sequence[str],
        photos: NDArray[np.uint8],
        labels: NDArray[np.int64],
        *,
        augment: bool,
    ) -> None:
        self._rng = rng
        self._classes = tuple(classes)
        self._photos = photos
        self._labels = labels
        self._augment = augment
        repeated = rng.random() < _REPEAT_SHARE
        self._repeated = int(rng.integers(len(self._classes))) if repeated else None
        self._seen: dict[int, int] = {}

    def _choose(self) -> tuple[NDArray[np.uint8], int] | None:
        """A photograph and its class; about half of them of one class, when the frame is for counting."""
        for _ in range(20):
            index = int(self._rng.integers(len(self._photos)))
            label = int(self._labels[index])
            if self._repeated is not None and label != self._repeated and self._rng.random() < 0.75:
                continue
            if self._seen.get(label, 0) < MAX_COUNT:
                self._seen[label] = self._seen.get(label, 0) + 1
                return self._photos[index], label
        return None

    def _drawn(self, photo: NDArray[np.uint8], edge: int) -> Image.Image:
        rng, image = self._rng, Image.fromarray(photo)
        box = (0.0, 0.0, float(EDGE_PX), float(EDGE_PX))
        if self._augment:
            if rng.random() < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            kept = EDGE_PX * float(rng.uniform(0.78, 1.0))
            left, top = rng.uniform(0, EDGE_PX - kept, size=2).tolist()
            box = (left, top, left + kept, top + kept)
        image = image.resize((edge, edge), _FILTERS[int(rng.integers(3))], box=box)
        if self._augment and rng.random() < 0.6:
            gain, shift = rng.uniform(0.8, 1.2), rng.uniform(-18, 18, size=3)
            image = Image.fromarray(np.clip(np.asarray(image) * gain + shift, 0, 255).astype(np.uint8))
        return image

    def mosaic(self, size: int) -> tuple[NDArray[np.uint8], PhotoScene]:
        """Photographs in rows and columns, some cells empty."""
        rng = self._rng
        rows, columns = _GRIDS[int(rng.integers(len(_GRIDS)))]
        ground = rng.uniform(20, 235, size=3).astype(np.uint8)
        canvas = Image.new("RGB", (size, size), tuple(int(value) for value in ground))
        cell_w, cell_h = size / columns, size / rows
        edge = int(min(cell_w, cell_h) * rng.uniform(0.8, 1.0))
        objects: list[PhotoObject] = []
        for row in range(rows):
            for column in range(columns):
                empty = rows * columns > 1 and rng.random() < _EMPTY_SHARE
                chosen = None if empty else self._choose()
                if chosen is None:
                    continue
                x = int(column * cell_w + rng.uniform(0, 1) * (cell_w - edge))
                y = int(row * cell_h + rng.uniform(0, 1) * (cell_h - edge))
                canvas.paste(self._drawn(chosen[0], edge), (x, y))
                centre = (x + edge / 2) / size, (y + edge / 2) / size
                objects.append(PhotoObject(self._classes[chosen[1]], None, *centre, edge / size))
        return np.asarray(canvas), PhotoScene(tuple(objects), self._classes, ())

    def cut_ins(self, seed: int, size: int) -> tuple[NDArray[np.uint8], PhotoScene]:
        """Pictures in coloured frames within a rendered scene; what they cover is not drawn."""
        rng = self._rng
        scene: Scene = sample_scene(seed)
        pictures: list[tuple[PhotoObject, Image.Image]] = []
        for _ in range(int(rng.integers(1, 6))):
            chosen = self._choose()
            edge = float(rng.uniform(*_CUT_IN_EDGE))
            color = list(COLORS)[int(rng.integers(len(COLORS)))]
            for _ in range(12):
                x, y = rng.uniform(edge / 2, 1 - edge / 2, size=2).tolist()
                spot = PhotoObject("", color, x, y, edge)
                if chosen and not any(_touch(spot.box, other.box, -0.01) for other, _ in pictures):
                    drawn = self._drawn(chosen[0], max(int(edge * size), 8))
                    pictures.append((replace(spot, kind=self._classes[chosen[1]]), drawn))
                    break
        kept = [
            item
            for item in scene.objects
            if item.kind not in self._classes and not any(_touch(item.box, p.box, 0.0) for p, _ in pictures)
        ]
        canvas = Image.fromarray(render(replace(scene, objects=tuple(kept)), size))
        for picture, image in pictures:
            border = max(round(image.width * _FRAME_SHARE), 2)
            left, top = round(picture.box[0] * size), round(picture.box[1] * size)
            canvas.paste(COLORS[picture.color or "white"], (left, top, left + image.width, top + image.height))
            inner = image.width - 2 * border
            canvas.paste(image.resize((inner, inner), Image.Resampling.BILINEAR), (left + border, top + border))
        rendered = tuple(name for name in KINDS if name not in self._classes)
        objects: tuple[SceneObject | PhotoObject, ...] = (*kept, *(picture for picture, _ in pictures))
        return np.asarray(canvas), PhotoScene(objects, self._classes + rendered, rendered)


def _touch(a: tuple[float, float, float, float], b: tuple[float, float, float, float], margin: float) -> bool:
    return a[0] < b[2] - margin and b[0] < a[2] - margin and a[1] < b[3] - margin and b[1] < a[3] - margin
