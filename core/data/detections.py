"""Things found in pictures, as PaliGemma writes them: boxes of places, codes of masks, names.

    detect    <loc0112><loc0051><loc0898><loc0630> cat ; <loc...> dog
    segment   <loc0112><loc0051><loc0898><loc0630><seg004><seg122>...(16 codes) cat

Beyer et al. 2024, arXiv 2407.07726; big_vision `evaluators/proj/paligemma/transfers/segmentation.py`. Corners are ymin,
xmin, ymax, xmax, each a whole number of 1023 equal steps along its side.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from diptych.core.data.records import Box, check_box
from diptych.core.data.tokenizers.paligemma import CODES, PLACES

STEPS = PLACES - 1
"""Of a side, as big_vision writes and reads boxes. Readers elsewhere divide by 1,024 instead, which moves a corner by a
thousandth of a side at most."""
MASK_CODES = 16
MASK_SIDE = 64

_OBJECT = re.compile(rf"((?:<loc[0-9]{{4}}>){{4}})((?:<seg[0-9]{{3}}>){{{MASK_CODES}}})?\s*(.*)", re.DOTALL)
_EXTRA = re.compile(r"<(?:loc|seg)([0-9]+)>")


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One thing: where it is, what it was called, and the codes of its mask where it has one."""

    box: Box
    label: str
    codes: tuple[int, ...] | None = None

    def pixel_box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) in whole pixels of a picture; bottom and right are the first that are outside."""
        ymin, xmin, ymax, xmax = self.box
        return round(ymin * height), round(xmin * width), round(ymax * height), round(xmax * width)


@dataclass(frozen=True, kw_only=True)
class Detections:
    """What an answer says: the things that could be read, in its order, and the parts that could not."""

    found: tuple[Detection, ...]
    unreadable: tuple[str, ...]


def place_text(box: Box, *, steps: int = STEPS) -> str:
    """A box as four tokens, each corner rounded to the nearest of `steps` + 1 places, the highest of which is 1023.

    Raises:
        BadExample: no such box.
    """
    check_box(box)
    places = np.clip(np.round(np.array(box) * steps), 0, PLACES - 1).astype(int)
    return "".join(f"<loc{place:04}>" for place in places)


def code_text(codes: Sequence[int]) -> str:
    """The codes of a mask as tokens."""
    return "".join(f"<seg{code:03}>" for code in codes)


def parse_detections(text: str, *, steps: int = STEPS) -> Detections:
    """The things in an answer; parts between ";" that are none, whose corners are in the wrong order or whose tokens do
    not exist are returned as they stand. An answer without any token for a place is no detection and one such part.
    """
    found, unreadable = [], []
    for part in filter(None, map(str.strip, text.split(";"))):
        match = _OBJECT.fullmatch(part)
        detection = None if match is None else _detection(match[1], match[2], match[3], steps)
        if detection is None:
            unreadable.append(part)
        else:
            found.append(detection)
    return Detections(found=tuple(found), unreadable=tuple(unreadable))


def _detection(places: str, codes: str | None, label: str, steps: int) -> Detection | None:
    corners = [int(number) for number in _EXTRA.findall(places)]
    numbers = None if codes is None else tuple(map(int, _EXTRA.findall(codes)))
    if max(corners) >= PLACES or (numbers is not None and max(numbers) >= CODES) or _EXTRA.search(label):
        return None
    ymin, xmin, ymax, xmax = (min(corner / steps, 1.0) for corner in corners)
    if not (ymin < ymax and xmin < xmax):
        return None
    return Detection(box=(ymin, xmin, ymax, xmax), label=label, codes=numbers)


def mask_in_picture(mask: np.ndarray, box: tuple[int, int, int, int], height: int, width: int) -> np.ndarray:
    """A decoded mask in its place: bool [height, width], where the mask, stretched over the box, is above 0.

    Args:
        mask: float [64, 64] in [-1, 1], above 0 where the thing is.
        box: (top, left, bottom, right) in pixels of the picture, of `Detection.pixel_box`.
        height, width: of the picture.
    """
    top, left, bottom, right = box
    whole = np.zeros((height, width), np.bool_)
    if top < bottom and left < right:
        stretched = Image.fromarray(np.asarray(mask, np.float32)).resize(
            (right - left, bottom - top), Image.Resampling.BILINEAR
        )
        whole[top:bottom, left:right] = np.asarray(stretched) > 0
    return whole
