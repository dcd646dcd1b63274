"""Confidence intervals of means: how far a recall or an accuracy may be from the truth."""

import math

import numpy as np

# The two-sided 95% quantile of the normal distribution.
Z_95 = 1.959963984540054


def bootstrap_interval(
    values: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """Percentile bootstrap interval of the mean of `values`, resampling whole groups.

    Queries that share an image (five captions of one photo, one name in 36 languages) are not independent: give them
    the same group, and they are drawn together.

    Args:
        values: [queries] or [queries, metrics], one number a query (hit 1, miss 0, or any score).
        groups: integer [queries], or None where every query stands alone.
        weights: positive [queries] for a weighted mean, or None for the plain one.
        confidence: between 0 and 1.
        resamples: bootstrap resamples.
        seed: of the resampling; the same seed gives the same interval.

    Returns:
        float64 [2] (low, high), or [metrics, 2].

    Raises:
        ValueError: no values, or shapes that do not agree.

    Reference: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim not in (1, 2) or values.shape[0] == 0:
        raise ValueError(
            f"bootstrap_interval needs values of shape [queries] or [queries, metrics] with at least one query, got "
            f"{values.shape}. Check that the evaluation set is not empty."
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}. The usual choice is 0.95.")
    columns = values.reshape(values.shape[0], -1)
    sums, sizes = _group_sums(columns, groups, np.ones(len(columns)) if weights is None else np.asarray(weights))
    weights_per_chunk = max(1, 4_000_000 // len(sizes))
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, weights_per_chunk):
        count = min(weights_per_chunk, resamples - start)
        drawn = rng.integers(len(sizes), size=(count, len(sizes)))
        drawn += np.arange(count)[:, None] * len(sizes)
        times_drawn = np.bincount(drawn.ravel(), minlength=count * len(sizes)).reshape(count, -1).astype(np.float64)
        means.append((times_drawn @ sums) / (times_drawn @ sizes)[:, None])
    tail = (1 - confidence) / 2
    interval = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0).T
    return interval[0] if values.ndim == 1 else interval


def wilson_interval(hits: float, total: float, *, z: float = Z_95) -> tuple[float, float]:
    """Wilson score interval of a proportion: unlike the bootstrap it has a width when all or none of the queries hit.

        (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n),   p = hits / n

    Args:
        hits: successes, 0 to total.
        total: trials, more than 0.
        z: normal quantile; the default gives 95%.

    Raises:
        ValueError: a total that is not positive, or hits outside 0 to total.

    Reference: Wilson, 1927; Brown, Cai and DasGupta, Interval Estimation for a Binomial Proportion, 2001, equation 4.
    """
    if total <= 0 or not 0 <= hits <= total:
        raise ValueError(
            f"wilson_interval needs 0 <= hits <= total and total > 0, got hits={hits}, total={total}. Check that the "
            "evaluation set is not empty."
        )
    proportion = hits / total
    centre = proportion + z * z / (2 * total)
    half_width = z * math.sqrt(proportion * (1 - proportion) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    low = 0.0 if hits == 0 else (centre - half_width) / scale
    high = 1.0 if hits == total else (centre + half_width) / scale
    return low, high


def hit_rate_interval(
    hits: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """95% interval of the mean of hits and misses: bootstrap, and Wilson for a column whose queries all agree.

    Args:
        hits: bool or 0/1, [queries] or [queries, metrics].
        groups, weights, resamples, seed: as in `bootstrap_interval`. Wilson counts groups, not queries, as trials.

    Returns:
        float64 [2] (low, high), or [metrics, 2].

    Raises:
        ValueError: as `bootstrap_interval`.
    """
    hits = np.asarray(hits, dtype=np.float64)
    interval = bootstrap_interval(hits, groups=groups, weights=weights, resamples=resamples, seed=seed)
    trials = len(hits) if groups is None else len(np.unique(groups))
    columns, intervals = hits.reshape(len(hits), -1), interval.reshape(-1, 2)
    for column, bounds in zip(columns.T, intervals, strict=True):
        if column.min() == column.max():
            bounds[:] = wilson_interval(column[0] * trials, trials)
    return interval


def _group_sums(columns: np.ndarray, groups: np.ndarray | None, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted sums [groups, metrics] and total weights [groups] of the values of each group."""
    if groups is None:
        return columns * weights[:, None], weights
    groups = np.asarray(groups)
    if groups.shape != (len(columns),):
        raise ValueError(
            f"groups must hold one integer a query, shape ({len(columns)},), got {groups.shape}. Pass the image or "
            "concept of every query, in the order of the values."
        )
    _, place = np.unique(groups, return_inverse=True)
    sums = [np.bincount(place, weights=column * weights) for column in columns.T]
    return np.stack(sums, axis=1), np.bincount(place, weights=weights)
