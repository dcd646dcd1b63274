"""JPEG files of photographs in the sizes that one meets: cut out of a folder of large ones, or made up."""

import io
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from diptych.core.data.records import Caption, Record

SIZES = ((256, 256), (500, 375), (1024, 768), (2048, 1536))
"""Widths and heights in pixels: as stored for training, of ImageNet, of the web, of a camera."""
QUALITY = 90

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_MADE_UP = 4
_STEEPNESS = 1.6  # at which the files are as large as those of photographs: 17 kB for 256 x 256, 42 kB for 500 x 375
_LEAST_ENLARGED = 0.75


class PhotoSource:
    """`count` records with a picture of one size each, whose files come again and again."""

    def __init__(self, size: tuple[int, int], folder: Path | None = None, count: int = 256):
        self.count = count
        self._files = photographs(size, folder)

    def __len__(self) -> int:
        return self.count

    def record(self, index: int) -> Record:
        """A record with one picture and one caption."""
        return Record(str(index), (index,), (Caption(f"photograph number {index} of nothing in particular"),))

    def read(self, reference: int) -> bytes:
        """The JPEG file."""
        return self._files[reference % len(self._files)]

    def fingerprint(self) -> str:
        """The same for all."""
        return "photographs"


@cache
def photographs(size: tuple[int, int], folder: Path | None = None) -> tuple[bytes, ...]:
    """The middles of the photographs in a folder, but of those too small, as JPEG; made-up ones without a folder.

    Raises:
        ValueError: the folder has none that is large enough.
    """
    if folder is None:
        return tuple(_encoded(_made_up(size, seed)) for seed in range(_MADE_UP))
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    cut = (_middle(path, size) for path in paths)
    files = tuple(_encoded(picture) for picture in cut if picture is not None)
    if not files:
        raise ValueError(f"{folder} has no photograph of about {size[0]} x {size[1]} pixels: give larger ones.")
    return files


def _middle(path: Path, size: tuple[int, int]) -> Image.Image | None:
    with Image.open(path) as picture:
        scale = min(picture.width / size[0], picture.height / size[1])
        if scale < _LEAST_ENLARGED:
            return None
        width, height = size[0] * scale, size[1] * scale
        left, top = (picture.width - width) / 2, (picture.height - height) / 2
        box = (left, top, left + width, top + height)
        return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS, box=box)


def _made_up(size: tuple[int, int], seed: int) -> Image.Image:
    """Noise whose amplitudes fall with frequency, its colours faint, behind some sharp edges."""
    rng = np.random.default_rng(seed)
    width, height = size
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequencies[0, 0] = 1
    layers = []
    for strength in (50, 12, 12):
        spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / frequencies**_STEEPNESS
        layer = np.fft.irfft2(spectrum, (height, width))
        layers.append(strength * (layer - layer.mean()) / layer.std())
    light, red, blue = layers
    slope = rng.standard_normal(2)
    rows, columns = np.indices((height, width)) / min(size)
    light += 30 * np.sign(np.sin(6 * (slope[0] * rows + slope[1] * columns)))
    picture = 128 + np.stack([light + red, light - (red + blue) / 2, light + blue], axis=-1)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def _encoded(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
