"""The metrics by which tasks on texts are judged, each with its interval (Radford et al. 2018, tables 2 to 4).

F1 and Matthews' correlation are of the whole set, not means over examples, so that their intervals come from drawing
the set again.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

import numpy as np

Metric = Callable[[np.ndarray, np.ndarray], float]
"""(truths, answers), [examples] each -> a number of at most 1, which is the best."""


class Judged(TypedDict):
    """A metric of a set, JSON-ready."""

    value: float
    interval: list[float]  # 95%


def accuracy(truths: np.ndarray, answers: np.ndarray) -> float:
    """The share of right answers."""
    return float(np.mean(np.asarray(truths) == np.asarray(answers)))


def f1(truths: np.ndarray, answers: np.ndarray) -> float:
    """2 · hits / (2 · hits + false alarms + misses) of class 1, in [0, 1]; 0 where it neither is nor is said."""
    truths, answers = np.asarray(truths) == 1, np.asarray(answers) == 1
    hits = np.count_nonzero(truths & answers)
    wrong = np.count_nonzero(truths != answers)
    return 2 * hits / (2 * hits + wrong) if hits or wrong else 0.0


def matthews(truths: np.ndarray, answers: np.ndarray) -> float:
    """Matthews' correlation of two classes, and Gorodkin's of several, in [-1, 1]; 0 where one side has one class only.

        (c s - Σ t_k p_k) / √((s² - Σ p_k²) (s² - Σ t_k²))

    s examples, c right ones, t_k of class k and p_k said to be (Matthews 1975; Gorodkin 2004).
    """
    truths, answers = np.asarray(truths), np.asarray(answers)
    classes = np.union1d(truths, answers)
    t, p = ((side[:, None] == classes).sum(axis=0, dtype=np.float64) for side in (truths, answers))
    count, right = float(len(truths)), float(np.count_nonzero(truths == answers))
    scale = (count**2 - p @ p) * (count**2 - t @ t)
    return float((right * count - t @ p) / np.sqrt(scale)) if scale > 0 else 0.0


def pearson(truths: np.ndarray, answers: np.ndarray) -> float:
    """The linear correlation, in [-1, 1]; 0 where one side does not vary."""
    x, y = (np.asarray(side, np.float64) - np.mean(side, dtype=np.float64) for side in (truths, answers))
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale > 0 else 0.0


def spearman(truths: np.ndarray, answers: np.ndarray) -> float:
    """The correlation of ranks, of which equal values have the mean; as `pearson`."""
    return pearson(ranks(truths), ranks(answers))


def ranks(values: np.ndarray) -> np.ndarray:
    """From 1 upwards, float64; equal values share the mean of theirs."""
    _, place, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[place.ravel()]


METRICS: Mapping[str, Metric] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}


def judged(
    names: Sequence[str], truths: np.ndarray, answers: np.ndarray, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Judged]:
    """Each named metric with the percentile bootstrap interval over the examples.

    Args:
        truths, answers: numbers of classes, or scores, [examples].
        resamples: sets that are drawn, with replacement, all metrics on the same ones.
        seed: of the drawing.

    Raises:
        ValueError: for no examples, or two lengths.

    Reference: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    truths, answers = np.asarray(truths), np.asarray(answers)
    if truths.ndim != 1 or truths.shape != answers.shape or not len(truths):
        raise ValueError(
            f"truths and answers must be of the same examples, one or more, got the shapes {truths.shape} and "
            f"{answers.shape}."
        )
    rng = np.random.default_rng(seed)
    draws = np.empty((resamples, len(names)))
    for row in draws:
        drawn = rng.integers(len(truths), size=len(truths))
        row[:] = [METRICS[name](truths[drawn], answers[drawn]) for name in names]
    bounds = np.quantile(draws, [0.025, 0.975], axis=0).T
    return {
        name: {"value": float(METRICS[name](truths, answers)), "interval": [float(low), float(high)]}
        for name, (low, high) in zip(names, bounds, strict=True)
    }
