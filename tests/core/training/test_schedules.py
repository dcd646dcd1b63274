"""Laws of the learning-rate schedules."""

import json
import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.training.schedules import SCHEDULES, Cosine, Linear, OpenAICosine, OpenAILinear, Part


def rates(schedule, steps) -> np.ndarray:
    return np.array([float(keras.ops.convert_to_numpy(schedule(step))) for step in steps])


@settings(deadline=None)  # the first call compiles
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


def test_openais_schedules_fall_from_the_first_example_on():
    """`opt.py`: x / w up to the warm-up's end; then the whole run's cosine. The line is multiplied by it."""
    x, warm = np.arange(11) / 10, np.minimum(np.arange(11) / 3, 1)
    cosine, linear = (
        kind(1.0, batch_size=1, total_examples=10, warmup_examples=3) for kind in (OpenAICosine, OpenAILinear)
    )
    falling = 0.5 * (1 + np.cos(np.pi * x))
    assert rates(cosine, range(11)) == pytest.approx(np.where(np.arange(11) <= 3, warm, falling), abs=1e-6)
    assert rates(linear, range(11)) == pytest.approx(warm * (1 - x), abs=1e-6)
    assert rates(OpenAICosine(1.0, batch_size=1, total_examples=10), range(11)) == pytest.approx(falling, abs=1e-6)


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


# Parts

WHOLES = {
    "cosine": Cosine(1e-3, batch_size=8, total_examples=800, warmup_examples=80),
    "linear": Linear(1e-3, batch_size=8, total_examples=800, warmup_examples=80),
    "openai_cosine": OpenAICosine(1e-3, batch_size=8, total_examples=800, warmup_examples=80),
    "openai_linear": OpenAILinear(1e-3, batch_size=8, total_examples=800, warmup_examples=80),
}
KINDS = pytest.mark.parametrize("kind", WHOLES)


def close(found, expected):
    """Places are float32, and so are angles near π: the rate is off by some of its peak's roundings."""
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-9)


def test_every_schedule_can_be_taken_in_parts():
    assert WHOLES.keys() == SCHEDULES.keys()
    assert all(type(whole) is SCHEDULES[kind] for kind, whole in WHOLES.items())


@KINDS
@settings(deadline=None)
@given(
    ends=st.tuples(st.integers(0, 800), st.integers(0, 800)).map(sorted),
    first_step=st.integers(0, 300),
    steps=st.integers(1, 400),
)
def test_a_part_begins_and_ends_with_the_rates_of_the_whole(kind, ends, first_step, steps):
    whole = WHOLES[kind]
    part = Part(whole, first_step=first_step, steps=steps, examples=tuple(ends))
    close(rates(part, [first_step, first_step + steps]), rates(whole, [end / 8 for end in ends]))
    assert part.learning_rate == 1e-3


@KINDS
@pytest.mark.parametrize("stretch", [1, 2, 4])
def test_a_stretched_part_meets_the_same_rates_in_more_steps(kind, stretch):
    part = Part(WHOLES[kind], first_step=50, steps=50 * stretch, examples=(400, 800))
    close(rates(part, range(50, 50 + 50 * stretch + 1, stretch)), rates(WHOLES[kind], range(50, 101)))


@KINDS
def test_a_part_in_place_is_the_whole_before_and_behind_it_too(kind):
    part = Part(WHOLES[kind], first_step=30, steps=20, examples=(240, 400))
    close(rates(part, range(0, 100)), rates(WHOLES[kind], range(0, 100)))


@KINDS
def test_parts_one_after_the_other_are_the_whole_stretched(kind):
    """A fork whose optimizer has made other steps than the trunk's schedule counts goes on where the part before
    ended.
    """
    first = Part(WHOLES[kind], first_step=0, steps=40, examples=(0, 320))
    second = Part(WHOLES[kind], first_step=40, steps=240, examples=(320, 800))
    assert rates(first, [40]) == pytest.approx(rates(second, [40]), rel=1e-5)
    assert np.abs(np.diff(rates(second, range(40, 281)))).max() < 1e-3 / 40


@KINDS
def test_a_part_is_restored_from_its_configuration(kind):
    part = Part(WHOLES[kind], first_step=7, steps=30, examples=(100.5, 700.25))
    written = json.loads(json.dumps(keras.optimizers.schedules.serialize(part)))
    restored = keras.optimizers.schedules.deserialize(written)
    assert type(restored) is Part
    assert type(restored.whole) is SCHEDULES[kind]
    assert restored.examples == (100.5, 700.25)
    np.testing.assert_array_equal(rates(restored, range(40)), rates(part, range(40)))


def test_a_part_without_steps_is_refused():
    with pytest.raises(ValueError, match="at least one step, got 0"):
        Part(WHOLES["cosine"], first_step=0, steps=0, examples=(0, 8))
