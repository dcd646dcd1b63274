"""Figures of means over seeds: panels side by side, in which curves go through means with their intervals."""

from collections.abc import Sequence

from diptych.core.report.charts.axes import Scale, path
from diptych.core.report.charts.markup import Markup, element
from diptych.core.report.charts.style import COLOURS, FIGURES
from diptych.core.report.seeds import Mean

PANEL_WIDTH, PANEL_HEIGHT, MARGIN = 400, 270, 18


def side_by_side(title: str, panels: Sequence[tuple[str, Markup]]) -> str:
    """One SVG of panels of PANEL_WIDTH x PANEL_HEIGHT, each below its title."""
    parts = []
    for place, (heading, panel) in enumerate(panels):
        left = MARGIN + place * (PANEL_WIDTH + 2 * MARGIN)
        parts.append(element("text", heading, x=left + 2, y=MARGIN + 14, class_="title"))
        size = f'x="{left}" y="{MARGIN + 26}" width="{PANEL_WIDTH}" height="{PANEL_HEIGHT}"'
        parts.append(Markup(panel.replace("<svg", f"<svg {size}", 1)))
    width, height = len(panels) * (PANEL_WIDTH + 2 * MARGIN), PANEL_HEIGHT + 2 * MARGIN + 26
    return element(
        "svg",
        element("title", title),
        element("style", Markup(COLOURS + FIGURES)),
        element("rect", x=0.5, y=0.5, width=width - 1, height=height - 1, rx=12, class_="panel"),
        parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
    )


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
