"""NaFlex sizes are the reference's, patches hold the picture in order, and padding is told by the grid alone."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.data.examples.naflex import NaFlex, NaFlexLengths, patchify, target_size
from diptych.core.data.image import resize
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


LENGTHS = NaFlexLengths()


def test_lengths_are_drawn_evenly_and_by_seed_stage_and_batch_alone():
    drawn = [LENGTHS.length_of(7, 1, batch) for batch in range(5000)]
    counts = Counter(drawn)
    assert set(counts) == {128, 256, 576, 784, 1024}
    assert all(abs(count - 1000) < 5 * np.sqrt(5000 * 0.2 * 0.8) for count in counts.values()), counts
    assert [LENGTHS.length_of(7, 1, batch) for batch in reversed(range(5000))] == drawn[::-1]
    others = ([LENGTHS.length_of(*place, batch) for batch in range(5000)] for place in ((8, 1), (7, 0)))
    for other in others:
        assert abs(sum(map(int.__eq__, other, drawn)) - 1000) < 5 * np.sqrt(800), "two runs draw alike"


def test_the_longest_make_two_steps_as_the_paper_has_it():
    assert [LENGTHS.pieces(length) for length in LENGTHS.lengths] == [1, 1, 1, 1, 2]
    assert NaFlexLengths(halve_from=None).pieces(1024) == 1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3000), st.integers(0, 2500))
def test_steps_of_a_range_are_counted_exactly(first, batches):
    naflex = NaFlexLengths(lengths=(4, 9, 16), halve_from=9)
    one_by_one = sum(naflex.pieces(naflex.length_of(3, 2, batch)) for batch in range(first, first + batches))
    assert naflex.optimizer_steps(3, 2, first, batches) == one_by_one


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([4, 7, 30]))
def test_bytes_cut_for_training_are_the_pixels_cut_for_a_model(height, width, length):
    picture = pixels(height * width, height, width)
    cut = NaFlexLengths(patch_size=4, lengths=(length,)).cut(picture, length, "bilinear_antialias")
    assert cut["patches"].dtype == np.uint8
    assert cut["spatial_shapes"].dtype == np.int32
    model = NaFlex(patch_size=4, max_num_patches=length).prepare([picture])
    assert np.array_equal(cut["spatial_shapes"], model["spatial_shapes"][0])
    used = int(np.prod(cut["spatial_shapes"]))
    assert used <= length
    # A byte times 2 / 255 minus 1, in float32.
    assert np.abs(cut["patches"][:used] / 127.5 - 1 - model["patches"][0, :used]).max() <= 4 * np.finfo(np.float32).eps
    assert not cut["patches"][used:].any()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"lengths": ()}, "lengths must be"),
        ({"lengths": (3, 16)}, "lengths must be .* at least 4"),
        ({"lengths": (16, 16)}, "lengths must be different"),
        ({"patch_size": 0}, "patch_size and halve_from"),
        ({"halve_from": 0}, "patch_size and halve_from"),
    ],
)
def test_lengths_that_make_no_sense_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        NaFlexLengths(**wrong)


def test_a_batch_that_cannot_be_halved_is_refused():
    NaFlexLengths(halve_from=None).check_batch_size(3)
    NaFlexLengths().check_batch_size(4)
    with pytest.raises(ValueError, match="multiple of 2, or halve_from=None"):
        NaFlexLengths().check_batch_size(3)
