"""Random changes to training pictures that keep their caption true."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops

from diptych.core.data import fast_pixels
from diptych.core.data.image import resize, to_array
from diptych.core.data.pixels import FixedSize

Range = tuple[float, float]

MAX_DIRECT_REDUCTION = 1.6
"""Pictures more than so many times larger than what is asked for are resized, antialiased, before they are moved."""

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's greyscale
_WHITE_ENOUGH = 244
_DRAWN_BELOW = 208
_GREY = 127.5
_MOST_DRAWS = 24


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Ranges of random changes, drawn anew for each example; None or 0 turns one off.

    Geometry is one affine map, colour one 3 x 4 matrix, so the cost is that of two passes over the pixels.

    zoom: range of the factor by which the content grows; what falls outside is cut, what is missing is filled with the
        background.
    stretch: range of width against height.   shift: largest move, as a fraction of the side.   rotation: largest angle,
        degrees.
    flip: probability of mirroring left and right; 0 by default, because captions and letters have sides.
    brightness, contrast, saturation: largest relative change, so 0.2 draws a factor from [0.8, 1.2].
    hue: largest turn of the colours, degrees.   greyscale: probability of losing all colour.
    background: probability that a white surrounding (white connected to the border in a straight line) gets a random
        colour.
    cutout: largest side of one erased rectangle, as a fraction of the side; its sides are drawn evenly from [0,
        cutout].
    """

    zoom: Range | None = (0.92, 1.06)
    stretch: Range | None = (0.95, 1.05)
    shift: float = 0.05
    rotation: float = 4.0
    flip: float = 0.0
    brightness: float = 0.1
    contrast: float = 0.1
    saturation: float = 0.15
    hue: float = 0.0
    greyscale: float = 0.0
    background: float = 0.0
    cutout: float = 0.0

    def __post_init__(self):
        for name in ("zoom", "stretch"):
            limits = getattr(self, name)
            if limits is not None and not 0 < limits[0] <= limits[1]:
                raise ValueError(f"Augmentation.{name} must be (low, high) with 0 < low <= high, got {limits}")
        for name in ("shift", "flip", "brightness", "contrast", "saturation", "greyscale", "background", "cutout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Augmentation.{name} must lie in [0, 1], got {getattr(self, name)}")

    def __call__(
        self, image: np.ndarray, rng: np.random.Generator, size: int | None = None, *, fast: bool = False
    ) -> np.ndarray:
        """Change uint8 [height, width, 3]; returns uint8 [size, size, 3], or of the shape given where `size` is
        None. `fast` makes the same changes by `fast_pixels`.
        """
        height, width = (size, size) if size else image.shape[:2]
        if max(image.shape[0] / height, image.shape[1] / width) > MAX_DIRECT_REDUCTION:
            image = (fast_pixels.resize if fast else resize)(image, max(height, width))
        draws = _Draws(rng)
        border = _border_colour(image)
        if draws.happens(self.background) and min(border) >= _WHITE_ENOUGH:
            border = draws.colour()
            image = _tint_surroundings(image, border)
        old, new = image.shape[1::-1], (width, height)
        affine = self._affine(draws, old, new) if new != old or self._moves else None
        matrix = self._colour_matrix(draws) if self._recolours else None
        image = (fast_pixels.changed if fast else _changed)(image, (height, width), affine, border, matrix)
        return _erase(image, draws, self.cutout) if self.cutout else image

    def resizes_first(self, size: int) -> tuple[FixedSize, float]:
        """What the whole picture is resized to before it is changed, and the reduction up to which it is not."""
        return FixedSize(height=size, width=size), MAX_DIRECT_REDUCTION

    @property
    def _moves(self) -> bool:
        return bool(self.zoom or self.stretch or self.shift or self.rotation or self.flip)

    @property
    def _recolours(self) -> bool:
        return bool(self.brightness or self.contrast or self.saturation or self.hue or self.greyscale)

    def _affine(self, draws: "_Draws", old: tuple[int, int], new: tuple[int, int]) -> tuple[float, ...]:
        """Coefficients that take a target place to its source place, around the centres of both."""
        zoom = draws.between(self.zoom)
        stretch = np.sqrt(draws.between(self.stretch))
        angle = np.deg2rad(draws.around(self.rotation))
        cosine, sine = np.cos(angle), np.sin(angle)
        mirror = -1.0 if draws.happens(self.flip) else 1.0
        across = mirror * old[0] / (new[0] * zoom * stretch)
        down = old[1] * stretch / (new[1] * zoom)
        a, b, c, d = across * cosine, across * sine, -down * sine, down * cosine
        x = new[0] * (0.5 + draws.around(self.shift))
        y = new[1] * (0.5 + draws.around(self.shift))
        return a, b, old[0] / 2 - a * x - b * y, c, d, old[1] / 2 - c * x - d * y

    def _colour_matrix(self, draws: "_Draws") -> tuple[float, ...]:
        """Saturation and hue around the grey axis, then contrast around middle grey, then brightness."""
        saturation = 0.0 if draws.happens(self.greyscale) else 1 + draws.around(self.saturation)
        contrast = 1 + draws.around(self.contrast)
        brightness = 1 + draws.around(self.brightness)
        scale, offset = brightness * contrast, brightness * (1 - contrast) * _GREY
        red, green, blue = (scale * (1 - saturation) * luma for luma in _LUMA)
        own = scale * saturation
        matrix = (red + own, green, blue, offset, red, green + own, blue, offset, red, green, blue + own, offset)
        return _turned(matrix, np.deg2rad(draws.around(self.hue))) if self.hue else matrix


