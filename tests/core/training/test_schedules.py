"""Laws of the learning-rate schedules."""

import math

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.core.training.schedules import Cosine, InverseSquareRoot, Linear


def rates(schedule, steps) -> np.ndarray:
    return np.array([float(keras.ops.convert_to_numpy(schedule(step))) for step in steps])


@given(step=st.integers(0, 60), warmup=st.sampled_from([0, 64, 160]), batch_size=st.sampled_from([8, 16]))
def test_cosine_is_the_formula_of_big_vision(step, warmup, batch_size):
    schedule = Cosine(2e-3, batch_size=batch_size, total_examples=640, warmup_examples=warmup)
    examples = step * batch_size
    progress = min(max((examples - warmup) / (640 - warmup), 0), 1)
    expected = 2e-3 * 0.5 * (1 + math.cos(math.pi * progress)) * (min(1, examples / warmup) if warmup else 1)
    assert rates(schedule, [step])[0] == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_the_first_update_of_a_warm_up_has_rate_zero_and_the_end_too():
    schedule = Cosine(1e-3, batch_size=8, total_examples=800, warmup_examples=80)
    assert rates(schedule, [0, 10, 100]) == pytest.approx([0, 1e-3, 0], abs=1e-9)


@pytest.mark.parametrize("kind", [Cosine, Linear])
def test_the_batch_size_changes_the_steps_and_not_the_rate_at_an_example(kind):
    small = kind(1e-3, batch_size=8, total_examples=640, warmup_examples=64)
    large = kind(1e-3, batch_size=32, total_examples=640, warmup_examples=64)
    assert rates(small, range(0, 80, 4)) == pytest.approx(rates(large, range(20)), rel=1e-6)


def test_linear_falls_in_a_straight_line():
    assert rates(Linear(1.0, batch_size=1, total_examples=10), range(11)) == pytest.approx(1 - np.arange(11) / 10)


def test_inverse_square_root_does_not_depend_on_the_end_until_it_cools_down():
    arguments = {"batch_size": 1, "timescale_examples": 10, "cooldown_examples": 20}
    short, long = (InverseSquareRoot(1.0, total_examples=n, **arguments) for n in (60, 100))
    assert rates(short, range(40)) == pytest.approx(rates(long, range(40)))
    assert rates(short, [30])[0] == pytest.approx(0.5)
    assert rates(short, [60])[0] == 0
    assert rates(short, [50])[0] == pytest.approx(0.5 / math.sqrt(1 + 5.0))


@pytest.mark.parametrize("schedule", [Cosine(1e-3, batch_size=4, total_examples=40, warmup_examples=8)])
def test_a_schedule_is_restored_from_its_configuration(schedule):
    restored = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert type(restored) is type(schedule)
    assert rates(restored, range(11)) == pytest.approx(rates(schedule, range(11)))


def test_a_warm_up_as_long_as_the_run_is_refused():
    with pytest.raises(
        ValueError, match="warmup_examples must be at least 0 and less than total_examples, got 10 of 10"
    ):
        Cosine(1e-3, batch_size=1, total_examples=10, warmup_examples=10)
