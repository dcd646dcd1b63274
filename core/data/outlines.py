"""Outlines of things in pictures, in COCO's layouts: polygons, and runs of pixels."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from diptych.core.data.bad_example import BadExample

MAX_PIXELS = 1 << 26


@dataclass(frozen=True)
class Outline:
    """The "segmentation" of an annotation of COCO: polygons [[x, y, x, y, ...], ...] in pixels, or {"size": [height,
    width], "counts": runs}, in a picture of `height` x `width` pixels.
    """

    drawn: Any
    height: int
    width: int

    def mask(self) -> np.ndarray:
        """bool [height, width], where the thing is.

        Runs go down the columns, and begin with one that is outside; as text they are pycocotools' differences, six
        bits a letter. Edges of polygons are Pillow's: pixels on them belong to the thing.

        Raises:
            BadExample: for what is neither.
        """
        if not 0 < self.height * self.width <= MAX_PIXELS:
            raise BadExample("region_outline", f"a picture of {self.height} x {self.width} pixels")
        if isinstance(self.drawn, dict):
            return self._of_runs(self.drawn.get("counts"), self.drawn.get("size"))
        picture = Image.new("1", (self.width, self.height))
        pencil = ImageDraw.Draw(picture)
        for polygon in self.drawn if isinstance(self.drawn, list) else ():
            if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2 or not _numbers(polygon):
                raise BadExample("region_outline", f"a polygon is [x, y, ...] of three points or more: {polygon!r:.60}")
            pencil.polygon([float(number) for number in polygon], fill=1, outline=1)
        return np.asarray(picture)

    def _of_runs(self, counts: Any, size: Any) -> np.ndarray:
        if isinstance(counts, str | bytes):
            counts = _uncompressed(counts.encode("latin1") if isinstance(counts, str) else counts)
        right = isinstance(counts, list) and _numbers(counts) and size == [self.height, self.width]
        if not right or min(counts, default=0) < 0 or sum(counts) != self.height * self.width:
            raise BadExample("region_outline", f"runs do not add up to {self.height} x {self.width} pixels")
        inside = np.arange(len(counts)) % 2 == 1
        return np.repeat(inside, counts).reshape(self.width, self.height).T


def _numbers(values: list) -> bool:
    return all(isinstance(one, int | float) and not isinstance(one, bool) and abs(one) < 1e9 for one in values)


def _uncompressed(text: bytes) -> list[int]:
    """The runs of pycocotools' text: from the third on differences to the one before last."""
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        bits = letter - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs
