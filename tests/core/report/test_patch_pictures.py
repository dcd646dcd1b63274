"""Principal components as colours: what must not change them, what they tell apart, their look on a page."""

import numpy as np
import pytest

from diptych.core.report.patch_pictures import (
    PatchPicture,
    colour_map,
    foreground_mask,
    patch_figure,
    principal_colours,
)

WIDTH = 16


def things(seed: int = 0, images: int = 5, side: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Background, and within the edges one thing of two parts: features and the parts (0: background)."""
    rng = np.random.default_rng(seed)
    centres = np.array(
        [np.eye(WIDTH)[0] * -3, np.eye(WIDTH)[0] * 4 + np.eye(WIDTH)[1], np.eye(WIDTH)[0] * 4 - np.eye(WIDTH)[1]]
    )
    parts = np.zeros((images, side, side), int)
    for image in parts:
        top, left = rng.integers(1, 4, 2)
        image[top : top + 4, left : left + 7] = 1
        image[top + 4 : top + 7, left : left + 7] = 2
    return centres[parts] + 0.1 * rng.normal(size=(*parts.shape, WIDTH)), parts


def skewed(seed: int = 0) -> np.ndarray:
    """Features whose components are of different sizes and lean to one side, so that no sign is a matter of chance."""
    rng = np.random.default_rng(seed)
    return rng.exponential(size=(3, 5, 6, WIDTH)) * np.geomspace(9, 0.1, WIDTH) + 2


def by_singular_values(features: np.ndarray) -> np.ndarray:
    """The definition by another road: singular vectors in place of eigenvectors."""
    rows = features.reshape(-1, features.shape[-1])
    left, sizes, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    scores = (left * sizes)[:, :3]
    scores = scores * np.sign((scores**3).sum(axis=0))
    low, high = np.quantile(scores, [0.02, 0.98], axis=0)
    return (255 * np.clip((scores - low) / (high - low), 0, 1)).reshape(*features.shape[:3], 3)


def agrees(colours: np.ndarray, features: np.ndarray) -> bool:
    return bool(np.abs(colours - by_singular_values(features)).max() <= 0.51)


def test_colours_are_the_components():
    assert agrees(principal_colours(skewed()), skewed())


@pytest.mark.parametrize("wrong", ["sign", "order", "not stretched", "one picture by itself"])
def test_other_colours_are_rejected(wrong):
    colours = principal_colours(skewed()).astype(float)
    others = {
        "sign": 255 - colours,
        "order": colours[..., ::-1],
        "not stretched": colours / 2,
        "one picture by itself": np.concatenate([principal_colours(skewed()[[image]]) for image in range(3)]),
    }
    assert not agrees(others[wrong], skewed())


def test_neither_rotation_nor_shift_nor_scale_of_the_features_matters():
    features = skewed()
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(WIDTH, WIDTH)))[0]
    first, second = principal_colours(features), principal_colours(7 * features @ rotation - 3)
    assert np.abs(first.astype(int) - second.astype(int)).max() <= 1
    np.testing.assert_array_equal(principal_colours(features[::-1])[::-1], first)


def test_constant_features_have_one_grey_and_few_features_few_colours():
    assert (principal_colours(np.full((1, 3, 3, 5), 0.1)) == 128).all()
    two = principal_colours(skewed()[..., :2])
    assert (two[..., 2] == 128).all()
    assert two[..., 1].std() > 10


def test_things_are_told_from_their_background_and_then_their_parts():
    features, parts = things()
    np.testing.assert_array_equal(foreground_mask(features), parts > 0)
    # Whichever way the first component points.
    np.testing.assert_array_equal(foreground_mask(-features), parts > 0)
    colours = principal_colours(features, foreground=True).astype(int)
    assert (colours[parts == 0] == 255).all()
    means = [colours[parts == part].mean(axis=0) for part in (1, 2)]
    assert np.abs(means[0] - means[1]).max() > 150
    whole = principal_colours(features).astype(int)
    assert abs(whole[parts == 0][:, 0].mean() - whole[parts == 1][:, 0].mean()) > 200


def test_a_set_without_things_does_not_fail():
    assert principal_colours(np.zeros((1, 4, 4, 3)), foreground=True).shape == (1, 4, 4, 3)


def test_the_figures_hold_each_picture_with_its_colours():
    features, _ = things(images=3)
    picture = np.full((24, 36, 3), 90, np.uint8)
    shown = [
        PatchPicture(picture=picture, colours=colours, name=f"<{place}>")
        for place, colours in enumerate(principal_colours(features))
    ]
    assert colour_map(shown[0]).shape == picture.shape
    page = patch_figure(shown)
    assert page.count("<img") == 6
    assert "&lt;2&gt;" in page
    assert "<2>" not in page


@pytest.mark.parametrize(
    ("features", "words"),
    [(np.ones((2, 3, 4)), "images, rows, columns, width"), (np.full((1, 2, 2, 3), np.nan), "12 of 12 features")],
)
def test_what_has_no_components_is_refused(features, words):
    with pytest.raises(ValueError, match=words):
        principal_colours(features)
