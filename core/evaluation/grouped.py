"""Accuracy by group, such as region or level of income: each with its interval, the worst, and the spread."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from diptych.core.evaluation.intervals import wilson_interval

FEWEST_IMAGES = 20
RESAMPLES = 2_000


class GroupAccuracy(TypedDict):
    """How often images of one group are told right."""

    group: str
    images: int
    accuracy: float
    interval: list[float]  # 95%


class GroupedAccuracy(TypedDict):
    """How evenly images of all groups are told right, JSON-ready."""

    attribute: str
    groups: list[GroupAccuracy]  # the best first
    disparity: float  # of the best group from the worst
    interval: list[float]  # of the disparity, in at least 95% of samples
    by_chance: float  # what a disparity stays below 95% of the time where all groups are alike
    too_small: dict[str, int]  # groups of fewer images than asked for, which are left out
    unknown: int  # images of no known group


def grouped_accuracy(
    attribute: str,
    hits: np.ndarray,
    groups: Sequence[str | None],
    *,
    fewest: int = FEWEST_IMAGES,
    seed: int = 0,
) -> GroupedAccuracy | None:
    """Accuracy in each group, and the disparity between them: that of the best minus that of the worst.

    A disparity is never negative, and of small groups it is large by chance alone: `by_chance` is the 95% quantile of
    what comes out when the same hits are dealt out to groups of the same sizes at random.

    Args:
        attribute: what the groups differ in, such as "region".
        hits: bool [images], whether each was told right.
        groups: of each image, None where it is not known.
        fewest: images of a group that is looked at.
        seed: of the resampling.

    Returns:
        None where fewer than two groups are large enough.

    Raises:
        ValueError: shapes that do not agree.

    Reference: Tschannen et al. 2025, "SigLIP 2", table 9, for zero-shot Dollar Street and levels of income.
    """
    hits = np.asarray(hits, bool)
    if hits.shape != (len(groups),):
        raise ValueError(
            f"grouped_accuracy needs a hit and a group of each image, got {hits.shape} and {len(groups)} groups."
        )
    of_images = np.array([group or "" for group in groups], object)
    sizes = {group: int((of_images == group).sum()) for group in sorted({group for group in groups if group})}
    large = [group for group, size in sizes.items() if size >= fewest]
    if len(large) < 2:
        return None
    found: list[GroupAccuracy] = []
    for group in large:
        right = int(hits[of_images == group].sum())
        low, high = wilson_interval(right, sizes[group])
        found.append(
            {"group": group, "images": sizes[group], "accuracy": right / sizes[group], "interval": [low, high]}
        )
    counts = np.array([sizes[group] for group in large])
    shares = np.array([one["accuracy"] for one in found])
    rng = np.random.default_rng(seed)
    resampled = rng.binomial(counts, shares, size=(RESAMPLES, len(large))) / counts
    right_in_all = round(float(counts @ shares))
    at_random = _dealt_out(counts, right_in_all, rng) / counts
    # The range of noisy shares is wider than that of the true ones, and more so in each resampling, so its quantiles
    # would lie too high. But it errs by no more than the range of the errors does.
    disparity, error = float(np.ptp(shares)), float(np.quantile(np.ptp(resampled - shares, axis=1), 0.95))
    return {
        "attribute": attribute,
        "groups": sorted(found, key=lambda one: -one["accuracy"]),
        "disparity": disparity,
        "interval": [max(0.0, disparity - error), min(1.0, disparity + error)],
        "by_chance": float(np.quantile(np.ptp(at_random, axis=1), 0.95)),
        "too_small": {group: size for group, size in sizes.items() if size < fewest},
        "unknown": int((of_images == "").sum()),
    }


def _dealt_out(counts: np.ndarray, right: int, rng: np.random.Generator) -> np.ndarray:
    """So many hits dealt out at random to groups of those sizes, int64 [RESAMPLES, groups]."""
    return rng.multivariate_hypergeometric(counts, right, size=RESAMPLES, method="marginals")
