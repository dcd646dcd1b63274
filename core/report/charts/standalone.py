"""Stand-alone SVG files: figures for a document, with their own style and ground, in either colour mode."""

from collections.abc import Sequence

from diptych.core.report.charts.markup import Markup, element
from diptych.core.report.charts.style import COLOURS, FIGURES

PANEL_WIDTH, PANEL_HEIGHT, MARGIN = 400, 270, 18


def side_by_side(title: str, panels: Sequence[tuple[str, Markup]]) -> str:
    """One file of panels of PANEL_WIDTH x PANEL_HEIGHT, each below its title."""
    parts = []
    for place, (heading, panel) in enumerate(panels):
        left = MARGIN + place * (PANEL_WIDTH + 2 * MARGIN)
        parts.append(element("text", heading, x=left + 2, y=MARGIN + 14, class_="title"))
        size = f'x="{left}" y="{MARGIN + 26}" width="{PANEL_WIDTH}" height="{PANEL_HEIGHT}"'
        parts.append(Markup(panel.replace("<svg", f"<svg {size}", 1)))
    return document(len(panels) * (PANEL_WIDTH + 2 * MARGIN), PANEL_HEIGHT + 2 * MARGIN + 26, title, parts)


def document(width: float, height: float, title: str, parts: Sequence[Markup], style: str = "") -> str:
    """A file of a size in pixels, with rules for its own classes behind those that all figures share."""
    return element(
        "svg",
        element("title", title),
        element("style", Markup(COLOURS + FIGURES + style)),
        element("rect", x=0.5, y=0.5, width=width - 1, height=height - 1, rx=12, class_="panel"),
        parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
    )
