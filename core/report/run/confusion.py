"""The confusion of classes, from two to thousands: a table of shades with names, or a map of all."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from diptych.core.evaluation.classification import ConfusedPair, most_confused
from diptych.core.evaluation.zero_shot import Confusion
from diptych.core.report.charts.markup import Markup, caption_text, element, join
from diptych.core.report.charts.numbers import percent, shown
from diptych.core.report.run.matrix import confusion_figure

MOST_NAMED = 40
"""Classes of a table with names; of more, those of the most frequent confusions are named, and all are on a map."""
_NAMED_OF_MANY = 16
_RIGHT, _WRONG = np.array([[38, 120, 178], [205, 62, 48]], np.uint8)
_MAP_PIXELS = 720


def confusion_panel(result: Confusion, title: str = "Confusion") -> Markup:
    """Which classes are taken for which.

    Args:
        result: the confusion.
        title: of the panel.
    """
    classes = len(result["class_names"])
    if classes <= MOST_NAMED:
        return element(
            "figure",
            element("h3", title),
            element("p", "Percent of the images of a row that were taken for a column.", class_="says"),
            _table(result),
            class_="panel wide2",
        )
    confused = most_confused(result)
    named = chosen_classes(result, _NAMED_OF_MANY)
    parts = [
        element("h3", f"{title}: a map of {classes:,} classes"),
        element(
            "p",
            "Rows are true classes and columns answers, in the order of the table of classes. Blue is right, red is "
            "taken for another; the shade is the square root of the share.",
            class_="says",
        ),
        confusion_map(result),
    ]
    if confused:
        parts += [
            element("h3", f"The {len(named)} classes of the most frequent confusions"),
            element("p", "Percent of the images of a row that were taken for a column.", class_="says"),
            element("div", confusion_figure(part_of(result, named), cell=26), class_="scroll"),
            element("h3", "Most frequent confusions"),
            _list(confused),
        ]
    return element("figure", join(parts), class_="panel wide2")


def confusion_map(result: Confusion) -> Markup:
    """A picture with a point for each pair of classes, as wide as the page; among many classes those that nothing was
    taken for show what is beside them.
    """
    confusion = np.asarray(result["confusion"], np.float64)
    images = confusion.sum(axis=1) + np.asarray(result["no_answer"])
    shares = np.sqrt(confusion / np.maximum(images, 1)[:, None])
    right = np.diag(np.diag(shares))
    near_right, near_wrong = (_spread(points, round(len(shares) / _MAP_PIXELS)) for points in (right, shares - right))
    none = shares == 0
    blue = np.where(none, near_right >= near_wrong, right > 0)
    pixels = np.empty((*shares.shape, 4), np.uint8)
    pixels[..., :3] = np.where(blue[..., None], _RIGHT, _WRONG)
    pixels[..., 3] = np.round(255 * np.where(none, np.maximum(near_right, near_wrong), shares))
    times = max(1, _MAP_PIXELS // len(shares))  # whole, so that each class is as large as the next
    file = io.BytesIO()
    Image.fromarray(pixels.repeat(times, axis=0).repeat(times, axis=1), "RGBA").save(file, "PNG", optimize=True)
    address = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    about = f"Map of the confusion of {len(shares):,} classes"
    return element("img", src=address, alt=about, style="width:100%;max-width:760px;border:1px solid var(--rule)")


def _spread(points: np.ndarray, reach: int) -> np.ndarray:
    """The largest value within `reach` of each point, so that a point of a map with more of them than pixels is seen.

    points: [classes, classes].
    """
    for axis in (0, 1):  # the largest of a square is that of the largest of its rows
        padded = np.pad(points, [(reach, reach) if axis == padded_axis else (0, 0) for padded_axis in (0, 1)])
        points = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=axis).max(axis=-1)
    return points


def chosen_classes(result: Confusion, most: int) -> list[int]:
    """The classes of the most frequent confusions, in their own order; at most so many."""
    names = {name: place for place, name in enumerate(result["class_names"])}
    found: dict[int, None] = {}
    for row in most_confused(result, count=most):
        pair = {names[row["class"]]: None, names[row["taken_for"]]: None}
        if len(found | pair) > most:
            break
        found |= pair
    return sorted(found)


def part_of(result: Confusion, chosen: Sequence[int]) -> Confusion:
    """That of some classes; answers of other classes count as none, so that shares stay those of all images."""
    confusion = np.asarray(result["confusion"])
    part = confusion[np.ix_(chosen, chosen)]
    rest = confusion[chosen].sum(axis=1) - part.sum(axis=1) + np.asarray(result["no_answer"])[chosen]
    names = [result["class_names"][place] for place in chosen]
    return {"class_names": names, "confusion": part.tolist(), "no_answer": rest.tolist()}


def _table(result: Confusion) -> Markup:
    classes = len(result["class_names"])
    wide, narrow = max(16, min(40, 360 // classes)), max(9, 225 // classes)
    return join(
        [
            element("div", confusion_figure(result, cell=wide), class_="wide"),
            element("div", confusion_figure(result, cell=narrow, names=92), class_="narrow"),
        ]
    )


def _list(confused: Sequence[ConfusedPair]) -> Markup:
    names = (element("th", name) for name in ("class", "taken for"))
    numbers = (element("th", name, class_="number") for name in ("images", "share"))
    rows = [
        element(
            "tr",
            element("td", caption_text(row["class"])),
            element("td", caption_text(row["taken_for"])),
            element("td", shown(row["images"], f"{row['images']:,}"), class_="number"),
            element("td", shown(row["share"], percent(row["share"])), class_="number"),
        )
        for row in confused
    ]
    return element("table", element("thead", element("tr", *names, *numbers)), element("tbody", rows))
