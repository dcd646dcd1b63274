"""Laying cut-outs on a ground: where each finds room, what it hides, and the picture that results."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diptych.core.data.emoji.backgrounds import KINDS, background
from diptych.core.data.emoji.sprites import Sprite

SHRINKING = (1.0, 0.8, 0.64, 0.5, 0.4)  # of all sizes, tried in turn until everything finds room
MOST_HIDDEN = 0.15  # of one thing's pixels, by those laid on it
_TRIES = 16
_OPAQUE = 128  # half


@dataclass(frozen=True)
class Composition:
    """pixels: uint8 [h, w, 3], read-only.   instances: uint8 [h, w], 0 where the ground is seen, i where the i-th shown
    sprite is. shown: which of the sprites found room, in the order they were laid.   sizes: their longer sides in
    pixels.
    """

    pixels: np.ndarray
    instances: np.ndarray
    shown: list[int]
    sizes: list[float]


def compose(
    rng: np.random.Generator,
    sprites: Sequence[Sprite],
    sizes: Sequence[float],
    height: int,
    width: int,
    grounds: Sequence[str] = KINDS,
) -> Composition:
    """Lay sprites one over the other at random places, none of which hides more than MOST_HIDDEN of another's pixels.

    Args:
        sprites: the farthest first.
        sizes: their longer sides in pixels, at most the picture's shorter side.
        grounds: kinds of `backgrounds.background`.
    """
    for factor in SHRINKING:
        placed = _placed(rng, sprites, [size * factor for size in sizes], height, width)
        if len(placed.shown) == len(sprites):
            break
    colours_shown = np.stack([sprites[number].colour for number in placed.shown])
    pixels = background(rng, height, width, colours_shown, grounds)
    for (colours, opacity), (top, left) in zip(placed.layers, placed.corners, strict=True):
        part = pixels[top : top + opacity.shape[0], left : left + opacity.shape[1]]
        part[:] = (part * (255 - opacity.astype(np.uint16))[..., None] + 127) // 255 + colours
    pixels.flags.writeable = placed.instances.flags.writeable = False
    return Composition(pixels, placed.instances, placed.shown, placed.sizes)


@dataclass
class _Placed:
    instances: np.ndarray
    shown: list[int]
    sizes: list[float]
    layers: list[tuple[np.ndarray, np.ndarray]]
    corners: list[tuple[int, int]]


def _placed(
    rng: np.random.Generator, sprites: Sequence[Sprite], sizes: Sequence[float], height: int, width: int
) -> _Placed:
    """Those sprites that find room; the first always does."""
    placed = _Placed(np.zeros((height, width), np.uint8), [], [], [], [])
    drawn = np.zeros(len(sprites) + 1)  # pixels of each that were laid
    seen = np.zeros(len(sprites) + 1, np.int64)  # and of those the ones not hidden
    for number, (sprite, size) in enumerate(zip(sprites, sizes, strict=True)):
        layers = sprite.at(max(1, int(size)))
        mask = layers[1] >= _OPAQUE
        rows, columns = mask.shape
        shares = rng.random((_TRIES, 2))
        for down, along in shares.tolist():
            top, left = int(down * (height - rows + 1)), int(along * (width - columns + 1))
            under = placed.instances[top : top + rows, left : left + columns]
            hidden = np.bincount(under[mask], minlength=len(seen))
            hidden[0] = 0
            if (seen - hidden >= (1 - MOST_HIDDEN) * drawn)[1:].all():
                seen -= hidden
                placed.shown.append(number)
                placed.sizes.append(size)
                placed.layers.append(layers)
                placed.corners.append((top, left))
                under[mask] = len(placed.shown)
                drawn[len(placed.shown)] = seen[len(placed.shown)] = mask.sum()
                break
    return placed
