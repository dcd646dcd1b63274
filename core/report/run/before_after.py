"""The section that compares a run's end with its checkpoint: numbers, and the finds of the same captions."""

import numpy as np

from diptych.core.report.charts.layout import lead
from diptych.core.report.charts.markup import Markup, element, join
from diptych.core.report.charts.numbers import shown as value_of
from diptych.core.report.charts.thumbnails import Thumbnails
from diptych.core.report.run.contents import ReportData, Samples
from diptych.core.report.run.gallery import MISTAKE_QUERIES, choose_queries, compared_gallery, nearest_images
from diptych.core.report.verdict import quantity_title
from diptych.core.training.best import shown


def before_and_after(data: ReportData, thumbnails: Thumbnails | None) -> tuple[str, str, Markup] | None:
    """(anchor, title, content); None for a run that began with fresh weights."""
    if not data.changes and data.before is None:
        return None
    says = "The checkpoint that the run began from, and the model at its end, on the same data."
    parts = [lead("Before and after", says)]
    if data.changes:
        parts.append(element("div", _numbers(data), class_="panel"))
    if data.before is not None and data.samples is not None and thumbnails is not None:
        galleries = _galleries(data.samples.as_before(data.before), data.samples, thumbnails)
        parts.append(element("div", galleries, class_="panel below"))
    return "before-and-after", "Before and after", join(parts)


def found_at_once(samples: Samples) -> np.ndarray:
    """Whether the nearest image of each caption of the main language is a right one, bool [captions]; of at most
    `MISTAKE_QUERIES`.
    """
    texts = samples.in_language()[:MISTAKE_QUERIES].tolist()
    answers = nearest_images(samples, texts, count=1)
    return np.array([samples.image_labels[each.nearest[0]] == samples.text_labels[each.query] for each in answers])


def _numbers(data: ReportData) -> Markup:
    sides = [element("th", side, scope="col", class_="number") for side in ("before", "after")]
    head = element("tr", element("td"), sides)
    rows = [
        element(
            "tr",
            element("th", quantity_title(name), scope="row"),
            [element("td", value_of(value, shown(name, value)), class_="number") for value in both],
        )
        for name, both in data.changes.items()
    ]
    table = element("table", element("thead", head), element("tbody", rows))
    return element("div", table, class_="scroll")


def _galleries(before: Samples, after: Samples, thumbnails: Thumbnails) -> Markup:
    were, are = found_at_once(before), found_at_once(after)
    queries = choose_queries(after, in_main=6, in_others=2, seed=2)
    found = [(samples, nearest_images(samples, queries, count=8)) for samples in (before, after)]
    says = (
        f"Of {len(are):,} captions {int((are & ~were).sum()):,} find their image at once that did not before, and "
        f"{int((were & ~are).sum()):,} no longer do. Below are random ones with their nearest images; a green frame "
        "marks the right one."
    )
    return join(
        [
            element("h3", "The same captions"),
            element("p", says, class_="says"),
            compared_gallery(thumbnails, *found),
        ]
    )