class _Draws:
    """Even random numbers, taken from the generator in one call because each call costs as much as the number."""

    def __init__(self, rng: np.random.Generator):
        self._numbers = iter(rng.random(_MOST_DRAWS).tolist())

    def happens(self, probability: float) -> bool:
        return next(self._numbers) < probability

    def between(self, limits: Range | None) -> float:
        share = next(self._numbers)
        return 1.0 if limits is None else limits[0] + share * (limits[1] - limits[0])

    def around(self, largest: float) -> float:
        return largest * (2 * next(self._numbers) - 1)

    def share(self) -> float:
        return next(self._numbers)

    def colour(self) -> tuple[int, int, int]:
        red, green, blue = (int(256 * next(self._numbers)) for _ in range(3))
        return red, green, blue


def _border_colour(image: np.ndarray) -> tuple[int, int, int]:
    """Channel-wise median of the corners and of the middles of the sides."""
    height, width = image.shape[:2]
    rows = np.array([0, 0, 0, height // 2, height // 2, -1, -1, -1])
    columns = np.array([0, width // 2, -1, 0, -1, 0, width // 2, -1])
    places = image[rows, columns]
    places.sort(axis=0)
    return tuple(places[3].tolist())


def _changed(
    image: np.ndarray,
    size: tuple[int, int],
    affine: tuple[float, ...] | None,
    fill: tuple[int, int, int],
    matrix: tuple[float, ...] | None,
) -> np.ndarray:
    """As `fast_pixels.changed`, by Pillow."""
    picture = Image.fromarray(image)
    if affine is not None:
        bilinear = Image.Resampling.BILINEAR
        picture = picture.transform(size[::-1], Image.Transform.AFFINE, affine, resample=bilinear, fillcolor=fill)
    if matrix is not None:
        picture = picture.convert("RGB", matrix)
    return to_array(picture)


def _tint_surroundings(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Multiply what is white in a straight line from the border, and one pixel more (soft edges), by a colour."""
    height, width = image.shape[:2]
    darkest = np.minimum(np.minimum(image[..., 0], image[..., 1]), image[..., 2])
    drawn = darkest < _DRAWN_BELOW
    rows, columns = np.arange(height)[:, None], np.arange(width)
    above, below = drawn.argmax(axis=0), height - drawn[::-1].argmax(axis=0)
    left, right = drawn.argmax(axis=1)[:, None], width - drawn[:, ::-1].argmax(axis=1)[:, None]
    outside = (rows <= above) | (rows >= below - 1) | (columns <= left) | (columns >= right - 1)
    outside |= ~drawn.max(axis=0) | ~drawn.max(axis=1)[:, None]
    mask = Image.fromarray(outside.view(np.uint8) * np.uint8(255))
    picture = Image.fromarray(image)
    tinted = ImageChops.multiply(picture, Image.new("RGB", picture.size, colour))
    return to_array(Image.composite(tinted, picture, mask))


def _turned(matrix: tuple[float, ...], angle: float) -> tuple[float, ...]:
    """A colour matrix after a rotation of RGB space around the grey axis (Rodrigues' formula)."""
    cosine, sine = np.cos(angle), np.sin(angle) / np.sqrt(3)
    even = (1 - cosine) / 3
    near, far = even - sine, even + sine
    rotation = np.array([[cosine + even, near, far], [far, cosine + even, near], [near, far, cosine + even]])
    return tuple((rotation @ np.array(matrix).reshape(3, 4)).ravel().tolist())


def _erase(image: np.ndarray, draws: _Draws, largest: float) -> np.ndarray:
    height, width = image.shape[:2]
    tall, wide = int(height * largest * draws.share()), int(width * largest * draws.share())
    top, left = int((height - tall + 1) * draws.share()), int((width - wide + 1) * draws.share())
    image = image.copy()
    image[top : top + tall, left : left + wide] = draws.colour()
    return image
