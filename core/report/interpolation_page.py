"""The line between two checkpoints as a table and as a page: what is gained and what is lost at each of its points."""

from collections.abc import Sequence
from typing import Literal, TypedDict

import numpy as np

from diptych.core.report.charts.layout import NARROW, lead
from diptych.core.report.charts.lines import Curve, line_chart
from diptych.core.report.charts.markup import Markup, element, join
from diptych.core.report.charts.numbers import percent, shown
from diptych.core.report.charts.sheet import sheet
from diptych.core.report.tables import text_table

STYLES: dict[Literal["own", "retention"], tuple[str, str]] = {"own": ("image", "other"), "retention": ("text", "wrong")}
"""Styles of the curves: of held-out pairs, and of the retention set."""


class Point(TypedDict):
    """A point of the line, judged: headlines by set and metric."""

    alpha: float  # from 0, before, to 1, after
    own: dict[str, float]  # of what was trained for
    retention: dict[str, float]  # of what should not be forgotten


class Interpolation(TypedDict):
    """An interpolation, whole."""

    format: str
    version: int
    before: str  # names of the models
    after: str
    points: list[Point]
    chosen: float  # alpha of the model that is kept
    reason: str


def interpolation_text(points: Sequence[Point], chosen: float) -> str:
    """A row a point, a column a number; the one that is kept has a star."""
    header = ["alpha", *_names(points)]
    rows = [[_alpha(point, chosen), *(percent(value) for value in _values(point))] for point in points]
    return text_table(header, rows)


def interpolation_page(title: str, results: Interpolation) -> str:
    """An HTML document, headed by the title, that loads nothing and runs nothing."""
    points, chosen = results["points"], results["chosen"]
    summary = [
        f"From {results['before']} (0) to {results['after']} (1) in a straight line of weights; at ",
        shown(chosen, f"{chosen:g}"),
        f" is the model that is kept, {results['reason']}.",
    ]
    figures = [
        element("div", interpolation_figure(points, chosen, width=width, height=height), class_=size)
        for size, width, height in (("wide", 1100, 360), ("narrow", NARROW, 280))
    ]
    entries = [element("li", curve.name, class_=curve.style) for curve in _curves(points)]
    legend = element("ul", entries, class_="legend")
    figure = element("figure", element("h3", "Along the line"), legend, figures, class_="panel")
    return sheet(title, summary, [figure, _table(points, chosen)])


def interpolation_figure(points: Sequence[Point], chosen: float, *, width: float, height: float) -> Markup:
    """Each number over α."""
    alphas = np.array([point["alpha"] for point in points])
    return line_chart(
        alphas,
        _curves(points),
        width=width,
        height=height,
        title="Recall or accuracy along the line",
        x_label=f"α, from before (0) to after (1); kept is {chosen:g}",
        y_label="share right",
        y_percent=True,
        dots=True,
    )


def _curves(points: Sequence[Point]) -> list[Curve]:
    curves = []
    for kind, styles in STYLES.items():
        for place, name in enumerate(points[0][kind]):
            values = np.array([point[kind][name] for point in points])
            curves.append(Curve(name, values, styles[min(place, len(styles) - 1)]))
    return curves


def _table(points: Sequence[Point], chosen: float) -> Markup:
    names = [element("th", name, scope="col", style="text-align:right") for name in _names(points)]
    head = element("tr", element("th", "α", scope="col"), names)
    rows = [
        element(
            "tr",
            element("th", _alpha(point, chosen), scope="row", style="white-space:nowrap"),
            [element("td", shown(value, percent(value)), class_="number") for value in _values(point)],
        )
        for point in points
    ]
    table = element("table", element("thead", head), element("tbody", rows))
    heading = lead("In numbers", "The star marks the point that is kept.")
    return join([heading, element("div", element("div", table, class_="scroll"), class_="panel")])


def _names(points: Sequence[Point]) -> list[str]:
    return [name for kind in STYLES for name in points[0][kind]]


def _values(point: Point) -> list[float]:
    return [value for kind in STYLES for value in point[kind].values()]


def _alpha(point: Point, chosen: float) -> str:
    return f"{point['alpha']:g}{'*' if point['alpha'] == chosen else ''}"
