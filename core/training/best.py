"""The best evaluation of a run, and how long nothing has been better."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypedDict

LOSS = "loss"
"""The name of what an evaluation finds that is no share between 0 and 1, and the better the lower: the loss on held-out
pairs."""

LOWER = (LOSS, "bits_per_byte")
"""Numbers that are the better the lower, and no shares."""


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best evaluation so far.

    Attributes:
        by: the number that decides; "recall@1" stands for that of the language that is judged, "recall@1/en".
        step: after which it was found.
        value: that it found.
        evaluations_since: how many came after it, none of them better.
    """

    by: str
    step: int
    value: float
    evaluations_since: int = 0

    def then(self, step: int, value: float) -> "Best":
        """With the evaluation of a later step."""
        if is_better(self.by, value, self.value):
            return Best(by=self.by, step=step, value=value)
        return replace(self, evaluations_since=self.evaluations_since + 1)


class BestEvaluation(TypedDict):
    """The best evaluation of a stage, as its results have it: the fields of `Best`, and the examples of its steps."""

    by: str
    step: int
    value: float
    evaluations_since: int
    examples: int


def best_of(best: Best | None, step: int, numbers: Mapping[str, float], by: str) -> Best | None:
    """The best evaluation once one more has been made; None as long as the number that decides was never finite.

    What was best by another number does not count.

    Raises:
        ValueError: where no number of the evaluation has the name.
    """
    value = decisive(numbers, by)
    if best is None or best.by != by:
        return Best(by=by, step=step, value=value) if math.isfinite(value) else None
    return best.then(step, value)


def decisive(numbers: Mapping[str, float], by: str) -> float:
    """The number of an evaluation that decides; raises ValueError where there is none of the name."""
    for name, value in numbers.items():
        if by in (name, name.partition("/")[0]):
            return value
    raise ValueError(f"--best-by {by} names no number of an evaluation; there are {', '.join(numbers) or 'none'}.")


def is_better(by: str, value: float, than: float) -> bool:
    """Whether a number is better than another of its name; NaN never is."""
    return value < than if by in LOWER else value > than


def shown(name: str, value: float) -> str:
    """A number of an evaluation, for people: a loss as it is, a share in percent."""
    return f"{value:.4g}" if name in LOWER else f"{value:.1%}"
