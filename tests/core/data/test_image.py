"""Decoding refuses with a reason or returns RGB pixels; resizing is the arithmetic it says it is."""

import random
import resource
import time
import warnings
from contextlib import contextmanager, suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diptych.core.data.image import decode, resize, upright_size
from diptych.core.data.records import BadExample
from tests.core.data.hostile import accepted_pictures, refused_pictures
from tests.core.data.pictures import encoded, pixels

MEBIBYTES_IN_KIBIBYTES = 1024


@contextmanager
def quiet():
    """Pillow warns of some pictures before it is asked for their pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("name", refused_pictures())
def test_hostile_pictures_are_refused_with_their_reason_and_at_once(name):
    data, reason = refused_pictures()[name]
    start = time.process_time()
    with quiet(), pytest.raises(BadExample) as caught:
        decode(data)
    assert caught.value.reason == reason
    with quiet(), suppress(BadExample):  # a header may be all right
        upright_size(data)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("name", accepted_pictures())
def test_every_kind_of_file_shows_the_same_picture(name):
    with quiet():
        picture = decode(accepted_pictures()[name])
        assert upright_size(accepted_pictures()[name]) == picture.shape[:2]
    assert picture.shape == (24, 32, 3)
    assert picture.dtype == np.uint8
    assert np.abs(picture.astype(int) - pixels(3)).mean() < 3
    assert np.abs(picture.astype(int) - pixels(4)).mean() > 20, "a test that every picture passes"


def test_hostile_pictures_do_not_take_memory():
    pictures = refused_pictures().values()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data, _ in pictures:
        with quiet(), pytest.raises(BadExample):
            decode(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * MEBIBYTES_IN_KIBIBYTES


@pytest.mark.parametrize("form", ["PNG", "GIF", "WEBP"])
def test_of_a_thousand_frames_one_is_decoded(form):
    frames = [Image.fromarray(np.full((64, 64, 3), shade % 256, np.uint8)) for shade in range(0, 3000, 3)]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    start = time.process_time()
    assert decode(data).max() < 3
    assert time.process_time() - start < 0.1


def test_sixteen_bit_grey_keeps_its_range():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    picture = decode(encoded(Image.fromarray(ramp)))
    assert np.array_equal(picture[..., 0], np.arange(256).reshape(16, 16))
    assert (picture == picture[..., :1]).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_laid_on_white(mode):
    layers = np.zeros((4, 4, 4), np.uint8)
    layers[..., 3] = [0, 64, 128, 255]
    picture = Image.fromarray(layers)
    if mode == "LA":
        picture = picture.convert("LA")
    elif mode == "PA":
        picture = picture.quantize(8)
    assert np.abs(decode(encoded(picture))[0, :, 0].astype(int) - [255, 191, 127, 0]).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_colour_declared_transparent_becomes_white(mode):
    stripes = Image.fromarray(np.full((2, 2, 3), 90, np.uint8)).convert(mode)
    data = encoded(stripes, transparency=(90, 90, 90) if mode == "RGB" else 90)
    assert (decode(data) == 255).all()


@pytest.mark.parametrize(("width", "height"), [(1, 20_000), (20_000, 1), (1, 1)])
def test_extreme_shapes_decode_and_resize(width, height):
    picture = decode(encoded(np.full((height, width, 3), 77, np.uint8)))
    assert picture.shape == (height, width, 3)
    for method in ("bilinear", "bilinear_antialias", "bicubic_antialias"):
        assert (resize(picture, 8, method=method) == 77).all()


def test_limits_are_arguments():
    data = encoded(pixels(0))
    assert decode(data, max_pixels=24 * 32, max_side=32).shape == (24, 32, 3)
    for limits in ({"max_pixels": 24 * 32 - 1}, {"max_side": 31}):
        with pytest.raises(BadExample, match="image_too_large"):
            decode(data, **limits)


def test_two_thousand_damaged_files_decode_or_are_refused():
    """One, two or many bytes changed, cut short, or parts repeated: never another exception, never much memory or
    time.
    """
    rng = random.Random(0)
    originals = [encoded(pixels(seed), kind) for seed in range(3) for kind in ("JPEG", "PNG", "WEBP", "GIF")]
    outcomes = {"decoded": 0}
    start = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with quiet():
        for _ in range(2000):
            data = bytearray(rng.choice(originals))
            for _ in range(rng.choice([1, 1, 2, 20])):
                data[rng.randrange(len(data))] = rng.randrange(256)
            if rng.random() < 0.2:
                del data[rng.randrange(len(data)) :]
            if rng.random() < 0.1:
                place = rng.randrange(len(data) + 1)
                data[place:place] = data[: rng.randrange(200)]
            try:
                picture = decode(bytes(data))
            except BadExample as error:
                outcomes[error.reason] = outcomes.get(error.reason, 0) + 1
            else:
                assert picture.dtype == np.uint8
                assert picture.ndim == 3
                assert picture.shape[2] == 3
                outcomes["decoded"] += 1
    assert sum(outcomes.values()) == 2000
    assert 100 < outcomes["decoded"] < 1600, outcomes
    assert time.process_time() - start < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 * MEBIBYTES_IN_KIBIBYTES


def _bilinear_by_hand(image: np.ndarray, size: int) -> np.ndarray:
    """Pixel by pixel: half-pixel centres, two neighbours a side, float32, cut to uint8."""
    height, width, _ = image.shape
    out = np.empty((size, size, 3), np.uint8)
    for row in range(size):
        y = np.float32((np.float32(row) + np.float32(0.5)) * np.float32(height / size) - np.float32(0.5))
        for column in range(size):
            x = np.float32((np.float32(column) + np.float32(0.5)) * np.float32(width / size) - np.float32(0.5))
            top, left = int(np.floor(y)), int(np.floor(x))
            rows = max(top, 0), min(int(np.ceil(y)), height - 1)
            columns = max(left, 0), min(int(np.ceil(x)), width - 1)
            corners = image[np.ix_(rows, columns)].astype(np.float32)
            above, below = corners[:, 0] + (corners[:, 1] - corners[:, 0]) * np.float32(x - left)
            out[row, column] = above + (below - above) * np.float32(y - top)
    return out


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 16), st.integers(0, 99))
def test_bilinear_is_the_formula_truncated(height, width, size, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert np.array_equal(resize(image, size, method="bilinear"), _bilinear_by_hand(image, size)) or (
        height == width == size
    )


def test_antialias_averages_and_its_absence_does_not():
    """Nine rows become one: without antialias it is the one in their middle, black or white."""
    stripes = np.zeros((63, 63, 3), np.uint8)
    stripes[::2] = 255
    smooth = resize(stripes, 7, method="bilinear_antialias")
    assert np.abs(smooth.astype(int) - 127).max() < 20
    assert set(np.unique(resize(stripes, 7, method="bilinear"))) <= {0, 255}


@pytest.mark.parametrize("method", ["bilinear", "bilinear_antialias", "bicubic_antialias"])
def test_resizing_squashes_and_mirrors_alike(method):
    image = pixels(5, 40, 60)
    small = resize(image, 16, method=method)
    assert small.shape == (16, 16, 3)
    assert small.dtype == np.uint8
    mirrored = resize(image[:, ::-1], 16, method=method)[:, ::-1]
    assert np.abs(small.astype(int) - mirrored).max() <= 1
    corners = image[[0, 0, -1, -1], [0, -1, 0, -1]].astype(int)
    assert np.abs(small[[0, 0, -1, -1], [0, -1, 0, -1]] - corners).max() < 30, "nothing is cropped away"


def test_the_right_size_is_left_alone_and_a_wrong_method_is_named():
    image = pixels(1, 16, 16)
    assert resize(image, 16) is image
    with pytest.raises(ValueError, match="nearest"):
        resize(image, 8, method="nearest")
