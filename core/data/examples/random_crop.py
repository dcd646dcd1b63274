"""A random part of a picture, resized to the whole: big_vision's `inception_crop`, and mirroring."""

from dataclasses import dataclass

import numpy as np

from diptych.core.data import fast_pixels
from diptych.core.data.examples.augmentation import Augmentation
from diptych.core.data.examples.rand_augment import RandAugment
from diptych.core.data.image import ResizeMethod, resize

ASPECTS = (0.75, 1.33)
_TRIES = 100


@dataclass(frozen=True, kw_only=True)
class RandomCrop:
    """Cuts out a random rectangle, mirrors it or not, and makes it the model's picture.

    The rectangle is drawn as TensorFlow's `sample_distorted_bounding_box` does (its kernel's `GenerateRandomCrop`): an
    aspect, evenly; a height, evenly among those at which the area is within bounds; a place, evenly, but never the one
    furthest down or to the right. Sides that rounding made a pixel too short or too long are mended by one.
    (torchvision draws the area evenly, and the aspect by its logarithm: its crops are larger on average.) Where none
    fits in a hundred tries, it is the whole picture.

    Attributes:
        area: least share of the picture's area, above 0 and at most 1.
        flip: probability of mirroring left and right.
        flip_vertical: probability of mirroring up and down.
        shift: largest move of the mirrored picture, as a fraction of each side, into white: 1/14 is what big_vision
            does by 224 of 256 pixels. Each whole number of pixels is as likely.
        resize_method: see `image.resize`.
        then: further changes of the cut picture.
    """

    area: float = 0.05
    flip: float = 0.0
    flip_vertical: float = 0.0
    shift: float = 0.0
    resize_method: ResizeMethod = "bilinear_antialias"
    then: Augmentation | RandAugment | None = None

    def __post_init__(self):
        shares = (self.flip, self.flip_vertical, self.shift)
        if not 0 < self.area <= 1 or not all(0 <= share <= 1 for share in shares):
            raise ValueError(
                f"area lies in (0, 1], flip, flip_vertical and shift in [0, 1], got {self.area} and {shares}."
            )

    def __call__(
        self, image: np.ndarray, rng: np.random.Generator, size: int | None = None, *, fast: bool = False
    ) -> np.ndarray:
        """uint8 [height, width, 3] -> uint8 [size, size, 3]; of the rectangle's own shape where `size` is None. `fast`
        makes the same changes by `fast_pixels`.
        """
        top, left, height, width = self.rectangle(image.shape[0], image.shape[1], rng)
        image = image[top : top + height, left : left + width]
        if rng.random() < self.flip:
            image = image[:, ::-1]
        if self.flip_vertical and rng.random() < self.flip_vertical:
            image = image[::-1]
        if self.shift:
            image = _moved(image, self.shift, rng)
        image = np.ascontiguousarray(image)
        if self.then is not None:
            return self.then(image, rng, size, fast=fast)
        if size is None:
            return image
        return (fast_pixels.resize if fast else resize)(image, size, method=self.resize_method)

    def resizes_first(self, size: int) -> None:
        """Nothing: the rectangle is cut out of the picture as it is."""

    def rectangle(self, rows: int, columns: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """(top, left, height, width) in a picture of so many rows and columns."""
        whole = rows * columns
        for _ in range(_TRIES if self.area < 1 else 0):
            aspect = rng.uniform(*ASPECTS)
            highest = round((whole / aspect) ** 0.5)
            if round(highest * aspect) > columns:
                highest = int((columns + 0.5 - 1e-7) / aspect)
                highest -= round(highest * aspect) > columns
            highest = min(highest, rows)
            lowest = min(round((self.area * whole / aspect) ** 0.5), highest)
            height = int(rng.integers(lowest, highest + 1))
            width = round(height * aspect)
            if height * width < self.area * whole:
                height, width = height + 1, width + 1
            if height * width > whole:
                height, width = height - 1, width - 1
            if 0 < width <= columns and 0 < height <= rows and self.area * whole <= height * width <= whole:
                return _place(rows - height, rng), _place(columns - width, rng), height, width
        return 0, 0, rows, columns


def _moved(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """The picture moved by at most this share of its sides; what is missing is white."""
    rows, columns = (round(share * side) for side in image.shape[:2])
    wide = np.pad(image, ((rows, rows), (columns, columns), (0, 0)), constant_values=255)
    top, left = rng.integers(2 * rows + 1), rng.integers(2 * columns + 1)
    return wide[top : top + image.shape[0], left : left + image.shape[1]]


def _place(left_over: int, rng: np.random.Generator) -> int:
    """Where the rectangle begins; the last of the places that leave so many rows or columns over is not drawn."""
    return int(rng.integers(left_over)) if left_over else 0
