"""Axes of the report's figures: data to pixels, round ticks, one frame for all."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from diptych.core.report.charts.markup import Markup, drawn_width, element
from diptych.core.report.charts.numbers import MINUS, compact, percent, significant

LEFT, RIGHT, TOP, BOTTOM = 46, 12, 26, 38


@dataclass(frozen=True)
class Scale:
    """One axis. `kind` is "linear", "log" or "odds" (probabilities, even in log-odds); `start` and `stop` are
    pixels.
    """

    kind: str
    low: float
    high: float
    start: float = 0.0
    stop: float = 1.0

    def __call__(self, values: object) -> np.ndarray:
        """Pixels of the values; beyond the ends they lie outside."""
        low, high = _transform(self.kind, self.low), _transform(self.kind, self.high)
        share = (_transform(self.kind, values) - low) / (high - low or 1.0)
        return self.start + share * (self.stop - self.start)

    def between(self, start: float, stop: float) -> "Scale":
        """The same scale over other pixels."""
        return Scale(self.kind, self.low, self.high, start, stop)

    def ticks(self, count: int) -> list[float]:
        """About `count` round values within the ends."""
        if self.kind == "log":
            ticks = _log_ticks(self.low, self.high, count)
        elif self.kind == "odds":
            ticks = _odds_ticks(self.low, self.high, count)
        else:
            ticks = _linear_ticks(self.low, self.high, count)
        return [
            tick for tick in ticks if self.low * (1 - 1e-9) <= tick <= self.high * (1 + 1e-9) or tick == 0 >= self.low
        ]


def linear(values: ArrayLike, *, include: Sequence[float] = (), margin: float = 0.06) -> Scale:
    """A linear scale over the finite values, with some room around them except at the values of `include`."""
    finite = _finite(values, include)
    low, high = float(finite.min()), float(finite.max())
    if low == high:
        low, high = low - (abs(low) or 1) * 0.1, high + (abs(high) or 1) * 0.1
    room = (high - low) * margin
    return Scale("linear", low if low in include else low - room, high if high in include else high + room)


def logarithmic(values: ArrayLike, *, include: Sequence[float] = ()) -> Scale:
    """A logarithmic scale over the finite positive values."""
    finite = _finite(values, include)
    positive = finite[finite > 0]
    low, high = (float(positive.min()), float(positive.max())) if len(positive) else (1.0, 10.0)
    return Scale("log", low, high) if low < high else Scale("log", low / 2, high * 2)


def frame(
    width: float,
    height: float,
    x: Scale,
    y: Scale,
    *marks: object,
    title: str,
    x_label: str,
    y_label: str,
    x_percent: bool = False,
    y_percent: bool = False,
    left: float = LEFT,
    **attributes: object,
) -> Markup:
    """An <svg> with grid, ticks and labels around the marks; `x` and `y` must already lie on `plot_area`'s pixels.

    Args:
        width, height: of the view box; text is 11 units high, so a figure is drawn near the size it is shown at.
        marks: markup drawn over the grid.
        title: read by screen readers.
        x_label, y_label: with units; the y label stands above its axis.
        x_percent, y_percent: ticks as percentages.
        left: room for the y ticks.
    """
    right, bottom = width - RIGHT, height - BOTTOM
    grid, labels = [], []
    for tick in y.ticks(5):
        at = float(y(tick))
        grid.append(element("line", x1=left, x2=right, y1=_number(at), y2=_number(at), class_="grid"))
        labels.append(_text(tick_label(tick, y, y_percent), left - 7, at + 3.5, "end", most=left - 9))
    for tick in x.ticks(6 if width > 500 else 4):
        at = float(x(tick))
        grid.append(element("line", x1=_number(at), x2=_number(at), y1=bottom, y2=bottom + 4, class_="axis"))
        labels.append(_text(tick_label(tick, x, x_percent), at, bottom + 16, "middle"))
    grid.append(element("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"))
    labels.append(
        element("text", x_label, x=_number((left + right) / 2), y=height - 6, text_anchor="middle", class_="label")
    )
    labels.append(element("text", y_label, x=4, y=12, class_="label"))
    return svg(width, height, title, grid, marks, labels, **attributes)


def plot_area(width: float, height: float, x: Scale, y: Scale, *, left: float = LEFT) -> tuple[Scale, Scale]:
    """The scales laid over the inside of a `frame` of this size."""
    return x.between(left, width - RIGHT), y.between(height - BOTTOM, TOP)


def svg(width: float, height: float, title: str, *children: object, **attributes: object) -> Markup:
    """A drawing that scales with its place, described for screen readers."""
    return element(
        "svg",
        *children,
        viewBox=f"0 0 {_number(width)} {_number(height)}",
        role="img",
        aria_label=title,
        **attributes,
    )


def path(points: Sequence[tuple[float, float]]) -> str:
    """The `d` of a line through the points, broken where a point is not finite."""
    pieces, pen_down = [], False
    for px, py in points:
        if not (math.isfinite(px) and math.isfinite(py)):
            pen_down = False
            continue
        pieces.append(f"{'L' if pen_down else 'M'}{_number(px)} {_number(py)}")
        pen_down = True
    return "".join(pieces)


def tick_label(value: float, scale: Scale, as_percent: bool = False) -> str:
    """A tick as it is read."""
    if as_percent:
        return f"{100 * value:.10g}%".replace("-", MINUS)
    if scale.kind == "odds":
        return f"{value:g}" if value >= 1e-3 else power_of_ten(value)
    if scale.kind == "log" and (value >= 1e5 or value < 1e-3) and round(math.log10(value), 9) % 1 == 0:
        return power_of_ten(value) if value < 1e-3 else compact(value)
    return compact(value) if abs(value) >= 1000 else significant(value, 6)


def power_of_ten(value: float) -> str:
    """1e-5 -> 10⁻⁵."""
    exponent = round(math.log10(value))
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def probability(value: float) -> str:
    """A probability as it is read: 12.3%, 4.5e-06."""
    return percent(value) if value >= 1e-4 or value == 0 else significant(value, 2)


def _text(text: str, x: float, y: float, anchor: str, *, most: float = math.inf) -> Markup:
    """A tick's label, drawn narrower where it would be wider than `most`."""
    fitted = {"textLength": _number(most), "lengthAdjust": "spacingAndGlyphs"} if drawn_width(text) > most else {}
    return element("text", text, x=_number(x), y=_number(y), text_anchor=anchor, class_="tick", **fitted)


