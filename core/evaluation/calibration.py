"""Calibration of pairwise probabilities: reliability, expected calibration error, AUC and logit histograms.

The sigmoid loss makes every (image, caption) cell of a batch a yes-or-no question, so `sigmoid(logit_scale * cosine +
logit_bias)` should be the share of such cells that really are pairs. In a batch of B only 1/B of the cells are:
nearly all probabilities are tiny, so bins are even in the log-odds and not in the probability. Measure with as many
images and captions as the model was trained on in one batch; in a larger grid pairs are rarer than the bias was
fitted to.
"""

from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike

from diptych.core.evaluation.intervals import wilson_interval


class ReliabilityBin(TypedDict):
    """Cells of about one predicted probability."""

    low: float  # probability at the lower edge
    high: float  # at the upper one
    mean_probability: float
    share: float  # of pairs
    interval: list[float]  # 95%, of the share (Wilson)
    cells: int


class Reliability(TypedDict):
    """Predicted probabilities against shares of pairs, JSON-ready."""

    ece: float  # the expected calibration error
    base_rate: float  # share of pairs
    mean_probability: float
    bins: list[ReliabilityBin]  # those that are not empty


class LogitHistograms(TypedDict):
    """Counts of logits over the same bins, which add up to the number of logits; JSON-ready."""

    edges: list[float]  # [bins + 1]
    pairs: list[int]  # [bins]
    non_pairs: list[int]  # [bins]


class LogitSummary(TypedDict):
    """Everything about the logits of some cells, JSON-ready."""

    reliability: Reliability
    auc: float | None  # None where the cells are all pairs, or none is
    histograms: LogitHistograms
    cells: int


class Calibration(LogitSummary):
    """The same of random grids."""

    batch_size: int  # images, and texts, of a grid


def pair_logits(
    image_embeddings: np.ndarray, text_embeddings: np.ndarray, *, logit_scale: float, logit_bias: float
) -> np.ndarray:
    """logit_scale * x @ y.T + logit_bias, float32 [images, texts].

    Args:
        image_embeddings: [images, width].
        text_embeddings: [texts, width].
        logit_scale: exp of the weight `log_logit_scale`.
        logit_bias: 0 for a softmax model.
    """
    return np.float32(logit_scale) * (image_embeddings @ text_embeddings.T) + np.float32(logit_bias)


def sigmoid(logits: ArrayLike) -> np.ndarray:
    """1 / (1 + exp(-logits)) without overflow, in float64."""
    logits = np.asarray(logits, dtype=np.float64)
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1.0, small) / (1.0 + small)


def reliability(logits: np.ndarray, is_pair: np.ndarray, *, bins: int = 16) -> Reliability:
    """Predicted probability against the share of true pairs, in bins of equal width in log-odds.

        ECE = sum over bins of (cells in the bin / cells) * |share of pairs - mean probability|

    Args:
        logits: any shape.
        is_pair: bool, of the same shape.
        bins: number of bins up to the largest logit, starting where the probability is one in the number of cells
            (smaller ones cannot be told apart and share the first bin), or at the smallest logit; empty ones are left
            out.

    Raises:
        ValueError: shapes that differ, no cell, or logits that are not finite.

    Reference: Naeini, Cooper and Hauskrecht, 2015, equation 3 (there with bins of equal width in probability).
    """
    logits, is_pair = _flatten(logits, is_pair)
    probabilities = sigmoid(logits)
    edges = np.linspace(max(logits.min(), min(-np.log(len(logits)), logits.max())), logits.max(), bins + 1)
    place = np.clip(np.searchsorted(edges, logits, side="right") - 1, 0, bins - 1)
    cells = np.bincount(place, minlength=bins)
    pairs = np.bincount(place, weights=is_pair, minlength=bins)
    mass = np.bincount(place, weights=probabilities, minlength=bins)
    edges = sigmoid(edges)
    rows: list[ReliabilityBin] = [
        {
            "low": float(edges[b]),
            "high": float(edges[b + 1]),
            "mean_probability": float(mass[b] / cells[b]),
            "share": float(pairs[b] / cells[b]),
            "interval": list(wilson_interval(pairs[b], cells[b])),
            "cells": int(cells[b]),
        }
        for b in range(bins)
        if cells[b]
    ]
    return {
        "ece": float(np.abs(pairs - mass).sum() / len(logits)),
        "base_rate": float(is_pair.mean()),
        "mean_probability": float(probabilities.mean()),
        "bins": rows,
    }


