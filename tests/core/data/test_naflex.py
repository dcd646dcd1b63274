"""NaFlex sizes are the reference's, patches hold the picture in order, and padding is told by the grid alone."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.data.image import resize
from diptych.core.data.naflex import NaFlex, patchify, target_size
from tests.core.data.pictures import pixels

# Of big_vision's and transformers' searches, patch 16.
GOLDEN = [
    ((480, 640), 256, (224, 288)),
    ((480, 640), 128, (144, 192)),
    ((480, 640), 1024, (432, 576)),
    ((1080, 1920), 256, (192, 336)),
    ((375, 500), 256, (224, 288)),
    ((100, 1000), 256, (80, 800)),
    ((1, 1000), 256, (16, 4096)),
    ((3000, 20), 256, (2400, 16)),
]


@pytest.mark.parametrize(("size", "patches", "expected"), GOLDEN)
def test_golden_sizes(size, patches, expected):
    assert target_size(*size, max_num_patches=patches) == expected


def test_two_thousand_sizes_are_those_of_transformers():
    module = pytest.importorskip(
        "transformers.models.siglip2.image_processing_pil_siglip2", reason="transformers is not installed"
    )
    rng = random.Random(0)
    for _ in range(2000):
        height, width, patch = rng.randrange(1, 6000), rng.randrange(1, 6000), rng.choice([14, 16, 32])
        patches = rng.choice([1, 64, 128, 256, 576, 784, 1024])
        found = target_size(height, width, patch_size=patch, max_num_patches=patches)
        assert found == module.get_image_size_for_max_num_patches(height, width, patch, patches), (height, width)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40_000), st.integers(1, 40_000), st.integers(1, 32), st.integers(1, 1024))
def test_sizes_are_whole_patches_and_never_too_many(height, width, patch, patches):
    rows, columns = (side // patch for side in target_size(height, width, patch_size=patch, max_num_patches=patches))
    assert rows >= 1
    assert columns >= 1
    assert rows * columns <= patches
    turned = target_size(width, height, patch_size=patch, max_num_patches=patches)
    assert (turned[1] // patch, turned[0] // patch) == (rows, columns)


def test_a_patch_is_rows_then_columns_then_colours():
    image = np.arange(4 * 6 * 3).reshape(4, 6, 3)
    patches = patchify(image, 2)
    assert patches.shape == (6, 12)
    for row in range(2):
        for column in range(3):
            patch = image[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert np.array_equal(patches[3 * row + column], patch.ravel())


def test_padding_is_zero_and_follows_the_grid():
    naflex = NaFlex(patch_size=4, max_num_patches=30)
    pictures = [pixels(0, 40, 60), pixels(1, 200, 10), pixels(2, 1, 1)]
    inputs = naflex.prepare(pictures)
    assert inputs["patches"].shape == (3, 30, 48)
    assert inputs["patches"].dtype == np.float32
    assert inputs["spatial_shapes"].dtype == np.int32
    for picture, patches, (rows, columns) in zip(pictures, inputs["patches"], inputs["spatial_shapes"], strict=True):
        assert (rows * 4, columns * 4) == target_size(*picture.shape[:2], patch_size=4, max_num_patches=30)
        whole = resize(picture, (rows * 4, columns * 4)).astype(np.float32) / 127.5 - 1
        assert np.allclose(patches[: rows * columns], patchify(whole, 4), atol=1e-6)
        assert not patches[rows * columns :].any()
    assert naflex.input_size is None


def test_each_picture_of_a_batch_is_as_alone():
    naflex = NaFlex(patch_size=4, max_num_patches=16)
    pictures = [pixels(seed, 10 + 7 * seed, 30) for seed in range(4)]
    together = naflex.prepare(pictures)
    for place, picture in enumerate(pictures):
        alone = naflex.prepare([picture])
        assert np.array_equal(alone["patches"][0], together["patches"][place])
        assert np.array_equal(alone["spatial_shapes"][0], together["spatial_shapes"][place])


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="max_num_patches"):
        NaFlex(max_num_patches=0)
