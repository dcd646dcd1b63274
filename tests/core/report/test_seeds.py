"""Means over seeds and their t-intervals, against numbers worked out by hand and by simulation."""

import math

import numpy as np
import pytest

from diptych.core.report.seeds import T_95, Mean, mean_of


def test_two_and_three_seeds_by_hand():
    # s = √2 / 2 · |difference|, so t s / √2 is half the difference, times 12.706.
    two = mean_of([0.2, 0.4])
    assert two.value == pytest.approx(0.3)
    assert two.half_width == pytest.approx(12.706 * 0.1)
    # s² = (0.01 + 0 + 0.01) / 2.
    three = mean_of([0.1, 0.2, 0.3])
    assert three.value == pytest.approx(0.2)
    assert three.half_width == pytest.approx(4.303 * 0.1 / math.sqrt(3))


def test_a_single_seed_has_no_interval():
    assert mean_of([0.25]) == Mean(0.25, None)
    assert mean_of([0.25]).percent() == "25.0"


def test_equal_seeds_have_an_interval_of_no_width():
    assert mean_of([0.5] * 4) == Mean(0.5, 0.0)


@pytest.mark.parametrize("seeds", range(2, 11))
def test_the_interval_covers_the_truth_nineteen_times_in_twenty(seeds):
    draws = np.random.default_rng(seeds).normal(3.0, 2.0, (4_000, seeds))
    covered = np.mean([abs(found.value - 3.0) <= found.half_width for found in map(mean_of, draws)])
    assert covered == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 4_000))


def test_the_interval_moves_and_scales_with_the_numbers():
    values = [0.1, 0.5, 0.3, 0.2]
    found = mean_of(values)
    scaled = mean_of([2 * value - 1 for value in values])
    assert scaled.value == pytest.approx(2 * found.value - 1)
    assert scaled.half_width == pytest.approx(2 * found.half_width)
    assert list(T_95) == sorted(T_95, reverse=True)  # more seeds, less doubt


@pytest.mark.parametrize(
    ("mean", "signed", "text"),
    [
        (Mean(0.1234, 0.0081), False, "12.3 ± 0.8"),
        (Mean(0.1234, 0.0081), True, "+12.3 ± 0.8"),
        (Mean(-0.05, None), True, "−5.0"),
        (Mean(1.0, None), False, "100.0"),
    ],
)
def test_percent(mean, signed, text):
    assert mean.percent(signed=signed) == text


@pytest.mark.parametrize("count", [0, 11])
def test_a_number_of_seeds_without_a_quantile_is_refused(count):
    with pytest.raises(ValueError, match=f"1 to 10 seeds, got {count}"):
        mean_of([0.5] * count)
