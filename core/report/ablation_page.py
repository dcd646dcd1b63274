"""The ablation's table and figure: means over seeds with 95% intervals."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.core.report.charts.axes import linear
from diptych.core.report.charts.markup import Markup, element
from diptych.core.report.charts.style import COLOURS, FIGURES
from diptych.core.report.marked_section import write_marked_section
from diptych.core.report.seeds import Mean, mean_of

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""{run: {stage: what it scored}} of one seed."""

BEGIN, END = "<!-- results: written by recipes.siglip2_ablation -->", "<!-- end of results -->"
ROW, LABEL, WIDTH, MARGIN = 22, 275, 660, 16


@dataclass(frozen=True)
class Measure:
    """One number, of two or more stages that are compared by it; the first is what the others are held against."""

    title: str
    of: Mapping[str, tuple[str, str]]  # what it is called -> (run, stage)
    read: Callable[[Mapping[str, Any]], float]
    more_is_better: bool = True


def _recall(language: str, k: int = 1) -> Callable[[Mapping[str, Any]], float]:
    return lambda scores: scores["retrieval"]["New scenes"][language][f"recall@{k}"]


def _dense(kind: str, name: str) -> Callable[[Mapping[str, Any]], float]:
    return lambda scores: scores["dense"][kind]["new scenes"][name]


def _at_length(length: int) -> Callable[[Mapping[str, Any]], float]:
    return lambda scores: scores["recall_by_length"][str(length)]


PARTS = {
    "sigmoid alone": ("sigmoid", "trunk"),
    "+ captioning": ("captioning", "trunk"),
    "+ self-distillation, masked prediction": ("self_supervised", "trunk"),
    "+ the same from the beginning": ("self_supervised_throughout", "trunk"),
}
DECODERS = {name: (run, "decoder") for name, (run, _) in PARTS.items()}
CURATION = {"batches as they come": ("curation", "uniform"), "batches chosen by learnability": ("curation", "curated")}

MEASURES = (
    Measure("Retrieval, English, recall@1", PARTS, _recall("en")),
    Measure("Retrieval, English, recall@5", PARTS, _recall("en", 5)),
    Measure("Retrieval, mean of six languages, recall@1", PARTS, _recall("mean")),
    Measure("Retrieval, mean of six languages, recall@5", PARTS, _recall("mean", 5)),
    Measure("Boxes, fresh decoder on the frozen tower, Acc@0.5", DECODERS, _dense("localization", "accuracy")),
    Measure(
        "Boxes, the decoder that was trained along, Acc@0.5",
        {name: of for name, of in PARTS.items() if name != "sigmoid alone"},
        _dense("localization", "accuracy"),
    ),
    Measure("Linear probe on patches, mean IoU", PARTS, _dense("segmentation", "mean_iou")),
    Measure("Linear probe of depth, RMSE in metres", PARTS, _dense("depth", "rmse"), more_is_better=False),
    Measure(
        "Extreme aspects, 36 patches, English, recall@1",
        {"squashed to squares": ("aspects", "square"), "NaFlex": ("aspects", "naflex")},
        _at_length(36),
    ),
    Measure("Half of the captions wrong, mean of six languages, recall@1", CURATION, _recall("mean")),
    Measure("Half of the captions wrong, mean of six languages, recall@5", CURATION, _recall("mean", 5)),
    Measure(
        "Batches of 16, English, recall@1",
        {"sigmoid": ("sigmoid_16", "trunk"), "softmax": ("softmax_16", "trunk")},
        _recall("en"),
    ),
)