def area_under_curve(pair_scores: np.ndarray, other_scores: np.ndarray) -> float:
    """Probability that a pair scores higher than a non-pair, ties counted half (the Mann-Whitney statistic).

    Args:
        pair_scores: any shape, at least one.
        other_scores: any shape, at least one.

    Raises:
        ValueError: one side is empty, or a score is not a number.

    Reference: Hanley and McNeil, 1982.
    """
    pair_scores, other_scores = np.ravel(pair_scores), np.sort(np.ravel(other_scores))
    if not len(pair_scores) or not len(other_scores):
        raise ValueError(f"the AUC needs pairs and non-pairs, got {len(pair_scores)} and {len(other_scores)} scores.")
    if np.isnan(pair_scores).any() or np.isnan(other_scores[-1]):
        raise ValueError("the AUC needs scores that can be ordered, got NaN. Check the embeddings for NaN.")
    below = np.searchsorted(other_scores, pair_scores, side="left")
    not_above = np.searchsorted(other_scores, pair_scores, side="right")
    return float((below + not_above).mean() / 2 / len(other_scores))


def logit_histograms(logits: np.ndarray, is_pair: np.ndarray, *, bins: int = 48) -> LogitHistograms:
    """Counts of the logits of pairs and of non-pairs over the same bins.

    Args:
        logits: any shape.
        is_pair: bool, of the same shape.
        bins: equal bins between the smallest and the largest logit.

    Raises:
        ValueError: as `reliability`.
    """
    logits, is_pair = _flatten(logits, is_pair)
    edges = np.histogram_bin_edges(logits, bins=bins)
    pairs, _ = np.histogram(logits[is_pair], bins=edges)
    non_pairs, _ = np.histogram(logits[~is_pair], bins=edges)
    return {"edges": edges.tolist(), "pairs": pairs.tolist(), "non_pairs": non_pairs.tolist()}


def calibrate(
    image_embeddings: np.ndarray,
    text_embeddings: np.ndarray,
    image_labels: np.ndarray,
    text_labels: np.ndarray,
    *,
    logit_scale: float,
    logit_bias: float,
    batch_size: int,
    grids: int = 8,
    seed: int = 0,
) -> Calibration:
    """Reliability, AUC and histograms over random grids of `batch_size` images by `batch_size` texts, one text an
    image.

    Args:
        image_embeddings: [images, width].
        text_embeddings: [texts, width].
        image_labels: int [images]; an image and a text of equal labels are a pair.
        text_labels: int [texts].
        logit_scale: exp of the weight `log_logit_scale`.
        logit_bias: 0 for a softmax model.
        batch_size: the training batch, so that pairs are as rare as in training; at most the number of texts is used.
        grids: how many grids are drawn and pooled.
        seed: of the drawing.

    Raises:
        ValueError: no text has an image of its label, or logits that are not finite.
    """
    by_label: dict[int, int] = {int(label): place for place, label in reversed(list(enumerate(image_labels)))}
    texts = np.array([place for place, label in enumerate(text_labels) if int(label) in by_label], dtype=np.int64)
    if not len(texts):
        raise ValueError("no text has an image with its label: there is no pair to measure. Check the labels.")
    rng = np.random.default_rng(seed)
    size = min(batch_size, len(texts))
    logits, is_pair = [], []
    for _ in range(grids):
        chosen = rng.choice(texts, size=size, replace=False)
        images = np.array([by_label[int(label)] for label in np.asarray(text_labels)[chosen]])
        grid = pair_logits(
            image_embeddings[images], text_embeddings[chosen], logit_scale=logit_scale, logit_bias=logit_bias
        )
        logits.append(grid.ravel())
        is_pair.append((np.asarray(image_labels)[images][:, None] == np.asarray(text_labels)[chosen][None, :]).ravel())
    return {**summarise_logits(np.concatenate(logits), np.concatenate(is_pair)), "batch_size": int(size)}


