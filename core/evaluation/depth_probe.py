"""Depth by a linear probe: one linear map on the frozen features of patches, its output brought to the pixels.

    W, b = argmin Σ_p n_p (x_p W + b - y_p)² / Σ_p n_p + l2 |W|²

x_p are the features of patch p, each with the mean and the deviation of the training patches taken out; y_p is the mean
depth of the n_p pixels of the patch whose depth is known. Solved in closed form. With `pooled`, the pooled vector of an
image is set behind each of its patches, as in `segmentation_probe`.

The papers' linear head (TIPS, section 4.1; SigLIP 2, table 2) is trained otherwise: errors are to be compared with one
another rather than with that table.
"""

from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from diptych.core.evaluation.intervals import bootstrap_interval
from diptych.core.evaluation.patch_features import (
    CHUNK_ELEMENTS,
    LinearMap,
    Standard,
    check_features,
    draw_patches,
    patch_of_pixel,
    patch_rows,
)
from diptych.core.evaluation.upsampling import upsample

L2 = 1e-3
MOST_PATCHES = 200_000
DELTA = 1.25
"""Depths whose ratio, either way, is below this count as near: the measure delta1."""


class DepthScores(TypedDict):
    """Errors of predicted depths, JSON-ready."""

    rmse: float  # metres, over all pixels
    interval: list[float]  # 95%, of the rmse, over images
    rmse_by_image: float  # mean of the images' own
    abs_rel: float
    delta1: float
    delta1_interval: list[float]
    chance: float  # rmse of answering the mean depth everywhere
    images: int  # with a known depth
    pixels: int


class DepthProbeResult(DepthScores):
    """Errors of a probe on one set, fitted to another; JSON-ready."""

    train_images: int
    patches: list[int]  # [rows, columns]
    pooled: bool  # whether the pooled vector was set behind the patches
    l2: float


@dataclass(frozen=True)
class DepthProbe:
    """A fitted probe. `fit` makes one."""

    linear: LinearMap
    least: float  # the range of the training depths, which predictions do not leave
    most: float

    @classmethod
    def fit(
        cls,
        features: np.ndarray,
        depths: np.ndarray,
        *,
        pooled: np.ndarray | None = None,
        l2: float = L2,
        most_patches: int = MOST_PATCHES,
        seed: int = 0,
    ) -> "DepthProbe":
        """Solves the regularised least squares of the patches with a known depth.

        Args:
            features: float [images, rows, columns, width].
            depths: float [images, height, width], metres above 0; 0, below or not finite where it is unknown.
            pooled: float [images, pooled width] to be set behind each patch, or None.
            l2: above 0.
            most_patches: where there are more, so many random ones are fitted.
            seed: of that choice.

        Raises:
            ValueError: shapes that do not agree, no known depth, features that are not finite.
        """
        if not l2 > 0:
            raise ValueError(f"l2 must be above 0, or the problem may have no single solution, got {l2}.")
        check_features(features, pooled, depths, "depths")
        sums, counts = patch_sums(depths, features.shape[1], features.shape[2])
        if not counts.any():
            raise ValueError(
                f"no depth of {len(depths)} images is known: all are 0 or not finite. Check their reading."
            )
        chosen = draw_patches(counts.ravel(), most_patches, seed=seed)
        rows = patch_rows(features, pooled, chosen)
        standard = Standard.of(rows)
        kernel, bias = ridge(standard.applied(rows), sums.ravel()[chosen], counts.ravel()[chosen], l2)
        known = depths[known_depths(depths)]
        return cls(LinearMap.of_standard(standard, kernel, bias), float(known.min()), float(known.max()))

    def predict(self, features: np.ndarray, height: int, width: int, *, pooled: np.ndarray | None = None) -> np.ndarray:
        """Depth at each pixel, float32 [images, height, width], interpolated between the patches' centres (`upsample`).

        Args:
            features: float [images, rows, columns, width].
            height, width: of the depths.
            pooled: as it was fitted.

        Raises:
            ValueError: another width than was fitted.
        """
        predicted = np.empty((len(features), height, width), np.float32)
        for some, patches in self.linear.chunks(features, pooled, height * width):
            predicted[some] = np.clip(upsample(patches[..., 0], height, width), self.least, self.most)
        return predicted


def known_depths(depths: np.ndarray) -> np.ndarray:
    """Where a depth is known, that is above 0 and finite: bool, of the same shape."""
    return np.isfinite(depths) & (depths > 0)


