"""The size of the sigmoid loss's blocks: they cover the batch, fill the waves of a GPU, and stay in their memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.backends.plan import LARGEST_BLOCK, LIBRARY_TILES, block_size, whole_waves

H200 = 132
"""Multiprocessors of an H100 or H200."""


def efficiency(length: int, size: int, width: int, tile: tuple[int, int]) -> float:
    """The share of the multiprocessors' time that a gradient's product uses, block by block, as one would count it on
    paper.
    """
    waves = 0
    for start in range(0, length, size):
        rows = min(size, length - start)
        tiles = -(-rows // tile[0]) * -(-width // tile[1])
        waves += -(-tiles // H200)
    return length * width / (waves * H200 * tile[0] * tile[1])


def worst(length: int, size: int, width: int) -> float:
    return min(efficiency(length, size, width, tile) for tile in LIBRARY_TILES)


@given(length=st.integers(512, 4_194_304), width=st.sampled_from([256, 512, 768, 1024, 1152]))
def test_blocks_cover_the_batch_and_waste_no_more_than_the_fewest_do(length, width):
    size = whole_waves(length, width, H200)
    assert size % 128 == 0
    assert size <= LARGEST_BLOCK
    assert 2 * size * size <= 537_000_000
    fewest = block_size(length, LARGEST_BLOCK, 128)
    assert worst(length, size, width) >= worst(length, fewest, width) / 1.02


@pytest.mark.parametrize("length", [2**power for power in range(14, 23)])
def test_large_powers_of_two_fill_their_waves(length):
    assert worst(length, whole_waves(length, 768, H200), 768) >= 0.95


def test_there_are_more_blocks_where_they_fill_the_waves_better():
    fewest = block_size(100_000, LARGEST_BLOCK, 128)
    size = whole_waves(100_000, 768, H200)
    assert size < fewest
    assert worst(100_000, size, 768) > 1.02 * worst(100_000, fewest, 768)


def test_blocks_of_eight_thousand_leave_a_quarter_idle():
    """With tiles of 128 by 256, 192 of them take two waves of 132."""
    assert efficiency(65_536, 8192, 768, (128, 256)) == pytest.approx(0.727, abs=1e-3)


def test_extra_memory_at_65536_is_within_three_quarters_of_a_gigabyte():
    """Gradients in float32 and a block's probabilities, less the gradients in 16 bits that are handed out."""
    size = whole_waves(65_536, 768, H200)
    assert 8 * 65_536 * 768 + 2 * size**2 - 4 * 65_536 * 768 <= 0.75e9
