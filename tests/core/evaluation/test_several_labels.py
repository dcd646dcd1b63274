"""Average precision and answers of classification with several labels."""

import numpy as np
import pytest

from diptych.core.evaluation.several_labels import average_precision, several_labels


def counted(scores: np.ndarray, relevant: np.ndarray) -> float:
    """The definition, one relevant image after the other."""
    shares = [relevant[scores >= scores[place]].mean() for place in np.flatnonzero(relevant)]
    return float(np.mean(shares))


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_the_mean_share_of_relevant_ones_above_each(seed):
    rng = np.random.default_rng(seed)
    scores, relevant = rng.integers(0, 6, 30).astype(float), rng.random(30) < 0.4  # with many equal scores
    assert average_precision(scores, relevant) == pytest.approx(counted(scores, relevant), rel=1e-12)
    order = rng.permutation(30)
    assert average_precision(scores[order], relevant[order]) == pytest.approx(average_precision(scores, relevant))


def test_ends_are_one_and_the_share_of_relevant_ones():
    relevant = np.array([True, False, False, True])
    assert average_precision(np.array([3.0, 1.0, 0.0, 2.0]), relevant) == 1
    assert average_precision(np.zeros(4), relevant) == 0.5
    assert average_precision(np.zeros(2), np.zeros(2, bool)) is None


def test_all_numbers_of_a_small_set():
    targets = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]], np.float32)
    scores = np.array([[2, -1, -1], [1, -1, -1], [-1, 3, -1], [-1, 1, -1]], np.float32)
    scored = several_labels(scores, targets, ["a", "b", "c"])
    assert scored["per_class"] == [1.0, pytest.approx((1 / 2 + 2 / 4) / 2), None]
    assert (scored["precision"], scored["recall"], scored["f1"]) == (3 / 4, 3 / 4, 3 / 4)
    assert scored["all_right"] == 2 / 4
    assert scored["images_per_class"] == [2, 2, 0]
    with pytest.raises(ValueError, match="for 2 classes"):
        several_labels(scores, targets, ["a", "b"])
