"""Classification with any number of labels a picture: average precision of each label, and how many are right."""

from collections.abc import Sequence
from typing import TypedDict, final

import numpy as np


@final
class SeveralLabelsResult(TypedDict):
    """All that is reported of a classification with several labels, JSON-ready."""

    images: int
    class_names: list[str]
    mean_average_precision: float | None  # over the labels that occur; None where none does
    per_class: list[float | None]  # average precision of each label; None for one without images
    images_per_class: list[int]
    precision: float | None  # of all answers together; None where nothing is to be divided by, as with the next two
    recall: float | None
    f1: float | None
    all_right: float  # share of images with exactly their labels
    chance: float | None  # mean share of a label's images: the average precision of a coin


def average_precision(scores: np.ndarray, relevant: np.ndarray) -> float | None:
    """The mean, over the relevant images, of the share of relevant ones among those that score at least as high.

    Equal scores are one step, so that the order in which they come makes no difference. None where none is relevant.

    Args:
        scores: float [images].
        relevant: bool [images].
    """
    if not relevant.any():
        return None
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(relevant[order])
    ends = np.searchsorted(-scores[order], -scores[relevant], side="right")
    return float(np.mean(hits[ends - 1] / ends))


def several_labels(scores: np.ndarray, targets: np.ndarray, class_names: Sequence[str]) -> SeveralLabelsResult:
    """All that is reported of a classification with several labels.

    Args:
        scores: logits [images, classes]; above 0 the answer is yes.
        targets: [images, classes], 1 for the labels that an image has.
        class_names: [classes], for display.

    Raises:
        ValueError: shapes that do not agree.
    """
    wanted = targets > 0.5
    if scores.shape != wanted.shape or scores.shape[1:] != (len(class_names),) or not len(scores):
        raise ValueError(
            f"several_labels needs scores and targets [images, classes], got {scores.shape} and {targets.shape} for "
            f"{len(class_names)} classes."
        )
    answers = scores > 0
    each = [average_precision(scores[:, place], wanted[:, place]) for place in range(len(class_names))]
    known = [precision for precision in each if precision is not None]
    right, said, there = (int((a & b).sum()) for a, b in ((answers, wanted), (answers, answers), (wanted, wanted)))
    shares = wanted.mean(axis=0)
    return {
        "images": len(scores),
        "class_names": list(class_names),
        "mean_average_precision": float(np.mean(known)) if known else None,
        "per_class": each,
        "images_per_class": wanted.sum(axis=0).tolist(),
        "precision": right / said if said else None,
        "recall": right / there if there else None,
        "f1": 2 * right / (said + there) if said + there else None,
        "all_right": float((answers == wanted).all(axis=1).mean()),
        "chance": float(shares[shares > 0].mean()) if known else None,
    }
