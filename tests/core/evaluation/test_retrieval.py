"""Laws of recall at k: it equals a full sort, does not depend on order or chunks, and cannot be flattered."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.evaluation.retrieval import (
    first_relevant_ranks,
    recall_at_k,
    relevant_by_label,
    summarise_ranks,
)


def ranks_by_full_sort(query, gallery, relevant):
    """Sort every row; among equal scores the wrong items come first. Plain Python, exact on small integers."""
    ranks = []
    for vector, right in zip(query, relevant, strict=True):
        right = {int(right)} if np.isscalar(right) or np.ndim(right) == 0 else set(map(int, right))
        scores = [sum(int(a) * int(b) for a, b in zip(vector, item, strict=True)) for item in gallery]
        order = sorted(range(len(gallery)), key=lambda item: (-scores[item], item in right))
        best = next(place for place, item in enumerate(order) if item in right)
        ranks.append(1 + sum(item not in right for item in order[:best]))
    return np.array(ranks)


@st.composite
def problems(draw, unique_relevant=False):
    """Small integer embeddings: exact in float32, and full of ties."""
    queries, items, width = draw(st.integers(1, 7)), draw(st.integers(1, 9)), draw(st.integers(1, 5))
    entries = st.integers(-2, 2)
    query = draw(st.lists(st.lists(entries, min_size=width, max_size=width), min_size=queries, max_size=queries))
    gallery = draw(st.lists(st.lists(entries, min_size=width, max_size=width), min_size=items, max_size=items))
    index = st.integers(0, items - 1)
    right = index if unique_relevant else st.lists(index, min_size=1, max_size=items)
    relevant = draw(st.lists(right, min_size=queries, max_size=queries))
    return np.array(query, np.float32), np.array(gallery, np.float32), relevant


@settings(deadline=None)
@given(problems())
def test_ranks_equal_those_of_a_full_sort(problem):
    query, gallery, relevant = problem
    np.testing.assert_array_equal(first_relevant_ranks(*problem), ranks_by_full_sort(query, gallery, relevant))


@settings(deadline=None)
@given(problems(unique_relevant=True))
def test_one_index_a_query_is_a_collection_of_one(problem):
    query, gallery, relevant = problem
    as_array = first_relevant_ranks(query, gallery, np.array(relevant))
    np.testing.assert_array_equal(as_array, first_relevant_ranks(query, gallery, [{index} for index in relevant]))


@settings(deadline=None)
@given(problems(), st.integers(1, 40))
def test_the_chunk_size_does_not_matter(problem, scores_per_chunk):
    whole = first_relevant_ranks(*problem)
    np.testing.assert_array_equal(whole, first_relevant_ranks(*problem, scores_per_chunk=scores_per_chunk))


def test_the_chunk_size_does_not_matter_for_real_embeddings_with_duplicates():
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(600, 33)).astype(np.float32)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    gallery[300:] = gallery[:300]
    query, relevant = gallery[:300] + np.float32(0.01), np.arange(300)
    whole = first_relevant_ranks(query, gallery, relevant)
    assert (whole >= 2).all(), "an exact duplicate of the right item ties with it and must count as ranked before it"
    for scores_per_chunk in (256 * 7, 256 * 100, 1 << 20):
        np.testing.assert_array_equal(
            whole, first_relevant_ranks(query, gallery, relevant, scores_per_chunk=scores_per_chunk)
        )


@settings(deadline=None)
@given(problems(), st.randoms())
def test_the_order_of_queries_and_items_does_not_matter(problem, random):
    query, gallery, relevant = problem
    ranks = first_relevant_ranks(*problem)
    rows, items = list(range(len(query))), list(range(len(gallery)))
    random.shuffle(rows)
    random.shuffle(items)
    moved = {item: place for place, item in enumerate(items)}
    shuffled = first_relevant_ranks(query[rows], gallery[items], [{moved[i] for i in relevant[row]} for row in rows])
    np.testing.assert_array_equal(shuffled, ranks[rows])


def test_perfect_embeddings_reach_one_and_opposite_ones_zero():
    embeddings = np.eye(50, dtype=np.float32)
    recalls, ranks = recall_at_k(embeddings, embeddings, np.arange(50))
    assert recalls == {1: 1.0, 5: 1.0, 10: 1.0}
    assert (ranks == 1).all()
    recalls, ranks = recall_at_k(-embeddings, embeddings, np.arange(50))
    assert recalls == {1: 0.0, 5: 0.0, 10: 0.0}
    assert (ranks == 50).all()


def test_random_embeddings_reach_chance():
    rng = np.random.default_rng(1)
    query, gallery = rng.normal(size=(20_000, 16)), rng.normal(size=(200, 16))
    recalls, _ = recall_at_k(query, gallery, rng.integers(200, size=20_000), ks=(1, 5, 10))
    for k, recall in recalls.items():
        chance = k / 200
        assert abs(recall - chance) < 5 * np.sqrt(chance * (1 - chance) / 20_000)


def test_half_the_answers_wrong_is_half_the_recall():
    embeddings = np.eye(40, dtype=np.float32)
    relevant = np.arange(40)
    relevant[::2] = np.roll(relevant[::2], 1)
    recalls, _ = recall_at_k(embeddings, embeddings, relevant, ks=(1,))
    assert recalls == {1: 0.5}


@pytest.mark.parametrize("collapsed", [0.0, 1.0, np.nan])
def test_a_collapsed_model_gets_nothing(collapsed):
    everything_alike = np.full((30, 4), collapsed, np.float32)
    recalls, ranks = recall_at_k(everything_alike, everything_alike, np.arange(30))
    assert recalls == {1: 0.0, 5: 0.0, 10: 0.0}
    assert (ranks == 30).all()


def test_a_single_nan_item_counts_before_the_right_one():
    gallery = np.eye(4, dtype=np.float32)
    gallery[3] = np.nan
    ranks = first_relevant_ranks(np.eye(4, dtype=np.float32)[:3], gallery, np.arange(3))
    np.testing.assert_array_equal(ranks, [2, 2, 2])


@settings(deadline=None)
@given(problems())
def test_more_right_answers_never_hurt(problem):
    query, gallery, relevant = problem
    more = [set(right) | {0} for right in relevant]
    assert (first_relevant_ranks(query, gallery, more) <= first_relevant_ranks(*problem)).all()


@pytest.mark.parametrize(
    ("query", "gallery", "relevant", "message"),
    [
        (np.eye(3), np.eye(3)[:, :2], [0, 1, 2], "same width"),
        (np.eye(3), np.eye(3), [[0], [1]], "each of the 3 queries"),
        (np.eye(3), np.eye(3), [[0], [], [1]], "query 1 has no relevant item"),
        (np.eye(3), np.eye(3), np.array([0, 1, 3]), "indices 0 to 2"),
        (np.eye(3), np.eye(3), np.array([0, 1, -1]), "indices 0 to 2"),
        (np.zeros((0, 3)), np.eye(3), np.array([], int), "not empty"),
    ],
)
def test_a_malformed_question_is_refused(query, gallery, relevant, message):
    with pytest.raises(ValueError, match=message):
        first_relevant_ranks(query, gallery, relevant)


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), max_size=8), st.lists(st.integers(0, 4), max_size=8))
def test_relevance_by_label_is_equality_of_labels(query_labels, gallery_labels):
    relevant = relevant_by_label(np.array(query_labels, int), np.array(gallery_labels, int))
    assert [list(items) for items in relevant] == [
        [place for place, label in enumerate(gallery_labels) if label == wanted] for wanted in query_labels
    ]


def test_a_summary_states_the_recalls_of_its_ranks():
    summary = summarise_ranks(np.array([1, 1, 3, 7]), 10, ks=(1, 5))
    assert (summary["recall@1"], summary["recall@5"], summary["median_rank"]) == (0.5, 0.75, 2.0)
    assert (summary["queries"], summary["gallery"]) == (4, 10)
    for name, (low, high) in summary["intervals"].items():
        assert 0 <= low < summary[name] < high <= 1
