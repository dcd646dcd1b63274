"""The tables and the figure of `benchmarks.fine_tuning`: means over seeds with 95% intervals, paired differences."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.report.charts.axes import Scale, frame, linear, logarithmic, plot_area
from diptych.core.report.charts.markup import Markup, element
from diptych.core.report.charts.means import curve, marked_mean, pixels
from diptych.core.report.charts.standalone import PANEL_HEIGHT, PANEL_WIDTH, side_by_side
from diptych.core.report.marked_section import write_marked_section
from diptych.core.report.seeds import Mean, mean_of

ROOT = Path(__file__).parents[1]
PAGE, FIGURE = ROOT / "docs" / "fine_tuning.md", ROOT / "docs" / "pictures" / "fine_tuning.svg"
BEGIN, END = "<!-- results: written by benchmarks.fine_tuning -->", "<!-- end of results -->"

Scores = Mapping[str, Mapping[int, Mapping[str, float]]]
"""{run: {seed: {measure: number}}} of one part."""

TUNED = {
    "fresh": "fresh weights",
    "full": "all weights",
    "locked": "image tower locked",
    "adapters": "adapters of rank 8",
}
LINE = {"line-0": "the checkpoint as it is", "line-0.5": "WiSE-FT, half way to all weights"}
TEXT_TOWERS = {
    "scratch": "both towers from scratch",
    "moving": "image tower moves along",
    "locked": "LiT, the same tower locked",
}
DECODERS = {
    "base": "the towers before",
    "pairs": "the loss of pairs alone",
    "frozen": "a decoder in front of locked towers",
    "moving": "a decoder, all moves",
}
CLASSIFIERS = {"scratch": "from scratch", "probe": "linear probe", "full": "all weights"}
LEGEND = {"fresh": "level of fresh weights"}
COLOURS = {"full": "image", "locked": "text", "adapters": "pair", "fresh": "other"}
EQUAL_SECONDS, SHORTEST = "-equal-seconds", "-shortest"
"""Ends of the names of runs that take the seconds of another, and of those that say what a run takes by itself."""


def part_of(rows: Iterable[Mapping[str, Any]], part: str) -> Scores:
    """What the runs of a part scored, of the seeds in which all of its runs are finished; a line's points are runs."""
    found: dict[str, dict[int, Any]] = defaultdict(dict)
    for row in rows:
        if row["part"] == part and row["arm"] == "line":
            for alpha, scores in row["scores"].items():
                found[f"line-{alpha}"][row["seed"]] = scores
        elif row["part"] == part and not row["arm"].endswith(SHORTEST):
            found[row["arm"]][row["seed"]] = {**row["scores"], "examples": row["examples"]}
    whole = set.intersection(*(set(of) for of in found.values())) if found else set[int]()
    return {arm: {seed: of[seed] for seed in sorted(whole)} for arm, of in found.items()} if whole else {}


def mean(of: Scores, arm: str, measure: str, against: str | None = None) -> Mean | None:
    """Over the seeds, of the difference to another run seed by seed where one is named; None where it is not known."""
    pairs = [(scores, of[against][seed] if against else None) for seed, scores in of.get(arm, {}).items()]
    if not pairs or any(measure not in scores for pair in pairs for scores in pair if scores is not None):
        return None
    return mean_of([one[measure] - (other[measure] if other else 0) for one, other in pairs])


def tables(results: Mapping[str, Any]) -> list[str]:
    """A paragraph of Markdown for each part that has a seed."""
    writers = {"a": _tuned, "b": _text_towers, "c": _boxes, "d": _classifiers}
    parts = {name: part_of(results["arms"], name) for name in writers}
    return [write(parts[name]) for name, write in writers.items() if parts[name]]


def _tuned(of: Scores) -> str:
    columns = [("own, recall@1", "recall@1", None), ("recall@5", "recall@5", None)]
    columns += [("more than fresh weights", "recall@5", "fresh"), ("emoji kept, recall@1", "retained", None)]
    lines = _lines(of, {**TUNED, **LINE}, columns)
    again = [("own, recall@1", "recall@1", None), ("recall@5", "recall@5", None)]
    again += [("", "recall@5", f"fresh{EQUAL_SECONDS}"), ("", "retained", None)]
    timed = {f"{arm}{EQUAL_SECONDS}" if arm != "full" else arm: f"{name}, equal seconds" for arm, name in TUNED.items()}
    lines += _lines(of, timed, again)
    return _table("**a. The shipped checkpoint on clip art**", ["weights", "examples", *_titles(columns)], lines, of)


