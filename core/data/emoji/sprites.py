"""Drawings without the white around them: cut out, with soft edges, to be laid on anything."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

_SURROUNDING = 243  # the least of red, green and blue in a surrounding; drawn whites are greyer, or have an outline
_LEAST_CONTRAST = 40.0**2  # squared distance from white below which it cannot be told how much white is in a colour
_LEAST_SIDE = 16  # pixels of 64
_LEAST_COVER = 0.2  # of its box


@dataclass(frozen=True)
class Sprite:
    """A cut-out, cropped to what is drawn.

    picture: Pillow RGBa, colours times opacity.   colour: mean along the edge, float64 [3] in 0..255.
    """

    picture: Image.Image
    colour: np.ndarray

    def at(self, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Scaled so that the longer side has `side` pixels: colours times opacity uint8 [h, w, 3], opacity uint8 [h,
        w].
        """
        width, height = self.picture.size
        scale = side / max(width, height)
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
        scaled = self.picture.resize((width, height), Image.Resampling.BILINEAR)
        layers = np.frombuffer(scaled.tobytes(), np.uint8).reshape(height, width, 4)
        return layers[..., :3], layers[..., 3]


def cut_out(pixels: np.ndarray, *, whole: bool = False) -> Sprite | None:
    """The drawing in uint8 [height, width, 3], which stands on white; None where too little is left of it.

    The surrounding is the white that is connected to the border. A pixel at its edge is a mixture of white and of the
    colour of the drawing beside it, from which its opacity follows; a colour near white counts as opaque.

    Args:
        whole: nothing surrounds the drawing.
    """
    darkness = 255.0 - pixels.astype(np.float64)
    opacity = np.ones(pixels.shape[:2]) if whole else _opacity(darkness)
    rows, columns = (np.flatnonzero((opacity >= 0.5).any(axis=axis)) for axis in (1, 0))
    if not len(rows) or max(np.ptp(rows), np.ptp(columns)) + 1 < _LEAST_SIDE:
        return None
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    opacity, darkness = opacity[box], darkness[box]
    drawn = opacity >= 0.5
    if drawn.mean() < _LEAST_COVER:
        return None
    # A mixture c = a f + (1 - a) white has a f = c - (1 - a) white.
    colours = np.clip(255.0 * opacity[..., None] - darkness, 0.0, 255.0)
    layers = np.concatenate([colours, 255.0 * opacity[..., None]], axis=-1).round().astype(np.uint8)
    picture = Image.frombytes("RGBa", layers.shape[1::-1], layers.tobytes())
    edge = drawn & (_sum_around(drawn, 1) < 9)
    return Sprite(picture, 255.0 - darkness[edge].mean(axis=0))


def _opacity(darkness: np.ndarray) -> np.ndarray:
    """How much of each pixel is drawing, [height, width] in [0, 1], of darkness = 255 - colour [height, width, 3]."""
    drawn = ~_surrounding(darkness.max(axis=-1) <= 255 - _SURROUNDING)
    inner = drawn & (_sum_around(drawn, 1) == 9)
    # Where all is edge, as in thin strokes and in the specks that compression left, the darker pixels count.
    near_inner = _sum_around(inner, 2) > 0
    beside = np.where(
        near_inner[..., None],
        _mean_around(darkness, inner.astype(np.float64)),
        _mean_around(darkness, drawn * (darkness**2).sum(axis=-1)),
    )
    contrast = (beside**2).sum(axis=-1)
    share = (darkness * beside).sum(axis=-1) / np.maximum(contrast, _LEAST_CONTRAST)
    opacity = np.where(inner | (near_inner & (contrast < _LEAST_CONTRAST)), 1.0, np.clip(share, 0.0, 1.0)) * drawn
    return opacity * (_sum_around(opacity >= 0.5, 1) >= 3)


def _surrounding(white: np.ndarray) -> np.ndarray:
    """Which white pixels are connected to the border, bool [height, width]."""
    reached = np.pad(np.zeros_like(white), 1, constant_values=True)
    inside = reached[1:-1, 1:-1]
    count = -1
    while count != (count := int(inside.sum())):
        near = reached[:-2, 1:-1] | reached[2:, 1:-1] | reached[1:-1, :-2] | reached[1:-1, 2:]
        inside |= near & white
    return inside


def _mean_around(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted mean over the 5 x 5 pixels around each, [height, width, channels]; 0 where no weight is."""
    total = _sum_around(weights, 2)[..., None]
    return np.divide(_sum_around(values * weights[..., None], 2), total, out=np.zeros_like(values), where=total > 0)


def _sum_around(values: np.ndarray, reach: int) -> np.ndarray:
    """The sum over the square of pixels up to `reach` away, zeros beyond the border."""
    width = 2 * reach + 1
    padded = np.pad(values.astype(np.float64), [(reach, reach), (reach, reach)] + [(0, 0)] * (values.ndim - 2))
    rows = np.sum([padded[start : start + values.shape[0]] for start in range(width)], axis=0)
    return np.sum([rows[:, start : start + values.shape[1]] for start in range(width)], axis=0)
