"""A picture with the things that were found in it: a box and a name for each, and its mask in the box's colour."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diptych.core.data.detections import Detection
from diptych.core.report.segmentation_pictures import class_colours

SHORTEST_SIDE = 320
STRENGTH = 0.5
TEXT, HALO = (255, 255, 255), (24, 24, 24)


def with_detections(
    picture: np.ndarray, detections: Sequence[Detection], masks: Sequence[np.ndarray | None] = ()
) -> np.ndarray:
    """The picture with everything drawn on it, uint8 [height, width, 3].

    Things of one name have one colour. A small picture is first enlarged by a whole number, so that names can be read.

    Args:
        picture: uint8 [height, width, 3].
        masks: for each detection bool [height, width] of the picture, or None.
    """
    times = max(1, -(-SHORTEST_SIDE // max(picture.shape[:2])))
    shown = np.repeat(np.repeat(picture, times, axis=0), times, axis=1)
    names = list(dict.fromkeys(one.label for one in detections))
    colours = [tuple(class_colours(len(names))[names.index(one.label)].tolist()) for one in detections]
    for mask, colour in zip(masks, colours, strict=False):
        if mask is not None:
            inside = np.repeat(np.repeat(mask, times, axis=0), times, axis=1)
            shown[inside] = (shown[inside] * (1 - STRENGTH) + np.array(colour) * STRENGTH).round().astype(np.uint8)
    sheet = Image.fromarray(shown)
    pen = ImageDraw.Draw(sheet)
    line = max(2, round(max(sheet.size) / 200))
    font = ImageFont.load_default(max(12, round(max(sheet.size) / 32)))
    corners = [one.pixel_box(sheet.height, sheet.width) for one in detections]
    for (top, left, bottom, right), colour in zip(corners, colours, strict=True):
        right, bottom = max(left, right - 1), max(top, bottom - 1)
        pen.rectangle((left, top, right, bottom), outline=HALO, width=line + 2)
        pen.rectangle((left, top, right, bottom), outline=colour, width=line)
    for (top, left, _, _), colour, one in zip(corners, colours, detections, strict=True):
        if one.label:
            _name(pen, sheet, one.label, (left, top), colour, font)
    return np.asarray(sheet)


def _name(pen: ImageDraw.ImageDraw, sheet: Image.Image, label: str, corner: tuple[int, int], colour, font) -> None:
    """A name on a plate of its colour: above the box, or inside where there is no room above."""
    left, top, right, bottom = pen.textbbox((0, 0), label, font=font)
    width, height = right - left + 8, bottom - top + 6
    x = int(min(corner[0], max(0, sheet.width - width)))
    y = int(corner[1] - height if corner[1] >= height else corner[1])
    pen.rectangle((x, y, x + width, y + height), fill=colour)
    pen.text((x + 4 - left, y + 3 - top), label, fill=TEXT, font=font, stroke_width=1, stroke_fill=HALO)
