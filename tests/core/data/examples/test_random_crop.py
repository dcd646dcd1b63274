"""Random parts of pictures: within bounds, of the areas and aspects that were asked for, replayed by their numbers."""

import numpy as np
import pytest

from diptych.core.data.examples.augmentation import Augmentation
from diptych.core.data.examples.random_crop import ASPECTS, RandomCrop
from diptych.core.data.sampling import example_rng
from tests.core.data.pictures import pixels


@pytest.mark.parametrize(("rows", "columns"), [(60, 80), (80, 60), (1, 1), (3, 200), (200, 3)])
def test_rectangles_lie_in_the_picture_and_are_as_large_as_asked(rows, columns):
    crop = RandomCrop(area=0.2)
    for seed in range(200):
        top, left, height, width = crop.rectangle(rows, columns, example_rng(0, seed))
        assert 0 <= top <= top + height <= rows
        assert 0 <= left <= left + width <= columns
        whole = (height, width) == (rows, columns)
        assert whole or height * width >= 0.2 * rows * columns
        assert whole or ASPECTS[0] - 0.5 / height <= width / height <= ASPECTS[1] + 0.5 / height


def test_heights_are_drawn_evenly_and_all_places_occur():
    crop, found = RandomCrop(area=0.25), []
    for seed in range(4_000):
        found.append(crop.rectangle(100, 100, example_rng(1, seed)))
    tops, _, heights, widths = np.transpose(found)
    # Over aspects r evenly from .75 to 1.33 the heights are even from 50 / sqrt(r) to 100 / max(sqrt(r), r or 1).
    aspects = np.linspace(*ASPECTS, 1_000)
    expected = np.mean((50 / np.sqrt(aspects) + np.minimum(100, 100 / aspects)) / 2)
    assert heights.mean() == pytest.approx(expected, rel=0.01)
    assert (heights * widths).min() < 0.27 * 100**2
    smaller = heights < 100
    assert not (tops == 100 - heights)[smaller].any()  # as in TensorFlow
    assert (tops == 99 - heights)[smaller].any()
    assert (tops == 0)[smaller].any()


def test_a_crop_is_a_part_of_the_picture_and_the_same_numbers_give_it_again():
    picture = pixels(3, 40, 50)
    crop = RandomCrop(area=0.1, flip=0.5)
    one, again = (crop(picture, example_rng(0, 7), 16) for _ in range(2))
    assert one.shape == (16, 16, 3)
    assert one.dtype == np.uint8
    np.testing.assert_array_equal(one, again)
    assert any(not np.array_equal(one, crop(picture, example_rng(0, seed), 16)) for seed in range(8, 12))
    own = crop(picture, example_rng(0, 7))
    assert own.shape[0] <= 40


def test_mirroring_happens_as_often_as_asked():
    picture = pixels(3, 40, 50)
    whole = RandomCrop(area=1.0)
    np.testing.assert_array_equal(whole(picture, example_rng(0, 0)), picture)
    mirrored = RandomCrop(area=1.0, flip=1.0)
    np.testing.assert_array_equal(mirrored(picture, example_rng(0, 0)), picture[:, ::-1])
    half = RandomCrop(area=1.0, flip=0.5)
    count = sum(np.array_equal(half(picture, example_rng(0, seed)), picture) for seed in range(200))
    assert 70 < count < 130


def test_further_changes_follow_and_bad_settings_are_refused():
    picture = pixels(3, 40, 50)
    changed = RandomCrop(then=Augmentation(brightness=0.5))(picture, example_rng(0, 7), 16)
    assert not np.array_equal(changed, RandomCrop()(picture, example_rng(0, 7), 16))
    with pytest.raises(ValueError, match="area lies in"):
        RandomCrop(area=0.0)


def test_a_picture_is_moved_into_white_evenly_and_mirrored_both_ways():
    picture = np.zeros((16, 28, 3), np.uint8)
    picture[0, 0] = 7
    crop, places = RandomCrop(area=1.0, shift=1 / 14), []
    for seed in range(200):
        moved = crop(picture, example_rng(2, seed))
        assert moved.shape == picture.shape
        dark = np.argwhere(moved[..., 0] < 255)
        top, left = dark.min(0)
        height, width = dark.max(0) - (top, left) + 1
        assert height >= 15
        assert width >= 26
        places.append((top - (16 - height if not top else 0), left - (28 - width if not left else 0)))
    assert set(places) == {(row, column) for row in range(-1, 2) for column in range(-2, 3)}
    upside_down = RandomCrop(area=1.0, flip_vertical=1.0)(picture, example_rng(2, 0))
    np.testing.assert_array_equal(upside_down, picture[::-1])
