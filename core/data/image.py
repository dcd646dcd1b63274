"""Encoded pictures to pixels: decoding what strangers send, and resizing as the SigLIP code bases do."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from diptych.core.data.image_parts import MAX_SCANNED_PIXELS, count_scans
from diptych.core.data.records import BadExample
from diptych.core.files.beginnings import kind_of, mistaken

FORMATS = ("JPEG", "PNG", "WebP", "GIF")
MAX_PIXELS = 50_000_000
MAX_SIDE = 32_768

ResizeMethod = Literal["bilinear", "area", "bilinear_antialias", "bicubic_antialias", "bilinear_antialias_float"]
RESIZE_METHODS: tuple[ResizeMethod, ...] = get_args(ResizeMethod)

LYING = (5, 6, 7, 8)
"""The EXIF orientations of pictures that lie on their side."""

_ORIENTATION_TAG = 0x0112
_RGB_BYTES = 3
_PILLOW_FILTERS = {
    "bilinear_antialias": Image.Resampling.BILINEAR,
    "bicubic_antialias": Image.Resampling.BICUBIC,
}


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, max_side: int = MAX_SIDE) -> np.ndarray:
    """Pixels of an encoded picture, uint8 [height, width, 3], RGB.

    Reads JPEG, PNG, WebP and GIF (of animations the first frame). The size and the number of scans and other parts
    (`image_parts`) are checked before any pixel is decoded, the EXIF orientation is applied, transparency is laid on
    white, and 16-bit grey keeps its range. Whatever goes wrong is a `BadExample`.
    """
    with opened(data, max_pixels=max_pixels, max_side=max_side) as picture:
        return rgb_pixels(picture)


@contextmanager
def opened(data: bytes, *, max_pixels: int = MAX_PIXELS, max_side: int = MAX_SIDE) -> Iterator[Image.Image]:
    """A Pillow picture whose header is read and found to be within the limits of `decode`, and whose pixels are not
    decoded yet; what goes wrong in the block is a `BadExample`, too.
    """
    with _header(data) as (picture, scans):
        width, height = picture.size
        if width * height > max_pixels or max(width, height) > max_side:
            raise BadExample("image_too_large", f"{width} x {height}, at most {max_pixels} pixels, {max_side} a side")
        if width * height * scans > MAX_SCANNED_PIXELS:
            raise BadExample("image_too_slow", f"{scans} scans of {width} x {height} pixels")
        yield picture


def upright_size(data: bytes) -> tuple[int, int]:
    """(height, width) in pixels of an encoded picture as `decode` returns it, from its header alone; raises
    `BadExample` where it is none.
    """
    with _header(data) as (picture, _):
        return upright_size_of(picture)


def upright_size_of(picture: Image.Image) -> tuple[int, int]:
    """(height, width) in pixels of a Pillow picture when it stands upright."""
    width, height = picture.size
    return (width, height) if orientation(picture) in LYING else (height, width)


@contextmanager
def _header(data: bytes) -> Iterator[tuple[Image.Image, int]]:
    """A picture whose header alone is read, and its scans (`image_parts`); what goes wrong here and in the block is a
    `BadExample`.
    """
    if not data:
        raise BadExample("image_empty")
    scans = count_scans(data)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            yield picture, scans
    except BadExample:
        raise
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadExample("image_too_large", str(error)) from None
    # Hostile bytes make Pillow's parsers raise almost anything: OSError, SyntaxError, struct.error, IndexError,
    # MemoryError...
    except Exception as error:
        reason = "image_truncated" if "truncated" in str(error).lower() else "image_damaged"
        raise BadExample(reason, f"{type(error).__name__}: {error}") from None


def _unidentified(data: bytes) -> BadExample:
    """Why Pillow does not know a file for one of `FORMATS`."""
    kind, expected = kind_of(data), f"one of {', '.join(FORMATS)}"
    if kind in FORMATS:
        return BadExample("image_damaged", f"begins as {kind}, and its header cannot be read: fetch or write it again")
    what = mistaken(data, expected) or f"is none that is known: it begins with {data[:8]!r}, expected {expected}"
    return BadExample("image_format", what)


def rgb_pixels(picture: Image.Image) -> np.ndarray:
    """Pixels of a Pillow picture, uint8 [height, width, 3], RGB: upright by its EXIF orientation, transparency laid on
    white.
    """
    return to_array(rgb_picture(picture))


def rgb_picture(picture: Image.Image) -> Image.Image:
    """As `rgb_pixels`, in Pillow's own memory."""
    picture.load()
    return _rgb(_upright(picture))


