"""Few-shot classification of frozen features: regularised least squares on a few images a class.

    W = argmin_W |X W - Y|² + l2 |W|²,    Y = +1 in the column of the image's class and -1 in the others

X [shots, width + 1] are the features, each with the mean and the deviation of the shots taken out, and a last column of
`BIAS_FEATURE`: so large that the intercept it carries is hardly regularised. The answer is the class of the largest
output. One eigendecomposition of the smaller of X'X and XX' solves it for every l2, in float64.

Reference: Kolesnikov et al. 2020, "Big Transfer"; big_vision, evaluators/fewshot_lsr.py, whose constants these are.
There l2 is 2^10 throughout; here it is also chosen among many by leaving one shot out, which needs no further images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from diptych.core.evaluation.classification import ConfusedResult, most_confused
from diptych.core.evaluation.intervals import hit_rate_interval
from diptych.core.evaluation.zero_shot import ZeroShotResult, classify, zero_shot

BIAS_FEATURE = 100.0
DEVIATION_FLOOR = 1e-5  # added to each deviation, for features that do not vary
L2_CHOICES = tuple(2.0**power for power in range(-10, 21, 2))
BIG_VISION_L2 = 2.0**10


class Draw(TypedDict):
    """Accuracy with the shots of one seed."""

    seed: int
    l2: float  # that was chosen
    left_out_accuracy: float
    accuracy: float
    mean_class_accuracy: float


class L2Accuracy(TypedDict):
    """Accuracy with one strength of regularisation."""

    l2: float
    accuracy: float  # mean over the seeds


class FewShotResult(TypedDict):
    """Accuracy of classifiers fitted to a few images a class, JSON-ready."""

    shots: int
    fewest_shots: int  # of a class; below `shots` where one has fewer images
    accuracy: float  # mean over the seeds
    interval: list[float]  # 95%, over the images classified
    mean_class_accuracy: float
    big_vision_accuracy: float  # mean, with l2 = 2^10
    chance: float  # share of the largest class
    images: int
    seeds: list[Draw]
    by_l2: list[L2Accuracy]
    first_seed: ConfusedResult


@dataclass(frozen=True)
class LeastSquares:
    """The problem X W ≈ Y, decomposed: `weights` costs two small products for each l2.

    features: float64 [rows, columns].   targets: float64 [rows, outputs].
    eigenvalues: float64 [smaller], of the smaller Gram matrix.   vectors: its orthonormal eigenvectors [smaller,
        smaller].
    """

    features: np.ndarray
    targets: np.ndarray
    eigenvalues: np.ndarray
    vectors: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, targets: np.ndarray) -> "LeastSquares":
        """Decomposes the smaller of features' @ features and features @ features'.

        Raises:
            ValueError: shapes that do not agree, no row, or values that are not finite.
        """
        features, targets = np.asarray(features, np.float64), np.asarray(targets, np.float64)
        if features.ndim != 2 or targets.ndim != 2 or len(features) != len(targets) or 0 in features.shape:
            raise ValueError(
                f"least squares needs features [rows, columns] and targets [rows, outputs], got {features.shape} and "
                f"{targets.shape}."
            )
        if not (np.isfinite(features).all() and np.isfinite(targets).all()):
            raise ValueError(
                f"{np.count_nonzero(~np.isfinite(features))} of {features.size} features are not finite. Check the "
                "model's weights for NaN."
            )
        primal = features.shape[0] >= features.shape[1]
        gram = features.T @ features if primal else features @ features.T
        eigenvalues, vectors = np.linalg.eigh(gram)
        # A Gram matrix has none below 0; rounding makes some.
        return cls(features, targets, np.maximum(eigenvalues, 0.0), vectors)

    @property
    def primal(self) -> bool:
        """Whether the smaller Gram matrix is that of the columns."""
        return self.features.shape[0] >= self.features.shape[1]

    def weights(self, l2: float) -> np.ndarray:
        """The minimiser for one l2 above 0, float64 [columns, outputs].

        (X'X + l2 I)^-1 X'Y where the columns are fewer, X' (XX' + l2 I)^-1 Y where the rows are: the same matrix.
        """
        _check_l2(l2)
        shrunk = 1.0 / (self.eigenvalues + l2)
        if self.primal:
            return (self.vectors * shrunk) @ (self.vectors.T @ (self.features.T @ self.targets))
        return self.features.T @ ((self.vectors * shrunk) @ (self.vectors.T @ self.targets))

    def left_out_outputs(self, l2: float) -> np.ndarray:
        """What each row's outputs would be, had that row not been fitted: float64 [rows, outputs].

            (ŷ - h y) / (1 - h),    h the diagonal of X (X'X + l2 I)^-1 X'

        Exact for the given features; that their mean and deviation were taken with the row is not undone.

        Reference: Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 2009, equation 7.64.
        """
        _check_l2(l2)
        if self.primal:
            rotated = self.features @ self.vectors
            leverage = np.einsum("rc,c,rc->r", rotated, 1.0 / (self.eigenvalues + l2), rotated)
        else:
            leverage = np.square(self.vectors) @ (self.eigenvalues / (self.eigenvalues + l2))
        fitted = self.features @ self.weights(l2)
        # Below 1 in exact arithmetic, for l2 > 0; rounding must not turn a fitted row around.
        remainder = np.maximum(1.0 - leverage, np.finfo(np.float64).eps)[:, None]
        return (fitted - leverage[:, None] * self.targets) / remainder


@dataclass(frozen=True)
class FewShotClassifier:
    """A fitted classifier of features. `fit` makes one."""

    mean: np.ndarray  # [width]
    deviation: np.ndarray  # [width]
    problem: LeastSquares
    labels: np.ndarray  # int64 [shots]

    @classmethod
    def fit(cls, features: np.ndarray, labels: np.ndarray, classes: int) -> "FewShotClassifier":
        """Decomposes the least-squares problem of the shots.

        Args:
            features: [shots, width].
            labels: int [shots], 0 to classes - 1.
            classes: number of classes; one without a shot is never the answer.

        Raises:
            ValueError: shapes that do not agree, labels outside the classes, features that are not finite.
        """
        features, labels = np.asarray(features, np.float64), np.asarray(labels)
        if features.ndim != 2 or labels.shape != (len(features),):
            raise ValueError(
                f"few-shot needs features [images, width] with one label each, got {features.shape} and {labels.shape}."
            )
        if not len(labels) or labels.min() < 0 or labels.max() >= classes:
            raise ValueError(f"labels must be 0 to {classes - 1}, got {sorted(set(labels.tolist()))[:10] or 'none'}.")
        mean, deviation = features.mean(axis=0), features.std(axis=0) + DEVIATION_FLOOR
        targets = np.full((len(labels), classes), -1.0)
        targets[np.arange(len(labels)), labels] = 1.0
        problem = LeastSquares.of(_standardised(features, mean, deviation), targets)
        return cls(mean, deviation, problem, labels)

    def scores(self, features: np.ndarray, l2: float) -> np.ndarray:
        """Outputs for other features [images, width]: float64 [images, classes], the largest is the answer."""
        rows = _standardised(np.asarray(features, np.float64), self.mean, self.deviation)
        return rows @ self.problem.weights(l2)

    def left_out_error(self, l2: float) -> float:
        """Mean squared distance of each shot's outputs from its targets, when the others are fitted."""
        return float(np.square(self.problem.left_out_outputs(l2) - self.problem.targets).mean())

    def left_out_accuracy(self, l2: float) -> float:
        """Share of the shots that are classified rightly by the others."""
        return float(np.mean(classify(self.problem.left_out_outputs(l2)) == self.labels))

    def best_l2(self, choices: Sequence[float] = L2_CHOICES) -> float:
        """The choice of least `left_out_error`; of several, the one that regularises most.

        The error, because accuracies of some dozens of shots are too coarse: on the embedded emoji choosing by them
        cost two points at ten shots.
        """
        return min(sorted(choices, reverse=True), key=self.left_out_error)


def draw_shots(labels: np.ndarray, shots: int, classes: int, *, seed: int) -> np.ndarray:
    """Indices of `shots` random images of each class, of all where a class has fewer; class after class, int64.

    Which images of a class are drawn depends on the seed and on the labels; more shots keep those of fewer.

    Raises:
        ValueError: shots below 1.
    """
    if shots < 1:
        raise ValueError(f"at least one shot a class is needed, got {shots}.")
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(np.flatnonzero(labels == label))[:shots] for label in range(classes)])


