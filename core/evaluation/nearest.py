"""The k nearest of many vectors, exactly, block after block in memory that does not grow with their number."""

import numpy as np

MEGABYTES = 16.0  # a block that stays in a processor's cache is read faster than a larger one
NOT_FOUND = -1


def nearest(
    queries: np.ndarray,
    vectors: np.ndarray,
    k: int,
    *,
    allowed: np.ndarray | None = None,
    megabytes: float = MEGABYTES,
) -> tuple[np.ndarray, np.ndarray]:
    """The k vectors of largest inner product with each query, as a sort of all of them would order them.

    Equal scores are ordered by index, the smaller first, so that neither blocks nor threads can be seen in the answer.
    A vector whose score is not a number is never found.

    Args:
        queries: [queries, width], finite; L2-normalised for cosines (nothing is normalised here).
        vectors: [vectors, width] of any float dtype, such as a memory-mapped float16 file; scores are float32.
        k: at least 1; where fewer vectors are allowed, as many as there are.
        allowed: bool [vectors], False for vectors that must not be found; None for all.
        megabytes: of memory for a block and its scores.

    Returns:
        scores float32 [queries, found] and indices int64 [queries, found], best first, found = min(k, allowed vectors).
        Where scores are not numbers a row ends with -inf and `NOT_FOUND`.

    Raises:
        ValueError: k < 1, shapes that do not agree, or a query that is not finite.
    """
    _check(queries, vectors, k, allowed)
    count = len(vectors) if allowed is None else int(np.count_nonzero(allowed))
    k = min(k, count)
    queries = np.asarray(queries, np.float32)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    indices = np.full((len(queries), k), NOT_FOUND, np.int64)
    if not k or not len(queries):
        return scores, indices
    # A row of a block costs its float32 copy, its scores, and as much again for the masks and candidates among them.
    rows = max(1, int(megabytes * 1e6 / (4 * (queries.shape[1] + 2 * len(queries)))))
    for start in range(0, len(vectors), rows):
        block = np.asarray(vectors[start : start + rows], np.float32)
        products = queries @ block.T
        if allowed is not None:
            products[:, ~allowed[start : start + rows]] = -np.inf
        if np.isnan(products.sum()):
            products[np.isnan(products)] = -np.inf
        scores, indices = _merged(scores, indices, products, start)
    return scores, indices


def _merged(scores: np.ndarray, indices: np.ndarray, products: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
    """The best so far and the best of a block [queries, rows], together."""
    queries, k = scores.shape
    better = products > scores[:, -1:]  # an equal score does not do: the one that is held has the smaller index
    if products.shape[1] > k and np.count_nonzero(better) > 4 * scores.size:
        # Early blocks beat almost everything held: only their own best k, with whatever ties with the last of them,
        # matter.
        better &= products >= np.partition(products, -k, axis=1)[:, -k, None]
    row, column = np.nonzero(better)
    if not len(row):
        return scores, indices
    rows = np.concatenate([np.repeat(np.arange(queries), k), row])
    candidates = np.concatenate([scores.ravel(), products[row, column]])
    names = np.concatenate([indices.ravel(), column + start])
    order = np.lexsort((names, -candidates, rows))
    first = np.searchsorted(rows[order], np.arange(queries))
    chosen = order[first[:, None] + np.arange(k)]
    return candidates[chosen], names[chosen]


def _check(queries: np.ndarray, vectors: np.ndarray, k: int, allowed: np.ndarray | None) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    if queries.ndim != 2 or vectors.ndim != 2 or queries.shape[1] != vectors.shape[1]:
        raise ValueError(
            f"queries and vectors need the same width, got {queries.shape} and {vectors.shape}. Embed both with one "
            "model."
        )
    if allowed is not None and (allowed.shape != (len(vectors),) or allowed.dtype != bool):
        raise ValueError(f"allowed must be bool [{len(vectors)}], got {allowed.dtype} {allowed.shape}.")
    if not np.isfinite(queries).all():
        raise ValueError("a query is not finite: its embedding holds NaN or infinity.")
