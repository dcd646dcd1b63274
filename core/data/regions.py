"""Boxes of image regions: as text that a decoder reads and writes, and how far two of them agree.

A box is written as four whole numbers below `bins`, in plain text, as LocCa does (Wan et al. 2024, arXiv 2403.19596), whose ablation
finds ordinary numbers as good as tokens of their own. Neither LocCa nor SigLIP 2 publishes the order of the corners; the default is
PaliGemma's (Beyer et al. 2024, arXiv 2407.07726), top left first and y before x.
"""

import math
import re
from collections.abc import Sequence
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
    """The box (ymin, xmin, ymax, xmax) in [0, 1] that a text spells; no side is off by more than half a bin, 0.5 / (bins - 1).

    Reads what a decoder may have written: more white space, commas and brackets are let pass. Anything else, a number of
    `bins` or more, and corners in the wrong order give None.
    """
    check_places(bins, order)
    match = _FOUR_NUMBERS.fullmatch(text) if len(text) <= _MOST_CHARACTERS else None
    if match is None:
        return None
    first, second, third, fourth = (int(number) / (bins - 1) for number in match.groups())
    box = (first, second, third, fourth) if order == "yxyx" else (second, first, fourth, third)
    ymin, xmin, ymax, xmax = box
    return box if ymin <= ymax <= 1 and xmin <= xmax <= 1 else None


def iou(boxes: np.ndarray | Sequence, others: np.ndarray | Sequence) -> np.ndarray:
    """Intersection over union, area(a and b) / area(a or b), float64 [...] in [0, 1]; 0 where neither box has an area.

    Args:
        boxes, others: [..., 4], (ymin, xmin, ymax, xmax) in any one unit, broadcast against each other: boxes[:, None] and
            others[None] compare all with all.
    """
    boxes, others = np.asarray(boxes, np.float64), np.asarray(others, np.float64)
    top_left = np.maximum(boxes[..., :2], others[..., :2])
    bottom_right = np.minimum(boxes[..., 2:], others[..., 2:])
    shared = np.prod(np.maximum(bottom_right - top_left, 0.0), axis=-1)
    either = box_area(boxes) + box_area(others) - shared
    return np.divide(shared, either, out=np.zeros_like(shared), where=either > 0)


def box_area(boxes: np.ndarray) -> np.ndarray:
    """Height times width, [...], of boxes [..., 4]; 0 where corners are in the wrong order."""
    return np.prod(np.maximum(boxes[..., 2:] - boxes[..., :2], 0.0), axis=-1)


def relative_box(top: float, left: float, bottom: float, right: float, height: float, width: float) -> Box:
    """A box in pixels as fractions of its image, cut to the image; raises `BadExample` (region_box) where nothing of it is inside."""
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
