"""Laws of calibration: known errors, the AUC as the share of ordered pairs, histograms that lose nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.evaluation.calibration import (
    area_under_curve,
    calibrate,
    fitted_bias,
    logit_histograms,
    pair_logits,
    reliability,
    sigmoid,
    summarise_logits,
    threshold_cosine,
)

scores = st.lists(st.integers(-4, 4), min_size=1, max_size=25)


@settings(deadline=None)
@given(scores, scores)
def test_the_auc_is_the_share_of_ordered_couples(pairs, others):
    brute = np.mean([1.0 if p > o else 0.5 if p == o else 0.0 for p in pairs for o in others])
    assert area_under_curve(pairs, others) == pytest.approx(brute)
    assert area_under_curve(others, pairs) == pytest.approx(1 - brute)


def test_the_auc_of_nothing_or_nan_is_refused():
    for pairs, others in [([], [1]), ([1], []), ([np.nan], [1.0]), ([1.0], [0.0, np.nan])]:
        with pytest.raises(ValueError, match="the AUC needs"):
            area_under_curve(pairs, others)


def test_the_sigmoid_neither_overflows_nor_loses_small_probabilities():
    np.testing.assert_allclose(sigmoid([-1000.0, -40.0, 0.0, 40.0, 1000.0]), [0, np.exp(-40), 0.5, 1, 1], rtol=1e-12)


def test_true_probabilities_have_no_calibration_error():
    rng = np.random.default_rng(0)
    logits = rng.normal(-6, 2, size=400_000)
    outcome = rng.random(400_000) < sigmoid(logits)
    result = reliability(logits, outcome)
    assert result["ece"] < 6e-4
    inside = [row["interval"][0] <= row["mean_probability"] <= row["interval"][1] for row in result["bins"]]
    assert np.mean(inside) >= 0.8
    shifted = reliability(logits + 2, outcome)
    assert shifted["ece"] > 0.03, "probabilities e² too large must show"
    assert shifted["mean_probability"] > 4 * shifted["base_rate"]


def test_the_error_of_one_constant_prediction_is_its_distance_to_the_share():
    result = reliability(np.zeros(10), np.arange(10) < 2)
    assert result["ece"] == pytest.approx(0.3)
    assert result["base_rate"] == 0.2
    assert len(result["bins"]) == 1
    assert result["bins"][0]["cells"] == 10


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-30, 30), st.booleans()), min_size=1, max_size=60))
def test_every_cell_is_in_one_bin_and_one_bar(cells):
    logits, outcome = np.array([c[0] for c in cells]), np.array([c[1] for c in cells])
    result = reliability(logits, outcome)
    assert sum(row["cells"] for row in result["bins"]) == len(cells)
    assert sum(row["share"] * row["cells"] for row in result["bins"]) == pytest.approx(outcome.sum())
    assert 0 <= result["ece"] <= 1
    bars = logit_histograms(logits, outcome)
    assert (sum(bars["pairs"]), sum(bars["non_pairs"])) == (outcome.sum(), (~outcome).sum())


def test_logits_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="1 of 2 logits are not finite"):
        summarise_logits(np.array([0.0, np.nan]), np.array([True, False]))


def test_logits_are_scale_times_cosine_plus_bias():
    logits = pair_logits(np.eye(2), np.eye(2)[::-1], logit_scale=10.0, logit_bias=-4.0)
    np.testing.assert_allclose(logits, [[-4, 6], [6, -4]])
    assert threshold_cosine(10.0, -4.0) == 0.4


@pytest.mark.parametrize("batch_size", [4, 16, 1000])
def test_pairs_are_as_rare_as_in_a_batch(batch_size):
    embeddings, labels = np.eye(64), np.arange(64)
    texts = np.tile(labels, 3)
    result = calibrate(
        embeddings, embeddings[texts], labels, texts, logit_scale=10, logit_bias=-5, batch_size=batch_size, grids=4
    )
    size = min(batch_size, 192)
    assert result["batch_size"] == size
    assert result["cells"] == 4 * size * size
    expected = 1 / size if size < 64 else 1 / 64
    assert result["reliability"]["base_rate"] == pytest.approx(expected, rel=0.35)
    assert result["auc"] == 1.0


def test_wrong_pairs_show_in_the_auc():
    labels = np.arange(64)
    result = calibrate(
        np.eye(64), np.eye(64)[(labels + 1) % 64], labels, labels, logit_scale=10, logit_bias=0, batch_size=32
    )
    assert result["auc"] < 0.5


@pytest.mark.parametrize("batch_size", [2, 128, 32_768])
def test_a_fitted_bias_is_where_the_loss_of_such_a_batch_is_least(batch_size):
    rng = np.random.default_rng(0)
    pairs, others = rng.normal(3, 2, 60), rng.normal(-1, 2, (40, 30))

    def loss(bias):
        return np.logaddexp(0, -pairs - bias).mean() + (batch_size - 1) * np.logaddexp(0, others + bias).mean()

    bias = fitted_bias(pairs, others, batch_size=batch_size)
    assert loss(bias) < min(loss(bias - 1e-3), loss(bias + 1e-3))


def test_scores_that_say_nothing_make_the_bias_of_fresh_weights():
    assert fitted_bias(np.zeros(5), np.zeros(7), batch_size=128) == pytest.approx(-np.log(127))


@pytest.mark.parametrize(
    ("pairs", "others", "batch_size", "message"),
    [([], [1.0], 8, "got 0 and 1"), ([np.nan], [1.0], 8, "1 of 2 are not"), ([1.0], [0.0], 1, "no negatives")],
)
def test_a_bias_of_nothing_is_refused(pairs, others, batch_size, message):
    with pytest.raises(ValueError, match=message):
        fitted_bias(np.array(pairs), np.array(others), batch_size=batch_size)