def patch_sums(depths: np.ndarray, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the known depths of each patch, float64 [images, rows, columns], and their number, int64 of the same
    shape.
    """
    places = patch_of_pixel(depths.shape[1], depths.shape[2], rows, columns)
    sums = np.empty((len(depths), rows, columns))
    counts = np.empty((len(depths), rows, columns), np.int64)
    for image, depth in enumerate(depths):
        known = known_depths(depth)
        there = places[known]
        sums[image] = np.bincount(there, weights=depth[known], minlength=rows * columns).reshape(rows, columns)
        counts[image] = np.bincount(there, minlength=rows * columns).reshape(rows, columns)
    return sums, counts


def ridge(rows: np.ndarray, sums: np.ndarray, counts: np.ndarray, l2: float) -> tuple[np.ndarray, np.ndarray]:
    """The kernel float64 [columns, 1] and bias float64 [1] that minimise the loss at the top of this file.

        (X'NX - n x̄x̄' + n l2 I) W = X'N (y - ȳ),    b = ȳ - x̄ W,    N = diag(n_p), n = Σ n_p, x̄ and ȳ the means
        weighted by n_p

    Args:
        rows: float [patches, columns].
        sums: float [patches], n_p y_p.
        counts: [patches], n_p above 0.
        l2: above 0; of the kernel, the bias is free.
    """
    total, columns = counts.sum(), rows.shape[1]
    mean, target = counts @ rows.astype(np.float64) / total, sums.sum() / total
    gram, product = np.zeros((columns, columns)), np.zeros(columns)
    step = max(1, CHUNK_ELEMENTS // columns)
    for start in range(0, len(rows), step):
        some = slice(start, start + step)
        centred = rows[some] - mean
        gram += centred.T @ (centred * counts[some, None])
        product += centred.T @ (sums[some] - counts[some] * target)
    kernel = np.linalg.solve(gram / total + l2 * np.eye(columns), product / total)
    return kernel[:, None], np.array([target - mean @ kernel])


def depth_scores(predicted: np.ndarray, depths: np.ndarray, *, resamples: int = 1000, seed: int = 0) -> DepthScores:
    """Errors of predicted depths at the pixels whose depth is known; images without one do not count.

        rmse = sqrt(mean (p - d)²),   abs_rel = mean |p - d| / d,   delta1 = share of max(p / d, d / p) < 1.25

    Args:
        predicted: float [images, height, width], metres above 0.
        depths: float [images, height, width]; 0, below or not finite where it is unknown.
        resamples: of the images, for the intervals.
        seed: of the resampling.

    Raises:
        ValueError: shapes that do not agree, no known depth, a prediction that is not finite or not above 0.

    Reference: Eigen, Puhrsch and Fergus 2014, "Depth Map Prediction from a Single Image using a Multi-Scale Deep
    Network".
    """
    if predicted.shape != depths.shape or depths.ndim != 3:
        raise ValueError(
            f"predicted and depths must both be [images, height, width], got {list(predicted.shape)} and "
            f"{list(depths.shape)}."
        )
    rows, pixels, of_all = [], [], []
    for answer, depth in zip(predicted, depths, strict=True):
        known = known_depths(depth)
        if not known.any():
            continue
        answer, truth = answer[known].astype(np.float64), depth[known].astype(np.float64)
        if not (np.isfinite(answer).all() and answer.min() > 0):
            raise ValueError(f"predicted depths must be finite and above 0, got {answer.min()} to {answer.max()}.")
        near = np.maximum(answer / truth, truth / answer) < DELTA
        rows.append([np.square(answer - truth).mean(), (np.abs(answer - truth) / truth).mean(), near.mean()])
        pixels.append(len(truth))
        of_all.append([truth.mean(), np.square(truth).mean()])
    if not rows:
        raise ValueError(f"no depth of {len(depths)} images is known: all are 0 or not finite. Check their reading.")
    by_image, counts = np.array(rows), np.array(pixels)
    squared, relative, near_share = counts @ by_image / counts.sum()
    mean, mean_square = counts @ np.array(of_all) / counts.sum()
    bounds = bootstrap_interval(by_image, weights=counts, resamples=resamples, seed=seed)
    return {
        "rmse": float(np.sqrt(squared)),
        "interval": [float(bound) for bound in np.sqrt(bounds[0])],
        "rmse_by_image": float(np.sqrt(by_image[:, 0]).mean()),
        "abs_rel": float(relative),
        "delta1": float(near_share),
        "delta1_interval": [float(bound) for bound in bounds[2]],
        "chance": float(np.sqrt(max(mean_square - mean**2, 0.0))),
        "images": len(rows),
        "pixels": int(counts.sum()),
    }


def depth_probe(
    train_features: np.ndarray,
    train_depths: np.ndarray,
    features: np.ndarray,
    depths: np.ndarray,
    *,
    train_pooled: np.ndarray | None = None,
    pooled: np.ndarray | None = None,
    l2: float = L2,
    seed: int = 0,
) -> DepthProbeResult:
    """Errors on one set of a probe fitted to another.

    Args:
        train_features, features: float [images, rows, columns, width].
        train_depths, depths: float [images, height, width], metres; 0, below or not finite where it is unknown.
        train_pooled, pooled: float [images, pooled width]; both or neither.
        l2: strength of regularisation.
        seed: of the choice of patches and of the resampling.

    Raises:
        ValueError: as `DepthProbe.fit`, `predict` and `depth_scores`.
    """
    probe = DepthProbe.fit(train_features, train_depths, pooled=train_pooled, l2=l2, seed=seed)
    check_features(features, pooled, depths, "depths")
    predicted = probe.predict(features, depths.shape[1], depths.shape[2], pooled=pooled)
    return {
        **depth_scores(predicted, depths, seed=seed),
        "train_images": len(train_features),
        "patches": list(features.shape[1:3]),
        "pooled": pooled is not None,
        "l2": l2,
    }
