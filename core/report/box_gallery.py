"""Pictures with the box that a phrase means and the one that was predicted: green the truth, orange the prediction."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from diptych.core.evaluation.localization import THRESHOLD, Box, phrase_ious
from diptych.core.report.charts.markup import Markup, caption_text, element
from diptych.core.report.charts.numbers import shown
from diptych.core.report.charts.sheet import square
from diptych.core.report.charts.thumbnails import Thumbnails
from diptych.core.report.swatches import STYLE as SWATCHES
from diptych.core.report.swatches import Colour, swatches

TRUE: Colour = (24, 190, 120)
PREDICTED: Colour = (255, 128, 16)
HALO: Colour = (255, 255, 255)
LEGEND = (("true box", TRUE), ("predicted box", PREDICTED))
PAGE_SIDE = 320

STYLE = (
    SWATCHES
    + """
ul.boxes{list-style:none;margin:0;padding:0;display:grid;gap:12px;
  grid-template-columns:repeat(auto-fill,minmax(210px,1fr))}
.boxed{background:var(--card);border:1px solid var(--rule);border-radius:14px;padding:10px;display:grid;gap:7px;
  align-content:start;min-width:0}
.boxed .thumb{padding:0;border-color:transparent}
.boxed p{font-size:13.5px;line-height:1.35;overflow-wrap:anywhere}
.boxed .iou{display:flex;justify-content:space-between;font-size:12.5px;color:var(--muted)}
.iou .right{color:var(--pair);font-weight:650}
.iou .wrong{color:var(--wrong);font-weight:650}
"""
)


@dataclass(frozen=True, kw_only=True)
class Located:
    """A phrase about a picture, where the thing is, and where a model says that it is."""

    picture: np.ndarray  # uint8 [height, width, 3]
    phrase: str
    true: Box  # (ymin, xmin, ymax, xmax), 0 to 1
    predicted: Box | None  # None where the model's words could not be read as a box

    @property
    def iou(self) -> float:
        """Intersection over union, 0 without a prediction."""
        return float(phrase_ious([self.predicted], np.array([self.true]))[0][0])


def with_boxes(located: Located, *, side: int = PAGE_SIDE) -> np.ndarray:
    """The picture with its longer side at `side` pixels, and both boxes drawn on it: uint8 [height, width, 3].

    The lines run along the inside of a box, the true one's more than twice as thick, so that equal boxes show both; a
    light rim keeps them apart from any picture.
    """
    sheet = _fitted(located.picture, side)
    pen = ImageDraw.Draw(sheet)
    line = max(2, round(side / 90))
    _box(pen, sheet, located.true, TRUE, 2 * line + 1)
    if located.predicted is not None and np.isfinite(located.predicted).all():
        _box(pen, sheet, located.predicted, PREDICTED, line)
    return np.asarray(sheet)


def box_gallery(located: Sequence[Located], *, threshold: float = THRESHOLD) -> Markup:
    """The gallery for a page: cards of a picture, its phrase and the IoU, which is green from the threshold on.

    Args:
        located: at least one.
        threshold: of a right answer.
    """
    pictures = Thumbnails(np.stack([square(with_boxes(each), PAGE_SIDE) for each in located]), largest=PAGE_SIDE)
    cards = [_card(place, each, pictures, threshold) for place, each in enumerate(located)]
    return Markup(swatches(LEGEND) + element("ul", cards, class_="boxes"))


def _card(place: int, each: Located, pictures: Thumbnails, threshold: float) -> Markup:
    right = each.iou >= threshold
    says = ["IoU ", shown(each.iou, f"{each.iou:.2f}")] if _parsed(each) else ["no box in the answer"]
    return element(
        "li",
        pictures.picture(place, each.phrase),
        element("p", caption_text(each.phrase, limit=120)),
        element(
            "div",
            element("span", says),
            element("span", "✓" if right else "✗", class_="right" if right else "wrong"),
            class_="iou",
        ),
        class_="boxed",
    )


def _parsed(each: Located) -> bool:
    return each.predicted is not None and bool(np.isfinite(each.predicted).all())


def _box(pen: ImageDraw.ImageDraw, sheet: Image.Image, box: Box, colour: Colour, line: int) -> None:
    top, left, bottom, right = np.clip(box, 0, 1) * np.array([sheet.height, sheet.width] * 2)
    corners = (round(float(left)), round(float(top)), round(float(right)) - 1, round(float(bottom)) - 1)
    if corners[0] > corners[2] or corners[1] > corners[3]:
        return
    pen.rectangle(corners, outline=HALO, width=line + 1)
    pen.rectangle(corners, outline=colour, width=line)


def _fitted(picture: np.ndarray, side: int) -> Image.Image:
    """A picture uint8 [height, width, 3] made as large as fits into a square of `side` pixels."""
    image = Image.fromarray(picture)
    share = side / max(image.size)
    size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    return image.resize(size, Image.Resampling.LANCZOS if share < 1 else Image.Resampling.BICUBIC)