def _text_towers(of: Scores) -> str:
    columns = [("English recall@1", "recall@1", None), ("recall@5", "recall@5", None)]
    columns += [("more than from scratch", "recall@5", "scratch"), ("nine groups", "groups", None)]
    lines = _lines(of, TEXT_TOWERS, columns)
    timed = {f"{arm}{EQUAL_SECONDS}": f"{name}, equal seconds" for arm, name in TEXT_TOWERS.items() if arm != "scratch"}
    lines += _lines(of, timed, columns)
    return _table("**b. A new text tower**", ["towers", "examples", *_titles(columns)], lines, of)


def _boxes(of: Scores) -> str:
    columns = [("English recall@1", "recall@1", None), ("recall@5", "recall@5", None)]
    columns += [("more than before", "recall@5", "base"), ("boxes, Acc@0.5", "boxes", None)]
    columns += [("mean overlap", "overlap", None)]
    lines = _lines(of, DECODERS, columns)
    return _table("**c. Captions with boxes**", ["trained", "examples", *_titles(columns)], lines, of)


def _classifiers(of: Scores) -> str:
    lines = []
    for kind, shots in _kinds(of):
        names = {arm: f"{kind}-{shots}-{arm}" for arm in CLASSIFIERS}
        cells = [_shown(mean(of, name, "accuracy")) for name in names.values()]
        cells.append(_shown(mean(of, names["probe"], "accuracy", names["scratch"]), signed=True))
        cells.append(_shown(mean(of, names["full"], "accuracy", names["probe"]), signed=True))
        lines.append([f"{kind}s, {shots} a class", *cells])
    titles = ["drawings", *CLASSIFIERS.values(), "probe − scratch", "all − probe"]
    return _table("**d. Classifiers, accuracy on a designer never seen**", titles, lines, of)


def _kinds(of: Scores) -> list[tuple[str, int]]:
    found = {tuple(arm.split("-")[:2]) for arm in of}
    return sorted(((kind, int(shots)) for kind, shots in found), key=lambda one: (one[0], one[1]))


def _lines(of: Scores, arms: Mapping[str, str], columns: Sequence[tuple[str, str, str | None]]) -> list[list[str]]:
    lines = []
    for arm, name in arms.items():
        examples = mean(of, arm, "examples")
        cells = [
            "" if against == arm else _shown(mean(of, arm, measure, against), signed=against is not None)
            for _, measure, against in columns
        ]
        lines.append([name, f"{examples.value:,.0f}" if examples else "", *cells])
    return lines


def _titles(columns: Sequence[tuple[str, str, str | None]]) -> list[str]:
    return [title for title, _, _ in columns]


def _shown(mean: Mean | None, *, signed: bool = False) -> str:
    return "" if mean is None else mean.percent(signed=signed)


def _table(heading: str, titles: Sequence[str], lines: Sequence[Sequence[str]], of: Scores) -> str:
    seeds = len(next(iter(of.values())))
    rows = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}", *(f"| {' | '.join(line)} |" for line in lines)]
    return f"{heading}, {seeds} seed{'s' if seeds > 1 else ''}:\n\n" + "\n".join(rows)


def figure(results: Mapping[str, Any]) -> str:
    """What was gained beside what was kept, and accuracy by the number of labels, as one SVG."""
    tuned, classes = part_of(results["arms"], "a"), part_of(results["arms"], "d")
    panels = []
    if tuned:
        panels.append(("Clip art learned, and emoji kept", _gained_and_kept(tuned)))
    if classes:
        panels.append(("9 groups and 98 subgroups of emoji", _by_labels(classes)))
    return side_by_side("Fine-tuning: gained and kept, and classifiers by the number of labels", panels)


