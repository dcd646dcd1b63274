"""Classification by nearest neighbours: the classes of the most similar training images vote. Nothing is trained.

    score[c] = Σ over the k nearest training images i of class c of exp(cosine(x, x_i) / temperature)

Reference: Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section 3.4; with
k = 20 and a temperature of 0.07 as Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers"
(DINO), report it.
"""

from collections.abc import Sequence

import numpy as np

from diptych.core.evaluation.nearest import NOT_FOUND, nearest
from diptych.core.evaluation.zero_shot import ZeroShotResult, zero_shot

NEIGHBOURS = 20
TEMPERATURE = 0.07
QUERIES = 1_000  # searched at a time: their cosines with a block of training images stay small


class NeighboursResult(ZeroShotResult):
    """Accuracy of nearest neighbours, JSON-ready."""

    k: int  # neighbours that vote
    temperature: float
    train_images: int


def neighbour_scores(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    features: np.ndarray,
    classes: int,
    *,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> np.ndarray:
    """The votes for each class: float64 [images, classes], the largest is the answer.

    Of training images that are equally near the earlier is taken, so that the votes do not depend on how they are
    counted.

    Args:
        train_features: float [training images, width]; they are normalised here. Those that are not finite do not vote.
        train_labels: int [training images], 0 to classes - 1.
        features: float [images, width]. An image whose features are not finite has NaN for all votes, and so no answer.
        classes: number of classes.
        k: neighbours that vote; all training images where they are fewer.
        temperature: above 0; the smaller, the more the nearest counts.

    Raises:
        ValueError: shapes that do not agree, labels outside the classes, k below 1, a temperature that is not above 0.
    """
    train_labels = np.asarray(train_labels)
    if train_features.ndim != 2 or train_labels.shape != (len(train_features),) or not len(train_labels):
        raise ValueError(
            f"neighbours need features [images, width] with one label each, got {list(train_features.shape)} and "
            f"{list(train_labels.shape)}."
        )
    if train_labels.min() < 0 or train_labels.max() >= classes:
        raise ValueError(f"labels must be 0 to {classes - 1}, got {train_labels.min()} to {train_labels.max()}.")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}.")
    scores = np.full((len(features), classes), np.nan)
    vectors = _normalised(train_features)
    finite = np.flatnonzero(np.isfinite(features).all(axis=1))
    for start in range(0, len(finite), QUERIES):
        some = finite[start : start + QUERIES]
        cosines, found = nearest(_normalised(features[some]), vectors, k)
        # Relative to the nearest: only ratios of votes matter, and no temperature makes them overflow.
        votes = np.exp((cosines.astype(np.float64) - cosines[:, :1]) / temperature)
        votes[found == NOT_FOUND] = 0.0
        places = np.arange(len(some))[:, None] * classes + train_labels[found]
        counted = np.bincount(places.ravel(), weights=votes.ravel(), minlength=len(some) * classes)
        scores[some] = counted.reshape(len(some), classes)
    return scores


def neighbours(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    features: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
    seed: int = 0,
) -> NeighboursResult:
    """Accuracy of nearest neighbours on pooled features.

    Args:
        train_features, features: float [images, width].
        train_labels, labels: int [images], 0 to classes - 1.
        class_names: one for each class.
        k, temperature: as in `neighbour_scores`.
        seed: of the bootstrap.

    Raises:
        ValueError: as `neighbour_scores` and `zero_shot`.
    """
    scores = neighbour_scores(train_features, train_labels, features, len(class_names), k=k, temperature=temperature)
    return {
        **zero_shot(scores, labels, class_names, seed=seed),
        "k": min(k, len(train_features)),
        "temperature": temperature,
        "train_images": len(train_features),
    }


def _normalised(features: np.ndarray) -> np.ndarray:
    wide = features.astype(np.float32)
    # A training image whose features are not finite becomes NaN, and is never found.
    with np.errstate(invalid="ignore"):
        return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), np.finfo(np.float32).tiny)
