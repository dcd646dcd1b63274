"""Nearest neighbours: votes against a sort written out, ties, scale, and images whose features are no numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.evaluation import neighbours as module
from diptych.core.evaluation.neighbours import neighbour_scores, neighbours

NAMES = ("a", "b", "c")


def by_sorting(train, labels, features, classes, k, temperature):
    """Every cosine, sorted by size and then by index; the votes of the first k."""
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (train, features)]
    scores = np.zeros((len(features), classes))
    for place, row in enumerate(unit[1]):
        cosines = unit[0] @ row
        for index in sorted(range(len(train)), key=lambda i: (-cosines[i], i))[:k]:
            scores[place, labels[index]] += np.exp(cosines[index] / temperature)
    return scores


def agrees(scores, expected) -> bool:
    """Votes up to a factor a row: only their ratios are meant."""
    first, second = (votes / votes.sum(axis=1, keepdims=True) for votes in (scores, expected))
    return bool(np.allclose(first, second, atol=1e-4))


def clusters(images: int, *, noise: float, seed: int):
    centres = np.random.default_rng(99).normal(size=(3, 16))
    labels = np.arange(images) % 3
    return centres[labels] + noise * np.random.default_rng(seed).normal(size=(images, 16)), labels


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 30), st.integers(1, 40), st.sampled_from([0.07, 1.0]), st.integers(0, 1000))
def test_votes_are_those_of_a_sort(images, k, temperature, seed):
    rng = np.random.default_rng(seed)
    train, features, labels = rng.normal(size=(images, 5)), rng.normal(size=(4, 5)), rng.integers(0, 3, images)
    scores = neighbour_scores(train, labels, features, 3, k=k, temperature=temperature)
    assert agrees(scores, by_sorting(train, labels, features, 3, k, temperature))


@pytest.mark.parametrize("wrong", ["other k", "temperature", "no weights", "inner products"])
def test_other_votes_are_rejected(wrong):
    (train, labels), (features, _) = clusters(30, noise=2.0, seed=0), clusters(9, noise=2.0, seed=1)
    train = train * np.linspace(0.2, 3, 30)[:, None]
    expected = by_sorting(train, labels, features, 3, 7, 0.2)
    assert agrees(neighbour_scores(train, labels, features, 3, k=7, temperature=0.2), expected)
    others = {
        "other k": by_sorting(train, labels, features, 3, 8, 0.2),
        "temperature": by_sorting(train, labels, features, 3, 7, 0.1),
        "no weights": by_sorting(train, labels, features, 3, 7, 1e9),
        "inner products": neighbour_scores(
            train, labels[np.argsort(-(features @ train.T), axis=1)[0]], features, 3, k=7
        ),
    }
    assert not agrees(others[wrong], expected)


def test_of_equal_neighbours_the_earlier_votes():
    train, labels = np.ones((4, 2)), np.array([2, 0, 1, 0])
    scores = neighbour_scores(train, labels, np.ones((1, 2)), 3, k=2)
    assert scores.tolist() == [[1, 0, 1]]


def test_neither_scale_nor_blocks_can_be_seen(monkeypatch):
    (train, labels), (features, _) = clusters(40, noise=2.0, seed=0), clusters(23, noise=2.0, seed=1)
    whole = neighbour_scores(train, labels, features, 3)
    assert agrees(neighbour_scores(1e3 * train, labels, 1e-3 * features, 3), whole)
    monkeypatch.setattr(module, "QUERIES", 4)
    np.testing.assert_allclose(neighbour_scores(train, labels, features, 3), whole, rtol=1e-4)


def test_a_small_temperature_leaves_the_nearest_and_nothing_overflows():
    (train, labels), (features, _) = clusters(30, noise=1.0, seed=0), clusters(30, noise=1.0, seed=1)
    scores = neighbour_scores(train, labels, features, 3, temperature=1e-6)
    assert np.isfinite(scores).all()
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (train, features)]
    np.testing.assert_array_equal(scores.argmax(axis=1), labels[(unit[1] @ unit[0].T).argmax(axis=1)])


def test_clusters_are_recognised_and_shuffled_labels_are_not():
    (train, labels), test = clusters(90, noise=0.7, seed=0), clusters(300, noise=0.7, seed=1)
    result = neighbours(train, labels, *test, NAMES)
    assert result["accuracy"] > 0.9
    assert (result["k"], result["train_images"], result["images"]) == (20, 90, 300)
    assert neighbours(train, np.random.default_rng(2).permutation(labels), *test, NAMES)["accuracy"] < 0.6
    assert neighbours(train[:9], labels[:9], *test, NAMES)["k"] == 9


def test_features_that_are_no_numbers_have_no_answer():
    (train, labels), (features, truth) = clusters(60, noise=0.1, seed=0), clusters(30, noise=0.1, seed=1)
    features[:15] = np.nan
    train[:3] = np.inf
    result = neighbours(train, labels, features, truth, NAMES, k=5)
    assert result["accuracy"] == pytest.approx(0.5)
    assert sum(result["no_answer"]) == 15


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train_labels": np.zeros(3, int)}, "one label each"),
        ({"train_labels": np.array([0, 1, 2, 3])}, "labels must be 0 to 2"),
        ({"features": np.ones((2, 5))}, "same width"),
        ({"k": 0}, "k must be at least 1"),
        ({"temperature": 0.0}, "temperature must be above 0"),
    ],
)
def test_what_cannot_be_searched_is_refused(change, words):
    arguments = {
        "train_features": np.ones((4, 2)), "train_labels": np.zeros(4, int), "features": np.ones((2, 2)), "classes": 3,
    } | change  # fmt: skip
    with pytest.raises(ValueError, match=words):
        neighbour_scores(**arguments)
