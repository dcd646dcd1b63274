"""Cases of the contrastive losses, shared by tests and benchmarks: sizes, scale, bias, and embeddings drawn for them.

Scale and bias decide which pairs count. At SigLIP's first scale and bias the negatives carry about a hundredth of the
gradient, in a trained model positives and hard negatives share it; a check on one regime alone passes a loss without
the other.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Case:
    """m images, n texts, image i paired with text i + offset.

    positive_cosine: the cosine of a pair, about; that of other pairs is about N(0, 1/width).
    """

    images: int
    texts: int
    width: int
    logit_scale: float
    logit_bias: float
    positive_cosine: float = 0.3
    offset: int = 0
    seed: int = 0

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        """float32 `[m, width]` and `[n, width]`, L2-normalised."""
        rng = np.random.default_rng((self.seed, self.images, self.texts, self.width))
        x, y = (_unit(rng.standard_normal((length, self.width), np.float32)) for length in (self.images, self.texts))
        first, last = max(0, -self.offset), min(self.images, self.texts - self.offset)
        if first < last:
            paired = slice(first + self.offset, last + self.offset)
            c = np.float32(self.positive_cosine)
            y[paired] = _unit(c * x[first:last] + np.sqrt(1 - c * c) * y[paired])
        return x, y


def _unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


REGIMES: dict[str, dict[str, float]] = {
    "initial": {"logit_scale": 10.0, "logit_bias": -10.0, "positive_cosine": 0.0},
    "half way": {"logit_scale": 20.0, "logit_bias": -12.0, "positive_cosine": 0.9},
    "trained": {"logit_scale": 112.0, "logit_bias": -16.5, "positive_cosine": 0.15},
    "balanced": {"logit_scale": 10.0, "logit_bias": -2.0, "positive_cosine": 0.3},
}
"""Scale, bias and cosine of pairs: as SigLIP starts (section 3.2), of a loss of a few hundredths, as the released
SigLIP 2 models have them, and one in which positives and negatives count alike in small batches."""

SHAPES: dict[str, dict[str, int]] = {
    "square": {"images": 96, "texts": 96, "width": 64},
    "ragged": {"images": 131, "texts": 131, "width": 20},
    "shard": {"images": 48, "texts": 131, "width": 20, "offset": 37},
    "after": {"images": 131, "texts": 48, "width": 24, "offset": -90},
    "no pair": {"images": 33, "texts": 40, "width": 12, "offset": 1000},
    "one": {"images": 1, "texts": 1, "width": 8},
}


def _case(shape: str, regime: str) -> Case:
    fields: dict[str, Any] = {**SHAPES[shape], **REGIMES[regime]}
    return Case(**fields)


CASES = {
    f"{shape}, {regime}": _case(shape, regime)
    for shape in SHAPES
    for regime in (REGIMES if shape == "ragged" else ("balanced", "trained"))
}
