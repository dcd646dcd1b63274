"""NaFlex: images at their own aspect, cut into at most so many patches (SigLIP 2, section 2.4.2; big_vision `ops_naflex.py`)."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from diptych.core.data.image import ResizeMethod, resize
from diptych.core.data.pixels import Normalization

_SEARCH_END = 1e-5
_LARGEST_SCALE = 100.0


def target_size(height: int, width: int, *, patch_size: int = 16, max_num_patches: int = 256) -> tuple[int, int]:
    """The (height, width) to which an image is resized: multiples of `patch_size` with at most `max_num_patches` patches.

    The greatest scale is sought by halving [1e-6, 100] until 1e-5 is left; each side is scaled, rounded up to a whole patch, and at
    least one. Aspect therefore changes a little. (480, 640) becomes (224, 288), (1, 1000) becomes (16, 4096).
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
    """[rows * p, columns * p, 3] -> [rows * columns, p * p * 3]: the grid row by row, each patch as (row, column, channel)."""
    rows, columns = image.shape[0] // patch_size, image.shape[1] // patch_size
    grid = image.reshape(rows, patch_size, columns, patch_size, 3).swapaxes(1, 2)
    return grid.reshape(rows * columns, patch_size * patch_size * 3)


@dataclass(frozen=True, kw_only=True)
class NaFlex:
    """Every picture becomes at most `max_num_patches` patches of `patch_size` x `patch_size` pixels, padded with zeros.

    resize: see `image.resize`; transformers' processors round to uint8 after it ("bilinear_antialias"), big_vision does not
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

    def prepare(self, pictures: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """uint8 [h, w, 3] each -> {"patches": float32 [n, max_num_patches, p * p * 3], "spatial_shapes": int32 [n, 2]}.

        `spatial_shapes` are the (rows, columns) of the grids, by which padding is told from patches.
        """
        patches = np.zeros((len(pictures), self.max_num_patches, self.patch_size**2 * 3), np.float32)
        shapes = np.empty((len(pictures), 2), np.int32)
        for place, pixels in enumerate(pictures):
            size = target_size(
                pixels.shape[0], pixels.shape[1], patch_size=self.patch_size, max_num_patches=self.max_num_patches
            )
            cut = patchify(self.normalization(resize(pixels, size, method=self.resize)), self.patch_size)
            patches[place, : len(cut)] = cut
            shapes[place] = size[0] // self.patch_size, size[1] // self.patch_size
        return {"patches": patches, "spatial_shapes": shapes}

    def settings(self) -> dict[str, Any]:
        """As it stands in processor.json."""
        return {"kind": "naflex", **asdict(self)}
