"""Curves of a training run over the examples seen: loss, rates, temperature, bias, threshold, speed, evaluations."""

from collections.abc import Mapping, Sequence

import numpy as np

from diptych.core.evaluation.calibration import threshold_cosine
from diptych.core.report.charts.lines import Curve, line_chart, smooth
from diptych.core.report.charts.markup import Markup
from diptych.core.report.language_names import language_name
from diptych.core.training.best import LOWER
from diptych.core.training.metrics import MetricsRow

# Classes of the style sheet, for several curves in one figure.
STYLES = ("image", "text", "pair", "other", "wrong")


def column(rows: Sequence[MetricsRow], name: str) -> np.ndarray:
    """A field of the metrics as float64 [rows], NaN where a row lacks it or holds something that is not a number."""
    return np.array([_number(row.get(name)) for row in rows], dtype=np.float64)


def examples_axis(rows: Sequence[MetricsRow]) -> tuple[np.ndarray, str]:
    """Examples seen of each row and the name of the axis; steps where no row says how many examples."""
    examples = column(rows, "examples")
    return (examples, "examples seen") if np.isfinite(examples).any() else (column(rows, "step"), "steps")


def loss_figure(
    rows: Sequence[MetricsRow], *, width: float, height: float, log: bool, opening: int | None = None
) -> Markup | None:
    """Raw and smoothed loss, on linear or on two logarithmic axes; None without two finite losses.

    opening: examples after which the run's opening ends, which is marked.
    """
    x_values, x_label = examples_axis(rows)
    loss = column(rows, "loss")
    usable = np.isfinite(loss) & np.isfinite(x_values) & (x_values > 0)
    if usable.sum() < 2:
        return None
    x_values, loss = x_values[usable], loss[usable]
    smoothed = smooth(loss, max(1, len(loss) // 40))
    return line_chart(
        x_values,
        [Curve("loss, smoothed", smoothed)],
        faint=Curve("loss", loss),
        width=width,
        height=height,
        title="Training loss over examples seen",
        x_label=x_label,
        y_label="loss",
        x_log=log,
        y_log=log and bool((loss > 0).all()),
        places={"opening ends": opening} if opening and x_label != "steps" else {},
    )


def training_figures(rows: Sequence[MetricsRow], *, width: float, height: float) -> list[tuple[str, str, Markup]]:
    """(title, what it says, figure) of each quantity that the metrics hold."""
    x_values, x_label = examples_axis(rows)
    scale, bias = column(rows, "logit_scale"), column(rows, "logit_bias")
    of_pairs = bool(np.isfinite(scale).any())
    with np.errstate(divide="ignore", invalid="ignore"):
        threshold = threshold_cosine(scale, bias)
    quantities = [
        (
            "Validation loss",
            "on held-out data" + ("; pairs are taken in batches as large as in training" if of_pairs else ""),
            column(rows, "validation_loss"),
            "loss",
            False,
        ),
        ("Learning rate", "rate of the main parameter group", column(rows, "learning_rate"), "rate", False),
        ("Temperature", "t = exp(t′), the factor of every cosine", scale, "t", False),
        ("Bias", "b, the logit of a pair of cosine 0", bias, "b", False),
        ("Threshold", "the cosine −b/t at which a pair is as likely as not", threshold, "cosine", False),
        ("Gradient norm", "before clipping, logarithmic", column(rows, "gradient_norm"), "norm", True),
        ("Speed", "examples a second", column(rows, "examples_per_second"), "examples/s", False),
    ]
    figures = []
    for title, text, values, y_label, y_log in quantities:
        usable = np.isfinite(values) & np.isfinite(x_values) & ((values > 0) | (not y_log))
        if usable.sum() < 2:
            continue
        noisy = title in ("Gradient norm", "Speed")
        curve = Curve(title.lower(), values[usable])
        smoothed = Curve(title.lower(), smooth(values[usable], max(1, int(usable.sum()) // 40)))
        figure = line_chart(
            x_values[usable],
            [smoothed if noisy else curve],
            faint=curve if noisy else None,
            width=width,
            height=height,
            title=f"{title} over examples seen",
            x_label=x_label,
            y_label=y_label,
            y_log=y_log,
            include=(0.0,) if title in ("Learning rate", "Speed") else (),
        )
        figures.append((title, text, figure))
    return figures


def evaluation_curves(rows: Sequence[MetricsRow]) -> tuple[np.ndarray, str, list[Curve]]:
    """Examples seen, name of the axis, and one curve for each share that the evaluation rows hold, best first."""
    rows = [
        {**row, "examples": row.get("examples"), **row["evaluation"]}
        for row in rows
        if isinstance(row.get("evaluation"), Mapping)
    ]
    names = dict.fromkeys(
        name
        for row in rows
        for name, value in row["evaluation"].items()
        if name not in LOWER and np.isfinite(_number(value)) and 0 <= _number(value) <= 1
    )
    x_values, x_label = examples_axis(rows) if rows else (np.zeros(0), "examples seen")
    curves = [Curve(quantity_name(name), column(rows, name)) for name in names]
    curves.sort(key=lambda curve: -np.nan_to_num(curve.values)[-1])
    return x_values, x_label, [Curve(c.name, c.values, STYLES[i % len(STYLES)]) for i, c in enumerate(curves)]


def evaluation_figure(rows: Sequence[MetricsRow], *, width: float, height: float) -> Markup | None:
    """Recall and accuracy measured during training; None with fewer than two evaluations."""
    x_values, x_label, curves = evaluation_curves(rows)
    if len(x_values) < 2 or not curves:
        return None
    return line_chart(
        x_values,
        curves[: len(STYLES)],
        width=width,
        height=height,
        title="Evaluations during training",
        x_label=x_label,
        y_label="share right",
        y_percent=True,
        include=(0.0,),
        dots=True,
        legend=True,
    )


def quantity_name(name: str) -> str:
    """ "recall@1/en" -> "recall@1, English", "zero_shot_group" -> "zero-shot group"."""
    quantity, _, language = name.partition("/")
    quantity = quantity.replace("zero_shot", "zero-shot").replace("_", " ")
    return (
        f"{quantity}, {'mean of languages' if language == 'mean' else language_name(language)}"
        if language
        else quantity
    )


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return np.nan
    return float(value)
