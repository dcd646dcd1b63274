"""Zero-shot classification from every side: top-1 and top-k, by class, and the truth of its probabilities."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from diptych.core.evaluation.calibration import reliability, sigmoid
from diptych.core.evaluation.intervals import hit_rate_interval
from diptych.core.evaluation.zero_shot import Confusion, ZeroShotResult, zero_shot

# Bins of the calibration error, of equal width in log-odds.
CONFIDENCE_BINS = 15

ConfusedPair = TypedDict(
    "ConfusedPair",
    {
        "class": str,
        "taken_for": str,  # another class
        "images": int,
        "share": float,  # of the class's images
    },
)
"""Two classes of which one is taken for the other."""


class TopK(TypedDict):
    """The share of images whose class is among the k of largest score."""

    accuracy: float
    interval: list[float]  # 95%


class Confidence(TypedDict):
    """How sure a model is, and whether rightly."""

    of_true_class: float  # mean probability of the true class
    of_answer: float  # mean probability of the most probable class
    calibration_error: float  # of the latter against how often it is right


class ConfusedResult(ZeroShotResult):
    """Accuracy with the most frequent confusions."""

    most_confused: list[ConfusedPair]


class ClassificationResult(ConfusedResult):
    """All that is reported of a classification with one label an image, JSON-ready."""

    top_k: dict[str, TopK]  # by "acc@k"
    probabilities: dict[str, Confidence]  # by "softmax" and, where there is a bias, "sigmoid"; none of no finite score


def softmax_probabilities(logits: np.ndarray) -> np.ndarray:
    """exp(logit) / sum over the classes of exp(logit), float64 [images, classes]: which of the classes it is."""
    logits = np.asarray(logits, np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def most_probable(class_names: Sequence[str], probabilities: np.ndarray, top_k: int | None) -> list[dict[str, float]]:
    """For each row of probabilities [images, classes] its most probable classes with them, best first; None for all."""
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    return [
        {class_names[place]: float(row[place]) for place in places}
        for row, places in zip(probabilities, best, strict=True)
    ]


def top_k_hits(scores: np.ndarray, labels: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """Whether the true class is among the k of largest score, bool [images, ks].

    As strict as `retrieval.recall_at_k`: a class that ties with the true one is ranked before it, and so is one whose
    score is not a number; an image whose true class has no finite score is missed by every k.
    """
    true_scores = scores[np.arange(len(labels)), labels]
    with np.errstate(invalid="ignore"):
        below = np.count_nonzero(scores < true_scores[:, None], axis=1)
    ranks = scores.shape[1] - below
    return (ranks[:, None] <= np.asarray(ks)) & np.isfinite(true_scores)[:, None]


def classification(
    scores: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    ks: Sequence[int] = (1, 5),
    logit_bias: float | None,
    seed: int = 0,
) -> ClassificationResult:
    """All that is reported of a zero-shot classification.

    Args:
        scores: [images, classes], logit_scale * cosine (or, for kinds, what `zero_shot.kind_scores` gives).
        labels: int [images], 0 to classes - 1.
        class_names: [classes], for display.
        ks: of top-k accuracy; those of at least the number of classes are left out, because they are always hit.
        logit_bias: b of a sigmoid model, whose probability that a class fits is sigmoid(score + b); None for a softmax
            model.
        seed: of the bootstrap.

    Raises:
        ValueError: as `zero_shot.zero_shot`.
    """
    result = zero_shot(scores, labels, class_names, seed=seed)
    labels = np.asarray(labels)
    ks = [k for k in ks if k == 1 or k < len(class_names)]
    hits = top_k_hits(scores, labels, ks)
    intervals = hit_rate_interval(hits, seed=seed)
    finite = np.isfinite(scores).all(axis=1)
    kinds = {"softmax": softmax_probabilities(scores[finite])}
    if logit_bias is not None:
        kinds["sigmoid"] = sigmoid(scores[finite] + logit_bias)
    return {
        **result,
        "top_k": {
            f"acc@{k}": {"accuracy": float(share), "interval": [float(low), float(high)]}
            for k, share, (low, high) in zip(ks, hits.mean(axis=0), intervals, strict=True)
        },
        "most_confused": most_confused(result),
        "probabilities": (
            {name: confidence(some, labels[finite]) for name, some in kinds.items()} if finite.any() else {}
        ),
    }


def most_confused(result: Confusion, count: int = 20) -> list[ConfusedPair]:
    """Which classes are taken for which others most often.

    Args:
        result: the confusion.
        count: at most so many; pairs that do not occur are left out, and equal counts are in the order of the classes.
    """
    confusion = np.array(result["confusion"])
    images = confusion.sum(axis=1) + np.asarray(result["no_answer"])
    np.fill_diagonal(confusion, 0)
    order = np.argsort(-confusion, axis=None, kind="stable")[:count]
    names = result["class_names"]
    return [
        {
            "class": names[truth],
            "taken_for": names[answer],
            "images": int(confusion[truth, answer]),
            "share": float(confusion[truth, answer] / images[truth]),
        }
        for truth, answer in zip(*np.unravel_index(order, confusion.shape), strict=True)
        if confusion[truth, answer]
    ]


def confidence(probabilities: np.ndarray, labels: np.ndarray) -> Confidence:
    """How sure the model is, and whether rightly.

        calibration error = sum over bins of (images in the bin / images) * |share right - mean probability|

    Args:
        probabilities: [images, classes]; rows of sigmoid probabilities need not add up to 1.
        labels: int [images].

    Reference: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3 (bins there of equal width in
    probability, here in log-odds).
    """
    answers = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    inside = np.clip(answers, 1e-12, 1 - 1e-12)
    judged = reliability(np.log(inside) - np.log1p(-inside), right, bins=CONFIDENCE_BINS)
    return {
        "of_true_class": float(probabilities[np.arange(len(labels)), labels].mean()),
        "of_answer": float(answers.mean()),
        "calibration_error": judged["ece"],
    }
