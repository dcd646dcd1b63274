"""A decoder: from a picture's file to the pixels that examples are made of, no more of them than they need."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from diptych.core.data import fast_pixels
from diptych.core.data.examples.naflex import NaFlex
from diptych.core.data.image import LYING, opened, orientation, resize, rgb_picture, to_array, upright_size_of
from diptych.core.data.pixels import FixedSize

Decode = Literal["exact", "fast"]
"""How files become pixels and pixels fewer: by Pillow, or by `fast_pixels`."""

_PLAIN_MODES = ("RGB", "L")


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Decodes as `image.decode` does, and resizes at once where the whole picture is resized before all else.

    So the large picture is never copied, a cache keeps small ones, and a JPEG may be decoded at a reduced scale.

    Attributes:
        whole: how the whole picture is resized; None leaves it as it is.
        direct: the largest reduction that whoever takes the pixels makes himself; only larger pictures are resized.
        fast: grey and colour JPEGs are decoded by `fast_pixels`, at a reduced scale where `whole.resize` is
            bilinear_antialias, and pictures are resized by it.
    """

    whole: FixedSize | NaFlex | None = None
    direct: float = 0.0
    fast: bool = False

    def __call__(self, data: bytes) -> np.ndarray:
        """The pixels, uint8 [height, width, 3]; a picture that cannot be used is a `BadExample`, as of `decode`."""
        with opened(data) as picture:
            new = self._new_size(*upright_size_of(picture))
            if self.fast and picture.format == "JPEG" and picture.mode in _PLAIN_MODES:
                pixels = self._fast_pixels(data, picture, new)
                if pixels is not None:
                    return pixels
            decoded = rgb_picture(picture)
        if new is None or self.whole is None:
            return to_array(decoded)
        return (fast_pixels.resize if self.fast else resize)(decoded, new, method=self.whole.resize)

    def _new_size(self, rows: int, columns: int) -> tuple[int, int] | None:
        """What an upright picture of so many rows and columns is resized to, None where it is not."""
        if self.whole is None:
            return None
        new = self.whole.whole_size(rows, columns)
        return new if max(rows / new[0], columns / new[1]) > self.direct else None

    def _fast_pixels(self, data: bytes, picture: Image.Image, new: tuple[int, int] | None) -> np.ndarray | None:
        """The JPEG turned upright, of the new size; None where it is damaged in any way."""
        columns, rows = picture.size
        turn = orientation(picture)
        lying = new[::-1] if new and turn in LYING else new
        by = fast_pixels.reduction((rows, columns), lying) if lying and self._antialiased else 1
        pixels = fast_pixels.jpeg_pixels(data, rows, columns, by)
        if pixels is None:
            return None
        if lying and self.whole is not None:
            extent = (rows / by, columns / by)
            pixels = fast_pixels.resize(pixels, lying, method=self.whole.resize, extent=extent)
        pixels.flags.writeable = False
        return fast_pixels.upright(pixels, turn)

    @property
    def _antialiased(self) -> bool:
        return self.whole is not None and self.whole.resize == "bilinear_antialias"
