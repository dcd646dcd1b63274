"""Scores of classified pixels: intersection over union by class, from one confusion matrix, with intervals."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from diptych.core.data.sources.segmentation import IGNORE
from diptych.core.evaluation.intervals import bootstrap_interval

ClassIou = TypedDict(
    "ClassIou",
    {
        "class": str,
        "iou": float | None,  # None for a class that is neither in the truth nor in the answers
        "pixels": int,  # of the truth
    },
)
"""Intersection over union of one class."""


class SegmentationScores(TypedDict):
    """Mean IoU and pixel accuracy, JSON-ready."""

    mean_iou: float  # over the classes that are in the truth or in the answers
    interval: list[float]  # 95%, over images
    pixel_accuracy: float
    pixel_accuracy_interval: list[float]
    chance: float  # mean IoU of answering the most frequent class everywhere
    images: int
    classes: int
    per_class: list[ClassIou]


def confusion_by_image(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Pixels of each true class (rows) that were given each class (columns), image by image.

    Args:
        predicted: integer [images, height, width], 0 to classes - 1 wherever the pixel counts.
        labels: integer [images, height, width], 0 to classes - 1, or `IGNORE` for a pixel that does not count.
        classes: number of classes, at most `IGNORE`.

    Returns:
        int64 [images, classes, classes].

    Raises:
        ValueError: shapes that do not agree, or values outside the classes.
    """
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    if predicted.shape != labels.shape or labels.ndim != 3:
        raise ValueError(
            f"predicted and labels must both be [images, height, width], got {list(predicted.shape)} and "
            f"{list(labels.shape)}. Bring the prediction to the size of the labels, not the labels to that of the "
            "patches."
        )
    check_labels(labels, classes)
    counts = np.empty((len(labels), classes, classes), np.int64)
    for place, (answer, truth) in enumerate(zip(predicted, labels, strict=True)):
        counted = truth != IGNORE
        answer, truth = answer[counted].astype(np.int64), truth[counted].astype(np.int64)
        if len(answer) and (answer.min() < 0 or answer.max() >= classes):
            raise ValueError(f"predicted must be 0 to {classes - 1}, got {answer.min()} to {answer.max()}.")
        counts[place] = np.bincount(truth * classes + answer, minlength=classes * classes).reshape(classes, classes)
    return counts


def check_labels(labels: np.ndarray, classes: int) -> None:
    """Whether labels are integers of the classes or `IGNORE`.

    Raises:
        ValueError: they are not, or there are too many classes for `IGNORE` to be none of them.
    """
    if not 1 <= classes <= IGNORE:
        raise ValueError(
            f"classes must be 1 to {IGNORE}, since {IGNORE} marks pixels that do not count, got {classes}."
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers, got {labels.dtype}.")
    # One pass that looks at each value; a set of labels can be larger than memory is generous.
    wrong = {
        int(value) for image in labels for value in np.unique(image) if value != IGNORE and not 0 <= value < classes
    }
    if wrong:
        raise ValueError(
            f"labels must be 0 to {classes - 1}, or {IGNORE} for pixels that do not count, got {sorted(wrong)[:10]}."
        )


def class_ious(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union of each class.

        IoU[c] = n[c, c] / (Σ_j n[c, j] + Σ_i n[i, c] - n[c, c])

    Args:
        confusion: [..., classes, classes] counts, rows the truth.

    Returns:
        float64 [..., classes]; NaN for a class that is neither in the truth nor in the answers.
    """
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    return _ratios(right, confusion.sum(axis=-1) + confusion.sum(axis=-2) - right)


def mean_iou(predicted: np.ndarray, labels: np.ndarray, classes: int) -> tuple[float, np.ndarray]:
    """Mean over the classes of intersection over union, both added up over all images.

    A class that is neither in the truth nor in the answers is left out of the mean; one that was only answered counts
    as 0.

    Args:
        predicted, labels, classes: as in `confusion_by_image`.

    Returns:
        The mean, and float64 [classes] with NaN for those left out.

    Raises:
        ValueError: as `confusion_by_image`; no pixel that counts.
    """
    ious = class_ious(_counted(confusion_by_image(predicted, labels, classes)).sum(axis=0))
    return float(np.nanmean(ious)), ious


def segmentation_scores(
    predicted: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> SegmentationScores:
    """Mean IoU and pixel accuracy of predicted labels.

    Args:
        predicted, labels: integer [images, height, width]; see `confusion_by_image`.
        class_names: one for each class.
        resamples: of the images, for the intervals.
        seed: of the resampling.

    Raises:
        ValueError: as `mean_iou`.
    """
    classes = len(class_names)
    by_image = _counted(confusion_by_image(predicted, labels, classes))
    confusion = by_image.sum(axis=0)
    ious, pixels = class_ious(confusion), confusion.sum(axis=1)
    right = np.trace(by_image, axis1=1, axis2=2)
    of_image = by_image.sum(axis=(1, 2))
    counted = of_image > 0
    accuracy = bootstrap_interval(
        right[counted] / of_image[counted], weights=of_image[counted], resamples=resamples, seed=seed
    )
    return {
        "mean_iou": float(np.nanmean(ious)),
        "interval": [float(bound) for bound in mean_iou_interval(by_image, resamples=resamples, seed=seed)],
        "pixel_accuracy": float(right.sum() / of_image.sum()),
        "pixel_accuracy_interval": [float(bound) for bound in accuracy],
        "chance": float(pixels.max() / pixels.sum() / np.count_nonzero(pixels)),
        "images": len(by_image),
        "classes": classes,
        "per_class": [
            {"class": name, "iou": None if np.isnan(iou) else float(iou), "pixels": int(count)}
            for name, iou, count in zip(class_names, ious, pixels, strict=True)
        ],
    }


def mean_iou_interval(
    by_image: np.ndarray, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """Percentile bootstrap interval of the mean IoU, resampling whole images: the pixels of one are not independent.

    Each resample leaves out the classes that do not occur in it, as the mean IoU of its images would.

    Args:
        by_image: [images, classes, classes], of `confusion_by_image`.
        confidence: between 0 and 1.
        resamples, seed: of the bootstrap.

    Returns:
        float64 [2] (low, high).
    """
    rng, images = np.random.default_rng(seed), len(by_image)
    right = np.diagonal(by_image, axis1=1, axis2=2).astype(np.float64)
    union = by_image.sum(axis=1) + by_image.sum(axis=2) - right
    means: list[np.ndarray] = []
    for _ in range(resamples):
        times = np.bincount(rng.integers(images, size=images), minlength=images).astype(np.float64)
        ious = _ratios(times @ right, times @ union)
        if not np.isnan(ious).all():  # a resample of images without a pixel that counts says nothing
            means.append(np.nanmean(ious))
    tail = (1 - confidence) / 2
    return np.quantile(means, [tail, 1 - tail])


def _counted(by_image: np.ndarray) -> np.ndarray:
    if not by_image.sum():
        raise ValueError(
            f"none of the pixels of {len(by_image)} images counts: all are {IGNORE}. Check the labels' reading."
        )
    return by_image


def _ratios(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below > 0)
