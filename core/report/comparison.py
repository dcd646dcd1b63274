"""Several runs side by side: how far each came, how well, and in which options they differ; as text and as a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diptych.core.report.charts.lines import Curve, line_chart, smooth
from diptych.core.report.charts.markup import Markup, element
from diptych.core.report.charts.numbers import MINUS, duration, percent, significant
from diptych.core.report.charts.sheet import sheet
from diptych.core.report.run.header import flatten, is_number
from diptych.core.report.run.training import STYLES, column, examples_axis, quantity_name
from diptych.core.report.tables import text_table
from diptych.core.training.metrics import MetricsRow

NOTHING = MINUS
MOST_SHARES, MOST_OPTIONS = 4, 24
WHEREABOUTS = ("run.run_dir", "run.dry_run")
"""Options in which runs differ because they are two."""


@dataclass(frozen=True)
class ComparedRun:
    """A run, or a stage of one: its name, its options by group, and its rows of metrics."""

    name: str
    config: Mapping[str, Any]
    metrics: Sequence[MetricsRow]

    def last(self, name: str) -> float | None:
        """The last number of that name."""
        return next((row[name] for row in reversed(self.metrics) if is_number(row.get(name))), None)

    @property
    def shares(self) -> Mapping[str, float]:
        """What the last evaluation found, by name."""
        found = (row["evaluation"] for row in reversed(self.metrics) if isinstance(row.get("evaluation"), Mapping))
        return {name: share for name, share in next(found, {}).items() if is_number(share)}


def results_table(runs: Sequence[ComparedRun]) -> tuple[list[str], list[list[str]]]:
    """Header and a row a run: examples, time, loss, validation loss, and shares that evaluations found."""
    names = shown_shares(runs)
    header = ["run", "examples", "time", "loss", "validation loss", *map(quantity_name, names)]
    rows = [
        [
            run.name,
            *(
                _written(value, write)
                for value, write in (
                    (run.last("examples"), lambda value: f"{value:,.0f}"),
                    (run.last("seconds"), duration),
                    (run.last("loss"), significant),
                    (run.last("validation_loss"), significant),
                    *((run.shares.get(name), percent) for name in names),
                )
            ),
        ]
        for run in runs
    ]
    return header, rows


def differences_table(runs: Sequence[ComparedRun]) -> tuple[list[str], list[list[str]]]:
    """Header and a row for each option that all runs have and that is not the same in all."""
    options = [{name: str(value) for name, value in flatten(run.config)} for run in runs]
    names = [name for name in options[0] if name not in WHEREABOUTS and all(name in each for each in options)]
    rows = [[name, *(each[name] for each in options)] for name in names]
    return ["option", *(run.name for run in runs)], [row for row in rows if len(set(row[1:])) > 1]


def shown_shares(runs: Sequence[ComparedRun]) -> list[str]:
    """The names of the shares that most runs have, of one language the first, in the order of their evaluations."""
    every = [name for run in runs for name in run.shares]
    return sorted(dict.fromkeys(every), key=lambda name: -every.count(name))[:MOST_SHARES]


def comparison_text(runs: Sequence[ComparedRun]) -> str:
    """Both tables, for a terminal."""
    header, rows = differences_table(runs)
    below = text_table(header, rows[:MOST_OPTIONS]) if rows else "All options are the same."
    more = f"\n{len(rows) - MOST_OPTIONS} more are on the page." if len(rows) > MOST_OPTIONS else ""
    return f"{text_table(*results_table(runs))}\n\n{below}{more}"


def comparison_page(runs: Sequence[ComparedRun]) -> str:
    """One HTML document: curves of the losses and of each share, and both tables."""
    figures = [
        ("Training loss", "smoothed", _curves(runs, "loss", smoothed=True)),
        ("Validation loss", "on held-out data", _curves(runs, "validation_loss")),
        *((quantity_name(name), "of each evaluation", _curves(runs, name, share=True)) for name in shown_shares(runs)),
    ]
    drawn = [
        [element("h2", title), element("p", says, class_="note"), element("div", figure)]
        for title, says, figure in figures
        if figure is not None
    ]
    header, rows = differences_table(runs)
    sections = [
        [element("h2", "Where they ended"), _table(*results_table(runs))],
        *drawn,
        [element("h2", "In what they differ"), _table(header, rows) if rows else element("p", "In no option.")],
    ]
    names = ", ".join(run.name for run in runs)
    return sheet("Runs compared", [names], [Markup("".join(section)) for section in sections])


def _curves(runs: Sequence[ComparedRun], name: str, *, smoothed: bool = False, share: bool = False) -> Markup | None:
    """A number of all runs over examples seen; None where no run has two of them."""
    found = []
    for run in runs:
        rows: list[MetricsRow] = [*run.metrics]
        if share:
            rows = [{**row, **row["evaluation"]} for row in rows if isinstance(row.get("evaluation"), Mapping)]
        x_values, values = examples_axis(rows)[0], column(rows, name)
        usable = np.isfinite(x_values) & np.isfinite(values)
        if usable.sum() > 1:
            x_values, values = x_values[usable], values[usable]
            found.append((run.name, x_values, smooth(values, max(1, len(values) // 40)) if smoothed else values))
    if not found:
        return None
    every = np.unique(np.concatenate([x_values for _, x_values, _ in found]))
    curves = [
        Curve(run, np.interp(every, x_values, values, left=np.nan, right=np.nan), STYLES[place % len(STYLES)])
        for place, (run, x_values, values) in enumerate(found)
    ]
    return line_chart(
        every,
        curves,
        width=720,
        height=260,
        title=quantity_name(name),
        x_label="examples seen",
        y_label="share right" if share else "loss",
        y_percent=share,
        legend=True,
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    head = element("thead", element("tr", [element("th", name, scope="col") for name in header]))
    body = [element("tr", [element("td", cell) for cell in row]) for row in rows]
    table = element("table", head, element("tbody", body), style="white-space:nowrap")
    return element("div", table, class_="scroll")


def _written(value: float | None, write: Any) -> str:
    return NOTHING if value is None else write(value)
