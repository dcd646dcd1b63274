"""Numbers of several seeds: their mean, and how far it may be off."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diptych.core.report.charts.numbers import MINUS

# Two-sided 95% quantiles of Student's t by degrees of freedom.
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Mean:
    """A mean over seeds; `half_width` of its 95% t-interval is None for a single seed."""

    value: float
    half_width: float | None

    def percent(self, *, signed: bool = False) -> str:
        """In percent, such as 12.3 ± 0.8."""
        text = f"{100 * self.value:{'+' if signed else ''}.1f}".replace("-", MINUS)
        return text if self.half_width is None else f"{text} ± {100 * self.half_width:.1f}"


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and t · s / √n over at most ten seeds, s the standard deviation with n - 1."""
    if not 1 <= len(values) <= len(T_95) + 1:
        raise ValueError(f"a mean needs 1 to {len(T_95) + 1} seeds, got {len(values)}.")
    if len(values) == 1:
        return Mean(float(values[0]), None)
    spread = T_95[len(values) - 2] * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Mean(float(np.mean(values)), spread)
