"""Augmentation is a pure function of (image, rng); each of its settings does what its name says and nothing else."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from diptych.core.data.examples.augmentation import Augmentation
from diptych.core.data.sampling import example_rng
from tests.core.data.pictures import pixels

OFF = {
    "zoom": None,
    "stretch": None,
    "shift": 0.0,
    "rotation": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
}
MANY = range(40)


def _disc(side: int = 64) -> np.ndarray:
    """A dark red disc with a white hole on white."""
    picture = Image.new("RGB", (4 * side, 4 * side), "white")
    drawing = ImageDraw.Draw(picture)
    drawing.ellipse((side, side, 3 * side, 3 * side), fill=(120, 20, 20))
    drawing.ellipse((1.8 * side, 1.8 * side, 2.2 * side, 2.2 * side), fill="white")
    return np.asarray(picture.resize((side, side), Image.Resampling.BOX))


def _ink(image: np.ndarray) -> np.ndarray:
    """How dark each pixel of a picture on white is."""
    return 255.0 - image.min(axis=2)


def _centre(image: np.ndarray) -> tuple[float, float]:
    ink = _ink(image)
    rows, columns = np.indices(ink.shape)
    return (ink * rows).sum() / ink.sum(), (ink * columns).sum() / ink.sum()


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(background=1.0, cutout=0.4, hue=30, flip=0.5)])
def test_the_same_random_numbers_give_the_same_picture(augmentation):
    image = _disc()
    before = image.copy()
    made = [augmentation(image, example_rng(1, index)) for index in MANY]
    again = [augmentation(image, example_rng(1, index)) for index in MANY]
    assert all(map(np.array_equal, made, again))
    assert np.array_equal(image, before), "the input was written to"
    assert len({picture.tobytes() for picture in made}) == len(made)
    assert {(picture.shape, picture.dtype) for picture in made} == {((64, 64, 3), np.dtype(np.uint8))}


def test_everything_off_is_the_identity():
    image = pixels(0, 32, 32)
    assert np.array_equal(Augmentation(**OFF)(image, example_rng(0, 0)), image)
    assert Augmentation(**OFF)(image, example_rng(0, 0), 32).shape == (32, 32, 3)


@pytest.mark.parametrize("shape", [(64, 48), (200, 150), (16, 16), (1, 500)])
def test_any_shape_becomes_the_size_asked_for(shape):
    made = Augmentation()(pixels(0, *shape), example_rng(0, 0), 32)
    assert made.shape == (32, 32, 3)


def test_squashing_without_any_change_is_the_resize_of_evaluation():
    image = pixels(2, 64, 48)
    squashed = Augmentation(**OFF)(image, example_rng(0, 0), 48)
    centred = np.asarray(Image.fromarray(image).resize((48, 48), Image.Resampling.BILINEAR))
    assert np.abs(squashed.astype(int) - centred).mean() < 2


def test_shift_moves_by_at_most_what_it_says():
    moved = [_centre(Augmentation(**OFF | {"shift": 0.1})(_disc(), example_rng(0, index))) for index in MANY]
    offsets = np.array(moved) - _centre(_disc())
    assert np.abs(offsets).max() <= 6.4 + 0.1
    assert offsets.min() < -3
    assert offsets.max() > 3
    assert np.ptp(offsets[:, 0] - offsets[:, 1]) > 3, "both directions are drawn"


def test_zoom_scales_area_by_its_square():
    ink = _ink(_disc()).sum()
    for zoom in (0.8, 1.25):
        made = Augmentation(**OFF | {"zoom": (zoom, zoom)})(_disc(), example_rng(0, 0))
        assert _ink(made).sum() / ink == pytest.approx(zoom**2, rel=0.03)
        assert np.allclose(_centre(made), _centre(_disc()), atol=0.1)


def test_stretch_changes_the_shape_but_not_the_area():
    made = Augmentation(**OFF | {"stretch": (1.44, 1.44)})(_disc(), example_rng(0, 0))
    ink = _ink(made) > 128
    assert np.ptp(np.flatnonzero(ink.any(axis=0))) / np.ptp(np.flatnonzero(ink.any(axis=1))) == pytest.approx(
        1.44, rel=0.06
    )
    assert _ink(made).sum() / _ink(_disc()).sum() == pytest.approx(1, rel=0.03)


def test_rotation_turns_the_disc_onto_itself_and_a_bar_off_its_axis():
    turned = Augmentation(**OFF | {"rotation": 20.0})
    assert all(np.abs(_ink(turned(_disc(), example_rng(0, index))) - _ink(_disc())).mean() < 4 for index in range(5))
    bar = np.full((64, 64, 3), 255, np.uint8)
    bar[30:34, 8:56] = 0
    widths = [np.ptp(np.flatnonzero((_ink(turned(bar, example_rng(0, index))) > 128).any(axis=1))) for index in MANY]
    assert max(widths) > 12
    assert min(widths) < 8


def test_flip_mirrors_exactly_and_as_often_as_it_says():
    image = pixels(0, 32, 32)
    made = [Augmentation(**OFF | {"flip": 0.5})(image, example_rng(0, index)) for index in range(200)]
    mirrored = sum(np.array_equal(picture, image[:, ::-1]) for picture in made)
    assert mirrored + sum(np.array_equal(picture, image) for picture in made) == 200
    assert 70 < mirrored < 130


def test_brightness_and_contrast_are_a_line_and_keep_grey_grey():
    ramp = np.repeat(np.arange(64, 192, 2, dtype=np.uint8)[:, None], 3, axis=1)[None].repeat(64, axis=0)
    for index in range(8):
        made = Augmentation(**OFF | {"brightness": 0.2, "contrast": 0.2})(ramp, example_rng(0, index)).astype(float)
        assert np.ptp(made, axis=2).max() <= 1
        slope, offset = np.polyfit(ramp[0, :, 0], made[0, :, 0], 1)
        assert np.abs(made[0, :, 0] - slope * ramp[0, :, 0] - offset).max() < 1.5
        assert 0.8 * 0.8 - 0.01 <= slope <= 1.2 * 1.2 + 0.01


def test_greyscale_is_pillows_and_hue_keeps_brightness():
    image = pixels(7, 32, 32)
    grey = Augmentation(**OFF | {"greyscale": 1.0})(image, example_rng(0, 0))
    assert np.ptp(grey, axis=2).max() == 0
    assert np.abs(grey[..., 0].astype(int) - np.asarray(Image.fromarray(image).convert("L"))).max() <= 1
    middle = (image // 3 + 80).astype(np.uint8)
    turned = Augmentation(**OFF | {"hue": 180.0})(middle, example_rng(0, 1))
    assert np.abs(turned.astype(int) - middle).max() > 10
    assert np.abs(turned.mean(axis=2) - middle.mean(axis=2)).max() <= 1.5


def test_background_tints_the_surroundings_and_not_the_inside():
    made = Augmentation(**OFF | {"background": 1.0})(_disc(), example_rng(0, 0))
    corner = made[0, 0]
    assert corner.min() < 230
    assert (made[:8] == corner).all()
    assert (made[:, -8:] == corner).all()
    assert (made[32, 32] == 255).all(), "the hole in the disc is not background"
    assert np.abs(made[20, 32].astype(int) - [120, 20, 20]).max() <= 2
    busy = pixels(3, 64, 64) // 2
    assert np.array_equal(Augmentation(**OFF | {"background": 1.0})(busy, example_rng(0, 0)), busy)


def test_what_moves_in_from_outside_has_the_colour_of_the_border():
    image = np.full((32, 32, 3), (10, 200, 90), np.uint8)
    image[12:20, 12:20] = 0
    made = Augmentation(**OFF | {"zoom": (0.5, 0.5)})(image, example_rng(0, 0))
    assert (made[:6] == (10, 200, 90)).all()
    assert (made[:, -6:] == (10, 200, 90)).all()


def test_cutout_erases_one_rectangle_of_at_most_its_size():
    image = np.full((40, 40, 3), 255, np.uint8)
    areas = []
    for index in MANY:
        changed = (Augmentation(**OFF | {"cutout": 0.5})(image, example_rng(0, index)) != 255).any(axis=2)
        if changed.any():
            rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
            assert changed[np.ix_(rows, columns)].all()
            assert len(rows) <= 20
            assert len(columns) <= 20
        areas.append(changed.sum())
    assert max(areas) > 100
    assert len(set(areas)) > 10


@pytest.mark.parametrize("wrong", [{"zoom": (1.2, 0.8)}, {"zoom": (0, 1)}, {"flip": 1.5}, {"shift": -0.1}])
def test_impossible_ranges_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Augmentation(**wrong)
