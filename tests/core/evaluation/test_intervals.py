"""Laws of the intervals: they cover the truth about as often as they say, and respect groups."""

import numpy as np
import pytest

from diptych.core.evaluation.intervals import bootstrap_interval, hit_rate_interval, wilson_interval


def coverage(draw_interval, truth, trials=300):
    return np.mean([low <= truth <= high for low, high in (draw_interval(trial) for trial in range(trials))])


@pytest.mark.parametrize("truth", [0.1, 0.5])
def test_the_bootstrap_covers_the_truth(truth):
    def draw(trial):
        hits = np.random.default_rng(trial).random(400) < truth
        return bootstrap_interval(hits, resamples=300, seed=trial)

    assert 0.90 <= coverage(draw, truth) <= 0.99


def test_ignoring_groups_covers_too_little_and_naming_them_repairs_it():
    def draw(trial, grouped):
        groups = np.repeat(np.arange(60), 10)
        hits = (np.random.default_rng(trial).random(60) < 0.3)[groups]
        return bootstrap_interval(hits, groups=groups if grouped else None, resamples=300, seed=trial)

    assert coverage(lambda trial: draw(trial, grouped=False), 0.3) < 0.7
    assert 0.88 <= coverage(lambda trial: draw(trial, grouped=True), 0.3) <= 0.99


@pytest.mark.parametrize("truth", [0.002, 0.05, 0.5])
def test_wilson_covers_the_truth_even_for_rare_hits(truth):
    def draw(trial):
        return wilson_interval(np.random.default_rng(trial).binomial(500, truth), 500)

    assert 0.90 <= coverage(draw, truth, trials=1000) <= 1.0


def test_wilson_equals_the_published_example():
    # Newcombe, 1998, table I: 81 of 263 and 15 of 148.
    np.testing.assert_allclose(wilson_interval(81, 263), (0.2553, 0.3662), atol=5e-5)
    np.testing.assert_allclose(wilson_interval(15, 148), (0.0624, 0.1605), atol=5e-5)


def test_no_hit_in_many_queries_still_has_a_width():
    low, high = hit_rate_interval(np.zeros(100))
    assert low == 0
    assert 0.03 < high < 0.04
    low, high = hit_rate_interval(np.ones(100))
    assert high == 1
    assert 0.96 < low < 0.97
    _, wide = hit_rate_interval(np.zeros(100), groups=np.repeat(np.arange(10), 10))
    assert wide > 0.2, "ten groups are ten trials, however many queries they hold"


def test_the_seed_fixes_the_interval_and_columns_are_independent():
    values = np.random.default_rng(0).random((50, 3))
    together = bootstrap_interval(values, seed=4)
    assert together.shape == (3, 2)
    np.testing.assert_allclose(together[1], bootstrap_interval(values[:, 1], seed=4))
    assert not np.allclose(together, bootstrap_interval(values, seed=5))


def test_groups_of_one_are_no_groups():
    values = np.random.default_rng(0).random(50)
    np.testing.assert_allclose(bootstrap_interval(values), bootstrap_interval(values, groups=np.arange(50)))


def test_a_weighted_mean_is_that_of_repeated_queries():
    values = np.random.default_rng(0).random((60, 2))
    groups = np.arange(60) % 20
    weighted = bootstrap_interval(values, groups=groups, weights=1.0 + (groups < 10))
    repeated = np.concatenate([values, values[groups < 10]])
    np.testing.assert_allclose(
        weighted, bootstrap_interval(repeated, groups=np.concatenate([groups, groups[groups < 10]]))
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval(np.zeros(0)), "at least one query"),
        (lambda: bootstrap_interval(np.zeros(5), groups=np.zeros(4)), "one integer a query"),
        (lambda: bootstrap_interval(np.zeros(5), confidence=95), "between 0 and 1"),
        (lambda: wilson_interval(3, 2), "0 <= hits <= total"),
        (lambda: wilson_interval(0, 0), "total > 0"),
    ],
)
def test_a_malformed_question_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