def _transform(kind: str, values: object) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        if kind == "log":
            return np.log10(values)
        if kind == "odds":
            return np.log(values) - np.log1p(-values)
    return values


def _finite(values: ArrayLike, include: Sequence[float]) -> np.ndarray:
    both = np.concatenate([np.ravel(np.asarray(values, dtype=np.float64)), np.asarray(include, dtype=np.float64)])
    finite = both[np.isfinite(both)]
    return finite if len(finite) else np.array([0.0, 1.0])


def _linear_ticks(low: float, high: float, count: int) -> list[float]:
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.8)
    return [
        round(place * step, 12) for place in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = math.log10(high / low)
    if decades < 1.5:
        factors = (1, 2, 3, 5, 7) if decades < 0.7 else (1, 2, 5)
        return [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    step = max(1, math.ceil(decades / (count + 1)))
    return [10.0**power for power in range(first, last + 1) if power % step == 0]


def _odds_ticks(low: float, high: float, count: int) -> list[float]:
    small = [10.0**power for power in range(-16, 0)]
    ticks = [tick for tick in [*small, 0.5, *(1 - tick for tick in reversed(small[-4:]))] if low <= tick <= high]
    step = max(1, math.ceil(len(ticks) / (count + 2)))
    return ticks[::-1][::step][::-1]


def _number(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")
