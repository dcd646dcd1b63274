"""Laws of views: a pure function of (pixels, rng); crops, colours and masks do what their settings say."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from diptych.core.data.examples.views import ColourJitter, Finish, Views, crop_box, masked_at_random, masked_in_blocks
from diptych.core.data.sampling import example_rng
from tests.core.data.pictures import pixels

SMALL = Views(global_size=32, local_size=16, patch_size=4, local_count=3)
STILL = replace(SMALL, flip=0.0, colour=None, global_finishes=(Finish(),), local_finish=Finish())
WHOLE = replace(STILL, global_scale=(1.0, 1.0), local_scale=(1.0, 1.0), aspect=(1.0, 1.0))
NO_JITTER = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "greyscale": 0.0}
MASKS = {"random": masked_at_random, "block": masked_in_blocks}
laws = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def squashed(image, size):
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("masking", ["random", "block"])
def test_the_same_random_numbers_give_the_same_views(masking):
    views, image = replace(SMALL, masking=masking), pixels(0, 40, 56)
    before = image.copy()
    made = [views(image, example_rng(1, index)) for index in range(20)]
    again = [views(image, example_rng(1, index)) for index in range(20)]
    for one, other in zip(made, again, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)
    assert np.array_equal(image, before), "the input was written to"
    for name in ("global_view", "local_views", "masked_patches"):
        assert len({one[name].tobytes() for one in made}) == len(made)
    assert len({view.tobytes() for one in made for view in one["local_views"]}) == 60


@laws
@given(height=st.integers(1, 70), width=st.integers(1, 70), seed=st.integers(0, 1000), count=st.integers(0, 3))
def test_any_picture_gives_the_batchs_shapes(height, width, seed, count):
    views = replace(SMALL, local_count=count)(pixels(seed, height, width), example_rng(0, seed))
    described = {name: (array.shape, array.dtype.name) for name, array in views.items()}
    assert described == {
        "global_view": ((32, 32, 3), "uint8"),
        "local_views": ((count, 16, 16, 3), "uint8"),
        "masked_patches": ((32,), "int32"),
    }


def test_with_everything_off_and_the_whole_picture_a_view_is_the_resize():
    image = pixels(2, 64, 64)
    made = WHOLE(image, example_rng(0, 0))
    assert np.array_equal(made["global_view"], squashed(image, 32))
    assert all(np.array_equal(view, squashed(image, 16)) for view in made["local_views"])


@laws
@given(
    size=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    scale=st.sampled_from([(0.4, 1.0), (0.05, 0.4), (1.0, 1.0), (0.3, 0.3)]),
    seed=st.integers(0, 2**31 - 1),
)
def test_crops_lie_in_the_picture_with_an_allowed_area_and_aspect(size, scale, seed):
    aspect = (3 / 4, 4 / 3)
    left, top, right, bottom = crop_box(size, scale, aspect, np.random.default_rng(seed).random(40).tolist())
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]
    share = (right - left) * (bottom - top) / (size[0] * size[1])
    assert 3 / 4 - 1e-9 <= (right - left) / (bottom - top) <= 4 / 3 + 1e-9
    fits_always = scale[1] * max(size[0] / size[1], size[1] / size[0]) * 4 / 3 <= 1
    assert share <= scale[1] + 1e-9
    if fits_always:
        assert scale[0] - 1e-9 <= share


def test_areas_are_drawn_evenly_and_places_everywhere():
    rng = np.random.default_rng(0)
    boxes = np.array([crop_box((100, 100), (0.05, 0.4), (3 / 4, 4 / 3), rng.random(40).tolist()) for _ in range(4000)])
    sides = boxes[:, 2:] - boxes[:, :2]
    areas, ratios = sides.prod(1) / 1e4, np.log(sides[:, 0] / sides[:, 1]) / math.log(4 / 3)
    for values, low, high in ((areas, 0.05, 0.4), (ratios, -1, 1)):
        counts, _ = np.histogram(values, bins=7, range=(low, high))
        assert counts.sum() == 4000
        assert np.abs(counts - 4000 / 7).max() < 5 * math.sqrt(4000 / 7)
    places = boxes[:, :2] / (100 - sides)
    assert np.abs(places.mean(0) - 0.5).max() < 0.03
    assert places.min() < 0.01
    assert places.max() > 0.99


def test_a_picture_too_long_for_any_crop_gives_its_middle():
    box = crop_box((300, 100), (1.0, 1.0), (3 / 4, 4 / 3), np.random.default_rng(0).random(40).tolist())
    np.testing.assert_allclose(box, (150 - 200 / 3, 0, 150 + 200 / 3, 100))


def test_flip_mirrors_as_often_as_it_says():
    image = pixels(0, 64, 64)
    made = [replace(WHOLE, flip=0.5)(image, example_rng(0, index))["global_view"] for index in range(300)]
    plain = squashed(image, 32)
    mirrored = sum(np.array_equal(view, plain[:, ::-1]) for view in made)
    assert mirrored + sum(np.array_equal(view, plain) for view in made) == 300
    assert 105 < mirrored < 195


@pytest.mark.parametrize(
    ("setting", "enhancer"),
    [("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast), ("saturation", ImageEnhance.Color)],
)
def test_each_change_of_colour_is_pillows(setting, enhancer):
    image = (pixels(3, 32, 32) // 3 + 80).astype(np.uint8)  # far from black and white, where nothing is clipped
    views = replace(WHOLE, colour=ColourJitter(**NO_JITTER | {setting: 0.4, "probability": 1.0}))
    factors = []
    for index in range(40):
        made = views(image, example_rng(0, index))["global_view"].astype(float)
        at = {f: np.asarray(enhancer(Image.fromarray(image)).enhance(f)).astype(float) for f in (0.6, 1.4)}
        direction = at[1.4] - at[0.6]
        factor = 0.6 + 0.8 * np.sum((made - at[0.6]) * direction) / np.sum(direction**2)
        expected = np.asarray(enhancer(Image.fromarray(image)).enhance(factor)).astype(float)
        assert np.abs(made - expected).max() <= 2
        factors.append(factor)
    assert 0.59 < min(factors) < 0.7
    assert 1.3 < max(factors) < 1.41


def test_the_four_changes_of_colour_commute():
    """Each alone, one after another in any order, is all at once: for colours that are not clipped."""
    mean, rng = (120, 90, 140), np.random.default_rng(0)
    colours = rng.uniform(80, 170, (20, 3))
    shares = [0.0, *rng.random(4).tolist(), 0.999]
    whole = ColourJitter(probability=1.0).matrix(mean, shares)
    singles = [
        ColourJitter(**NO_JITTER | {name: getattr(ColourJitter(), name)}, probability=1.0)
        for name in ("brightness", "contrast", "saturation", "hue")
    ]

    def apply(matrix, x):
        return x @ matrix[:, :3].T + matrix[:, 3]

    for order in (singles, singles[::-1], [singles[2], singles[0], singles[3], singles[1]]):
        x, pivot = colours, np.array(mean, float)
        for jitter in order:
            matrix = jitter.matrix(tuple(pivot), shares)
            x, pivot = apply(matrix, x), apply(matrix, pivot)
        np.testing.assert_allclose(x, apply(whole, colours), rtol=1e-4)
    assert np.abs(apply(whole, colours) - colours).max() > 5


def test_hue_turns_colours_and_keeps_luma():
    image = (pixels(7, 32, 32) // 3 + 80).astype(np.uint8)
    views = replace(WHOLE, colour=ColourJitter(**NO_JITTER | {"hue": 0.5, "probability": 1.0}))
    for index in range(5):
        turned = views(image, example_rng(0, index))["global_view"]
        assert np.abs(turned.astype(int) - image).max() > 8
        grey, before = (np.asarray(Image.fromarray(x).convert("L")).astype(int) for x in (turned, image))
        assert np.abs(grey - before).max() <= 2
    full = ColourJitter(hue=0.5, probability=1.0, **{k: v for k, v in NO_JITTER.items() if k != "hue"})
    np.testing.assert_allclose(
        full.matrix((0, 0, 0), [0, 0, 0, 0, 0.0, 1]), full.matrix((0, 0, 0), [0, 0, 0, 0, 1.0, 1]), atol=1e-6
    )


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_greyscale_is_pillows_with_and_without_jitter(probability):
    image = pixels(7, 32, 32)
    colour = ColourJitter(**NO_JITTER | {"greyscale": 1.0, "probability": probability})
    made = replace(WHOLE, colour=colour)(image, example_rng(0, 0))["global_view"]
    assert np.ptp(made, axis=2).max() == 0
    assert np.abs(made[..., 0].astype(int) - np.asarray(Image.fromarray(image).convert("L"))).max() <= 1


def test_jitter_and_greyscale_happen_as_often_as_they_say():
    image, count = pixels(1, 24, 24), 400
    views = [replace(WHOLE, colour=ColourJitter(), local_count=0)(image, example_rng(2, i)) for i in range(count)]
    plain = squashed(image, 32)
    unchanged = sum(np.array_equal(view["global_view"], plain) for view in views)
    grey = sum(np.ptp(view["global_view"], axis=2).max() == 0 for view in views)
    for seen, share in ((unchanged, 0.2 * 0.8), (grey, 0.2)):
        assert abs(seen - share * count) < 4 * math.sqrt(share * (1 - share) * count)


def test_blur_and_solarize_are_pillows_and_solarize_is_the_global_views():
    image = pixels(5, 32, 32)
    image = (image.astype(int) + np.random.default_rng(0).integers(-20, 20, image.shape)).clip(0, 255).astype(np.uint8)
    blur = Finish(blur=1.0)
    blurring = replace(WHOLE, global_finishes=(blur,), local_finish=blur, blur_sigma=(1.5, 1.5))
    blurred = blurring(image, example_rng(0, 0))
    expected = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1.5)))
    assert np.array_equal(blurred["global_view"], expected)
    assert np.ptp(blurred["local_views"][0].astype(int)) < np.ptp(squashed(image, 16).astype(int))
    solarized = replace(WHOLE, global_finishes=(Finish(solarize=1.0),))(image, example_rng(0, 0))
    assert np.array_equal(solarized["global_view"], np.asarray(ImageOps.solarize(Image.fromarray(image), 128)))
    assert np.array_equal(solarized["local_views"][0], squashed(image, 16))


def test_a_setting_leaves_the_draws_of_the_others_alone():
    image = pixels(4, 50, 70)
    plain = STILL(image, example_rng(0, 3))
    finishes = [{"global_finishes": (Finish(**{name: 1.0}),)} for name in ("blur", "solarize")]
    for changed in ({"flip": 1.0}, {"colour": ColourJitter()}, *finishes):
        made = replace(STILL, **changed)(image, example_rng(0, 3))
        assert not np.array_equal(made["global_view"], plain["global_view"])
        assert np.array_equal(made["masked_patches"], plain["masked_patches"])


@pytest.mark.parametrize("kind", MASKS)
@laws
@given(grid=st.integers(1, 12), share=st.floats(0, 1), seed=st.integers(0, 2**31 - 1))
def test_masks_have_exactly_their_count_in_order_without_repeats(kind, grid, share, seed):
    count = int(share * grid * grid)
    masked = MASKS[kind](np.random.default_rng(seed), grid, count)
    assert masked.dtype == np.int32
    assert len(masked) == count
    assert all(one < next_one for one, next_one in pairwise(masked.tolist()))
    assert not count or (masked[0] >= 0 and masked[-1] < grid * grid)


@pytest.mark.parametrize(("ratio", "expected"), [(0.5, 32), (0.0, 0), (1.0, 64), (0.3, 19), (0.29, 18)])
def test_the_count_is_the_floor_of_the_ratio(ratio, expected):
    assert replace(SMALL, mask_ratio=ratio).masked_count == expected
    assert len(replace(SMALL, mask_ratio=ratio)(pixels(0), example_rng(0, 0))["masked_patches"]) == expected


def test_products_that_round_down_lose_no_patch():
    views = Views(global_size=10, local_size=1, patch_size=1, mask_ratio=0.29)
    assert 0.29 * 100 < 29
    assert views.masked_count == 29


def test_random_masks_hide_every_patch_and_every_pair_equally_often():
    rng, draws = np.random.default_rng(0), 3000
    hidden = np.zeros((draws, 16))
    for index in range(draws):
        hidden[index, masked_at_random(rng, 4, 8)] = 1
    deviation = 1 / math.sqrt(4 * draws)
    assert np.abs(hidden.mean(0) - 0.5).max() < 4.5 * deviation
    together = (hidden.T @ hidden / draws)[np.triu_indices(16, 1)]
    assert np.abs(together - 8 * 7 / (16 * 15)).max() < 5 * deviation


def test_block_masks_hang_together():
    """Neighbours of hidden patches are hidden far more often than half of the time."""

    def hidden_neighbours(draw):
        grids = np.zeros((200, 16, 16), bool)
        for index, grid in enumerate(grids):
            grid.ravel()[draw(np.random.default_rng(index), 16, 128)] = True
        return (grids[:, :, 1:] & grids[:, :, :-1]).sum() / grids[:, :, :-1].sum(), grids.mean(0)

    in_blocks, everywhere = hidden_neighbours(masked_in_blocks)
    at_random, _ = hidden_neighbours(masked_at_random)
    assert in_blocks > 0.8
    assert 0.45 < at_random < 0.55
    assert everywhere.min() > 0.01, "a corner is never hidden"  # rarely: rectangles seldom reach it


def test_the_representation_names_every_setting():
    assert repr(SMALL) == repr(replace(SMALL))
    changes = {
        "local_count": 4,
        "aspect": (1.0, 1.0),
        "colour": ColourJitter(hue=0.2),
        "masking": "block",
        "mask_ratio": 0.25,
    }
    assert len({repr(replace(SMALL, **{name: value})) for name, value in changes.items()} | {repr(SMALL)}) == 6


@pytest.mark.parametrize(
    "wrong",
    [{"global_size": 3}, {"local_size": 0}, {"global_finishes": ()}, {"local_count": -1}, {"global_scale": (0.5, 1.2)},
     {"local_scale": (0.4, 0.1)},
     {"aspect": (0, 1)}, {"flip": 1.5}, {"mask_ratio": -0.1}, {"masking": "lines"}, {"blur_sigma": (0.0, 1.0)}],
)  # fmt: skip
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=f"Views.{next(iter(wrong))}"):
        replace(SMALL, **wrong)


def test_blur_and_solarizing_come_from_one_of_dinos_two_finishes():
    """Its first view is always blurred and never solarized, its second at 0.1 and 0.2: both at once are 0.01."""
    views = replace(WHOLE, global_finishes=Views.global_finishes, blur_sigma=(1.5, 1.5), local_count=0)
    image, count = pixels(5, 32, 32), 3000
    blurred = Image.fromarray(image).filter(ImageFilter.GaussianBlur(1.5))
    kinds = {"neither": image, "blur": blurred, "solarize": ImageOps.solarize(Image.fromarray(image), 128)}
    kinds |= {"both": ImageOps.solarize(blurred, 128)}
    of = {np.asarray(kind).tobytes(): name for name, kind in kinds.items()}
    seen = [of[views(image, example_rng(3, index))["global_view"].tobytes()] for index in range(count)]
    for name, share in (("neither", 0.36), ("blur", 0.54), ("solarize", 0.09), ("both", 0.01)):
        assert abs(seen.count(name) - share * count) < 4 * math.sqrt(share * (1 - share) * count), name


def test_a_patch_that_does_not_divide_the_picture_leaves_a_border_unseen():
    """As So400m/14 at 384 px: 27 x 27 patches, of which 364 are hidden."""
    views = Views(global_size=384, local_size=100, patch_size=14, local_count=1)
    assert (views.grid, views.masked_count) == (27, 364)
    made = views(pixels(1, 40, 40), example_rng(0, 0))
    assert made["global_view"].shape == (384, 384, 3)
    assert made["local_views"].shape == (1, 100, 100, 3)
    assert len(made["masked_patches"]) == 364
    assert made["masked_patches"].max() < 27 * 27


@pytest.mark.parametrize("wrong", [{"hue": 0.6}, {"greyscale": 2}, {"brightness": -0.1}])
def test_impossible_colours_are_refused(wrong):
    with pytest.raises(ValueError, match=f"ColourJitter.{next(iter(wrong))}"):
        ColourJitter(**wrong)


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)])
def test_what_is_not_a_picture_is_refused(wrong):
    with pytest.raises(ValueError, match="uint8"):
        SMALL(wrong, example_rng(0, 0))
