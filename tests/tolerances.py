"""Every tolerance of the agreement tests, in one place, from roundoff × length × condition.

A backward stable computation returns the exact result for weights that are off by a few roundings. A sum of n terms in
precision u is off by about u sqrt(n) (roundings go either way; u n is the worst case), and an activation passes through
several sums in a row. So the relative error of a result is expected near

    u · sqrt(total length of the sums on its way) · condition

where the condition says how a result moves when the weights do (`tests.oracle.conditioning` measures it on each drawn
case), and is taken as at least 1. The tolerance is twice that; the largest errors seen are a third of it
(docs/numerics.md has the table). LIMITS caps it, so that no badly conditioned case can excuse a wrong result. Errors
are relative to the norm of the tensor they are in.
"""

import math
from dataclasses import dataclass

import numpy as np

UNIT_ROUNDOFF = {"float32": 2.0**-24, "mixed_bfloat16": 2.0**-8}

LARGEST_SEEN = 0.7
"""The largest error over the expected one among thousands of tensors (docs/numerics.md)."""

HEADROOM = 2.0
"""The tolerance over the expected error."""


@dataclass(frozen=True)
class Limits:
    """The largest tolerances, whatever the derivation gives: relative to a tensor's norm, or to a number."""

    output: float
    gradient: float
    curve: float
    """Of the losses of a training run."""
    gradient_norm: float


LIMITS = {
    "float32": Limits(output=1e-5, gradient=1e-4, curve=1e-5, gradient_norm=1e-4),
    # Three significant bits of a gradient are less than one wants and more than zeros, flipped signs, dropped negatives
    # or a missing factor have.
    "mixed_bfloat16": Limits(output=0.1, gradient=0.3, curve=0.05, gradient_norm=0.2),
}

RESUME = 5e-6
"""Of the losses over 30 steps after a checkpoint moved to another backend, against the backend that wrote it."""

UPDATE_ROUNDINGS = 16
"""Roundings in the direction of an update and its product with the rate, each of at most u times its size."""


def path_length(config: dict, dtype: str) -> int:
    """Σ of the lengths of the sums that the longer tower's activations pass through.

    bfloat16 products are added up in float32: only the rounding of the result counts, once for each of the sixteen or
    so results that a block stores and the eight around the blocks.
    """
    towers = (config["vision"], config["text"])
    if dtype == "mixed_bfloat16":
        return max(16 * (tower["depth"] + (tower["pooling"] == "map")) + 8 for tower in towers)
    patches = (config["vision"]["image_size"] // config["vision"]["patch_size"]) ** 2
    return max(
        _tower_length(config["vision"], tokens=patches, inputs=3 * config["vision"]["patch_size"] ** 2),
        _tower_length(config["text"], tokens=config["text"]["context_length"], inputs=1),
    )


def _tower_length(tower, *, tokens, inputs):
    width, head_width = tower["width"], tower["width"] // tower["num_heads"]
    # two norms, query-key-value, scores, softmax and mixing, the output, the MLP's two products
    block = 2 * width + width + head_width + 2 * tokens + width + width + tower["mlp_dim"]
    return inputs + block * (tower["depth"] + (tower["pooling"] == "map")) + 2 * width


def expected_errors(config: dict, dtype: str, conditions: dict[str, float]) -> dict[str, float]:
    """name -> u sqrt(length) condition, the error that a sound backend may have, for the names of `Answer.named()`."""
    base = UNIT_ROUNDOFF[dtype] * math.sqrt(path_length(config, dtype))
    return {name: base * max(1.0, condition) for name, condition in conditions.items()}


def limit(name: str, dtype: str) -> float:
    """The largest tolerance of an output, or of the gradient of a weight."""
    return LIMITS[dtype].gradient if "/" in name else LIMITS[dtype].output


def tolerances(config: dict, dtype: str, conditions: dict[str, float]) -> dict[str, float]:
    """name -> tolerance relative to the norm, for the names of `Answer.named()`."""
    errors = expected_errors(config, dtype, conditions)
    return {name: min(HEADROOM * error, limit(name, dtype)) for name, error in errors.items()}


def well_conditioned(config: dict, dtype: str, conditions: dict[str, float]) -> bool:
    """Whether a case can be judged: no error as large as any seen would be beyond the limit."""
    errors = expected_errors(config, dtype, conditions)
    return all(LARGEST_SEEN * error <= limit(name, dtype) for name, error in errors.items())


def gradient_errors(gradients: dict, relative: dict[str, float]) -> dict[str, np.ndarray]:
    """How far each entry of a gradient may be off: its tensor's tolerance times the largest entry; 0 in rows of zeros.

    A row is exactly 0 where nothing flows to it, as that of a token that the batch does not hold; no backend may move
    it.
    """
    return {
        path: np.where(_rows_of_zeros(gradient), 0.0, relative[path] * np.max(np.abs(gradient), initial=0.0))
        for path, gradient in gradients.items()
    }


def _rows_of_zeros(gradient):
    """Single entries do not count: a cancellation that is exact in float64 need not be in float32."""
    return (
        np.all(gradient == 0, axis=-1, keepdims=True) & (gradient == 0)
        if gradient.ndim > 1
        else np.zeros(gradient.shape, bool)
    )
