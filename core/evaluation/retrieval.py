"""Recall at k: how often the right item of a gallery is among the k nearest to a query.

Works on plain arrays, in both directions, with any number of right answers a query:

    images [N, D], captions [T, D], image_labels [N], caption_labels [T]    (equal labels belong together)
    text to image:  recall_at_k(captions, images, relevant_by_label(caption_labels, image_labels))
    image to text:  recall_at_k(images, captions, relevant_by_label(image_labels, caption_labels))

The judgement is strict. A wrong item that ties with the best right one counts as ranked before it, and so does one
whose score is not a number: a model that maps everything to one point, or to NaN, gets recall 0 and not 1.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from diptych.core.evaluation.intervals import hit_rate_interval

# Scores held at a time: 16 MB in float32, whatever the number of queries and the size of the gallery.
SCORES_PER_CHUNK = 1 << 22

Recalls = dict[str, Any]
"""Recall at several k, JSON-ready. The keys depend on k: "recall@1", "recall@5", ... are shares of queries, "intervals"
has the 95% interval of each, [low, high]; "queries", "gallery" and "median_rank" are numbers."""


def recall_at_k(
    query: np.ndarray,
    gallery: np.ndarray,
    relevant: np.ndarray | Sequence[Iterable[int]],
    ks: Sequence[int] = (1, 5, 10),
    *,
    scores_per_chunk: int = SCORES_PER_CHUNK,
) -> tuple[dict[int, float], np.ndarray]:
    """Share of queries with a relevant gallery item among the k of largest inner product.

    Args:
        query: [queries, width], L2-normalised for cosine similarity (nothing is normalised here).
        gallery: [items, width].
        relevant: int [queries], the one right item of each query; or one collection of right items a query.
        ks: positive, in any order.
        scores_per_chunk: bound on the scores in memory.

    Returns:
        {k: recall between 0 and 1} and the ranks of `first_relevant_ranks`, int64 [queries].

    Raises:
        ValueError: shapes that do not agree, no query, a query without a right item, an index outside the gallery, k <
        1.
    """
    if any(k < 1 for k in ks):
        raise ValueError(f"every k must be at least 1, got ks={tuple(ks)}.")
    ranks = first_relevant_ranks(query, gallery, relevant, scores_per_chunk=scores_per_chunk)
    return {int(k): float(np.mean(ranks <= k)) for k in ks}, ranks


def first_relevant_ranks(
    query: np.ndarray,
    gallery: np.ndarray,
    relevant: np.ndarray | Sequence[Iterable[int]],
    *,
    scores_per_chunk: int = SCORES_PER_CHUNK,
) -> np.ndarray:
    """Rank of the best relevant item of each query: 1 + the number of other items that do not score strictly less.

    Scores within the rounding of one inner product, 2 sqrt(width) eps |query| |item|, are ties, so that two equal items
    tie whatever order the matrix product sums in. Other relevant items are never counted.

    Args and raises: as `recall_at_k`.

    Returns:
        int64 [queries], 1 to the number of items.
    """
    query, gallery = _as_embeddings("query", query), _as_embeddings("gallery", gallery)
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"query and gallery must have the same width, got {query.shape} and {gallery.shape}. Embed both with the "
            "same model."
        )
    dtype = np.result_type(query, gallery)
    query, gallery = query.astype(dtype, copy=False), gallery.astype(dtype, copy=False)
    rows, items, starts = _flatten_relevant(relevant, len(query), len(gallery))
    # A score that overflows or is not a number is a legitimate input here: it counts against the model.
    with np.errstate(invalid="ignore", over="ignore"):
        threshold = _best_relevant_scores(query, gallery, rows, items, starts, scores_per_chunk)
        threshold -= _rounding(query, gallery)
        not_below = np.zeros(len(query), dtype=np.int64)
        gallery_chunk = max(1, min(len(gallery), scores_per_chunk // 256))
        query_chunk = max(1, scores_per_chunk // gallery_chunk)
        for first in range(0, len(query), query_chunk):
            last = min(first + query_chunk, len(query))
            pairs = slice(starts[first], starts[last])
            for left in range(0, len(gallery), gallery_chunk):
                scores = query[first:last] @ gallery[left : left + gallery_chunk].T
                inside = (items[pairs] >= left) & (items[pairs] < left + gallery_chunk)
                scores[rows[pairs][inside] - first, items[pairs][inside] - left] = -np.inf
                below = np.count_nonzero(scores < threshold[first:last, None], axis=1)
                not_below[first:last] += scores.shape[1] - below
    others = len(gallery) - np.diff(starts)
    return 1 + np.minimum(not_below, others)


def relevant_by_label(query_labels: np.ndarray, gallery_labels: np.ndarray) -> list[np.ndarray]:
    """The gallery items that carry the label of each query.

    Args:
        query_labels: [queries], of any type that sorts.
        gallery_labels: [items].

    Returns:
        One int64 array a query, ascending; empty where the gallery has no such label.
    """
    gallery_labels = np.asarray(gallery_labels)
    order = np.argsort(gallery_labels, kind="stable")
    ordered = gallery_labels[order]
    left = np.searchsorted(ordered, query_labels, side="left")
    right = np.searchsorted(ordered, query_labels, side="right")
    return [order[a:b] for a, b in zip(left, right, strict=True)]


def summarise_ranks(
    ranks: np.ndarray,
    gallery_size: int,
    ks: Sequence[int] = (1, 5, 10),
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> Recalls:
    """Ranks as recalls with their intervals.

    Args:
        ranks: int [queries], of `first_relevant_ranks`.
        gallery_size: number of items that were ranked.
        ks: positive.
        groups: int [queries]; queries of a group (captions of one image) are resampled together for the intervals.
        seed: of the bootstrap.

    """
    ranks = np.asarray(ranks)
    hits = ranks[:, None] <= np.asarray(ks)
    intervals = hit_rate_interval(hits, groups=groups, seed=seed)
    return {
        "queries": len(ranks),
        "gallery": int(gallery_size),
        "median_rank": float(np.median(ranks)),
        **{f"recall@{k}": float(share) for k, share in zip(ks, hits.mean(axis=0), strict=True)},
        "intervals": {f"recall@{k}": [float(low), float(high)] for k, (low, high) in zip(ks, intervals, strict=True)},
    }


def _as_embeddings(name: str, array: np.ndarray) -> np.ndarray:
    array = np.asarray(array)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(
            f"{name} must be embeddings [items, width] with at least one of each, got shape {array.shape}. Check that "
            "the evaluation set is not empty."
        )
    return array if array.dtype == np.float64 else array.astype(np.float32, copy=False)


def _flatten_relevant(
    relevant: np.ndarray | Sequence[Iterable[int]], queries: int, gallery_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(query, item) of every relevant pair, ordered by query, and where each query's pairs start: [pairs], [pairs],
    [queries + 1].
    """
    if len(relevant) != queries:
        raise ValueError(
            f"relevant must say what is right for each of the {queries} queries, got {len(relevant)} entries. Give one "
            "index, or one collection of indices, a query."
        )
    if isinstance(relevant, np.ndarray) and relevant.ndim == 1 and relevant.dtype != object:
        items, counts = relevant.astype(np.int64), np.ones(queries, dtype=np.int64)
    else:
        lists = [right if isinstance(right, np.ndarray) else list(right) for right in relevant]
        items = np.concatenate([np.asarray(right, dtype=np.int64) for right in lists])
        counts = np.array([len(right) for right in lists], dtype=np.int64)
    if (counts == 0).any():
        raise ValueError(
            f"query {int(np.argmin(counts))} has no relevant item in the gallery ({np.count_nonzero(counts == 0)} such "
            "queries): it could never be answered. Leave these queries out, or add their items to the gallery."
        )
    if items.min() < 0 or items.max() >= gallery_size:
        raise ValueError(
            f"relevant items must be indices 0 to {gallery_size - 1} of the gallery, got {items.min()} to "
            f"{items.max()}."
        )
    # An item named twice for a query is one item.
    pairs = np.unique(np.repeat(np.arange(queries), counts) * gallery_size + items)
    rows, items = np.divmod(pairs, gallery_size)
    return rows, items, np.searchsorted(rows, np.arange(queries + 1))


def _best_relevant_scores(
    query: np.ndarray,
    gallery: np.ndarray,
    rows: np.ndarray,
    items: np.ndarray,
    starts: np.ndarray,
    scores_per_chunk: int,
) -> np.ndarray:
    """Largest inner product of each query with its relevant items, NaN where one of them is NaN: [queries]."""
    scores = np.empty(len(rows), dtype=query.dtype)
    chunk = max(1, scores_per_chunk // query.shape[1])
    for first in range(0, len(rows), chunk):
        pairs = slice(first, first + chunk)
        scores[pairs] = np.einsum("pd,pd->p", query[rows[pairs]], gallery[items[pairs]])
    return np.maximum.reduceat(scores, starts[:-1])


def _rounding(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Scores closer than this are ties: [queries]."""
    query_norms, norms = (np.sqrt(np.einsum("nd,nd->n", array, array)) for array in (query, gallery))
    longest = norms.max(initial=0.0, where=np.isfinite(norms))
    return 2 * np.sqrt(query.shape[1]) * np.finfo(query.dtype).eps * query_norms * longest
