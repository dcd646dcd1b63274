"""Pictures decoded and resized by simplejpeg (libjpeg-turbo) and OpenCV: a few grey levels off Pillow's, sooner.

Both are optional: `pip install 'diptych[fast]'`. docs/data.md tells how far the pixels differ, docs/benchmarks.md how
much sooner they come.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from diptych.core.data.image import LYING, ResizeMethod, to_array
from diptych.core.data.image import resize as resize_exactly

MOST_REDUCED = 4.0
"""How many times smaller `resize` makes a side; beyond that its filter would be no faster than Pillow's."""

_DCT_REDUCTIONS = (8, 4, 2)  # libjpeg scales by eighths, but by these alone it is faster than in full


@cache
def libraries() -> tuple[Any, Any]:
    """(simplejpeg, cv2). OpenCV is told to use one thread: pictures are small, and others decode beside it.

    Raises:
        ImportError: one is not installed.
    """
    try:
        import cv2
        import simplejpeg
    except ImportError as error:
        raise ImportError(
            f"Fast decoding needs simplejpeg and OpenCV, and {error.name} is not installed: pip install "
            "'diptych[fast]'. Without them there is --decode exact, which takes longer."
        ) from error
    cv2.setNumThreads(1)
    return simplejpeg, cv2


def reduction(old: tuple[int, int], new: tuple[int, int]) -> int:
    """By how much (1, 2, 4 or 8) a JPEG of `old` = (rows, columns) can be reduced and is still at least as large as
    `new`.
    """
    fits = (by for by in _DCT_REDUCTIONS if old[0] >= by * new[0] and old[1] >= by * new[1])
    return next(fits, 1)


def jpeg_pixels(data: bytes, rows: int, columns: int, by: int = 1) -> np.ndarray | None:
    """A grey or colour JPEG of so many rows and columns as uint8 [rows / by, columns / by, 3], sides rounded up.

    In full the pixels are Pillow's, which uses the same library. None for a file that is damaged in any way, or of
    another size: it is for Pillow to say whether it can be used.
    """
    simplejpeg, _ = libraries()
    try:
        if simplejpeg.decode_jpeg_header(data)[:2] != (rows, columns):
            return None
        return simplejpeg.decode_jpeg(data, min_height=-(-rows // by), min_width=-(-columns // by), strict=True)
    except ValueError:
        return None


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels turned and mirrored as an EXIF orientation (1 to 8) asks, a view."""
    if orientation in (3, 4, 6, 7):
        pixels = pixels[::-1]
    if orientation in (2, 3, 7, 8):
        pixels = pixels[:, ::-1]
    return pixels.swapaxes(0, 1) if orientation in LYING else pixels


def resize(
    image: np.ndarray | Image.Image,
    size: int | tuple[int, int],
    *,
    method: ResizeMethod = "bilinear_antialias",
    extent: tuple[float, float] | None = None,
) -> np.ndarray:
    """As `image.resize`, by OpenCV where the method is bilinear_antialias and no side becomes more than `MOST_REDUCED`
    times smaller, or bilinear, or area and no side becomes longer; else it is that.

    Pillow weighs pixels by a triangle as wide as a new pixel's neighbourhood. A triangle is a smaller one smoothed, so
    for bilinear_antialias the picture is smoothed (`_smoothing`) and then interpolated between two pixels a side. What
    TensorFlow cuts to whole numbers, in bilinear and area, is rounded here: that is all the difference.

    Args:
        extent: rows and columns of `image` that the picture fills, where that is no whole number; the rest is padding.
            For bilinear_antialias alone.
    """
    rows, columns = (size, size) if isinstance(size, int) else size
    pixels = np.ascontiguousarray(image)
    height, width = extent or pixels.shape[:2]
    down, along = height / rows, width / columns
    if method == "bilinear" or (method == "area" and min(down, along) >= 1):
        _, cv2 = libraries()
        way = cv2.INTER_LINEAR if method == "bilinear" else cv2.INTER_AREA
        return cv2.resize(pixels, (columns, rows), interpolation=way)
    if method != "bilinear_antialias":
        return resize_exactly(image, (rows, columns), method=method)
    if max(down, along) > MOST_REDUCED:
        picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
        return to_array(picture.resize((columns, rows), Image.Resampling.BILINEAR, box=(0, 0, width, height)))
    if (rows, columns) == (height, width) == pixels.shape[:2]:
        return pixels
    _, cv2 = libraries()
    if max(down, along) > 1:
        pixels = cv2.sepFilter2D(pixels, -1, _smoothing(along), _smoothing(down), borderType=cv2.BORDER_REPLICATE)
    if (height, width) == pixels.shape[:2]:
        return cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_LINEAR)
    return _warped(pixels, (rows, columns), (along, 0, 0, 0, down, 0), {"borderMode": cv2.BORDER_REPLICATE})


def changed(
    image: np.ndarray,
    size: tuple[int, int],
    affine: Sequence[float] | None,
    fill: tuple[int, int, int],
    matrix: Sequence[float] | None,
) -> np.ndarray:
    """Move, then recolour uint8 [height, width, 3], by Pillow's coefficients; returns uint8 [rows, columns, 3].

    Args:
        size: (rows, columns) of the result.
        affine: a, b, c, d, e, f: the pixel at (x, y) shows what is at (a x + b y + c, d x + e y + f), both measured
            from the upper left corner of the corner pixel; None for no move.
        fill: colour of what lies outside.
        matrix: three rows of four numbers, of red, green, blue and 1; None for no change of colour.
    """
    _, cv2 = libraries()
    if affine is not None:
        image = _warped(image, size, affine, {"borderMode": cv2.BORDER_CONSTANT, "borderValue": fill})
    if matrix is not None:
        # Pillow cuts to whole numbers, OpenCV rounds.
        image = cv2.transform(image, np.reshape(matrix, (3, 4)) - [0, 0, 0, 0.5])
    return image


def _warped(image: np.ndarray, size: tuple[int, int], affine: Sequence[float], border: dict[str, Any]) -> np.ndarray:
    """A bilinear affine map; OpenCV measures places from the middle of the corner pixel."""
    _, cv2 = libraries()
    a, b, c, d, e, f = affine
    centred = np.array([[a, b, (a + b - 1) / 2 + c], [d, e, (d + e - 1) / 2 + f]])
    return cv2.warpAffine(image, centred, size[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, **border)


def _smoothing(scale: float) -> np.ndarray:
    """What makes of interpolation between two pixels a triangle `scale` times as wide: float32, an odd number of taps.

    From 2 on, the wide triangle itself at whole pixels, which is right for whole numbers. Between 1 and 2 that smooths
    too much, because places between two pixels are smooth already; these three taps are those that come nearest to
    Pillow's weights over all places.
    """
    if scale <= 1:
        return np.ones(1, np.float32)
    if scale <= 2:
        side = (1 - 1 / scale) / 2
        return np.array([side, 1 - 2 * side, side], np.float32)
    reach = math.ceil(scale) - 1
    taps = 1 - np.abs(np.arange(-reach, reach + 1)) / scale
    return (taps / taps.sum()).astype(np.float32)
