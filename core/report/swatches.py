"""The legend of a figure whose colours are not those of the style sheet: names, each behind a patch of its colour."""

from collections.abc import Sequence

from diptych.core.report.charts.markup import Markup, element

STYLE = ".swatches li::before{background:var(--swatch)}\n"

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""


def swatches(legend: Sequence[tuple[str, Colour]]) -> Markup:
    """A list of (name, colour) in the order given; the page needs `STYLE`."""
    entries = [
        element("li", name, style=f"--swatch:rgb({','.join(str(channel) for channel in colour)})")
        for name, colour in legend
    ]
    return element("ul", entries, class_="legend swatches")
