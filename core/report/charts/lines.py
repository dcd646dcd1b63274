"""Line charts: curves over a common axis, thinned to the pixels, with their values under the pointer."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diptych.core.report.charts.axes import Scale, frame, linear, logarithmic, path, plot_area
from diptych.core.report.charts.markup import Markup, element, join
from diptych.core.report.charts.numbers import compact, percent, significant

# Points that answer to the pointer, per curve: enough for a width of 1,000 pixels.
HOVER_POINTS = 160


@dataclass(frozen=True)
class Curve:
    """One line: `values` [points], NaN where there is none; `style` is a class of the style sheet."""

    name: str
    values: np.ndarray
    style: str = "image"


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Moving average over the finite values, over at most `window` points and at most a sixteenth of those so far.

    s_i = s_(i-1) + (v_i - s_(i-1)) / min(window, 1 + i/16): close to the steep start, quiet in the flat end.
    """
    smoothed = np.full(len(values), np.nan)
    seen, average = 0, np.nan
    for place, value in enumerate(values):
        if np.isfinite(value):
            average = value if seen == 0 else average + (value - average) / min(max(window, 1), 1 + seen / 16)
            seen += 1
        smoothed[place] = average
    return smoothed


def line_chart(
    x_values: np.ndarray,
    curves: Sequence[Curve],
    *,
    width: float,
    height: float,
    title: str,
    x_label: str,
    y_label: str,
    x_log: bool = False,
    y_log: bool = False,
    y_percent: bool = False,
    include: Sequence[float] = (),
    faint: Curve | None = None,
    dots: bool = False,
    legend: bool = False,
    places: Mapping[str, float] | None = None,
) -> Markup:
    """Curves over a common axis; the pointer shows their values where scripts run.

    Args:
        x_values: [points], increasing; a linear axis starts at 0.
        curves: drawn over each other, the first one on top.
        include: values that the y axis must show.
        faint: a curve drawn thin behind the others, such as the raw loss.
        dots: mark every point, for few of them.
        legend: names within the figure, at the end of the lines.
        places: named values of x, each marked by a line from top to bottom; those beyond the axis are left out.
    """
    drawn = [*([faint] if faint else []), *curves]
    x = logarithmic(x_values) if x_log else linear(x_values, include=(0.0, float(np.nanmax(x_values))))
    every = np.concatenate([curve.values for curve in drawn])
    y = logarithmic(every, include=include) if y_log else linear(every, include=include)
    x, y = plot_area(width, height, x, y)
    marks: list[object] = [
        _place(name, float(x(value)), y) for name, value in (places or {}).items() if x.low < value < x.high
    ]
    if faint:
        marks.append(_line(x, y, x_values, faint, "faint", thin_out=True))
    for curve in reversed(curves):
        marks.append(_line(x, y, x_values, curve, "line", thin_out=False))
        if dots:
            marks.extend(
                element("circle", cx=_px(px), cy=_px(py), r=2.6, class_=f"dot {curve.style}")
                for px, py in _points(x, y, x_values, curve.values)
            )
    if legend:
        marks.append(_names_at_the_end(x, y, x_values, curves))
    return frame(
        width,
        height,
        x,
        y,
        marks,
        title=title,
        x_label=x_label,
        y_label=y_label,
        y_percent=y_percent,
        data_hover=_hover(x, y, x_values, curves, x_label, y_percent),
    )


def _place(name: str, at: float, y: Scale) -> Markup:
    """A line from top to bottom at a pixel, with its name beside it."""
    line = element("line", x1=_px(at), x2=_px(at), y1=_px(y.start), y2=_px(y.stop), class_="place")
    return join([line, element("text", name, x=_px(at + 5), y=_px(y.stop + 10), class_="tick")])


def _line(x: Scale, y: Scale, x_values: np.ndarray, curve: Curve, role: str, *, thin_out: bool) -> Markup:
    points = _points(x, y, x_values, curve.values)
    points = _extremes(points) if thin_out else _every_pixel(points)
    return element("path", d=path(points), class_=f"{role} {curve.style}")


def _points(x: Scale, y: Scale, x_values: np.ndarray, values: np.ndarray) -> list[tuple[float, float]]:
    finite = np.isfinite(values) & np.isfinite(x_values)
    return list(zip(x(x_values[finite]).tolist(), y(values[finite]).tolist(), strict=True))


def _extremes(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The lowest and the highest point of each pixel column, in order of x."""
    columns: dict[int, list[tuple[float, float]]] = {}
    for point in points:
        columns.setdefault(int(point[0]), []).append(point)
    kept = []
    for group in columns.values():
        kept.extend(sorted({min(group, key=lambda p: p[1]), max(group, key=lambda p: p[1])}))
    return kept


def _every_pixel(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points without those within a pixel of the one before, except the last."""
    kept: list[tuple[float, float]] = []
    for point in points:
        if not kept or point[0] - kept[-1][0] >= 1:
            kept.append(point)
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]


def _names_at_the_end(x: Scale, y: Scale, x_values: np.ndarray, curves: Sequence[Curve]) -> list[Markup]:
    """The name of each curve, left of its last point and above it, moved down where two would overlap."""
    ends = [(points[-1][1], curve) for curve in curves if (points := _points(x, y, x_values, curve.values))]
    labels, lowest = [], -np.inf
    for at, curve in sorted(ends, key=lambda end: end[0]):
        at = max(at - 7, lowest + 13)
        lowest = at
        labels.append(
            element("text", curve.name, x=_px(x.stop - 4), y=_px(at), text_anchor="end", class_=f"name {curve.style}")
        )
    return labels


def _hover(x: Scale, y: Scale, x_values: np.ndarray, curves: Sequence[Curve], x_label: str, y_percent: bool) -> str:
    """Pixels and texts of at most `HOVER_POINTS` places, for the script."""
    chosen = np.unique(
        np.searchsorted(x(x_values), np.linspace(x.start, x.stop, HOVER_POINTS)).clip(0, len(x_values) - 1)
    )
    written = percent if y_percent else lambda value: significant(value, 4)
    return json.dumps(
        {
            "x": [round(float(at), 1) for at in x(x_values[chosen])],
            "place": [f"{compact(float(value))} {x_label.split(',')[0]}" for value in x_values[chosen]],
            "curves": [
                {
                    "name": curve.name,
                    "style": curve.style,
                    "y": [round(float(at), 1) if np.isfinite(at) else None for at in y(curve.values[chosen])],
                    "text": [written(float(value)) for value in curve.values[chosen]],
                }
                for curve in curves
            ],
        },
        separators=(",", ":"),
        ensure_ascii=False,
    )


def _px(value: float) -> str:
    return f"{value:.1f}"
