"""Boxes of image regions: as text that a decoder reads and writes, and how far two of them agree.

A box is written as four whole numbers below `bins`, in plain text, as LocCa does (Wan et al. 2024, arXiv 2403.19596),
whose ablation finds ordinary numbers as good as tokens of their own. Neither LocCa nor SigLIP 2 publishes the order of
the corners; the default is PaliGemma's (Beyer et al. 2024, arXiv 2407.07726), top left first and y before x.
"""

import math
import re
from typing import Literal, get_args

import numpy as np

from diptych.core.data.records import BadExample, Box, check_box

BoxOrder = Literal["yxyx", "xyxy"]
BOX_ORDERS: tuple[BoxOrder, ...] = get_args(BoxOrder)
BINS = 500

_MOST_CHARACTERS = 200
_FOUR_NUMBERS = re.compile(r"[\s,;()\[\]]*([0-9]{1,6})" + r"[\s,;]+([0-9]{1,6})" * 3 + r"[\s,.;()\[\]]*")


def box_text(box: Box, *, bins: int = BINS, order: BoxOrder = "yxyx") -> str:
    """A box as four whole numbers, each round(x * (bins - 1)): "0 0 499 499" is the whole image.

    Args:
        box: (ymin, xmin, ymax, xmax) in [0, 1].
        bins: places along a side, 2 or more; both borders of the image are places.
        order: "yxyx" writes ymin xmin ymax xmax, "xyxy" xmin ymin xmax ymax.

    Raises:
        BadExample: no such box.
        ValueError: unknown order, or less than two bins.
    """
    check_places(bins, order)
    check_box(box)
    ymin, xmin, ymax, xmax = (math.floor(float(side) * (bins - 1) + 0.5) for side in box)
    return f"{ymin} {xmin} {ymax} {xmax}" if order == "yxyx" else f"{xmin} {ymin} {xmax} {ymax}"


def parse_box(text: str, *, bins: int = BINS, order: BoxOrder = "yxyx") -> Box | None:
    """The box (ymin, xmin, ymax, xmax) in [0, 1] that a text spells; no side is off by more than half a bin, 0.5 /
    (bins - 1).

    Reads what a decoder may have written: more white space, commas and brackets are let pass. Anything else, a number
    of `bins` or more, and corners in the wrong order give None.
    """
    check_places(bins, order)
    match = _FOUR_NUMBERS.fullmatch(text) if len(text) <= _MOST_CHARACTERS else None
    if match is None:
        return None
    first, second, third, fourth = (int(number) / (bins - 1) for number in match.groups())
    box = (first, second, third, fourth) if order == "yxyx" else (second, first, fourth, third)
    ymin, xmin, ymax, xmax = box
    return box if ymin <= ymax <= 1 and xmin <= xmax <= 1 else None


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes, pair by pair.

        IoU = |A ∩ B| / (|A| + |B| - |A ∩ B|)

    Args:
        first, second: float [..., 4], shapes that broadcast: give [n, 1, 4] and [m, 4] for all pairs.

    Returns:
        float64 [...]; 0 where a box is empty, or has its corners the wrong way round. NaN where a number is NaN.

    Raises:
        ValueError: the last axis is not 4 long.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape[-1:] != (4,) or second.shape[-1:] != (4,):
        raise ValueError(
            f"boxes must be (ymin, xmin, ymax, xmax) along the last axis, got {list(first.shape)} and "
            f"{list(second.shape)}."
        )
    shared = _area_between(np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:]))
    one, other = _area_between(first[..., :2], first[..., 2:]), _area_between(second[..., :2], second[..., 2:])
    # Corners the wrong way round must not meet a large box either.
    shared = np.where((one == 0) | (other == 0), 0.0, shared)
    union = one + other - shared
    return np.divide(shared, union, out=np.zeros_like(union), where=union != 0)


def _area_between(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    sides = np.maximum(high - low, 0.0)
    return sides[..., 0] * sides[..., 1]


def box_area(boxes: np.ndarray) -> np.ndarray:
    """Height times width, [...], of boxes [..., 4]; 0 where corners are in the wrong order."""
    return np.prod(np.maximum(boxes[..., 2:] - boxes[..., :2], 0.0), axis=-1)


def relative_box(top: float, left: float, bottom: float, right: float, height: float, width: float) -> Box:
    """A box in pixels as fractions of its image, cut to the image; raises `BadExample` (region_box) where nothing of it
    is inside.
    """
    numbers = (top, left, bottom, right, height, width)
    if all(map(math.isfinite, numbers)) and height > 0 and width > 0 and top < bottom and left < right:
        box = (
            max(top / height, 0.0),
            max(left / width, 0.0),
            min(bottom / height, 1.0),
            min(right / width, 1.0),
        )
        if box[0] < box[2] and box[1] < box[3]:
            return box
    raise BadExample("region_box", f"the corners {numbers[:4]} give no box in an image of {width} x {height} pixels")


def check_places(bins: int, order: str) -> None:
    """Raises ValueError unless `bins` is 2 or more and `order` one of BOX_ORDERS."""
    if bins < 2 or order not in BOX_ORDERS:
        raise ValueError(
            f"a box's text needs 2 bins or more and an order of {', '.join(BOX_ORDERS)}, got {bins}, {order!r}"
        )
