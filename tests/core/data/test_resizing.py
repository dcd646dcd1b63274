"""Resizing to any size, and the antialiased kind that keeps its fractions."""

import numpy as np
import pytest

from diptych.core.data.image import RESIZE_METHODS, resize
from tests.core.data.pictures import pixels


def _triangle_weights(old: int, new: int) -> np.ndarray:
    """[new, old]: triangles as wide as the wider spacing around half-pixel centres, cut off at the ends, each row
    summing to one.
    """
    scale = old / new
    centres = (np.arange(new)[:, None] + 0.5) * scale
    distance = np.abs(np.arange(old)[None, :] + 0.5 - centres) / max(scale, 1.0)
    weights = np.maximum(1 - distance, 0)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("old", "new"), [((40, 60), (16, 32)), ((9, 70), (48, 16)), ((20, 20), (33, 47)), ((1, 5), (16, 80))]
)
def test_the_unrounded_kind_is_two_products_with_triangles(old, new):
    image = np.random.default_rng(0).integers(0, 256, (*old, 3), dtype=np.uint8)
    found = resize(image, new, method="bilinear_antialias_float")
    down, along = _triangle_weights(old[0], new[0]), _triangle_weights(old[1], new[1])
    expected = np.einsum("yr,xc,rcd->yxd", down, along, image.astype(np.float64))
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-3
    rounded = resize(image, new, method="bilinear_antialias")
    assert np.abs(rounded - expected).max() <= 1.01
    plain = resize(image, new, method="bilinear")
    if new[0] < old[0]:
        assert np.abs(plain - expected).max() > 10, "without antialias it is something else"


@pytest.mark.parametrize(("old", "new"), [((40, 60), (16, 32)), ((9, 70), (3, 16)), ((20, 20), (20, 15))])
def test_means_of_areas_are_those_of_all_pixels_covered(old, new):
    """As tensorflow's "area": each pixel is cut into so many parts that new ones share them out whole."""
    image = np.random.default_rng(0).integers(0, 256, (*old, 3), dtype=np.uint8)
    fine = image.astype(np.float64).repeat(new[0], axis=0).repeat(new[1], axis=1)
    blocks = fine.reshape(new[0], old[0], new[1], old[1], 3)
    expected = blocks.mean((1, 3))
    found = resize(image, new, method="area")
    assert found.dtype == np.uint8
    assert np.abs(found - np.floor(expected + 1e-3)).max() == 0
    assert np.array_equal(resize(np.full((30, 20, 3), 200, np.uint8), (7, 11), method="area"), np.full((7, 11, 3), 200))


@pytest.mark.parametrize("method", RESIZE_METHODS)
def test_rows_and_columns_are_told_apart(method):
    image = pixels(5, 40, 60)
    found = resize(image, (8, 24), method=method)
    assert found.shape == (8, 24, 3)
    turned = resize(np.ascontiguousarray(image.swapaxes(0, 1)), (24, 8), method=method).swapaxes(0, 1)
    assert np.abs(found.astype(float) - turned).max() <= 1
    assert resize(found.astype(np.uint8), (8, 24), method=method).shape == (8, 24, 3)
    assert np.array_equal(resize(image, 16, method=method), resize(image, (16, 16), method=method))
