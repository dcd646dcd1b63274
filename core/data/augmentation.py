"""Random changes to training pictures that keep their caption true."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from diptych.core.data.image import resize, to_array

Range = tuple[float, float]

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow's greyscale
_WHITE_ENOUGH = 244
_MAX_DIRECT_REDUCTION = 1.6
_GREY = 127.5
_MOST_DRAWS = 24


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Ranges of random changes, drawn anew for each example; None or 0 turns one off.

    Geometry is one affine map, colour one 3 x 4 matrix, so the cost is that of two passes over the pixels.

    zoom: range of the factor by which the content grows; what falls outside is cut, what is missing is filled with the background.
    stretch: range of width against height.   shift: largest move, as a fraction of the side.   rotation: largest angle, degrees.
    flip: probability of mirroring left and right; 0 by default, because captions and letters have sides.
    brightness, contrast, saturation: largest relative change, so 0.2 draws a factor from [0.8, 1.2].
    hue: largest turn of the colours, degrees.   greyscale: probability of losing all colour.
    background: probability that a white surrounding (white connected to the border in a straight line) gets a random colour.
    cutout: largest side of one erased rectangle, as a fraction of the side; its sides are drawn evenly from [0, cutout].
    """

    zoom: Range | None = (0.85, 1.1)
    stretch: Range | None = (0.9, 1.1)
    shift: float = 0.08
    rotation: float = 8.0
    flip: float = 0.0
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.3
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

    def __call__(self, image: np.ndarray, rng: np.random.Generator, size: int | None = None) -> np.ndarray:
        """Change uint8 [height, width, 3]; returns uint8 [size, size, 3], or of the shape given where `size` is None."""
        height, width = (size, size) if size else image.shape[:2]
        if max(image.shape[0] / height, image.shape[1] / width) > _MAX_DIRECT_REDUCTION:
            image = resize(image, size)
        draws = _Draws(rng)
        border = _border_colour(image)
        if draws.happens(self.background) and min(border) >= _WHITE_ENOUGH:
            border = draws.colour()
            image = _fill_surroundings(image, border)
        picture = Image.fromarray(image)
        if (width, height) != picture.size or self._moves:
            picture = picture.transform(
                (width, height),
                Image.Transform.AFFINE,
                self._affine(draws, picture.size, (width, height)),
                resample=Image.Resampling.BILINEAR,
                fillcolor=border,
            )
        if self._recolours:
            picture = picture.convert("RGB", self._colour_matrix(draws))
        return _erase(to_array(picture), draws, self.cutout) if self.cutout else to_array(picture)

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
        grey = np.broadcast_to(_LUMA, (3, 3))
        saturation = 1 + draws.around(self.saturation)
        if draws.happens(self.greyscale):
            saturation = 0.0
        matrix = grey + saturation * (np.eye(3) - grey)
        if self.hue:
            matrix = matrix @ _turn_around_grey(np.deg2rad(draws.around(self.hue)))
        contrast = 1 + draws.around(self.contrast)
        brightness = 1 + draws.around(self.brightness)
        rows = np.empty((3, 4))
        rows[:, :3] = brightness * contrast * matrix
        rows[:, 3] = brightness * (1 - contrast) * _GREY
        return tuple(rows.ravel().tolist())


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
        return tuple(int(256 * next(self._numbers)) for _ in range(3))


def _border_colour(image: np.ndarray) -> tuple[int, int, int]:
    """Channel-wise median of the corners and of the middles of the sides."""
    height, width = image.shape[:2]
    rows = np.array([0, 0, 0, height // 2, height // 2, -1, -1, -1])
    columns = np.array([0, width // 2, -1, 0, -1, 0, width // 2, -1])
    places = image[rows, columns]
    places.sort(axis=0)
    return tuple(places[3].tolist())


def _fill_surroundings(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    white = (image[..., 0] >= _WHITE_ENOUGH) & (image[..., 1] >= _WHITE_ENOUGH) & (image[..., 2] >= _WHITE_ENOUGH)
    outside = np.logical_and.accumulate(white, axis=0)
    outside |= np.logical_and.accumulate(white[::-1], axis=0)[::-1]
    outside |= np.logical_and.accumulate(white, axis=1)
    outside |= np.logical_and.accumulate(white[:, ::-1], axis=1)[:, ::-1]
    image = image.copy()
    image[outside] = colour
    return image


def _turn_around_grey(angle: float) -> np.ndarray:
    """Rotation of RGB space around the grey axis (Rodrigues' formula)."""
    cosine, sine = np.cos(angle), np.sin(angle) / np.sqrt(3)
    even = (1 - cosine) / 3
    near, far = even - sine, even + sine
    return np.array([[cosine + even, near, far], [far, cosine + even, near], [near, far, cosine + even]])


def _erase(image: np.ndarray, draws: _Draws, largest: float) -> np.ndarray:
    height, width = image.shape[:2]
    tall, wide = int(height * largest * draws.share()), int(width * largest * draws.share())
    top, left = int((height - tall + 1) * draws.share()), int((width - wide + 1) * draws.share())
    image = image.copy()
    image[top : top + tall, left : left + wide] = draws.colour()
    return image
