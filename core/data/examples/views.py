"""Views of a picture for self-distillation and masked prediction: global, local, and the patches to hide.

SigLIP 2 (section 2.3) takes one global and eight local views, otherwise as SILC (Naeem et al. 2023), which builds on
DINO, and hides half of the global view's patches. Crops and colours are those of DINO's released `DataAugmentationDINO`
(Caron et al. 2021).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from diptych.core.data.batch import ANY, ArrayField
from diptych.core.data.image import to_array

Range = tuple[float, float]

# fmt: off
VIEW_FIELDS = {
    "global_view": ArrayField(
        np.uint8, (("batch", "global_side", "global_side", 3),), (0, 255),
        "an augmented crop of most of the picture: whole for the teacher, masked for the student",
    ),
    "local_views": ArrayField(
        np.uint8, (("batch", "views", "local_side", "local_side", 3),), (0, 255),
        "augmented small crops of the picture, for the student",
    ),
    "masked_patches": ArrayField(
        np.int32, (("batch", "masked"),), (0, ANY),
        "which patches of the global view the student does not see, in ascending order",
    ),
}
# fmt: on

_TRIES = 10  # as torchvision's RandomResizedCrop
_REDUCING_GAP = 3.0  # Pillow averages whole pixels down to three times the target before the bicubic pass
_SOLARIZED_ABOVE = 128
_BLOCK_ASPECT: Range = (0.3, 1 / 0.3)  # of iBOT's blocks

_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_LUMA = _YIQ[0]  # ITU-R BT.601, as Pillow's greyscale
_GREY = np.repeat(_LUMA[None], 3, axis=0)  # a colour -> the grey of its luma
_CHROMA = np.eye(3) - _GREY  # what is left of it
_QUARTER_TURN = (
    np.linalg.inv(_YIQ) @ np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0]]) @ _YIQ
)  # of the chroma, at constant luma


def _check_share(config, name: str) -> None:
    if not 0 <= getattr(config, name) <= 1:
        raise ValueError(f"{type(config).__name__}.{name} must lie in [0, 1], got {getattr(config, name)}")


@dataclass(frozen=True, kw_only=True)
class ColourJitter:
    """Ranges of random changes of colour: DINO's ColorJitter and greyscale, as one 3 x 4 matrix.

    brightness, contrast, saturation: largest relative change, so 0.4 draws a factor from [0.6, 1.4].
    hue: largest turn of the colours, as a part of the whole circle.   probability: that these four happen.
    greyscale: probability of losing all colour.

    Brightness scales everything, contrast the distance from the picture's mean grey, saturation the chroma (the
    distance from the pixel's own grey), hue turns the chroma at constant luma. These four commute, so there is no order
    to draw; torchvision draws one, because it clips between the steps and turns the hue in HSV, which is not linear.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    probability: float = 0.8
    greyscale: float = 0.2

    def __post_init__(self):
        for name in ("brightness", "contrast", "saturation", "probability", "greyscale"):
            _check_share(self, name)
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"ColourJitter.hue must lie in [0, 0.5], got {self.hue}")

    def matrix(self, mean_colour: tuple[int, ...], shares: list[float]) -> np.ndarray | None:
        """The colour matrix [3, 4] for a picture of this mean colour, by six numbers in [0, 1); None for no change."""
        happens, brightness, contrast, saturation, turn, grey = shares
        without_colour = grey < self.greyscale
        if happens >= self.probability:
            return np.column_stack([_GREY, np.zeros(3)]) if without_colour else None
        scale = _factor(brightness, self.brightness)
        contrast = _factor(contrast, self.contrast)
        saturation = 0.0 if without_colour else _factor(saturation, self.saturation)
        angle = 2 * math.pi * self.hue * (2 * turn - 1)
        chroma = math.cos(angle) * _CHROMA + math.sin(angle) * _QUARTER_TURN
        offset = scale * (1 - contrast) * float(_LUMA @ mean_colour)
        return np.column_stack([scale * contrast * (_GREY + saturation * chroma), np.full(3, offset)])


@dataclass(frozen=True, kw_only=True)
class Finish:
    """Probabilities of what is done to a view at last: a Gaussian blur, and solarizing, which inverts pixels from 128
    on.
    """

    blur: float = 0.0
    solarize: float = 0.0

    def __post_init__(self):
        for name in ("blur", "solarize"):
            _check_share(self, name)


