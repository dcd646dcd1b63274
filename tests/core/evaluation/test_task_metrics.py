"""Metrics of tasks on texts: known values, what they may not depend on, and intervals that hold."""

import numpy as np
import pytest

from diptych.core.evaluation.task_metrics import METRICS, accuracy, f1, judged, matthews, pearson, ranks, spearman

TRUTHS, ANSWERS = np.array([1, 1, 1, 0, 0, 0, 0, 1]), np.array([1, 0, 1, 0, 0, 1, 0, 1])
"""3 hits, 1 miss, 1 false alarm, 3 rightly left."""


def test_values_worked_out_by_hand():
    assert accuracy(TRUTHS, ANSWERS) == 0.75
    assert f1(TRUTHS, ANSWERS) == 6 / 8
    assert matthews(TRUTHS, ANSWERS) == pytest.approx((3 * 3 - 1 * 1) / 16)
    assert pearson(np.array([1, 2, 3]), np.array([2, 4, 5])) == pytest.approx(3 / np.sqrt(2 * 14 / 3))
    assert ranks(np.array([10.0, 3.0, 10.0, 7.0])).tolist() == [3.5, 1.0, 3.5, 2.0]
    assert spearman(np.array([1, 2, 3, 4]), np.array([1, 4, 9, 100])) == pytest.approx(1.0)
    assert spearman(np.array([1, 2, 3]), np.array([1, 3, 2])) == pytest.approx(0.5)


def test_of_three_classes_matthews_is_gorodkins():
    # scikit-learn's own example of three classes: its matthews_corrcoef gives this.
    truths, answers = np.array([0, 1, 2, 2, 2, 0]), np.array([0, 0, 2, 2, 1, 0])
    assert matthews(truths, answers) == pytest.approx((4 * 6 - (2 * 3 + 1 * 1 + 3 * 2)) / np.sqrt((36 - 14) ** 2))


@pytest.mark.parametrize("name", METRICS)
def test_the_truth_is_the_best_and_one_answer_for_all_is_worth_nothing(name):
    assert METRICS[name](TRUTHS, TRUTHS) == pytest.approx(1.0)
    worth = METRICS[name](TRUTHS, np.zeros_like(TRUTHS))
    assert worth == (0.5 if name == "accuracy" else 0.0)


def test_correlations_do_not_depend_on_units_and_ranks_not_on_shape():
    rng = np.random.default_rng(0)
    x = rng.normal(size=40)
    y = x + rng.normal(size=40)
    assert pearson(3 * x - 7, 0.1 * y) == pytest.approx(pearson(x, y))
    assert spearman(np.exp(x), y**3) == pytest.approx(spearman(x, y))
    assert pearson(x, -y) == pytest.approx(-pearson(x, y))
    assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(1)
    inside = 0
    for draw in range(60):
        truths = rng.integers(2, size=120)
        answers = np.where(rng.random(120) < 0.8, truths, 1 - truths)
        low, high = judged(["matthews"], truths, answers, resamples=100, seed=draw)["matthews"]["interval"]
        inside += low <= 0.6 <= high
    assert inside >= 50


def test_one_seed_gives_one_interval_and_no_examples_are_refused():
    assert judged(["f1", "accuracy"], TRUTHS, ANSWERS) == judged(["f1", "accuracy"], TRUTHS, ANSWERS)
    for truths, answers in (([], []), ([1, 0], [1])):
        with pytest.raises(ValueError, match="truths and answers must be of the same examples"):
            judged(["accuracy"], np.array(truths), np.array(answers))