def resize(
    image: np.ndarray | Image.Image, size: int | tuple[int, int], *, method: ResizeMethod = "bilinear_antialias"
) -> np.ndarray:
    """Squash uint8 [height, width, 3], or an RGB Pillow picture, to [size, size, 3], or to size = (rows, columns);
    nothing is cropped.

    Three families. "bilinear" is big_vision's `resize`: half-pixel centres, no antialias, float32, truncated to uint8;
    "area" its `resize_small`: the mean of the pixels that a new one covers, by the shares covered, truncated as well.
    "bilinear_antialias" and "bicubic_antialias" are Pillow's, rounded to uint8, as transformers prepares SigLIP 2 and
    SigLIP; hub files call them resample 2 and 3. "bilinear_antialias_float" is antialiased but not rounded, float32
    0..255: big_vision's `resize_to_sequence` for NaFlex. An image of the right size is returned as is.
    """
    rows, columns = (size, size) if isinstance(size, int) else size
    if method in _PILLOW_FILTERS and isinstance(image, Image.Image):
        return to_array(image.resize((columns, rows), _PILLOW_FILTERS[method]))
    image = to_array(image) if isinstance(image, Image.Image) else image
    if image.shape == (rows, columns, _RGB_BYTES):
        return image
    if method == "bilinear":
        return _bilinear_without_antialias(image, rows, columns)
    if method == "area":
        return _means_of_areas(image, rows, columns)
    if method == "bilinear_antialias_float":
        planes = (Image.fromarray(image[..., channel].astype(np.float32)) for channel in range(_RGB_BYTES))
        filtered = [plane.resize((columns, rows), Image.Resampling.BILINEAR) for plane in planes]
        return np.stack([np.asarray(plane) for plane in filtered], axis=-1)
    if method not in _PILLOW_FILTERS:
        raise ValueError(f"resize method {method!r} is not one of {', '.join(RESIZE_METHODS)}")
    return to_array(Image.fromarray(image).resize((columns, rows), _PILLOW_FILTERS[method]))


def to_array(picture: Image.Image) -> np.ndarray:
    """An RGB Pillow picture as a read-only uint8 array [height, width, 3]."""
    width, height = picture.size
    return np.frombuffer(picture.tobytes(), np.uint8).reshape(height, width, _RGB_BYTES)


def _upright(picture: Image.Image) -> Image.Image:
    return picture if orientation(picture) == 1 else ImageOps.exif_transpose(picture)


def orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8."""
    if "exif" not in picture.info:
        return 1
    try:
        return picture.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        # A picture with readable pixels is worth keeping when only its EXIF block is broken: it is taken as upright.
        return 1


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith("I"):
        return Image.fromarray(_sixteen_bit_grey(picture))
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        layers = picture.convert("RGBA")
        white = Image.new("RGBA", layers.size, "white")
        return Image.alpha_composite(white, layers).convert("RGB")
    return picture.convert("RGB")


def _sixteen_bit_grey(picture: Image.Image) -> np.ndarray:
    """Pillow's own conversion clips 16-bit grey to white; 65535 / 257 = 255 keeps the range."""
    grey = np.asarray(picture).astype(np.int64)
    grey = ((np.clip(grey, 0, 65535) + 128) // 257).astype(np.uint8)
    return np.repeat(grey[:, :, None], _RGB_BYTES, axis=2)


def _bilinear_without_antialias(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    top, bottom, down = _neighbours(image.shape[0], rows)
    left, right, along = _neighbours(image.shape[1], columns)
    down, along = down[:, None, None], along[None, :, None]

    def across(lines: np.ndarray) -> np.ndarray:
        near, far = (image[lines[:, None], places[None, :]].astype(np.float32) for places in (left, right))
        return near + (far - near) * along

    above, below = across(top), across(bottom)
    return (above + (below - above) * down).astype(np.uint8)


def _neighbours(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two source places of each target place, and the weight of the second, in float32 as TensorFlow computes
    them.
    """
    scale = np.float32(old) / np.float32(new)
    places = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    floor = np.floor(places)
    lower = np.maximum(floor, 0).astype(np.int64)
    upper = np.minimum(np.ceil(places), old - 1).astype(np.int64)
    return lower, upper, places - floor


def _means_of_areas(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    down, along = _covered(image.shape[0], rows), _covered(image.shape[1], columns)
    lines = (down @ image.reshape(len(image), -1).astype(np.float32)).reshape(rows, -1, _RGB_BYTES)
    means = np.einsum("cx,rxk->rck", along, lines, optimize=True)
    # A mean of whole numbers that is one itself may come out a rounding below it.
    return (means + np.float32(1e-3)).astype(np.uint8)


def _covered(old: int, new: int) -> np.ndarray:
    """What share of each new pixel the old ones are, float32 [new, old]."""
    scale, places = old / new, np.arange(old)
    begins = np.arange(new)[:, None] * scale
    shares = np.minimum(begins + scale, places + 1) - np.maximum(begins, places)
    return (np.maximum(shares, 0) / scale).astype(np.float32)
