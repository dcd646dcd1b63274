"""NaFlex: images at their own aspect, cut into patches.

Reference: SigLIP 2, section 2.4.2; big_vision `ops_naflex.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from diptych.core.data.batch import ANY, ArrayField
from diptych.core.data.image import ResizeMethod, resize
from diptych.core.data.pixels import Normalization
from diptych.core.data.sampling import Part, example_rng

# fmt: off
PATCH_FIELDS = {
    "patches": ArrayField(
        np.uint8, (("batch", "length", "patch_values"),), (0, 255),
        "the picture at its own aspect as patches of (row, column, channel), row by row, padded with zeros",
    ),
    "spatial_shapes": ArrayField(
        np.int32, (("batch", 2),), (1, ANY),
        "(rows, columns) of each picture's grid; their product is the number of patches that are not padding",
    ),
}
"""What the picture is in a batch for NaFlex."""
# fmt: on

_SEARCH_END = 1e-5
_LARGEST_SCALE = 100.0
_SHORTEST = 4
_BLOCK = 1024  # batches whose lengths are drawn in one call


def target_size(height: int, width: int, *, patch_size: int = 16, max_num_patches: int = 256) -> tuple[int, int]:
    """The (height, width) to which an image is resized: multiples of `patch_size` with at most `max_num_patches`
    patches.

    The greatest scale is sought by halving [1e-6, 100] until 1e-5 is left; each side is scaled, rounded up to a whole
    patch, and at least one. Aspect therefore changes a little. (480, 640) becomes (224, 288), (1, 1000) becomes (16,
    4096).
    """

    def patches(side: int, scale: float) -> int:
        return max(1, math.ceil(side * scale / patch_size))

    least, most = _SEARCH_END / 10, _LARGEST_SCALE
    while most - least >= _SEARCH_END:
        scale = (least + most) / 2
        if patches(height, scale) * patches(width, scale) <= max_num_patches:
            least = scale
        else:
            most = scale
    return patches(height, least) * patch_size, patches(width, least) * patch_size


def patchify(image: np.ndarray, patch_size: int) -> np.ndarray:
    """[rows * p, columns * p, 3] -> [rows * columns, p * p * 3]: the grid row by row, each patch as (row, column,
    channel).
    """
    rows, columns = image.shape[0] // patch_size, image.shape[1] // patch_size
    grid = image.reshape(rows, patch_size, columns, patch_size, 3).swapaxes(1, 2)
    return grid.reshape(rows * columns, patch_size * patch_size * 3)


def fitted(pixels: np.ndarray, patch_size: int, max_num_patches: int, method: ResizeMethod) -> np.ndarray:
    """uint8 [h, w, 3] -> the picture resized to its `target_size`; see `image.resize` for the method."""
    size = target_size(*pixels.shape[:2], patch_size=patch_size, max_num_patches=max_num_patches)
    return resize(pixels, size, method=method)


@dataclass(frozen=True, kw_only=True)
class NaFlex:
    """Every picture becomes at most `max_num_patches` patches of `patch_size` x `patch_size` pixels, padded with zeros.

    resize: see `image.resize`; transformers' processors round to uint8 after it ("bilinear_antialias"), big_vision does
        not
    ("bilinear_antialias_float").
    """

    patch_size: int = 16
    max_num_patches: int = 256
    resize: ResizeMethod = "bilinear_antialias"
    normalization: Normalization = field(default_factory=Normalization)

    def __post_init__(self):
        if self.patch_size < 1 or self.max_num_patches < 1:
            raise ValueError(
                f"patch_size and max_num_patches must be 1 or more, got {self.patch_size} and {self.max_num_patches}."
            )

    @property
    def input_size(self) -> None:
        return None

    def whole_size(self, rows: int, columns: int) -> tuple[int, int]:
        """(rows, columns) to which a whole picture of so many is resized."""
        return target_size(rows, columns, patch_size=self.patch_size, max_num_patches=self.max_num_patches)

    def prepare(self, pictures: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """uint8 [h, w, 3] each -> {"patches": float32 [n, max_num_patches, p * p * 3], "spatial_shapes": int32 [n, 2]}.

        `spatial_shapes` are the (rows, columns) of the grids, by which padding is told from patches.
        """
        patches = np.zeros((len(pictures), self.max_num_patches, self.patch_size**2 * 3), np.float32)
        shapes = np.empty((len(pictures), 2), np.int32)
        for place, pixels in enumerate(pictures):
            picture = fitted(pixels, self.patch_size, self.max_num_patches, self.resize)
            cut = patchify(self.normalization(picture), self.patch_size)
            patches[place, : len(cut)] = cut
            shapes[place] = picture.shape[0] // self.patch_size, picture.shape[1] // self.patch_size
        return {"patches": patches, "spatial_shapes": shapes}

    def settings(self) -> dict[str, Any]:
        """As it stands in processor.json."""
        return {"kind": "naflex", **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class NaFlexLengths:
    """Training at several sequence lengths: each batch has one, drawn evenly (SigLIP 2, section 2.4.2).

    The length of a batch depends on (seed, stage, batch number) alone, so that whoever makes a row of it knows it.

    patch_size: side of the patches, pixels.   lengths: of the sequences, patches; all different.
    halve_from: batches of at least this length are cut in two and make two optimizer steps, for half the memory; None
        for never.
    """

    patch_size: int = 16
    lengths: tuple[int, ...] = (128, 256, 576, 784, 1024)
    halve_from: int | None = 1024

    def __post_init__(self):
        object.__setattr__(self, "lengths", tuple(self.lengths))
        if self.patch_size < 1 or (self.halve_from is not None and self.halve_from < 1):
            raise ValueError(
                f"patch_size and halve_from must be 1 or more, got {self.patch_size} and {self.halve_from}."
            )
        if not self.lengths or min(self.lengths) < _SHORTEST or len(set(self.lengths)) < len(self.lengths):
            raise ValueError(
                f"lengths must be different numbers of patches, each at least {_SHORTEST} (a grid of 2 x 2), got "
                f"{self.lengths}."
            )

    def length_of(self, seed: int, stage: int, batch: int) -> int:
        """The sequence length of a batch."""
        block, place = divmod(batch, _BLOCK)
        return self.lengths[int(_choices(seed, stage, block, len(self.lengths))[place])]

    def pieces(self, length: int) -> int:
        """How many optimizer steps a batch of this length makes, each on an equal part of it."""
        return 2 if self.halve_from is not None and length >= self.halve_from else 1

    def optimizer_steps(self, seed: int, stage: int, first_batch: int, batches: int) -> int:
        """How many optimizer steps the batches first_batch, ..., first_batch + batches - 1 make together."""
        steps = [self.pieces(length) for length in self.lengths]
        total = 0
        for block in range(first_batch // _BLOCK, -(-(first_batch + batches) // _BLOCK)):
            start, end = (min(max(edge - block * _BLOCK, 0), _BLOCK) for edge in (first_batch, first_batch + batches))
            counts = np.bincount(_choices(seed, stage, block, len(steps))[start:end], minlength=len(steps))
            total += int(counts @ steps)
        return total

    def check_batch_size(self, batch_size: int) -> None:
        """Raise ValueError if batches of this size cannot be cut into the pieces that some length asks for."""
        most = max(map(self.pieces, self.lengths))
        if batch_size % most:
            raise ValueError(
                f"batches of length {max(self.lengths)} are cut into {most} pieces, which a batch of {batch_size} does "
                f"not divide into: choose a batch_size that is a multiple of {most}, or halve_from=None."
            )

    def cut(self, pixels: np.ndarray, length: int, method: ResizeMethod) -> dict[str, np.ndarray]:
        """uint8 [h, w, 3] -> {"patches": uint8 [length, p * p * 3], "spatial_shapes": int32 [2]}, padded with zeros.

        The grid is the greatest of at most `length` patches that keeps the aspect: `target_size`.
        """
        picture = fitted(pixels, self.patch_size, length, method)
        patches = np.zeros((length, self.patch_size**2 * 3), np.uint8)
        found = patchify(picture, self.patch_size)
        patches[: len(found)] = found
        rows, columns = picture.shape[0] // self.patch_size, picture.shape[1] // self.patch_size
        return {"patches": patches, "spatial_shapes": np.array([rows, columns], np.int32)}


@lru_cache(maxsize=64)
def _choices(seed: int, stage: int, block: int, lengths: int) -> np.ndarray:
    """For each batch of a block which of the lengths it has, int64 [_BLOCK]."""
    rng = example_rng(seed, block, stage=stage, part=Part.SEQUENCE_LENGTH)
    return rng.integers(lengths, size=_BLOCK)
