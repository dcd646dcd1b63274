"""Segmentation by a linear probe: one linear layer on the frozen features of patches, its logits brought to the pixels.

    L = - Σ_p n_p Σ_c t_pc log softmax(x_p W + b)_c / Σ_p n_p + weight_decay / 2 |W|²

x_p are the features of patch p, each with the mean and the deviation of the training patches taken out; t_pc is the
share of class c among the n_p pixels of the patch that count. That is the mean cross entropy of all pixels, each given
its patch's logits. The problem is convex and solved as a whole (`lbfgs`), so that no rate or schedule stands between
features and score.

With `pooled`, the pooled vector of an image is set behind each of its patches: what SigLIP 2 does for its table 2 with
the output of its attention pooling, after TIPS (section 4.1), which takes the class token. Here the layer is fitted by
a method of our own, so scores are to be compared with one another rather than with that table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diptych.core.data.sources.segmentation import IGNORE
from diptych.core.evaluation.lbfgs import minimise
from diptych.core.evaluation.patch_features import (
    CHUNK_ELEMENTS,
    LinearMap,
    Standard,
    check_features,
    draw_patches,
    patch_of_pixel,
    patch_rows,
)
from diptych.core.evaluation.segmentation_scores import SegmentationScores, check_labels, segmentation_scores
from diptych.core.evaluation.upsampling import upsample

WEIGHT_DECAY = 1e-4
MOST_PATCHES = 200_000  # 4 bytes for each of their features are held while the probe is fitted
ITERATIONS = 200


class SegmentationProbeResult(SegmentationScores):
    """Scores of a probe on one set, fitted to another; JSON-ready."""

    train_images: int
    patches: list[int]  # [rows, columns]
    pooled: bool  # whether the pooled vector was set behind the patches
    weight_decay: float
    loss: float  # with the weight decay, where the search ended
    iterations: int
    converged: bool


@dataclass(frozen=True)
class SegmentationProbe:
    """A fitted probe. `fit` makes one."""

    linear: LinearMap
    loss: float  # with the weight decay
    iterations: int
    converged: bool

    @classmethod
    def fit(
        cls,
        features: np.ndarray,
        labels: np.ndarray,
        classes: int,
        *,
        pooled: np.ndarray | None = None,
        weight_decay: float = WEIGHT_DECAY,
        iterations: int = ITERATIONS,
        most_patches: int = MOST_PATCHES,
        seed: int = 0,
    ) -> "SegmentationProbe":
        """Minimises the loss over the patches with a pixel that counts.

        Args:
            features: float [images, rows, columns, width].
            labels: integer [images, height, width], 0 to classes - 1 or `IGNORE`; at least a pixel for each patch.
            classes: number of classes, at most `IGNORE`.
            pooled: float [images, pooled width] to be set behind each patch, or None.
            weight_decay: above 0, or separable features have no minimum.
            iterations: of the search, at most.
            most_patches: where there are more, so many random ones are fitted.
            seed: of that choice.

        Raises:
            ValueError: shapes that do not agree, labels outside the classes, no pixel that counts, features that are
            not finite.
        """
        if not weight_decay > 0:
            raise ValueError(f"weight_decay must be above 0, or there may be no minimum, got {weight_decay}.")
        check_features(features, pooled, labels, "labels")
        counts = class_counts(labels, features.shape[1], features.shape[2], classes).reshape(-1, classes)
        pixels = counts.sum(axis=1)
        if not pixels.any():
            raise ValueError(f"no pixel of {len(labels)} images counts: all are {IGNORE}. Check the labels' reading.")
        chosen = draw_patches(pixels, most_patches, seed=seed)
        rows = patch_rows(features, pooled, chosen)
        standard = Standard.of(rows)
        rows = standard.applied(rows)
        targets = (counts[chosen] / pixels[chosen].sum()).astype(np.float32)
        found = minimise(
            lambda weights: softmax_regression(weights, rows, targets, weight_decay),
            np.zeros((rows.shape[1] + 1) * classes),
            iterations=iterations,
        )
        weights = found.place.reshape(-1, classes)
        linear = LinearMap.of_standard(standard, weights[:-1], weights[-1])
        return cls(linear, found.value, found.iterations, found.converged)

    def predict(self, features: np.ndarray, height: int, width: int, *, pooled: np.ndarray | None = None) -> np.ndarray:
        """The class of largest logit at each pixel, uint8 [images, height, width].

        The logits are interpolated between the patches' centres (`upsample`), not the answers.

        Args:
            features: float [images, rows, columns, width].
            height, width: of the labels.
            pooled: as it was fitted.

        Raises:
            ValueError: another width than was fitted.
        """
        predicted = np.empty((len(features), height, width), np.uint8)
        for some, logits in self.linear.chunks(features, pooled, height * width):
            predicted[some] = upsample(logits, height, width).argmax(axis=-1)
        return predicted


def class_counts(labels: np.ndarray, rows: int, columns: int, classes: int) -> np.ndarray:
    """How many pixels of each class lie in each patch, those of `IGNORE` left out.

    Args:
        labels: integer [images, height, width], 0 to classes - 1 or `IGNORE`.
        rows, columns: of patches.
        classes: number of classes.

    Returns:
        int64 [images, rows, columns, classes].

    Raises:
        ValueError: labels outside the classes.
    """
    check_labels(labels, classes)
    places = patch_of_pixel(labels.shape[1], labels.shape[2], rows, columns) * classes
    counts = np.empty((len(labels), rows, columns, classes), np.int64)
    for image, of_image in zip(labels, counts, strict=True):
        counted = image != IGNORE
        found = np.bincount(places[counted] + image[counted], minlength=rows * columns * classes)
        of_image[:] = found.reshape(rows, columns, classes)
    return counts


def softmax_regression(
    weights: np.ndarray, rows: np.ndarray, targets: np.ndarray, weight_decay: float
) -> tuple[float, np.ndarray]:
    """Value and gradient of the loss at the top of this file.

    Args:
        weights: float64 [(columns + 1) · classes], the bias last.
        rows: float32 or float64 [patches, columns].
        targets: [patches, classes], n_p t_pc / Σ n: all of them add up to 1.
        weight_decay: of the kernel; the bias is free.

    Returns:
        The value, and its gradient, float64 [(columns + 1) · classes]. Products are computed in the rows' dtype and
        added up over chunks of patches in float64.
    """
    table = weights.reshape(-1, targets.shape[1])
    kernel, bias = table[:-1].astype(rows.dtype), table[-1].astype(rows.dtype)
    value, gradient = weight_decay / 2 * np.square(table[:-1]).sum(), np.zeros_like(table)
    gradient[:-1] = weight_decay * table[:-1]
    step = max(1, CHUNK_ELEMENTS // 8 // max(rows.shape[1], targets.shape[1]))
    for start in range(0, len(rows), step):
        some, wanted = rows[start : start + step], targets[start : start + step]
        logits = some @ kernel + bias
        logits -= logits.max(axis=1, keepdims=True)
        weight = wanted.sum(axis=1, keepdims=True)
        chosen = np.vdot(wanted, logits)
        np.exp(logits, out=logits)
        sums = logits.sum(axis=1, keepdims=True)
        value += float(np.vdot(weight, np.log(sums)) - chosen)
        logits *= weight / sums
        logits -= wanted
        gradient[:-1] += some.T @ logits
        gradient[-1] += logits.sum(axis=0, dtype=np.float64)
    return float(value), gradient.ravel()


def segmentation_probe(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    features: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    train_pooled: np.ndarray | None = None,
    pooled: np.ndarray | None = None,
    weight_decay: float = WEIGHT_DECAY,
    seed: int = 0,
) -> tuple[SegmentationProbeResult, np.ndarray]:
    """Mean IoU on one set of a probe fitted to another, and its answers.

    Args:
        train_features, features: float [images, rows, columns, width].
        train_labels, labels: integer [images, height, width], with `IGNORE` for pixels that do not count.
        class_names: one for each class.
        train_pooled, pooled: float [images, pooled width]; both or neither.
        weight_decay: of the kernel.
        seed: of the choice of patches and of the resampling.

    Returns:
        The scores, and the class of each pixel, uint8 [images, height, width].

    Raises:
        ValueError: as `SegmentationProbe.fit`, `predict` and `segmentation_scores`.
    """
    probe = SegmentationProbe.fit(
        train_features, train_labels, len(class_names), pooled=train_pooled, weight_decay=weight_decay, seed=seed
    )
    check_features(features, pooled, labels, "labels")
    predicted = probe.predict(features, labels.shape[1], labels.shape[2], pooled=pooled)
    result: SegmentationProbeResult = {
        **segmentation_scores(predicted, labels, class_names, seed=seed),
        "train_images": len(train_features),
        "patches": list(features.shape[1:3]),
        "pooled": pooled is not None,
        "weight_decay": weight_decay,
        "loss": probe.loss,
        "iterations": probe.iterations,
        "converged": probe.converged,
    }
    return result, predicted
