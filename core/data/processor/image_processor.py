"""The pictures' half of a checkpoint's preprocessing: pictures in, the arrays that an image tower takes out."""

from collections.abc import Callable, Iterable
from copy import copy
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
from PIL import Image

from diptych.core.data.decoder import Decode, Decoder
from diptych.core.data.examples.naflex import NaFlex
from diptych.core.data.fast_pixels import libraries
from diptych.core.data.image import decode, rgb_pixels
from diptych.core.data.pixels import FixedSize
from diptych.core.data.processor.files import IMAGE_WRITERS, PATTERNS, read_pixels
from diptych.core.data.processor.input_checks import check_images
from diptych.core.data.processor.model_sizes import check_pixels, sizes_in
from diptych.core.data.records import BadExample
from diptych.core.data.sources.files import MAX_IMAGE_FILE_BYTES, read_regular_file
from diptych.core.weights.hub import preset_folder

Item: TypeAlias = bytes | str | Path | Image.Image | np.ndarray
"""A picture: its encoded bytes, its path, as Pillow has it, or uint8 [height, width, 3]."""

SINGLE_PICTURES = (bytes, bytearray, memoryview, str, Path, Image.Image)
"""What is one picture, and never several."""


class ImageProcessor:
    """What turns pictures into an image tower's inputs, in the way the tower was trained.

    Attributes:
        pixels: how pictures are resized and normalised.
        decode: how files become pixels: exact is by Pillow, fast by `core.data.fast_pixels`.
    """

    decode: Decode = "exact"

    def __init__(self, *, pixels: FixedSize | NaFlex):
        self.pixels = pixels

    def decoding(self, decode: Decode) -> Self:
        """The same processor with files decoded so; raises ImportError where what is fast is not installed."""
        if decode == "fast":
            libraries()
        again = copy(self)
        again.decode = decode
        return again

    @classmethod
    def from_preset(cls, preset: str | Path, *, revision: str | None = None) -> Self:
        """The processor of a checkpoint's pictures; arguments and errors as for `Processor.from_preset`."""
        path = preset_folder(preset, revision=revision, patterns=PATTERNS)
        folder = path if path.is_dir() else path.parent
        pixels = read_pixels(folder)
        check_pixels(str(preset), sizes_in(folder), pixels)
        return cls(pixels=pixels)

    def images(self, items: Item | Iterable[Item]) -> dict[str, np.ndarray]:
        """Pictures -> {"images": float32 [n, rows, columns, 3]}, for NaFlex {"patches", "spatial_shapes"}.

        A picture is its encoded bytes, a path, a Pillow image, or a uint8 array [height, width, 3], RGB; one alone is a
        batch of one. Transparency is laid on white, 16-bit grey keeps its range, the EXIF orientation is applied (which
        transformers does not do).

        Raises:
            BadExample: for a file that is missing or no readable picture, which it names.
            TypeError, ValueError: for what is no picture at all, and for arrays of other shapes and dtypes, saying what
            to give.
        """
        single = isinstance(items, SINGLE_PICTURES) or (isinstance(items, np.ndarray) and items.ndim < 4)
        pictures: list[Any] = [items] if single else [*items]  # type: ignore[misc]
        decoder = Decoder(whole=self.pixels, fast=True) if self.decode == "fast" else decode
        return self.pixels.prepare([_pixels(item, f"image {place}", decoder) for place, item in enumerate(pictures)])

    @property
    def input_size(self) -> tuple[int, int] | None:
        """(rows, columns) of the images that the model takes; None for NaFlex, which takes any."""
        return self.pixels.input_size

    def check_images(self, images: Any) -> np.ndarray:
        """The array itself, if it is what `images` returns: float32 [n, rows, columns, 3] in the model's range."""
        if isinstance(self.pixels, NaFlex):
            raise ValueError("The inputs have images, expected patches and spatial_shapes: this is a NaFlex model.")
        return check_images(images, self.pixels)

    def save_to_preset(self, folder: str | Path, format: str = "diptych") -> None:
        """Writes the processor into a checkpoint's folder, which is made if need be.

        Args:
            folder: where config.json and the weights are, or will be.
            format: "diptych" for processor.json, "transformers" for a preprocessor_config.json that AutoImageProcessor
                reads.

        Raises:
            ValueError: for another format, and for what the format cannot express.
        """
        if format not in IMAGE_WRITERS:
            raise ValueError(f"format must be one of {', '.join(IMAGE_WRITERS)}, got {format!r}.")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        IMAGE_WRITERS[format](folder, self.pixels)


def _pixels(item: Any, name: str, decoder: Callable[[bytes], np.ndarray]) -> np.ndarray:
    """uint8 [height, width, 3] of one picture."""
    if isinstance(item, (bytes, bytearray, memoryview)):
        return _decoded(bytes(item), name, decoder)
    if isinstance(item, (str, Path)):
        data = read_regular_file(str(item), kind="image", max_bytes=MAX_IMAGE_FILE_BYTES)
        return _decoded(data, str(item), decoder)
    if isinstance(item, Image.Image):
        return rgb_pixels(item)
    if not isinstance(item, np.ndarray):
        raise TypeError(
            f"{name} is a {type(item).__name__}, expected encoded bytes, a path, a Pillow image or a uint8 array "
            "[height, width, 3]."
        )
    if item.dtype.kind == "f":
        raise ValueError(f"{name} is {item.dtype}, expected uint8 0..255. {_advice_on_floats(item)}")
    if item.dtype != np.uint8:
        raise ValueError(f"{name} is {item.dtype}, expected uint8 0..255.")
    if item.ndim != 3 or item.shape[2] != 3 or 0 in item.shape:
        first = item.ndim == 3 and item.shape[0] == 3
        advice = (
            "Move the channels to the end: array.transpose(1, 2, 0)."
            if first
            else "Pillow converts: Image.fromarray(array)."
        )
        raise ValueError(f"{name} has the shape {list(item.shape)}, expected [height, width, 3], RGB. {advice}")
    return item


def _decoded(data: bytes, name: str, decoder: Callable[[bytes], np.ndarray]) -> np.ndarray:
    try:
        return decoder(data)
    except BadExample as error:
        raise BadExample(error.reason, f"{name}: {error.detail}" if error.detail else name) from None


def _advice_on_floats(array: np.ndarray) -> str:
    """What to do with a picture of floats, by the range that its values seem to be in."""
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if low < 0:
        undo = "((array + 1) * 127.5).round().astype(np.uint8)"
        how = f"these look like -1..1: what a model takes is not prepared again; undo it by {undo}"
    elif high <= 1:
        how = "these look like 0..1: (array * 255).round().astype(np.uint8)"
    else:
        how = "these look like 0..255: array.round().astype(np.uint8)"
    return f"Its values lie between {low:.4g} and {high:.4g}; {how}."
