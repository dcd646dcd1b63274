"""The k nearest, held to a full sort; ties, masks and damaged vectors included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.evaluation.nearest import NOT_FOUND, nearest

FEW_ROWS_A_BLOCK = 1e-4


def by_full_sort(queries, vectors, k, allowed=None):
    """The definition: every score, ordered by score and then by index, cut after k."""
    allowed = np.ones(len(vectors), bool) if allowed is None else allowed
    names = np.flatnonzero(allowed)
    scores = (queries.astype(np.float64) @ vectors.astype(np.float64).T)[:, names]
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), names[order]


def agrees(found, expected) -> bool:
    (scores, indices), (right_scores, right_indices) = found, expected
    return np.array_equal(indices, right_indices) and np.array_equal(scores, right_scores)


@st.composite
def cases(draw):
    """Vectors of small whole numbers: every product is exact, whatever the order of summation, and ties abound."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    width, queries, count = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 90))
    largest = draw(st.integers(1, 3))
    allowed = rng.random(count) < 0.7 if draw(st.booleans()) else None
    return (
        rng.integers(-largest, largest + 1, (queries, width)).astype(np.float32),
        rng.integers(-largest, largest + 1, (count, width)).astype(draw(st.sampled_from(["float16", "float32"]))),
        draw(st.integers(1, 100)),
        allowed,
        draw(st.sampled_from([FEW_ROWS_A_BLOCK, 1e-3, 64.0])),
    )


@settings(max_examples=300, deadline=None)
@given(cases())
def test_exact_search_is_a_full_sort(case):
    queries, vectors, k, allowed, megabytes = case
    found = nearest(queries, vectors, k, allowed=allowed, megabytes=megabytes)
    assert agrees(found, by_full_sort(queries, vectors, k, allowed))


def test_real_vectors_are_found_in_order():
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(5000, 32)), rng.normal(size=(7, 32))
    vectors, queries = vectors.astype(np.float32), queries.astype(np.float32)
    _, indices = nearest(queries, vectors, 20, megabytes=0.05)
    _, expected = by_full_sort(queries, vectors, 20)
    assert np.array_equal(indices, expected)


@pytest.mark.parametrize("wrong", ["score", "order", "tie", "missing"])
def test_a_wrong_top_k_is_rejected(wrong):
    queries, vectors = np.ones((1, 1), np.float32), np.array([[1], [3], [3], [2]], np.float32)
    scores, indices = nearest(queries, vectors, 3)
    expected = by_full_sort(queries, vectors, 3)
    assert agrees((scores, indices), expected)
    changed = {
        "score": (scores + np.float32(1e-6), indices),
        "order": (scores[:, ::-1], indices[:, ::-1]),
        "tie": (scores, np.array([[2, 1, 3]])),
        "missing": (scores[:, :2], indices[:, :2]),
    }[wrong]
    assert not agrees(changed, expected)


@pytest.mark.parametrize("megabytes", [FEW_ROWS_A_BLOCK, 64.0])
def test_vectors_that_are_not_numbers_are_never_found(megabytes):
    vectors = np.array([[np.nan], [2], [np.nan], [1]], np.float32)
    scores, indices = nearest(np.ones((2, 1), np.float32), vectors, 3, megabytes=megabytes)
    assert indices.tolist() == [[1, 3, NOT_FOUND]] * 2
    assert scores.tolist() == [[2, 1, -np.inf]] * 2


def test_nothing_allowed_finds_nothing():
    scores, indices = nearest(np.ones((2, 1), np.float32), np.ones((3, 1)), 2, allowed=np.zeros(3, bool))
    assert scores.shape == (2, 0)
    assert indices.shape == (2, 0)


@pytest.mark.parametrize(
    ("queries", "vectors", "k", "allowed", "words"),
    [
        (np.ones((1, 2)), np.ones((3, 2)), 0, None, "at least 1"),
        (np.ones((1, 2)), np.ones((3, 4)), 1, None, "same width"),
        (np.ones(2), np.ones((3, 2)), 1, None, "same width"),
        (np.array([[np.nan, 1]]), np.ones((3, 2)), 1, None, "not finite"),
        (np.ones((1, 2)), np.ones((3, 2)), 1, np.ones(2, bool), "allowed"),
    ],
)
def test_what_cannot_be_searched_is_refused(queries, vectors, k, allowed, words):
    with pytest.raises(ValueError, match=words):
        nearest(queries, vectors, k, allowed=allowed)
