"""Pixels for an image tower of one fixed size: a decoded picture squashed or cropped, rescaled, normalised."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from diptych.core.data import fast_pixels
from diptych.core.data.image import ResizeMethod, resize
from diptych.core.files.fields import Triple

HALVES: Triple = (0.5, 0.5, 0.5)
CLIP_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Triple = (0.26862954, 0.26130258, 0.27577711)


def minus_one_to_one(pixels: np.ndarray) -> np.ndarray:
    """uint8 -> float32 in [-1, 1], what SigLIP's towers take."""
    return pixels / np.float32(127.5) - 1


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """`(value * scale - mean) / std`, channel by channel; as it stands, 0..255 becomes -1..1."""

    scale: float = 1 / 255
    mean: Triple = HALVES
    std: Triple = HALVES

    def __post_init__(self):
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
            if len(getattr(self, name)) != 3:
                raise ValueError(f"{name} must have three values, red, green and blue, got {getattr(self, name)}.")
        if not self.scale > 0 or min(self.std) <= 0:
            raise ValueError(f"scale and std must be above 0, got scale {self.scale} and std {self.std}.")

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [..., 3] -> float32 [..., 3]."""
        slope, offset = self.line()
        return pixels * slope - offset

    def line(self, values: int = 3) -> tuple[np.ndarray, np.ndarray]:
        """Slope and offset, float32 [values] each: those of red, green and blue, again and again; the result is
        `value * slope - offset`.
        """
        slope, offset = self.scale / np.array(self.std), np.array(self.mean) / np.array(self.std)
        return np.resize(slope, values).astype(np.float32), np.resize(offset, values).astype(np.float32)

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest value that a pixel can have afterwards."""
        mean, std = np.array(self.mean), np.array(self.std)
        return float(((0 - mean) / std).min()), float(((255 * self.scale - mean) / std).max())


def as_in_training(pixels: np.ndarray, normalization: Normalization) -> np.ndarray:
    """uint8 [..., values] -> float32, as `diptych.core.training.objectives.to_model_range` has it in training."""
    if normalization == Normalization():
        return minus_one_to_one(pixels)
    slope, offset = normalization.line(pixels.shape[-1])
    return pixels * slope - offset


@dataclass(frozen=True, kw_only=True)
class FixedSize:
    """Every picture becomes `height` x `width` pixels.

    Attributes:
        resize: how pictures are resized; see `image.resize`.
        shortest_edge: None squashes to height x width, which never crops (SigLIP). A number resizes the shorter side to
            it, keeping the aspect, and takes the middle height x width of that (CLIP).
    """

    height: int
    width: int
    resize: ResizeMethod = "bilinear_antialias"
    shortest_edge: int | None = None
    normalization: Normalization = field(default_factory=Normalization)

    def __post_init__(self):
        if self.height < 1 or self.width < 1:
            raise ValueError(f"height and width must be 1 or more, got {self.height} and {self.width}.")
        if self.shortest_edge is not None and self.shortest_edge < max(self.height, self.width):
            raise ValueError(
                f"shortest_edge must be at least as long as the crop's sides, got {self.shortest_edge} for a crop of "
                f"{self.height} x {self.width}."
            )

    @property
    def input_size(self) -> tuple[int, int]:
        return self.height, self.width

    def whole_size(self, rows: int, columns: int) -> tuple[int, int]:
        """(rows, columns) to which a whole picture of so many is resized, before its middle is cut out."""
        if self.shortest_edge is None:
            return self.height, self.width
        short, long = min(rows, columns), max(rows, columns)
        longest_edge = int(self.shortest_edge * long / short)
        return (self.shortest_edge, longest_edge) if rows <= columns else (longest_edge, self.shortest_edge)

    def picture(self, pixels: np.ndarray, *, fast: bool = False) -> np.ndarray:
        """uint8 [h, w, 3] -> uint8 [height, width, 3]; `fast` resizes by `fast_pixels`."""
        pixels = (fast_pixels.resize if fast else resize)(
            pixels, self.whole_size(*pixels.shape[:2]), method=self.resize
        )
        top, left = (pixels.shape[0] - self.height) // 2, (pixels.shape[1] - self.width) // 2
        return pixels[top : top + self.height, left : left + self.width]

    def region(self, pixels: np.ndarray) -> np.ndarray:
        """The part of a picture that `picture` shows, at its own resolution: uint8 [h, w, 3], a view of it."""
        if self.shortest_edge is None:
            return pixels
        rows, columns = pixels.shape[:2]
        short = min(rows, columns)
        height, width = (max(1, round(short * side / self.shortest_edge)) for side in (self.height, self.width))
        top, left = (rows - height) // 2, (columns - width) // 2
        return pixels[top : top + height, left : left + width]

    def prepare(self, pictures: list[np.ndarray]) -> dict[str, np.ndarray]:
        """uint8 [h, w, 3] each -> {"images": float32 [n, height, width, 3]}."""
        images = np.empty((len(pictures), self.height, self.width, 3), np.float32)
        for row, pixels in enumerate(pictures):
            images[row] = self.normalization(self.picture(pixels))
        return {"images": images}

    def settings(self) -> dict[str, Any]:
        """As it stands in processor.json."""
        return {"kind": "fixed_size", **asdict(self)}
