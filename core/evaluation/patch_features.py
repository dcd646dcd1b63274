"""Frozen features of patches as the rows of a linear problem: their pixels, their choice, their scale."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

DEVIATION_FLOOR = 1e-6  # of the largest deviation, for features that do not vary
CHUNK_ELEMENTS = 8_000_000  # numbers of a chunk of pixels or features that is worked on at a time


def check_features(features: np.ndarray, pooled: np.ndarray | None, targets: np.ndarray, kind: str) -> None:
    """Whether features, pooled vectors and maps of pixels belong together.

    Raises:
        ValueError: shapes that do not agree, more patches than pixels, or no image.
    """
    if features.ndim != 4 or 0 in features.shape:
        raise ValueError(
            f"features must be [images, rows, columns, width] with none of them 0, got {list(features.shape)}. Reshape "
            "the tokens [images, rows * columns, width] of a tower."
        )
    check_pooled(features, pooled)
    if targets.ndim != 3 or len(targets) != len(features):
        raise ValueError(
            f"{kind} must be [images, height, width] with {len(features)} images, got {list(targets.shape)}."
        )
    if targets.shape[1] < features.shape[1] or targets.shape[2] < features.shape[2]:
        raise ValueError(
            f"{kind} of {targets.shape[1]} x {targets.shape[2]} pixels are smaller than the {features.shape[1]} x "
            f"{features.shape[2]} patches: give them at the size of the picture."
        )


def check_pooled(features: np.ndarray, pooled: np.ndarray | None) -> None:
    """Whether there is one pooled vector for each image."""
    if pooled is not None and (pooled.ndim != 2 or len(pooled) != len(features)):
        raise ValueError(f"pooled must be [images, width] with {len(features)} images, got {list(pooled.shape)}.")


def patch_of_pixel(height: int, width: int, rows: int, columns: int) -> np.ndarray:
    """The patch each pixel's centre lies in, row by row: int64 [height, width], 0 to rows · columns - 1.

    Sizes need not divide: a pixel that two patches share belongs to the one that holds its centre.
    """
    down = (2 * np.arange(height) + 1) * rows // (2 * height)
    along = (2 * np.arange(width) + 1) * columns // (2 * width)
    return down[:, None] * columns + along


def draw_patches(counts: np.ndarray, limit: int, *, seed: int) -> np.ndarray:
    """Indices of the patches with a pixel that counts, in order; where they are more than `limit`, so many random ones.

    Args:
        counts: [patches], pixels that count in each.
        limit: at least 1.
        seed: of the drawing.

    Returns:
        int64 [patches drawn].
    """
    if limit < 1:
        raise ValueError(f"at least one patch must be drawn, got a limit of {limit}.")
    there = np.flatnonzero(counts)
    if len(there) <= limit:
        return there
    return np.sort(np.random.default_rng(seed).choice(there, limit, replace=False))


def patch_rows(features: np.ndarray, pooled: np.ndarray | None, chosen: np.ndarray) -> np.ndarray:
    """The features of chosen patches, each followed by the pooled vector of its image: float32 [patches, columns].

    Args:
        features: [images, rows, columns, width], of any float dtype; a memory-mapped file is read only where chosen.
        pooled: [images, pooled width] or None.
        chosen: int [patches], sorted indices among images · rows · columns.

    Raises:
        ValueError: features that are not finite.
    """
    of_image = features.shape[1] * features.shape[2]
    width = features.shape[3]
    rows = np.empty((len(chosen), width + (0 if pooled is None else pooled.shape[1])), np.float32)
    rows[:, :width] = features.reshape(-1, width)[chosen]
    if pooled is not None:
        rows[:, width:] = pooled[chosen // of_image]
    bad = rows.size - np.count_nonzero(np.isfinite(rows))
    if bad:
        raise ValueError(f"{bad} of {rows.size} features are not finite. Check the model's weights for NaN.")
    return rows


@dataclass(frozen=True)
class Standard:
    """Mean and deviation of each feature over the training patches."""

    mean: np.ndarray  # float32 [columns]
    deviation: np.ndarray  # float32 [columns], above 0

    @classmethod
    def of(cls, rows: np.ndarray) -> "Standard":
        """Measured over rows [patches, columns], in float64."""
        mean = rows.mean(axis=0, dtype=np.float64)
        variance = np.zeros(rows.shape[1])
        step = max(1, CHUNK_ELEMENTS // rows.shape[1])
        for start in range(0, len(rows), step):
            variance += np.square(rows[start : start + step] - mean).sum(axis=0)
        deviation = np.sqrt(variance / len(rows))
        # A constant feature is 0 once its mean is out; what it is divided by must only not blow its rounding up.
        floor = DEVIATION_FLOOR * max(deviation.max(initial=0.0), np.abs(mean).max(initial=0.0)) or 1.0
        return cls(mean.astype(np.float32), np.maximum(deviation, floor).astype(np.float32))

    def applied(self, rows: np.ndarray) -> np.ndarray:
        """Rows with the mean and the deviation taken out, in place."""
        rows -= self.mean
        rows /= self.deviation
        return rows


@dataclass(frozen=True)
class LinearMap:
    """outputs = features · kernel + bias, of the features as the tower gives them."""

    kernel: np.ndarray  # float32 [columns, outputs]
    bias: np.ndarray  # float32 [outputs]

    @classmethod
    def of_standard(cls, standard: Standard, kernel: np.ndarray, bias: np.ndarray) -> "LinearMap":
        """The map that does to plain features what kernel and bias do to standardised ones."""
        plain = kernel.astype(np.float64) / standard.deviation[:, None]
        return cls(plain.astype(np.float32), (bias - standard.mean @ plain).astype(np.float32))

    def __call__(self, features: np.ndarray, pooled: np.ndarray | None) -> np.ndarray:
        """float32 [images, rows, columns, outputs] of features [images, rows, columns, width].

        Raises:
            ValueError: another width than was fitted.
        """
        check_pooled(features, pooled)
        width = features.shape[-1]
        columns = width + (0 if pooled is None else pooled.shape[1])
        if columns != len(self.kernel):
            raise ValueError(
                f"the probe was fitted to {len(self.kernel)} features a patch, got {columns}"
                f"{'' if pooled is None else ', those of the pooled vector included'}. Prepare both sets alike."
            )
        outputs = features.astype(np.float32, copy=False) @ self.kernel[:width] + self.bias
        if pooled is not None:
            outputs += (pooled.astype(np.float32, copy=False) @ self.kernel[width:])[:, None, None]
        return outputs

    def chunks(
        self, features: np.ndarray, pooled: np.ndarray | None, pixels: int
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """(which images, what a call gives of them), so few at a time that their outputs at `pixels` each fit."""
        step = max(1, CHUNK_ELEMENTS // (pixels * len(self.bias)))
        for start in range(0, len(features), step):
            some = slice(start, start + step)
            yield some, self(features[some], None if pooled is None else pooled[some])
