"""RandAugment: a few changes of a picture, each drawn evenly from a list, all of one strength.

Reference: Cubuk et al. 2019, "RandAugment: Practical automated data augmentation with a reduced search space" (arXiv
1909.13719), section 3; the operations and their strengths are those of AutoAugment (Cubuk et al. 2018, arXiv
1805.09501, table 6) as Google's code for EfficientNet has them, which big_vision's `randaug` follows. Moves and erased
squares are shares of the picture's side here, as large as there for 224 pixels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from diptych.core.data import fast_pixels
from diptych.core.data.image import ResizeMethod, resize, to_array
from diptych.core.data.pixels import FixedSize

STRONGEST = 10
GREY = (128, 128, 128)
"""What fills places that a move leaves empty, and erased squares."""
LARGEST_ANGLE, LARGEST_SHEAR = 30.0, 0.3
LARGEST_MOVE, LARGEST_SQUARE = 100 / 224, 80 / 224
LARGEST_ADDED, MOST_BITS_LEFT = 110, 4

Operation = Callable[[Image.Image, float, np.random.Generator], Image.Image]


@dataclass(frozen=True, kw_only=True)
class RandAugment:
    """Changes a picture by `count` operations in a row.

    Attributes:
        count: N of the paper.
        magnitude: M of the paper, from 0 to 10. A larger one turns, moves, brightens and erases more; it keeps more
            bits of each value and inverts fewer of them.
        resize_method: see `image.resize`.
    """

    count: int = 2
    magnitude: float = 10.0
    resize_method: ResizeMethod = "bilinear_antialias"

    def __post_init__(self):
        if self.count < 1 or not 0 <= self.magnitude <= STRONGEST:
            raise ValueError(
                f"RandAugment takes 1 operation or more at a magnitude from 0 to {STRONGEST}, got {self.count} at "
                f"{self.magnitude:g}."
            )

    def __call__(
        self, image: np.ndarray, rng: np.random.Generator, size: int | None = None, *, fast: bool = False
    ) -> np.ndarray:
        """uint8 [height, width, 3] -> uint8 [size, size, 3], or of the shape given where `size` is None. `fast` resizes
        by `fast_pixels`.
        """
        if size is not None:
            image = (fast_pixels.resize if fast else resize)(image, size, method=self.resize_method)
        picture = Image.fromarray(image)
        for place in rng.integers(len(OPERATIONS), size=self.count):
            picture = tuple(OPERATIONS.values())[place](picture, self.magnitude / STRONGEST, rng)
        return to_array(picture)

    def resizes_first(self, size: int) -> tuple[FixedSize, float]:
        """What the whole picture is resized to before it is changed, and the reduction up to which it is not."""
        return FixedSize(height=size, width=size, resize=self.resize_method), 0.0


def _either_way(largest: float, rng: np.random.Generator) -> float:
    return largest if rng.random() < 0.5 else -largest


def _moved(picture: Image.Image, coefficients: tuple[float, ...]) -> Image.Image:
    return picture.transform(picture.size, Image.Transform.AFFINE, coefficients, fillcolor=GREY)


def _rotate(picture: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    return picture.rotate(_either_way(LARGEST_ANGLE * strength, rng), fillcolor=GREY)


def _shear_x(picture: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    return _moved(picture, (1, _either_way(LARGEST_SHEAR * strength, rng), 0, 0, 1, 0))


def _shear_y(picture: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    return _moved(picture, (1, 0, 0, _either_way(LARGEST_SHEAR * strength, rng), 1, 0))


def _translate_x(picture: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    return _moved(picture, (1, 0, _either_way(LARGEST_MOVE * strength, rng) * picture.width, 0, 1, 0))


def _translate_y(picture: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    return _moved(picture, (1, 0, 0, 0, 1, _either_way(LARGEST_MOVE * strength, rng) * picture.height))


def _posterize(picture: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    bits = int(MOST_BITS_LEFT * strength)
    return ImageOps.posterize(picture, bits) if bits else Image.new("RGB", picture.size)


def _solarize(picture: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    return ImageOps.solarize(picture, int(256 * strength))


def _solarize_add(picture: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    added = int(LARGEST_ADDED * strength)
    return picture.point([value + added if value < 128 else value for value in range(256)] * 3)


def _cutout(picture: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """A grey square around a random place, whose parts beyond the picture are lost."""
    half = int(LARGEST_SQUARE * strength * max(picture.size) / 2)
    x, y = rng.integers(picture.width), rng.integers(picture.height)
    picture = picture.copy()
    picture.paste(GREY, (int(x) - half, int(y) - half, int(x) + half, int(y) + half))
    return picture


def _enhanced(enhancer: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    """From a tenth of its colour, contrast, brightness or sharpness to 1.9 of it; 1 leaves it."""
    return lambda picture, strength, rng: enhancer(picture).enhance(0.1 + 1.8 * strength)


OPERATIONS: Mapping[str, Operation] = {
    "autocontrast": lambda picture, strength, rng: ImageOps.autocontrast(picture),
    "equalize": lambda picture, strength, rng: ImageOps.equalize(picture),
    "invert": lambda picture, strength, rng: ImageOps.invert(picture),
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": _solarize,
    "colour": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
    "cutout": _cutout,
    "solarize_add": _solarize_add,
}
"""Name -> the operation, of a picture, a strength from 0 to 1, and random numbers."""
