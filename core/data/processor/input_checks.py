"""Checks of a model's inputs against its training: the wrong range or an unpadded text fails silently."""

import warnings
from typing import Any

import numpy as np

from diptych.core.data.examples.naflex import NaFlex
from diptych.core.data.pixels import FixedSize
from diptych.core.data.tokenizers.base import Tokenizer

_SLACK = 0.05  # beyond the range of model inputs: bfloat16 rounds, bicubic filters do not overshoot uint8
_DARK = 0.1  # the darkest of some pictures in 0..1 is nearly black; in -1..1 it would be mid-grey


def check_images(images: Any, pixels: FixedSize) -> np.ndarray:
    """The array itself if it can be a fixed-size model's `images`, float [n, height, width, 3] in model range.

    Raises:
        ValueError: for another shape or dtype, for values outside the range and for such as are no numbers.
    Warns:
        UserWarning: for values that look like 0..1 where the model's range begins below zero.
    """
    array = np.asarray(images)
    expected = (pixels.height, pixels.width, 3)
    if array.ndim != 4 or array.shape[1:] != expected:
        turned = array.ndim == 4 and array.shape[1:] == (3, pixels.height, pixels.width)
        advice = (
            "Move the channels to the end: images.transpose(0, 2, 3, 1)." if turned else "Processor.images makes it."
        )
        raise ValueError(f"images have the shape {list(array.shape)}, expected [n, {_listed(expected)}]. {advice}")
    low, high = _checked_range("images", array, pixels)
    if pixels.normalization.range[0] < 0 <= low <= _DARK and 0.5 < high <= 1:
        warnings.warn(
            f"images lie between {low:.3g} and {high:.3g}, the model takes {_between(pixels.normalization.range)}: are "
            "they in 0..1? Then give Processor.images uint8 arrays, or apply its normalization: (images - mean) / std.",
            stacklevel=3,
        )
    return array


def check_patches(patches: Any, spatial_shapes: Any, pixels: NaFlex) -> tuple[np.ndarray, np.ndarray]:
    """The arrays themselves if they can be a NaFlex model's inputs: float [n, length, p * p * 3], whole numbers [n, 2].

    Raises:
        ValueError: for other shapes, dtypes and ranges, and for grids with more patches than there are.
    """
    array, shapes = np.asarray(patches), np.asarray(spatial_shapes)
    width = pixels.patch_size**2 * 3
    if array.ndim != 3 or array.shape[2] != width:
        raise ValueError(
            f"patches have the shape {list(array.shape)}, expected [n, {pixels.max_num_patches}, {width}]. "
            "Processor.images makes them."
        )
    _checked_range("patches", array, pixels)
    if shapes.shape != (len(array), 2) or shapes.dtype.kind not in "iu":
        raise ValueError(
            f"spatial_shapes are {shapes.dtype}{list(shapes.shape)}, expected whole numbers [{len(array)}, 2]: rows "
            "and columns of each image's patches, as Processor.images returns them."
        )
    if shapes.size and (shapes.min() < 1 or shapes.prod(axis=1).max() > array.shape[1]):
        worst = shapes[np.argmax(np.where((shapes < 1).any(axis=1), np.inf, shapes.prod(axis=1)))]
        raise ValueError(
            f"spatial_shapes have a grid of {worst[0]} x {worst[1]}, expected 1 to {array.shape[1]} patches, as many "
            "as patches hold."
        )
    return array, shapes


def check_token_ids(token_ids: Any, tokenizer: Tokenizer, context_length: int, table_size: int) -> np.ndarray:
    """The array itself if it can be a model's `token_ids`, whole numbers [n, context_length], padded on the right.

    The text towers read a fixed place and have no mask: shorter, unpadded or left-padded texts give other vectors
    without any error.

    Raises:
        ValueError: for another length, dtype or side of padding, and for ids from `table_size` on, which the model has
            no row for.
    Warns:
        UserWarning: for texts without end-of-text.
    """
    advice = (
        f"Processor.texts makes it: the text, end-of-text ({tokenizer.eos_id}), then padding ({tokenizer.pad_id}) up "
        f"to {context_length}, no mask."
    )
    if isinstance(token_ids, (list, tuple)) and (lengths := _lengths(token_ids)) and lengths[0] != lengths[-1]:
        raise ValueError(
            f"token_ids have between {lengths[0]} and {lengths[-1]} ids a text, expected {context_length} in each. "
            f"{advice}"
        )
    array = np.asarray(token_ids)
    if array.ndim != 2 or array.shape[1] != context_length:
        raise ValueError(f"token_ids have the shape {list(array.shape)}, expected [n, {context_length}]. {advice}")
    if array.dtype.kind not in "iu":
        raise ValueError(f"token_ids are {array.dtype}, expected int32. {advice}")
    if array.size and not 0 <= array.min() <= array.max() < table_size:
        raise ValueError(
            f"token_ids lie between {array.min()} and {array.max()}, expected 0 to {table_size - 1}: this is "
            f"another model's vocabulary. {advice}"
        )
    _check_ends(array, tokenizer, advice)
    return array


def _check_ends(array: np.ndarray, tokenizer: Tokenizer, advice: str) -> None:
    ends = array == tokenizer.eos_id
    if tokenizer.pad_id != tokenizer.eos_id and len(array):
        left = (array[:, 0] == tokenizer.pad_id) & (array[:, -1] != tokenizer.pad_id)
        if left.any():
            raise ValueError(
                f"token_ids are padded on the left in row {np.argmax(left)}, expected on the right. {advice}"
            )
    without = ~ends.any(axis=1)
    if without.any():
        warnings.warn(
            f"token_ids have no end-of-text ({tokenizer.eos_id}) in {np.count_nonzero(without)} of {len(array)} rows, "
            f"first in row {np.argmax(without)}. The model was trained to see one in each, also in texts that were "
            f"cut. {advice}",
            stacklevel=4,
        )


def _checked_range(name: str, array: np.ndarray, pixels: FixedSize | NaFlex) -> tuple[float, float]:
    least, most = pixels.normalization.range
    if array.dtype == np.uint8:
        raise ValueError(
            f"{name} are uint8, expected float32 in {_between((least, most))}. Give pictures to Processor.images, "
            "which prepares them."
        )
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise ValueError(f"{name} are {array.dtype}, expected float32. Processor.images makes them.")
    if not array.size:
        return 0.0, 0.0
    low, high = float(array.min()), float(array.max())
    if not np.isfinite(low) or not np.isfinite(high):
        raise ValueError(f"{name} hold values that are no finite numbers, expected {_between((least, most))}.")
    slack = _SLACK * (most - least)
    if low < least - slack or high > most + slack:
        raise ValueError(
            f"{name} lie between {low:.4g} and {high:.4g}, expected {_between((least, most))}. "
            + ("They look like 0..255: " if high > 4 * most else "")
            + "give uint8 pictures to Processor.images, which rescales and normalises them."
        )
    return low, high


def _lengths(rows: list | tuple) -> list[int]:
    return sorted(len(row) for row in rows) if all(hasattr(row, "__len__") for row in rows) else []


def _between(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.4g} to {ends[1]:.4g}"


def _listed(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
