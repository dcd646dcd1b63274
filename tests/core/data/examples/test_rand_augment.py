"""RandAugment: as many operations as asked, all of them drawn, each as its definition says, replayed by its numbers."""

import numpy as np
import pytest
from PIL import Image

from diptych.core.data.examples import rand_augment
from diptych.core.data.examples.rand_augment import GREY, OPERATIONS, RandAugment
from diptych.core.data.sampling import example_rng
from tests.core.data.pictures import pixels


class Given:
    """A generator whose next numbers are given: whether a move goes the other way, and where a square is."""

    def __init__(self, *numbers: float):
        self._numbers = iter(numbers)

    def random(self) -> float:
        return next(self._numbers)

    def integers(self, below: int) -> int:
        return int(next(self._numbers))


def changed(name: str, picture: np.ndarray, strength: float, *numbers: float) -> np.ndarray:
    return np.asarray(OPERATIONS[name](Image.fromarray(picture), strength, Given(*numbers)))


PICTURE = pixels(3, 40, 50)


def test_values_are_changed_as_defined():
    values = np.arange(256, dtype=np.uint8)
    picture = np.stack([values] * 3, axis=-1)[None].repeat(4, axis=0)
    found = {name: changed(name, picture, 0.5)[0, :, 0].astype(int) for name in ("posterize", "solarize", "invert")}
    np.testing.assert_array_equal(found["posterize"], values & 0b11000000)
    np.testing.assert_array_equal(found["solarize"], np.where(values < 128, values, 255 - values))
    np.testing.assert_array_equal(found["invert"], 255 - values)
    np.testing.assert_array_equal(
        changed("solarize_add", picture, 1.0)[0, :, 0], np.where(values < 128, values + 110, values)
    )
    dark = changed("brightness", picture, 0.0)[0, :, 0]
    np.testing.assert_allclose(dark, values / 10, atol=1)


@pytest.mark.parametrize("name", ["colour", "contrast", "brightness", "sharpness"])
def test_half_the_strength_leaves_what_the_whole_one_nearly_doubles(name):
    np.testing.assert_array_equal(changed(name, PICTURE, 0.5), PICTURE)
    deviation = np.abs(changed(name, PICTURE, 1.0).astype(int) - PICTURE).mean()
    assert deviation > 0.05
    assert not np.array_equal(changed(name, PICTURE, 0.0), PICTURE)


def test_moves_are_as_far_as_asked_either_way_and_grey_fills_what_is_left():
    right, left = (changed("translate_x", PICTURE, 0.448, number) for number in (0.1, 0.9))
    np.testing.assert_array_equal(right[:, :40], PICTURE[:, 10:])
    np.testing.assert_array_equal(left[:, 10:], PICTURE[:, :40])
    assert (right[:, 40:] == GREY).all()
    down = changed("translate_y", PICTURE, 0.56, 0.9)
    np.testing.assert_array_equal(down[10:], PICTURE[:30])
    sheared = changed("shear_x", PICTURE, 1.0, 0.1)
    np.testing.assert_array_equal(sheared[0], PICTURE[0])
    np.testing.assert_array_equal(sheared[30, :40], PICTURE[30, 9:49])
    np.testing.assert_array_equal(changed("shear_y", PICTURE, 1.0, 0.1)[:31, 30], PICTURE[9:40, 30])
    turned = changed("rotate", PICTURE, 1.0, 0.1)
    np.testing.assert_array_equal(turned, np.asarray(Image.fromarray(PICTURE).rotate(30, fillcolor=GREY)))


def test_a_square_is_erased_around_its_place():
    found = changed("cutout", PICTURE, 0.5, 20, 12)
    half = int(50 * 40 / 224 / 2)
    assert (found[12 - half : 12 + half, 20 - half : 20 + half] == GREY).all()
    assert (found != PICTURE).any(axis=-1).sum() <= (2 * half) ** 2
    assert (changed("cutout", PICTURE, 1.0, 0, 0)[:8, :8] == GREY).all()


def test_so_many_operations_are_drawn_evenly(monkeypatch):
    drawn = []

    def noted(name: str):
        return lambda picture, strength, rng: drawn.append((name, strength)) or picture

    monkeypatch.setattr(rand_augment, "OPERATIONS", {name: noted(name) for name in OPERATIONS})
    augment = RandAugment(count=2, magnitude=4)
    for seed in range(400):
        assert augment(PICTURE, example_rng(0, seed)).shape == PICTURE.shape
    assert len(drawn) == 800
    assert {strength for _, strength in drawn} == {0.4}
    counts = [sum(name == one for name, _ in drawn) for one in OPERATIONS]
    assert min(counts) > 25
    assert max(counts) < 80


def test_the_same_numbers_give_the_same_picture_of_the_size_that_is_asked():
    augment = RandAugment()
    one, again = (augment(PICTURE, example_rng(0, 7), 16) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    assert one.shape == (16, 16, 3)
    assert one.dtype == np.uint8
    assert any(not np.array_equal(one, augment(PICTURE, example_rng(0, seed), 16)) for seed in range(3))


@pytest.mark.parametrize(("count", "magnitude"), [(0, 5), (2, 11), (2, -1)])
def test_what_cannot_be_is_refused(count, magnitude):
    with pytest.raises(ValueError, match="at a magnitude from 0 to 10"):
        RandAugment(count=count, magnitude=magnitude)
