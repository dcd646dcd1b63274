"""Recall by language: bars with 95% intervals, best language first."""

from collections.abc import Mapping, Sequence

from diptych.core.evaluation.multilingual import MEAN
from diptych.core.evaluation.retrieval import Recalls
from diptych.core.report.charts.axes import Scale, svg, tick_label
from diptych.core.report.charts.markup import Markup, element
from diptych.core.report.charts.numbers import percent
from diptych.core.report.language_names import language_name

ROW, NAME, NUMBERS, HEAD, FOOT = 22, 112, 92, 22, 20
# Of the recalls that a result holds, these two are drawn: the strict one and a lenient one.
PREFERRED = ("recall@1", "recall@5", "recall@10")


def language_bars(results: Mapping[str, Recalls], *, columns: int = 2, width: float = 520, title: str) -> list[Markup]:
    """One drawing a column of languages, all to the same scale; none where there are no results.

    Args:
        results: by language; the mean is drawn first.
        columns: how many drawings the languages are shared among.
        width: of one drawing.
        title: what was measured, for screen readers.
    """
    strict, lenient = recall_names(results)
    if strict is None:
        return []
    codes = sorted((code for code in results if code != MEAN), key=lambda code: -results[code][strict])
    codes = [MEAN, *codes] if MEAN in results and len(codes) > 1 else codes
    upper = max(_upper(results[code], lenient or strict) for code in codes)
    scale = Scale("linear", 0.0, min(1.0, max(upper * 1.04, 1e-3)), NAME, width - NUMBERS)
    per_column = -(-len(codes) // columns)
    parts = [codes[start : start + per_column] for start in range(0, len(codes), per_column)]
    return [_column(results, part, strict, lenient, scale, width, per_column, title) for part in parts]


def recall_names(results: Mapping[str, Recalls]) -> tuple[str | None, str | None]:
    """The strict and the lenient recall that all results hold, None where there is none."""
    names = [name for name in PREFERRED if results and all(name in result for result in results.values())]
    return (names + [None, None])[0], (names + [None, None])[1]


def _column(
    results: Mapping[str, Recalls],
    codes: Sequence[str],
    strict: str,
    lenient: str | None,
    scale: Scale,
    width: float,
    rows: int,
    title: str,
) -> Markup:
    bottom = HEAD + rows * ROW
    marks = [_head(strict, width - 50, "strict"), _head(lenient, width - 4, "lenient") if lenient else None]
    for tick in scale.ticks(4):
        at = f"{float(scale(tick)):.1f}"
        marks.append(element("line", x1=at, x2=at, y1=HEAD, y2=bottom, class_="grid"))
        marks.append(
            element("text", tick_label(tick, scale, True), x=at, y=bottom + 14, text_anchor="middle", class_="tick")
        )
    for place, code in enumerate(codes):
        marks.append(_row(code, results[code], strict, lenient, scale, HEAD + place * ROW, width))
    return svg(width, bottom + FOOT, title, marks)


def _head(name: str, x: float, style: str) -> Markup:
    return element("text", name.replace("recall", "R"), x=x, y=14, text_anchor="end", class_=f"label {style}")


def _row(
    code: str, result: Recalls, strict: str, lenient: str | None, scale: Scale, top: float, width: float
) -> Markup:
    mean = code == MEAN
    name = "mean of all" if mean else "all captions" if code == "und" else language_name(code)
    shown_code = "" if mean or code in (name, "und") else code
    middle = top + ROW / 2
    parts = [
        element("title", _sentence(name, result, strict, lenient)),
        element("rect", x=0, y=top, width=width, height=ROW, class_="touch"),
        element(
            "text",
            name,
            element("tspan", f" {shown_code}", class_="code") if shown_code else None,
            x=2,
            y=middle + 4,
            class_="name-row mean" if mean else "name-row",
        ),
    ]
    if lenient:
        parts.extend(_bar(result, lenient, scale, middle, 11, "lenient"))
        parts.append(_value(result[lenient], width - 4, middle, "lenient"))
    parts.extend(_bar(result, strict, scale, middle, 11, "strict"))
    parts.append(_value(result[strict], width - 50, middle, "strict"))
    return element("g", parts, class_="row")


def _bar(result: Recalls, name: str, scale: Scale, middle: float, height: float, style: str) -> list[Markup]:
    start, end = scale.start, float(scale(result[name]))
    bar = element(
        "rect",
        x=f"{start:.1f}",
        y=f"{middle - height / 2:.1f}",
        width=f"{max(end - start, 0.5):.1f}",
        height=height,
        rx=1.5,
        class_=f"bar {style}",
    )
    interval = result.get("intervals", {}).get(name)
    if interval is None:
        return [bar]
    low, high = (f"{float(scale(bound)):.1f}" for bound in interval)
    return [bar, element("line", x1=low, x2=high, y1=middle, y2=middle, class_=f"whisker {style}")]


def _value(share: float, x: float, middle: float, style: str) -> Markup:
    return element("text", percent(share), x=x, y=middle + 4, text_anchor="end", class_=f"value {style}")


def _upper(result: Recalls, name: str) -> float:
    return max(result[name], result.get("intervals", {}).get(name, (0, 0))[1])


def _sentence(name: str, result: Recalls, strict: str, lenient: str | None) -> str:
    pieces = [name]
    for recall in filter(None, (strict, lenient)):
        interval = result.get("intervals", {}).get(recall)
        within = f" (95%: {percent(interval[0])} to {percent(interval[1])})" if interval else ""
        pieces.append(f"{recall} {percent(result[recall])}{within}")
    return ", ".join([*pieces, f"{result['queries']:,} queries"] if "queries" in result else pieces)
