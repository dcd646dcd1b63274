"""Table and figure of `benchmarks.contrastive_losses`: means over seeds, intervals, paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.report.charts.axes import Scale, frame, linear, plot_area
from diptych.core.report.charts.markup import Markup, element
from diptych.core.report.charts.means import curve, dot, pixels
from diptych.core.report.charts.standalone import PANEL_HEIGHT, PANEL_WIDTH, side_by_side
from diptych.core.report.marked_section import write_marked_section
from diptych.core.report.seeds import Mean, mean_of

ROOT = Path(__file__).parents[1]
PAGE, FIGURE = ROOT / "docs" / "contrastive_losses.md", ROOT / "docs" / "pictures" / "contrastive_losses.svg"
BEGIN, END = "<!-- results: written by benchmarks.contrastive_losses -->", "<!-- end of results -->"
LOSSES = {"sigmoid": "image", "softmax": "text"}  # and their colours in the style sheet


def by_batch_size(rows: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, list[Mapping[str, Any]]]]:
    """{batch size: {loss: rows by seed}}, of the seeds that both losses have finished at that size."""
    found: dict[int, dict[str, list[Mapping[str, Any]]]] = {}
    for size in sorted({row["batch_size"] for row in rows}):
        seeds = [
            {row["seed"]: row for row in rows if (row["batch_size"], row["loss"]) == (size, loss)} for loss in LOSSES
        ]
        both = sorted(seeds[0].keys() & seeds[1].keys())
        if both:
            found[size] = {loss: [of[seed] for seed in both] for loss, of in zip(LOSSES, seeds, strict=True)}
    return found


def difference(pair: Mapping[str, Sequence[Mapping[str, Any]]], name: str) -> Mean:
    """Softmax minus sigmoid, seed by seed: both saw the same pairs in the same order from the same weights."""
    return mean_of([b[name] - a[name] for a, b in zip(pair["sigmoid"], pair["softmax"], strict=True)])


def table(results: Mapping[str, Any]) -> str:
    """The results as Markdown, in percent."""
    lines = [
        "| batch | steps | peak rate | seeds | recall@5 sigmoid | softmax | softmax − sigmoid | "
        "recall@1 sigmoid | softmax | groups sigmoid | softmax |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for size, pair in by_batch_size(results["cells"]).items():
        first = pair["sigmoid"][0]

        def of(name: str, pair=pair) -> list[str]:
            return [mean_of([row[name] for row in pair[loss]]).percent() for loss in LOSSES]

        cells = [
            f"{size:,}",
            f"{first['steps']:,}",
            f"{first['learning_rate']:.2e}".replace("e-0", "e-"),
            str(len(pair["sigmoid"])),
            *of("recall@5"),
            difference(pair, "recall@5").percent(signed=True),
            *of("recall@1"),
            *of("zero_shot"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(results: Mapping[str, Any]) -> str:
    """Recall of both losses by batch size, and beside it their difference, as one SVG."""
    pairs = by_batch_size(results["cells"])
    panels = [("Recall@5 of English captions", _recalls(pairs)), ("Softmax minus sigmoid", _differences(pairs))]
    return side_by_side("Sigmoid and softmax loss at several batch sizes", panels)


@dataclass(frozen=True)
class _BatchSizes(Scale):
    """A logarithmic axis whose ticks are the batch sizes."""

    sizes: tuple[int, ...] = ()

    def between(self, start: float, stop: float) -> "_BatchSizes":
        return replace(self, start=start, stop=stop)

    def ticks(self, count: int) -> list[float]:
        return list(self.sizes)


def _recalls(pairs: Mapping[int, Mapping[str, Sequence[Mapping[str, Any]]]]) -> Markup:
    means = {
        loss: {size: mean_of([row["recall@5"] for row in pair[loss]]) for size, pair in pairs.items()}
        for loss in LOSSES
    }
    ends = [m.value + sign * (m.half_width or 0) for of in means.values() for m in of.values() for sign in (-1, 1)]
    x, y = _axes(pairs, ends)
    marks: list[Markup] = []
    for (loss, colour), shift in zip(LOSSES.items(), (-4, 4), strict=True):
        points = [(float(x(size)) + shift, mean) for size, mean in means[loss].items()]
        marks += curve(points, y, colour)
        dots = [(float(x(size)) + shift, row["recall@5"]) for size, pair in pairs.items() for row in pair[loss]]
        marks += [dot(at, float(y(value)), colour, 1.8) for at, value in dots]
    for place, (loss, colour) in enumerate(LOSSES.items()):
        marks.append(
            element("text", loss, x=PANEL_WIDTH - 16, y=40 + 15 * place, text_anchor="end", class_=f"name {colour}")
        )
    return _frame(
        x, y, marks, title="Recall at 5 by batch size", y_label="recall@5; bars are 95% over seeds, dots the seeds"
    )


def _differences(pairs: Mapping[int, Mapping[str, Sequence[Mapping[str, Any]]]]) -> Markup:
    means = {size: difference(pair, "recall@5") for size, pair in pairs.items()}
    ends = [m.value + sign * (m.half_width or 0) for m in means.values() for sign in (-1, 1)]
    x, y = _axes(pairs, [*ends, 0.0])
    zero = element(
        "line", x1=pixels(x.start), x2=pixels(x.stop), y1=pixels(float(y(0))), y2=pixels(float(y(0))), class_="mark"
    )
    marks = [zero, *curve([(float(x(size)), mean) for size, mean in means.items()], y, "pair")]
    return _frame(
        x,
        y,
        marks,
        title="Difference of recall at 5 by batch size",
        y_label="difference, same seed; above 0 softmax is ahead",
    )


def _axes(pairs: Mapping[int, Any], values: Sequence[float]) -> tuple[Scale, Scale]:
    sizes = tuple(pairs)
    x = _BatchSizes("log", sizes[0] / 1.25, sizes[-1] * 1.25, sizes=sizes)
    return plot_area(PANEL_WIDTH, PANEL_HEIGHT, x, linear(np.array(values)))


def _frame(x: Scale, y: Scale, marks: Sequence[Markup], *, title: str, y_label: str) -> Markup:
    return frame(
        PANEL_WIDTH, PANEL_HEIGHT, x, y, marks, title=title, x_label="pairs in a batch", y_label=y_label, y_percent=True
    )


def write_page(results: Mapping[str, Any], *, planned: int, page: Path = PAGE, picture: Path = FIGURE) -> list[Path]:
    """Puts table and figure into the document, between its two marks; returns what was written.

    Args:
        results: "cells", "examples", "backend".
        planned: cells there are to be, which the document says where some are missing.
    """
    if not by_batch_size(results["cells"]):
        return []
    count = len(results["cells"])
    note = "" if count == planned else f" {planned - count} of the {planned} planned runs were not done."
    summary = (
        f"{count} runs of {results['examples']:,} pairs each on {results['backend']}, in percent: mean over the seeds "
        f"± 95% t-interval.{note}"
    )
    write_marked_section(page, BEGIN, END, f"{summary}\n\n{table(results)}")
    picture.write_text(figure(results), encoding="utf-8")
    return [page, picture]
