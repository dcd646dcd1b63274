"""Pieces that every section is made of."""

from diptych.core.report.charts.markup import Markup, element, join

# The size at which small figures are drawn: about that of a phone's screen and of a third of the page.
NARROW, HEIGHT = 360, 236

MARK = (
    '<svg class="mark-of-house" viewBox="0 0 34 28" aria-hidden="true"><path class="area-image" d="M1 3 15 7v20L1 '
    '23z"/>'
    '<path class="area-text" d="M33 3 19 7v20l14-4z"/></svg>'
)


def masthead() -> Markup:
    """The mark of the house and its name, above a page's title."""
    return element("p", Markup(MARK), "diptych", class_="house")


def lead(title: str, says: str) -> Markup:
    """Heading of a section and the sentence under it."""
    return join([element("h2", title), element("p", says, class_="lead")])


def legend_figure(title: str, legend: list[tuple[str, str]], figure: Markup, says: str) -> Markup:
    """A panel: title, legend as (style, name), drawing, and how to read it."""
    entries = [element("li", name, class_=style) for style, name in legend]
    return element(
        "figure",
        element("h3", title),
        element("ul", entries, class_="legend"),
        figure,
        element("figcaption", says),
        class_="panel",
    )