def summarise_logits(logits: np.ndarray, is_pair: np.ndarray) -> LogitSummary:
    """Reliability, AUC and histograms of given cells; see `calibrate`.

    Args:
        logits: any shape.
        is_pair: bool, of the same shape.
    """
    logits, is_pair = _flatten(logits, is_pair)
    both = is_pair.any() and not is_pair.all()
    return {
        "reliability": reliability(logits, is_pair),
        "auc": area_under_curve(logits[is_pair], logits[~is_pair]) if both else None,
        "histograms": logit_histograms(logits, is_pair),
        "cells": len(logits),
    }


def fitted_bias(pair_scores: np.ndarray, other_scores: np.ndarray, *, batch_size: int) -> float:
    """The bias b at which the sigmoid loss of a batch is least, the embeddings and the scale being as they are.

    A batch of B has B - 1 negatives for each pair, so b is where

        mean of σ(-(s + b)) over pairs = (B - 1) · mean of σ(s + b) over negatives

    Args:
        pair_scores, other_scores: logit_scale times cosine of true pairs and of other ones; any shape, at least one of
            each.
        batch_size: B, at least 2.

    Raises:
        ValueError: for no scores, scores that are not finite, or a batch without negatives.
    """
    pairs, others = (np.asarray(scores, np.float64).ravel() for scores in (pair_scores, other_scores))
    if not pairs.size or not others.size:
        raise ValueError(f"A bias is fitted to scores of pairs and of others, got {pairs.size} and {others.size}.")
    if bad := np.count_nonzero(~np.isfinite(np.concatenate([pairs, others]))):
        raise ValueError(
            f"A bias is fitted to finite scores, and {bad:,} of {pairs.size + others.size:,} are not: the model's "
            "weights are damaged, or too large for its precision."
        )
    if batch_size < 2:
        raise ValueError(f"A batch of {batch_size} has no negatives: batch_size must be at least 2.")
    largest = max(np.abs(pairs).max(), np.abs(others).max()) + np.log(batch_size) + 50
    low, high = -largest, largest
    for _ in range(100):
        middle = (low + high) / 2
        if sigmoid(-(pairs + middle)).mean() > (batch_size - 1) * sigmoid(others + middle).mean():
            low = middle
        else:
            high = middle
    return float((low + high) / 2)


def threshold_cosine(logit_scale: ArrayLike, logit_bias: ArrayLike) -> np.ndarray:
    """The cosine at which the probability of a pair is one half: -logit_bias / logit_scale."""
    return -np.asarray(logit_bias, dtype=np.float64) / np.asarray(logit_scale, dtype=np.float64)


def _flatten(logits: np.ndarray, is_pair: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logits, is_pair = np.asarray(logits), np.asarray(is_pair, dtype=bool)
    if logits.shape != is_pair.shape or logits.size == 0:
        raise ValueError(
            f"logits and is_pair must have the same shape and a cell, got {logits.shape} and {is_pair.shape}."
        )
    logits = logits.ravel().astype(np.float64)
    if not np.isfinite(logits).all():
        raise ValueError(
            f"{np.count_nonzero(~np.isfinite(logits))} of {logits.size} logits are not finite. Check the embeddings, "
            "the scale and the bias for NaN and overflow."
        )
    return logits, is_pair.ravel()
