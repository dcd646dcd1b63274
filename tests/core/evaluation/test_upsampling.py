"""Maps brought to the pixels: constants, straight lines, and the definition written out pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.evaluation.upsampling import upsample


def by_definition(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """Each pixel by itself, in float64: weights of the four patches around it, those beyond the edge taken from the
    edge.
    """
    images, rows, columns = maps.shape
    result = np.zeros((images, height, width))
    for y in range(height):
        for x in range(width):
            down, along = (y + 0.5) * rows / height - 0.5, (x + 0.5) * columns / width - 0.5
            top, left = int(np.floor(down)), int(np.floor(along))
            for row, of_row in ((top, 1 - (down - top)), (top + 1, down - top)):
                for column, of_column in ((left, 1 - (along - left)), (left + 1, along - left)):
                    patch = maps[:, min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)]
                    result[:, y, x] += of_row * of_column * patch
    return result


def agrees(upsampled: np.ndarray, maps: np.ndarray) -> bool:
    expected = by_definition(maps, *upsampled.shape[1:])
    scale = np.abs(maps).max()
    return bool(np.abs(upsampled - expected).max() <= 8 * np.finfo(maps.dtype).eps * scale)


sizes = st.integers(1, 9)


@settings(deadline=None, max_examples=60)
@given(sizes, sizes, sizes, sizes, st.integers(0, 1000))
def test_every_pixel_is_that_of_the_definition(rows, columns, height, width, seed):
    maps = np.random.default_rng(seed).normal(size=(2, rows, columns)).astype(np.float32)
    assert agrees(upsample(maps, height, width), maps)


@settings(deadline=None, max_examples=60)
@given(sizes, sizes, sizes, sizes, st.floats(-1e6, 1e6, width=32))
def test_a_constant_stays_itself_to_the_last_bit(rows, columns, height, width, value):
    maps = np.full((1, rows, columns, 2), value, np.float32)
    assert (upsample(maps, height, width) == np.float32(value)).all()


def test_channels_are_interpolated_one_by_one_and_a_map_at_its_own_size_is_unchanged():
    maps = np.random.default_rng(0).normal(size=(3, 4, 5, 6)).astype(np.float32)
    large = upsample(maps, 12, 7)
    for channel in range(6):
        np.testing.assert_array_equal(large[..., channel], upsample(maps[..., channel], 12, 7))
    np.testing.assert_array_equal(upsample(maps, 4, 5), maps)


def test_a_straight_line_stays_straight_between_the_outermost_centres():
    line = upsample(np.arange(4.0)[None, None, :], 1, 32)[0, 0]
    np.testing.assert_allclose(line[4:28], (np.arange(4, 28) + 0.5) / 8 - 0.5, atol=1e-12)
    assert (line[:4] == 0).all()
    assert (line[28:] == 3).all()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda maps: maps.repeat(4, axis=1).repeat(4, axis=2),
        lambda maps: np.roll(upsample(maps, 12, 12), 1, axis=1),
        lambda maps: upsample(maps.transpose(0, 2, 1), 12, 12),
        lambda maps: np.full((2, 12, 12), np.nan),
        # Corners on corners, as some libraries align them.
        lambda maps: np.stack([np.interp(np.linspace(0, 2, 12), np.arange(3), row) for row in maps[:, 1]])[:,
            None] * np.ones((1, 12, 1)),
    ],
    ids=["nearest", "shifted", "transposed", "NaN", "corners"],
)  # fmt: skip
def test_another_interpolation_is_rejected(wrong):
    maps = np.random.default_rng(1).normal(size=(2, 3, 3))
    assert agrees(upsample(maps, 12, 12), maps)
    assert not agrees(wrong(maps), maps)


@pytest.mark.parametrize(
    ("maps", "height", "words"),
    [
        (np.ones((2, 2)), 4, "upsample needs float maps"),
        (np.ones((1, 2, 2), np.uint8), 4, "upsample needs float maps"),
        (np.ones((1, 0, 2)), 4, "upsample needs float maps"),
        (np.ones((1, 2, 2)), 0, "at least 1"),
    ],
)
def test_what_is_no_map_is_refused(maps, height, words):
    with pytest.raises(ValueError, match=words):
        upsample(maps, height, 4)
