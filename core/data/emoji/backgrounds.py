"""Backgrounds of scenes: flat colours, gradients, clouds of noise and stripes, of any size."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image

KINDS = ("flat", "gradient", "noise", "stripes")
_CANDIDATES = 6
_GRAIN = 9  # largest difference that fine noise makes
_CELL = 16  # pixels, of the coarse noise


def background(
    rng: np.random.Generator, height: int, width: int, avoided: np.ndarray, kinds: Sequence[str] = KINDS
) -> np.ndarray:
    """A picture to draw on, uint8 [height, width, 3].

    Of six pairs of colours it takes the pair that stays farthest from the colours of what will stand on it.

    Args:
        avoided: those colours, [n, 3] in 0..255.
        kinds: of `KINDS`, drawn evenly.
    """
    kind, turn, frequency, phase = rng.random(4)
    pairs = rng.integers(0, 256, (_CANDIDATES, 2, 3)).astype(np.float32)
    distances = ((pairs[:, :, None] - avoided[None, None].astype(np.float32)) ** 2).sum(axis=-1)
    first, second = pairs[int(distances.min(axis=(1, 2)).argmax())]
    name = kinds[int(kind * len(kinds))]
    share: np.ndarray
    if name == "flat":
        share = np.zeros((height, width), np.float32)
    elif name == "noise":
        cells = rng.integers(0, 256, (height // _CELL + 2, width // _CELL + 2), dtype=np.uint8)
        coarse = Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)
        share = np.asarray(coarse, np.float32) / 255
    else:
        rows, columns = _grid(height, width)
        angle = 2 * np.pi * turn
        share = rows * np.float32(np.sin(angle)) + columns * np.float32(np.cos(angle))  # in about [-0.7, 0.7]
        if name == "gradient":
            share = share / np.float32(abs(np.sin(angle)) + abs(np.cos(angle))) + np.float32(0.5)
        else:
            share = ((share * np.float32(2 + 6 * frequency) + np.float32(phase)) % 1 < 0.5).astype(np.float32)
    colours = first + share[..., None] * (second - first)
    if name == "noise":
        colours += rng.integers(-_GRAIN, _GRAIN + 1, (height, width, 1), dtype=np.int8)
        np.clip(colours, 0, 255, out=colours)
    return colours.astype(np.uint8)


@lru_cache(maxsize=64)
def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns as fractions of the longer side, from -1/2 to 1/2 along it."""
    longer = max(height, width)
    rows = (np.arange(height, dtype=np.float32) - np.float32((height - 1) / 2)) / np.float32(max(longer - 1, 1))
    columns = (np.arange(width, dtype=np.float32) - np.float32((width - 1) / 2)) / np.float32(max(longer - 1, 1))
    return rows[:, None], columns[None, :]
