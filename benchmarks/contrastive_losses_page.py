"""Table and figure of `benchmarks.contrastive_losses`: means over seeds, intervals, paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.report.charts.axes import Scale, frame, linear, path, plot_area
from diptych.core.report.charts.markup import Markup, element
from diptych.core.report.charts.style import COLOURS, FIGURES
from diptych.core.report.seeds import Mean, mean_of

ROOT = Path(__file__).parents[1]
PAGE, FIGURE = ROOT / "docs" / "contrastive_losses.md", ROOT / "docs" / "pictures" / "contrastive_losses.svg"
BEGIN, END = "<!-- results: written by benchmarks.contrastive_losses -->", "<!-- end of results -->"
LOSSES = {"sigmoid": "image", "softmax": "text"}  # and their colours in the style sheet
PANEL_WIDTH, PANEL_HEIGHT, MARGIN = 400, 270, 18


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
    parts = []
    for place, (title, panel) in enumerate(panels):
        left = MARGIN + place * (PANEL_WIDTH + 2 * MARGIN)
        parts.append(element("text", title, x=left + 2, y=MARGIN + 14, class_="title"))
        size = f'x="{left}" y="{MARGIN + 26}" width="{PANEL_WIDTH}" height="{PANEL_HEIGHT}"'
        parts.append(Markup(panel.replace("<svg", f"<svg {size}", 1)))
    width, height = len(panels) * (PANEL_WIDTH + 2 * MARGIN), PANEL_HEIGHT + 2 * MARGIN + 26
    return element(
        "svg",
        element("title", "Sigmoid and softmax loss at several batch sizes"),
        element("style", Markup(COLOURS + FIGURES)),
        element("rect", x=0.5, y=0.5, width=width - 1, height=height - 1, rx=12, class_="panel"),
        parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
    )


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
        marks += _curve(points, y, colour)
        dots = [(float(x(size)) + shift, row["recall@5"]) for size, pair in pairs.items() for row in pair[loss]]
        marks += [_dot(at, float(y(value)), colour, 1.8) for at, value in dots]
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
    zero = element("line", x1=_px(x.start), x2=_px(x.stop), y1=_px(float(y(0))), y2=_px(float(y(0))), class_="mark")
    marks = [zero, *_curve([(float(x(size)), mean) for size, mean in means.items()], y, "pair")]
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


def _curve(points: Sequence[tuple[float, Mean]], y: Scale, colour: str) -> list[Markup]:
    line = element("path", d=path([(at, float(y(mean.value))) for at, mean in points]), class_=f"line {colour}")
    bars = [
        element(
            "line",
            x1=_px(at),
            x2=_px(at),
            y1=_px(float(y(mean.value - mean.half_width))),
            y2=_px(float(y(mean.value + mean.half_width))),
            class_=f"line {colour}",
        )
        for at, mean in points
        if mean.half_width is not None
    ]
    return [line, *bars, *(_dot(at, float(y(mean.value)), colour, 3.4) for at, mean in points)]


def _dot(x: float, y: float, colour: str, radius: float) -> Markup:
    return element("circle", cx=_px(x), cy=_px(y), r=radius, class_=f"dot {colour}")


def _frame(x: Scale, y: Scale, marks: Sequence[Markup], *, title: str, y_label: str) -> Markup:
    return frame(
        PANEL_WIDTH, PANEL_HEIGHT, x, y, marks, title=title, x_label="pairs in a batch", y_label=y_label, y_percent=True
    )


def _px(value: float) -> str:
    return f"{value:.1f}"


def write_page(results: Mapping[str, Any], *, planned: int, page: Path = PAGE, picture: Path = FIGURE) -> list[Path]:
    """Puts table and figure into the document, between its two marks; returns what was written.

    Args:
        results: "cells", "examples", "backend".
        planned: cells there are to be, which the document says where some are missing.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} lacks the marks {BEGIN!r} and {END!r}, between which the table goes.")
    if not by_batch_size(results["cells"]):
        return []
    count = len(results["cells"])
    note = "" if count == planned else f" {planned - count} of the {planned} planned runs were not done."
    summary = (
        f"{count} runs of {results['examples']:,} pairs each on {results['backend']}, in percent: mean over the seeds "
        f"± 95% t-interval.{note}"
    )
    page.write_text(f"{before}{begin}\n{summary}\n\n{table(results)}\n{end}{after}", encoding="utf-8")
    picture.write_text(figure(results), encoding="utf-8")
    return [page, picture]
