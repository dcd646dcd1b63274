"""Curves through means over seeds, with their intervals."""

from collections.abc import Sequence

from diptych.core.report.charts.axes import Scale, path
from diptych.core.report.charts.markup import Markup, element
from diptych.core.report.seeds import Mean


def curve(points: Sequence[tuple[float, Mean]], y: Scale, colour: str, *, dashed: bool = False) -> list[Markup]:
    """A line through means, which have their intervals, at places in pixels; `colour` is a class of the style sheet."""
    dashes = "5 4" if dashed else None
    line = element(
        "path",
        d=path([(at, float(y(mean.value))) for at, mean in points]),
        class_=f"line {colour}",
        stroke_dasharray=dashes,
    )
    return [line, *(mark for at, mean in points for mark in marked_mean(at, mean, y, colour))]


def marked_mean(at: float, mean: Mean, y: Scale, colour: str) -> list[Markup]:
    """A dot at a mean, and a bar from end to end of its interval, which a single seed has not."""
    bar = []
    if mean.half_width is not None:
        ends = {
            "y1": pixels(float(y(mean.value - mean.half_width))),
            "y2": pixels(float(y(mean.value + mean.half_width))),
        }
        bar = [element("line", x1=pixels(at), x2=pixels(at), **ends, class_=f"line {colour}")]
    return [*bar, dot(at, float(y(mean.value)), colour, 3.4)]


def dot(x: float, y: float, colour: str, radius: float) -> Markup:
    """At a place in pixels."""
    return element("circle", cx=pixels(x), cy=pixels(y), r=radius, class_=f"dot {colour}")


def pixels(value: float) -> str:
    """As coordinates are written."""
    return f"{value:.1f}"