def _gained_and_kept(of: Scores) -> Markup:
    arms = [arm for arm in of if mean(of, arm, "retained") and not arm.endswith(EQUAL_SECONDS)]
    places = {arm: (mean(of, arm, "retained"), mean(of, arm, "recall@1")) for arm in arms}
    known = {arm: (kept, gained) for arm, (kept, gained) in places.items() if kept and gained}
    x = linear([kept.value for kept, _ in known.values()], margin=0.12)
    ends = [gained.value + sign * (gained.half_width or 0) for _, gained in known.values() for sign in (-1, 1)]
    fresh = mean(of, "fresh", "recall@1")
    x, y = plot_area(PANEL_WIDTH, PANEL_HEIGHT, x, linear([*ends, fresh.value if fresh else 0.0]))
    line = sorted((arm for arm in known if arm.startswith("line-")), key=lambda arm: float(arm.removeprefix("line-")))
    marks = curve([(float(x(known[arm][0].value)), known[arm][1]) for arm in line], y, "other", dashed=True)
    marks += [_named(x, y, *known[arm], f"α {arm.removeprefix('line-')}") for arm in line if arm != "line-1"]
    for arm, colour in COLOURS.items():
        if arm in known:
            kept, gained = known[arm]
            marks += marked_mean(float(x(kept.value)), gained, y, colour)
    if fresh:
        at = pixels(float(y(fresh.value)))
        marks.append(element("line", x1=pixels(x.start), x2=pixels(x.stop), y1=at, y2=at, class_="mark"))
    marks += _legend([(LEGEND.get(arm, TUNED[arm]), colour) for arm, colour in COLOURS.items()], x.stop, "end")
    return frame(
        PANEL_WIDTH,
        PANEL_HEIGHT,
        x,
        y,
        marks,
        title="Recall on clip art and on emoji",
        x_label="emoji kept: recall@1 of their English names",
        y_label="clip art: recall@1 of held-out titles; α: WiSE-FT; bars: 95% over seeds",
        x_percent=True,
        y_percent=True,
    )


def _named(x: Scale, y: Scale, kept: Mean, gained: Mean, name: str) -> Markup:
    right, above = pixels(float(x(kept.value)) + 7), pixels(float(y(gained.value)) - 6)
    return element("text", name, x=right, y=above, class_="name other")


def _legend(names: Sequence[tuple[str, str]], x: float, anchor: str) -> list[Markup]:
    """Names in their colours, one below the other."""
    return [
        element("text", name, x=pixels(x), y=40 + 15 * place, text_anchor=anchor, class_=f"name {colour}")
        for place, (name, colour) in enumerate(names)
    ]


def _by_labels(of: Scores) -> Markup:
    kinds = _kinds(of)
    shots = sorted({many for _, many in kinds})
    lines = {
        (kind, arm): [(many, found) for many in shots if (found := mean(of, f"{kind}-{many}-{arm}", "accuracy"))]
        for kind in dict(kinds)
        for arm in CLASSIFIERS
    }
    ends = [m.value + sign * (m.half_width or 0) for line in lines.values() for _, m in line for sign in (-1, 1)]
    x = logarithmic(np.array([shots[0] / 1.4, shots[-1] * 1.4]))
    x, y = plot_area(PANEL_WIDTH, PANEL_HEIGHT, x, linear(np.array(ends), include=[0.0]))
    marks: list[Markup] = []
    colours = dict(zip(CLASSIFIERS, ("other", "text", "image"), strict=True))
    for place, (arm, colour) in enumerate(colours.items()):
        for kind in dict(kinds):
            points = [(float(x(many)) + 5 * (place - 1), found) for many, found in lines[kind, arm]]
            marks += curve(points, y, colour, dashed=kind != "group")
    marks += _legend([(CLASSIFIERS[arm], colour) for arm, colour in colours.items()], x.start + 12, "start")
    return frame(
        PANEL_WIDTH,
        PANEL_HEIGHT,
        x,
        y,
        marks,
        title="Accuracy by labels a class",
        x_label="labelled drawings a class; dashed: 98 subgroups",
        y_label="accuracy on a designer never seen; bars are 95% over seeds",
        y_percent=True,
    )


def write_page(results: Mapping[str, Any], *, page: Path = PAGE, picture: Path = FIGURE) -> list[Path]:
    """Puts tables and figure into the document, between its two marks; returns what was written.

    Args:
        results: "arms", the rows of the runs; "backend".
    """
    written = tables(results)
    if not written:
        return []
    about = f"On {results['backend']}, in percent: mean over the seeds ± 95% t-interval; differences seed by seed."
    section = [about, *written]
    if any(part_of(results["arms"], part) for part in "ad"):
        picture.write_text(figure(results), encoding="utf-8")
        caption = "Left, what fine-tuning gained and what it kept; right, accuracy by the number of labels"
        section.append(f"![{caption}](pictures/{picture.name})")
    write_marked_section(page, BEGIN, END, "\n\n".join(section))
    return [page, *([picture] if section[-1].startswith("!") else [])]
