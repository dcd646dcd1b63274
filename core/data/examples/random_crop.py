"""A random part of a picture, resized to the whole: big_vision's `inception_crop`, and mirroring."""

from dataclasses import dataclass

import numpy as np

from diptych.core.data.examples.augmentation import Augmentation
from diptych.core.data.examples.rand_augment import RandAugment
from diptych.core.data.image import ResizeMethod, resize

ASPECTS = (0.75, 1.33)
_TRIES = 100


@dataclass(frozen=True, kw_only=True)
class RandomCrop:
    """Cuts out a random rectangle, mirrors it or not, and makes it the model's picture.

    The rectangle is drawn as TensorFlow's `sample_distorted_bounding_box` does: an aspect, evenly; a height, evenly
    among those at which the area is within bounds; a place, evenly. (torchvision draws the area evenly, and the aspect
    by its logarithm: its crops are larger on average.) Where none fits in a hundred tries, it is the whole picture.

    Attributes:
        area: least share of the picture's area, above 0 and at most 1.
        flip: probability of mirroring left and right.
        resize_method: see `image.resize`.
        then: further changes of the cut picture.
    """

    area: float = 0.05
    flip: float = 0.0
    resize_method: ResizeMethod = "bilinear_antialias"
    then: Augmentation | RandAugment | None = None

    def __post_init__(self):
        if not 0 < self.area <= 1 or not 0 <= self.flip <= 1:
            raise ValueError(f"area lies in (0, 1] and flip in [0, 1], got {self.area} and {self.flip}.")

    def __call__(self, image: np.ndarray, rng: np.random.Generator, size: int | None = None) -> np.ndarray:
        """uint8 [height, width, 3] -> uint8 [size, size, 3]; of the rectangle's own shape where `size` is None."""
        top, left, height, width = self.rectangle(image.shape[0], image.shape[1], rng)
        image = image[top : top + height, left : left + width]
        if rng.random() < self.flip:
            image = image[:, ::-1]
        image = np.ascontiguousarray(image)
        if self.then is not None:
            return self.then(image, rng, size)
        return image if size is None else resize(image, size, method=self.resize_method)

    def rectangle(self, rows: int, columns: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """(top, left, height, width) in a picture of so many rows and columns."""
        whole = rows * columns
        for _ in range(_TRIES if self.area < 1 else 0):
            aspect = rng.uniform(*ASPECTS)
            lowest = max(1, round((self.area * whole / aspect) ** 0.5))
            highest = min(rows, round((whole / aspect) ** 0.5))
            while highest > 0 and round(highest * aspect) > columns:
                highest -= 1
            if lowest > highest:
                continue
            height = int(rng.integers(lowest, highest + 1))
            width = max(1, round(height * aspect))
            if width <= columns and self.area * whole <= height * width:
                return int(rng.integers(rows - height + 1)), int(rng.integers(columns - width + 1)), height, width
        return 0, 0, rows, columns
