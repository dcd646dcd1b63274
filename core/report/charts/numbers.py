"""Numbers as the report writes them: few digits, with units."""

import math

from diptych.core.report.charts.markup import Markup, element

MINUS = "−"
_LARGE = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def percent(share: float) -> str:
    """0.1234 -> 12.3%, 0.004567 -> 0.46%, 0.000588 -> 0.059%."""
    if not math.isfinite(share):
        return "–"
    value = 100 * share
    if value != 0 and abs(value) < 0.0995:
        return f"{significant(value, 2)}%"
    digits = 0 if value in (0, 100) else 2 if abs(value) < 0.995 else 1
    return f"{value:.{digits}f}%".replace("-", MINUS)


def compact(value: float, unit: str = "") -> str:
    """Three digits and an SI prefix: 1914 -> 1,914, 310_000 -> 310 k, 2.1e9 -> 2.1 G."""
    if not math.isfinite(value):
        return "–"
    if abs(value) < 10_000 and float(value).is_integer():
        return f"{int(value):,}".replace("-", MINUS) + (f" {unit}" if unit else "")
    for size, prefix in _LARGE:
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}{unit}".replace("-", MINUS)
    return significant(value) + (f" {unit}" if unit else "")


def significant(value: float, digits: int = 3) -> str:
    """Three significant digits without superfluous zeros: 0.00123, 4.5, 1e-07."""
    if not math.isfinite(value):
        return "–"
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
    return (f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:,.0f}").replace("-", MINUS)


def duration(seconds: float) -> str:
    """59.2 -> 59 s, 588 -> 9 min 48 s, 7500 -> 2 h 5 min."""
    if not math.isfinite(seconds):
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{significant(seconds, 2) if seconds < 10 else whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def shown(value: float, text: str, **attributes: object) -> Markup:
    """A number as it is read, with its full precision in the page: <data value="0.12345">12.3%</data>."""
    return element("data", text, value=repr(float(value)) if isinstance(value, float) else str(value), **attributes)