def few_shot(
    shot_features: np.ndarray,
    shot_labels: np.ndarray,
    features: np.ndarray | None,
    labels: np.ndarray | None,
    class_names: Sequence[str],
    *,
    shots: int = 10,
    seeds: Sequence[int] = (0, 1, 2),
    l2_choices: Sequence[float] = L2_CHOICES,
) -> FewShotResult:
    """Accuracy of classifiers fitted to `shots` images a class, drawn once for each seed.

    Args:
        shot_features: [images, width], what shots are drawn from.
        shot_labels: int [images].
        features: [images, width] that are classified; None for those of `shot_features` that a seed did not draw.
        labels: int [images]; None with `features`.
        class_names: [classes], for display.
        shots: images a class.
        seeds: of the drawing.
        l2_choices: among which each seed chooses by leaving one shot out.

    Raises:
        ValueError: as `FewShotClassifier.fit`; no seed; nothing left to classify.
    """
    classes, shot_labels = len(class_names), np.asarray(shot_labels)
    if not seeds:
        raise ValueError("few-shot needs at least one seed, got none.")
    rows: list[Draw] = []
    l2s = sorted({*l2_choices, BIG_VISION_L2})
    accuracies = np.zeros(len(l2s))
    hits: list[np.ndarray] = []
    images: list[np.ndarray] = []
    first: ZeroShotResult | None = None
    for seed in seeds:
        drawn = draw_shots(shot_labels, shots, classes, seed=seed)
        if features is None or labels is None:
            tested = np.setdiff1d(np.arange(len(shot_labels)), drawn)
            tested_features, tested_labels = np.asarray(shot_features)[tested], shot_labels[tested]
        else:
            tested, tested_features, tested_labels = np.arange(len(labels)), np.asarray(features), np.asarray(labels)
        if not len(tested):
            raise ValueError(
                f"all {len(shot_labels)} images were drawn as shots and none is left to classify. Take fewer shots "
                f"than {shots}, or give a set of training images."
            )
        classifier = FewShotClassifier.fit(np.asarray(shot_features)[drawn], shot_labels[drawn], classes)
        chosen = classifier.best_l2(l2_choices)
        by_l2 = {l2: classifier.scores(tested_features, l2) for l2 in l2s}
        right = {l2: classify(scores) == tested_labels for l2, scores in by_l2.items()}
        accuracies += [right[l2].mean() / len(seeds) for l2 in l2s]
        hits.append(right[chosen])
        images.append(tested)
        judged = zero_shot(by_l2[chosen], tested_labels, class_names)
        first = first or judged
        rows.append(
            {
                "seed": int(seed),
                "l2": chosen,
                "left_out_accuracy": classifier.left_out_accuracy(chosen),
                "accuracy": judged["accuracy"],
                "mean_class_accuracy": judged["mean_class_accuracy"],
            }
        )
    assert first is not None  # there is a seed
    return {
        "shots": shots,
        "fewest_shots": int(min(np.bincount(shot_labels, minlength=classes).min(), shots)),
        "accuracy": float(np.mean([row["accuracy"] for row in rows])),
        "interval": [float(bound) for bound in _interval(hits, images)],
        "mean_class_accuracy": float(np.mean([row["mean_class_accuracy"] for row in rows])),
        "big_vision_accuracy": float(accuracies[l2s.index(BIG_VISION_L2)]),
        "chance": first["chance"],
        "images": first["images"],
        "seeds": rows,
        "by_l2": [{"l2": l2, "accuracy": float(share)} for l2, share in zip(l2s, accuracies, strict=True)],
        "first_seed": {**first, "most_confused": most_confused(first)},
    }


def _interval(hits: Sequence[np.ndarray], images: Sequence[np.ndarray]) -> np.ndarray:
    """The answers of all seeds to one image are drawn together: they are not independent."""
    return hit_rate_interval(np.concatenate(hits), groups=np.concatenate(images))


def _standardised(features: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    standard = (features - mean) / deviation
    return np.concatenate([standard, np.full((len(standard), 1), BIAS_FEATURE)], axis=1)


def _check_l2(l2: float) -> None:
    if not l2 > 0:
        raise ValueError(f"l2 must be above 0, or the problem may have no single solution, got {l2}.")