@dataclass(frozen=True, kw_only=True)
class Views:
    """How a picture becomes views; a pure function of (pixels, rng).

    global_size, local_size: sides of the square views; pixels that fill no patch are seen by nobody, as in the tower.
    local_count: number of local views.
    global_scale, local_scale: range of a crop's area, as a part of the picture's.   aspect: range of its width against
        its height.
    flip: probability of mirroring left and right.   colour: see `ColourJitter`; None for none.
    global_finishes: of which each global view draws one, evenly.   local_finish: of the local views.
    blur_sigma: range of a blur's deviation, in pixels of the view.
    mask_ratio: part of the global view's patches that is masked: exactly floor(mask_ratio · patches) of them.
    masking: "random" draws patches evenly, "block" draws rectangles of iBOT's shapes (Zhou et al. 2022).

    DINO has two global views, each with a finish of its own, which are the defaults. Here is one view, which draws one
    of the two; that is our choice: SigLIP 2 names no number. For crops and flips alone, set colour=None and empty
    finishes, `Finish()`.
    """

    declared: ClassVar[Mapping[str, ArrayField]] = VIEW_FIELDS
    global_size: int
    local_size: int
    patch_size: int
    local_count: int = 8
    global_scale: Range = (0.4, 1.0)
    local_scale: Range = (0.05, 0.4)
    aspect: Range = (3 / 4, 4 / 3)
    flip: float = 0.5
    colour: ColourJitter | None = ColourJitter()
    global_finishes: tuple[Finish, ...] = (Finish(blur=1.0), Finish(blur=0.1, solarize=0.2))
    local_finish: Finish = Finish(blur=0.5)
    blur_sigma: Range = (0.1, 2.0)
    mask_ratio: float = 0.5
    masking: Literal["random", "block"] = "random"

    def __post_init__(self):
        for name in ("flip", "mask_ratio"):
            _check_share(self, name)
        if not self.global_finishes:
            raise ValueError("Views.global_finishes must hold a Finish, of which the global view draws one, got none")
        for name in ("global_size", "local_size"):
            size = getattr(self, name)
            if not 1 <= self.patch_size <= size:
                raise ValueError(f"Views.{name} must hold a patch of {self.patch_size} px at least, got {size}")
        if self.local_count < 0:
            raise ValueError(f"Views.local_count must be 0 or more, got {self.local_count}")
        for name, largest in (("global_scale", 1), ("local_scale", 1), ("aspect", math.inf), ("blur_sigma", math.inf)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= largest:
                raise ValueError(
                    f"Views.{name} must be (low, high) with 0 < low <= high <= {largest}, got {(low, high)}"
                )
        if self.masking not in ("random", "block"):
            raise ValueError(f"Views.masking must be random or block, got {self.masking!r}")

    @property
    def grid(self) -> int:
        """Patches on a side of a global view: 27 of 14 px in 384."""
        return self.global_size // self.patch_size

    @property
    def masked_count(self) -> int:
        """Number of masked patches of a global view."""
        # The hundred-millionth keeps products like 0.29 · 100, which is 28.999999999999996, from losing a patch.
        return math.floor(self.mask_ratio * self.grid**2 + 1e-8)

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Views of uint8 [height, width, 3].

        Returns:
            "global_view" uint8 [global_size, global_size, 3], "local_views" uint8 [local_count, local_size, local_size,
            3] and "masked_patches" int32 [masked_count], ascending places in the global view's patches, counted row by
            row.
        """
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise ValueError(f"Views are of pixels uint8 [height, width, 3], got {pixels.dtype} {pixels.shape}")
        picture = Image.fromarray(pixels)
        global_view = self._view(picture, rng, self.global_size, self.global_scale, self.global_finishes)
        local_views = np.empty((self.local_count, self.local_size, self.local_size, 3), np.uint8)
        for index in range(self.local_count):
            view = self._view(picture, rng, self.local_size, self.local_scale, (self.local_finish,))
            local_views[index] = to_array(view)
        draw = masked_at_random if self.masking == "random" else masked_in_blocks
        return {
            "global_view": to_array(global_view),
            "local_views": local_views,
            "masked_patches": draw(rng, self.grid, self.masked_count),
        }

    def _view(
        self, picture: Image.Image, rng: np.random.Generator, size: int, scale: Range, finishes: tuple[Finish, ...]
    ) -> Image.Image:
        # All numbers of a view in one call, whatever comes of them, so that no setting shifts what the next view draws.
        shares = rng.random(4 * _TRIES + 10).tolist()
        box = crop_box(picture.size, scale, self.aspect, shares[10:])
        view = picture.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=_REDUCING_GAP)
        if shares[0] < self.flip:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.colour is not None:
            mean_colour = view.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
            matrix = self.colour.matrix(mean_colour, shares[1:7])
            if matrix is not None:
                view = view.convert("RGB", tuple(matrix.ravel().tolist()))
        # One number draws the finish, and what is left of it whether that solarizes.
        drawn, share = divmod(shares[9] * len(finishes), 1)
        finish = finishes[int(drawn)]
        if shares[7] < finish.blur:
            view = view.filter(ImageFilter.GaussianBlur(_between(shares[8], self.blur_sigma)))
        return ImageOps.solarize(view, _SOLARIZED_ABOVE) if share < finish.solarize else view


def crop_box(size: tuple[int, int], scale: Range, aspect: Range, shares: list[float]) -> tuple[float, ...]:
    """(left, top, right, bottom) of a random crop of a picture of `size` (width, height), by forty numbers in [0, 1).

    The area is drawn evenly and the aspect evenly in its logarithm, up to ten times until the crop fits; else it is the
    largest one in the middle of an allowed aspect (torchvision's RandomResizedCrop, without its rounding to whole
    pixels).
    """
    width, height = size
    logarithms = (math.log(aspect[0]), math.log(aspect[1]))

    def placed(wide: float, tall: float, across: float, down: float) -> tuple[float, ...]:
        left, top = across * (width - wide), down * (height - tall)
        return left, top, min(left + wide, width), min(top + tall, height)

    for area, ratio, across, down in zip(*(shares[start::4] for start in range(4)), strict=True):
        area = width * height * _between(area, scale)
        ratio = math.exp(_between(ratio, logarithms))
        wide, tall = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if wide <= width and tall <= height:
            return placed(wide, tall, across, down)
    ratio = min(max(width / height, aspect[0]), aspect[1])
    return placed(min(width, height * ratio), min(height, width / ratio), 0.5, 0.5)


def masked_at_random(rng: np.random.Generator, grid: int, count: int) -> np.ndarray:
    """`count` of grid · grid patches, each set of them equally likely, ascending int32."""
    return np.sort(rng.permutation(grid * grid)[:count]).astype(np.int32)


def masked_in_blocks(rng: np.random.Generator, grid: int, count: int) -> np.ndarray:
    """`count` of grid · grid patches in rectangles, ascending int32; of the last rectangle only the first rows that
    still count.

    A rectangle has between (grid // 3)² patches and as many as are missing, and an aspect between 0.3 and 1 / 0.3.
    """
    masked = np.zeros((grid, grid), bool)
    smallest = max(grid // 3, 1) ** 2
    logarithms = (math.log(_BLOCK_ASPECT[0]), math.log(_BLOCK_ASPECT[1]))
    while (missing := count - int(masked.sum())) > 0:
        area, ratio, top, left = rng.random(4).tolist()
        area = _between(area, (smallest, max(smallest, missing)))
        ratio = math.exp(_between(ratio, logarithms))
        rows = min(max(round(math.sqrt(area / ratio)), 1), grid)
        columns = min(max(round(math.sqrt(area * ratio)), 1), grid)
        top, left = int(top * (grid - rows + 1)), int(left * (grid - columns + 1))
        block = np.zeros((grid, grid), bool)
        block[top : top + rows, left : left + columns] = True
        masked.ravel()[np.flatnonzero(block & ~masked)[:missing]] = True
    return np.flatnonzero(masked).astype(np.int32)


def _between(share: float, limits: Range) -> float:
    return limits[0] + share * (limits[1] - limits[0])


def _factor(share: float, largest: float) -> float:
    return 1 + largest * (2 * share - 1)
