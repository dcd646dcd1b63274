"""Top-k, probabilities and confusions of zero-shot classification."""

import numpy as np
import pytest

from diptych.core.evaluation.calibration import sigmoid
from diptych.core.evaluation.classification import (
    classification,
    confidence,
    most_confused,
    softmax_probabilities,
    top_k_hits,
)
from diptych.core.evaluation.zero_shot import zero_shot

NAMES = tuple("abcdef")


def scored(images: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(6, size=images)
    scores = rng.normal(size=(images, 6))
    scores[np.arange(images), labels] += 1.0
    return scores, labels


def test_top_k_is_what_a_sort_says():
    scores, labels = scored()
    order = np.argsort(-scores, axis=1)
    expected = np.stack([(order[:, :k] == labels[:, None]).any(axis=1) for k in (1, 3, 6)], axis=1)
    hits = top_k_hits(scores, labels, (1, 3, 6))
    np.testing.assert_array_equal(hits, expected)
    assert 0 < hits[:, 0].mean() < hits[:, 1].mean() < hits[:, 2].mean() == 1


@pytest.mark.parametrize("collapsed", [0.0, np.nan, np.inf])
def test_a_collapsed_model_hits_nothing(collapsed):
    assert not top_k_hits(np.full((9, 6), collapsed), np.arange(9) % 6, (1, 5)).any()


def test_ties_and_missing_scores_count_against_the_model():
    scores = np.array([[2.0, 2.0, 0.0], [np.nan, 1.0, 0.0], [1.0, np.nan, np.nan]])
    hits = top_k_hits(scores, np.array([0, 1, 0]), (1, 2))
    np.testing.assert_array_equal(hits, [[False, True], [False, True], [False, False]])


def test_softmax_adds_up_to_one_and_survives_large_logits():
    logits = np.array([[1000.0, 1001.0], [-5.0, 5.0]])
    probabilities = softmax_probabilities(logits)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(probabilities[:, 1], sigmoid(logits[:, 1] - logits[:, 0]))


def test_confidence_of_a_model_that_is_right_as_often_as_it_says_has_no_error():
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.5, 0.99, size=20_000)
    labels = (rng.uniform(size=20_000) > sure).astype(int)
    probabilities = np.stack([sure, 1 - sure], axis=1)
    true = confidence(probabilities, labels)
    assert true["calibration_error"] < 0.03
    assert true["of_answer"] == pytest.approx(sure.mean())
    assert true["of_true_class"] == pytest.approx(np.where(labels == 0, sure, 1 - sure).mean())
    boastful = np.stack([0.5 + sure / 2, 0.5 - sure / 2], axis=1)
    assert confidence(boastful, labels)["calibration_error"] > 0.08


def test_the_result_holds_zero_shots_and_more():
    scores, labels = scored()
    result = classification(scores, labels, NAMES, logit_bias=-2.0)
    assert {name: result[name] for name in zero_shot(scores, labels, NAMES)} == zero_shot(scores, labels, NAMES)
    assert result["top_k"]["acc@1"]["accuracy"] == result["accuracy"]
    assert result["top_k"]["acc@5"]["accuracy"] == top_k_hits(scores, labels, (5,)).mean()
    true_class = np.arange(len(labels)), labels
    assert result["probabilities"]["softmax"]["of_true_class"] == softmax_probabilities(scores)[true_class].mean()
    assert result["probabilities"]["sigmoid"]["of_true_class"] == pytest.approx(
        sigmoid(scores - 2.0)[true_class].mean()
    )
    assert "sigmoid" not in classification(scores, labels, NAMES, logit_bias=None)["probabilities"]


def test_top_k_that_is_always_hit_is_left_out():
    scores, labels = scored()
    two = classification(scores[:, :2], labels % 2, NAMES[:2], logit_bias=0.0)
    assert set(two["top_k"]) == {"acc@1"}


def test_scores_that_are_not_numbers_are_no_probabilities():
    result = classification(np.full((4, 3), np.nan), np.arange(4) % 3, NAMES[:3], logit_bias=0.0)
    assert result["accuracy"] == 0
    assert result["probabilities"] == {}


def test_most_confused_lists_wrong_answers_only_most_frequent_first():
    labels = np.array([0, 0, 0, 0, 1, 1, 2])
    answers = np.array([0, 1, 1, 2, 0, 1, 2])
    found = most_confused(zero_shot(np.eye(3)[answers], labels, NAMES[:3]))
    assert found == [
        {"class": "a", "taken_for": "b", "images": 2, "share": 0.5},
        {"class": "a", "taken_for": "c", "images": 1, "share": 0.25},
        {"class": "b", "taken_for": "a", "images": 1, "share": 0.5},
    ]
    assert most_confused(zero_shot(np.eye(3)[answers], labels, NAMES[:3]), 1) == found[:1]
