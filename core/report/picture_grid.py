"""Pictures with lines of text under them, in rows and columns, as one picture to be kept as a PNG.

The lettering is Pillow's own, which has Latin letters alone: phrases of other scripts are for the pages.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

SIDE, GAP, MARGIN = 192, 10, 16
TEXT, LINE = 14, 19
GROUND: Colour = (244, 245, 247)
INK: Colour = (22, 25, 29)
MUTED: Colour = (90, 99, 112)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One picture of a grid, and what stands under it: the first line in ink, the others in grey."""

    picture: np.ndarray  # uint8 [height, width, 3]
    lines: tuple[str, ...] = ()


def picture_grid(
    rows: Sequence[Sequence[Cell]],
    *,
    headings: Sequence[str] = (),
    legend: Sequence[tuple[str, Colour]] = (),
    side: int = SIDE,
) -> np.ndarray:
    """Rows of pictures, each fitted into a square, with headings above the columns and a legend at the foot.

    Args:
        rows: of cells; they may differ in length.
        headings: of the columns, or none.
        legend: (name, colour) of each swatch.
        side: pixels of a picture's longer side.

    Returns:
        uint8 [height, width, 3]; `heat_map.png` makes a file of it.

    Raises:
        ValueError: no picture.
    """
    columns = max((len(row) for row in rows), default=0)
    if not columns:
        raise ValueError("a grid needs at least one picture, got none.")
    lines = [max(len(cell.lines) for cell in row) for row in rows if row]
    width = 2 * MARGIN + columns * (side + GAP) - GAP
    font = ImageFont.load_default(TEXT)
    places, foot = _legend_places(legend, font, width)
    height = 2 * MARGIN + bool(headings) * (LINE + 4) + len(lines) * (side + GAP) - GAP
    height += sum(count * LINE + 4 for count in lines if count) + foot
    sheet = Image.new("RGB", (width, height), GROUND)
    pen = ImageDraw.Draw(sheet)
    top = MARGIN
    if headings:
        for column, heading in enumerate(headings):
            pen.text((MARGIN + column * (side + GAP), top), heading, INK, font)
        top += LINE + 4
    for row, count in zip([row for row in rows if row], lines, strict=True):
        for column, cell in enumerate(row):
            left = MARGIN + column * (side + GAP)
            picture = fitted(cell.picture, side)
            sheet.paste(picture, (left + (side - picture.width) // 2, top + (side - picture.height) // 2))
            for line, text in enumerate(cell.lines):
                colour = MUTED if line else INK
                pen.text((left, top + side + 4 + line * LINE), _cut(text, font, side), colour, font)
        top += side + GAP + (count * LINE + 4 if count else 0)
    for (name, colour), (left, down) in zip(legend, places, strict=True):
        pen.rounded_rectangle((left, top + down + 3, left + 12, top + down + 15), 3, colour)
        pen.text((left + 18, top + down), name, MUTED, font)
    return np.asarray(sheet)


def fitted(picture: np.ndarray, side: int) -> Image.Image:
    """A picture uint8 [height, width, 3] made as large as fits into a square of `side` pixels."""
    image = Image.fromarray(picture)
    share = side / max(image.size)
    size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    return image.resize(size, Image.Resampling.LANCZOS if share < 1 else Image.Resampling.BICUBIC)


def _legend_places(
    legend: Sequence[tuple[str, Colour]], font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> tuple[list[tuple[int, int]], int]:
    """Where each entry stands from the top of the legend, in as many lines as the width needs; and the height of all."""
    places, left, line = [], MARGIN, 0
    for name, _ in legend:
        length = 18 + int(font.getlength(name)) + 18
        if left > MARGIN and left + length > width - MARGIN:
            left, line = MARGIN, line + 1
        places.append((left, line * LINE))
        left += length
    return places, (line + 1) * LINE + 4 if legend else 0


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, or as much of its beginning as fits, with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip()}…"
