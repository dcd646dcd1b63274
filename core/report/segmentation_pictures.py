"""A picture, the true classes of its pixels and the predicted ones, side by side, in colours that a legend names."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diptych.core.data.sources.segmentation import IGNORE
from diptych.core.report.charts.markup import Markup, element
from diptych.core.report.charts.sheet import square
from diptych.core.report.charts.thumbnails import Thumbnails
from diptych.core.report.swatches import STYLE as SWATCHES
from diptych.core.report.swatches import Colour, swatches

STRENGTH = 0.65
LUMA = np.array([0.299, 0.587, 0.114])
GOLDEN = 0.6180339887498949  # steps of this share of the circle keep hues apart, however many there are
PAGE_SIDE = 224
HEADINGS = ("picture", "truth", "prediction")

STYLE = (
    SWATCHES
    + """
ul.triples{list-style:none;margin:0;padding:0;display:grid;gap:14px 20px;
  grid-template-columns:repeat(auto-fill,minmax(320px,1fr))}
.triples li{display:grid;grid-template-columns:repeat(3,1fr);gap:6px}
.triples small{font-size:12px;color:var(--muted);text-align:center}
.triples .thumb{padding:0}
"""
)


@dataclass(frozen=True, kw_only=True)
class SegmentationPicture:
    """One picture with its labels."""

    picture: np.ndarray  # uint8 [height, width, 3]
    truth: np.ndarray  # integer [height, width], classes or IGNORE
    predicted: np.ndarray  # integer [height, width], classes


def class_colours(classes: int) -> np.ndarray:
    """A colour for each class, uint8 [classes, 3]: hues by the golden section, in three degrees of lightness.

    The colour of a class does not depend on how many follow it.
    """
    colours = [
        colorsys.hsv_to_rgb((0.58 + place * GOLDEN) % 1.0, (0.85, 0.55, 0.9)[place % 3], (0.95, 0.95, 0.65)[place % 3])
        for place in range(classes)
    ]
    return (255 * np.array(colours).reshape(-1, 3)).round().astype(np.uint8)


def coloured(picture: np.ndarray, labels: np.ndarray, classes: int, *, strength: float = STRENGTH) -> np.ndarray:
    """A picture in grey under the colours of its pixels' classes; those of `IGNORE` stay as they are.

    Args:
        picture: uint8 [height, width, 3].
        labels: integer [height, width], 0 to classes - 1 or `IGNORE`.
        classes: number of classes.
        strength: share of the class's colour, 0 to 1.

    Returns:
        uint8 [height, width, 3].

    Raises:
        ValueError: sizes that do not agree, or labels outside the classes.
    """
    if picture.shape[:2] != labels.shape:
        raise ValueError(f"labels must have the picture's size {list(picture.shape[:2])}, got {list(labels.shape)}.")
    counted = labels != IGNORE
    if counted.any() and not 0 <= labels[counted].min() <= labels[counted].max() < classes:
        raise ValueError(f"labels must be 0 to {classes - 1} or {IGNORE}, got {np.unique(labels)[:10].tolist()}.")
    shown = picture.copy()
    # Grey, so that a class has one hue whatever it lies on.
    grey = picture[counted] @ LUMA
    over = class_colours(classes)[labels[counted]] * strength + grey[:, None] * (1 - strength)
    shown[counted] = over.round().astype(np.uint8)
    return shown


def classes_shown(pictures: Sequence[SegmentationPicture]) -> list[int]:
    """The classes that occur in the truth or the predictions where pixels count, in order."""
    found: set[int] = set()
    for each in pictures:
        counted = each.truth != IGNORE
        found.update(np.unique(each.truth[counted]).tolist(), np.unique(each.predicted[counted]).tolist())
    return sorted(found)


def segmentation_figure(pictures: Sequence[SegmentationPicture], class_names: Sequence[str]) -> Markup:
    """The legend of the classes that occur, then picture, truth and answer in a row each, for a page."""
    shown = [square(picture, PAGE_SIDE) for each in pictures for picture in _three(each, len(class_names))]
    thumbnails = Thumbnails(np.stack(shown), largest=PAGE_SIDE)
    items = [
        element(
            "li",
            [thumbnails.picture(3 * place + part, heading) for part, heading in enumerate(HEADINGS)],
            [element("small", heading) for heading in HEADINGS],
        )
        for place in range(len(pictures))
    ]
    return Markup(swatches(_legend(pictures, class_names)) + element("ul", items, class_="triples"))


def _legend(pictures: Sequence[SegmentationPicture], class_names: Sequence[str]) -> list[tuple[str, Colour]]:
    colours = class_colours(len(class_names)).tolist()
    return [(class_names[number], (*colours[number],)) for number in classes_shown(pictures)]


def _three(each: SegmentationPicture, classes: int) -> list[np.ndarray]:
    predicted = np.where(each.truth == IGNORE, IGNORE, each.predicted)
    return [each.picture, coloured(each.picture, each.truth, classes), coloured(each.picture, predicted, classes)]