def write_page(path: Path, results: Mapping[int, Results], options) -> None:
    """Writes the page, or replaces its results; the figure goes into the folder "pictures" beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure_path = path.parent / "pictures" / f"{path.stem}.svg"
    figure_path.parent.mkdir(exist_ok=True)
    figure_path.write_text(figure(results), encoding="utf-8")
    parts = [
        _sentence(results, options),
        table(results),
        lengths_table(results),
        f"![Each seed and their mean](pictures/{figure_path.name})",
    ]
    if not path.exists():
        title = "# The parts of SigLIP 2's recipe, tried one by one"
        path.write_text(f"{title}\n\n{BEGIN}\n{END}\n", encoding="utf-8")
    write_marked_section(path, BEGIN, END, "\n" + "\n\n".join(parts) + "\n")


def values(results: Mapping[int, Results], measure: Measure, name: str) -> list[float]:
    """One number a seed."""
    run, stage = measure.of[name]
    return [measure.read(of[run][stage]) for of in results.values()]


def table(results: Mapping[int, Results]) -> str:
    """Markdown: each measure, each of what is compared, and the difference to the first, seed by seed."""
    lines = ["| measure | of | mean over seeds | difference to the first |", "|---|---|---|---|"]
    for measure in MEASURES:
        names = list(measure.of)
        first = values(results, measure, names[0])
        for place, name in enumerate(names):
            own = values(results, measure, name)
            change = mean_of([b - a for a, b in zip(first, own, strict=True)])
            shown = "" if place == 0 else _shown(change, measure, signed=True)
            lines.append(
                f"| {measure.title if place == 0 else ''} | {name} | {_shown(mean_of(own), measure)} | {shown} |"
            )
    return "\n".join(lines)


def lengths_table(results: Mapping[int, Results]) -> str:
    """Markdown: recall@1 of the NaFlex model at every sequence length, beside the square's one."""
    stages = [of["aspects"]["naflex"]["recall_by_length"] for of in results.values()]
    square = [of["aspects"]["square"]["recall_by_length"]["36"] for of in results.values()]
    lengths = list(stages[0])
    lines = [
        "| extreme aspects, recall@1 at a number of patches | " + " | ".join(lengths) + " |",
        "|---|" + "---|" * len(lengths),
        "| NaFlex | " + " | ".join(mean_of([of[length] for of in stages]).percent() for length in lengths) + " |",
        "| squashed | " + " | ".join(mean_of(square).percent() if length == "36" else "" for length in lengths) + " |",
    ]
    return "\n".join(lines)


def figure(results: Mapping[int, Results]) -> str:
    """An SVG: a row for each number, a point for each seed, a bar at the mean."""
    legend = "A point is a seed, the bar their mean; each group has a scale of its own."
    rows = [Markup(element("text", legend, x=MARGIN, y=MARGIN + 8, class_="tick"))]
    y = MARGIN + ROW
    for measure in MEASURES:
        numbers = {name: values(results, measure, name) for name in measure.of}
        low, high = min(map(min, numbers.values())), max(map(max, numbers.values()))
        scale = linear([low, high]).between(LABEL, WIDTH - 170)
        rows.append(Markup(element("text", measure.title, x=MARGIN, y=y + 12, class_="title")))
        y += ROW
        for name, points in numbers.items():
            rows.append(Markup(element("text", name, x=MARGIN + 12, y=y + 12, class_="tick")))
            mean = mean_of(points)
            for value in points:
                rows.append(Markup(element("circle", cx=_x(scale, value), cy=y + 8, r=4, class_="image-dot")))
            rows.append(
                Markup(
                    element("line", x1=_x(scale, mean.value), x2=_x(scale, mean.value), y1=y, y2=y + 16, class_="mean")
                )
            )
            rows.append(Markup(element("text", _shown(mean, measure), x=WIDTH - 150, y=y + 12, class_="tick")))
            y += ROW
        y += ROW // 2
    style = element(
        "style",
        Markup(
            COLOURS
            + FIGURES
            + "svg{background:var(--card,#fff);font-family:system-ui,sans-serif;font-size:12.5px}"
            + "text{fill:var(--ink,#222)}.title{font-weight:650}.image-dot{fill:var(--image,#2a6fdb);opacity:.75}"
            + ".mean{stroke:var(--ink,#222);stroke-width:2}"
        ),
    )
    body = "".join([str(style), *map(str, rows)])
    size = f'width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">{body}</svg>\n'


def _x(scale, value: float) -> float:
    return round(float(scale(value)), 1)


def _shown(mean: Mean, measure: Measure, *, signed: bool = False) -> str:
    if "metres" not in measure.title:
        return mean.percent(signed=signed)
    text = f"{mean.value:{'+' if signed else ''}.3f}".replace("-", "−")
    return text if mean.half_width is None else f"{text} ± {mean.half_width:.3f}"


def _sentence(results: Mapping[int, Results], options) -> str:
    return (
        f"{len(results)} seed{'s' if len(results) > 1 else ''}, {options.examples:,} examples a run in batches of "
        f"{options.batch_size}, on 500 scenes by a designer never seen. In percent, with 95% intervals over seeds; "
        "differences are taken seed by seed."
    )
