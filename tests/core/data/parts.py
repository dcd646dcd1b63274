"""The smallest parts that a preprocessing can be given: their fields hold their settings and random numbers."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from diptych.core.data.examples.captioning import TARGET_FIELDS
from diptych.core.data.examples.views import VIEW_FIELDS
from diptych.core.data.image import resize


@dataclass(frozen=True)
class SmallTargets:
    """Target tokens are [caption's length, number of regions, random ones]."""

    declared: ClassVar = TARGET_FIELDS
    length: int = 6

    def __call__(self, caption, regions, rng):
        tokens = rng.integers(0, 100, (3, self.length)).astype(np.int32)
        tokens[0, 0], tokens[1, 0] = len(caption.text), len(regions)
        weights = rng.integers(0, 2, (3, self.length)).astype(np.uint8)
        return {"target_tokens": tokens, "target_weights": weights, "parallel": bool(rng.integers(2))}

    def fingerprint(self):
        return f"small targets of {self.length}"


@dataclass(frozen=True)
class SmallViews:
    """Random corners of the picture."""

    declared: ClassVar = VIEW_FIELDS
    crops: int = 2

    def __call__(self, pixels, rng):
        def crop(side):
            top, left = rng.integers(0, pixels.shape[0] // 2), rng.integers(0, pixels.shape[1] // 2)
            return resize(pixels[top:, left:], side)

        return {
            "global_view": crop(8),
            "local_views": np.stack([crop(4) for _ in range(self.crops)]),
            "masked_patches": np.sort(rng.permutation(4)[:2]).astype(np.int32),
        }
