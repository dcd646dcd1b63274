"""Small pictures inside the page."""

import base64
import io

import numpy as np
from PIL import Image

from diptych.core.report.charts.markup import Markup, element


class Thumbnails:
    """Pictures as data addresses, each encoded once.

    Args:
        pixels: uint8 [images, height, width, 3].
        largest: pixels of the longer side; larger pictures are made smaller, so that the page stays small.
        quality: of the WebP.
    """

    def __init__(self, pixels: np.ndarray, *, largest: int = 96, quality: int = 82):
        self._pixels, self._largest, self._quality = pixels, largest, quality
        self._addresses: dict[int, str] = {}

    def address(self, index: int) -> str:
        """The picture as a data: address."""
        if index not in self._addresses:
            picture = Image.fromarray(self._pixels[index])
            picture.thumbnail((self._largest, self._largest))
            file = io.BytesIO()
            picture.save(file, "WEBP", quality=self._quality, method=4)
            self._addresses[index] = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
        return self._addresses[index]

    def picture(self, index: int, description: str, frame: str = "") -> Markup:
        """An <img> with its description; `frame` is a class such as "right" or "wrong"."""
        return element(
            "img",
            src=self.address(index),
            alt=description,
            title=description,
            class_=f"thumb {frame}".strip(),
            loading="lazy",
            width=64,
            height=64,
        )
