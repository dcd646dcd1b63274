"""The same search by faiss, where it is installed: all vectors exactly, or a graph of neighbours that is walked."""

from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.evaluation.nearest import NOT_FOUND
from diptych.core.files.atomic import replacing

ROWS_A_BLOCK = 65_536
# Malkov and Yashunin 2016 (arXiv 1603.09320): links a vector, and how many candidates are kept when building and
# searching.
LINKS, BUILD_CANDIDATES, LEAST_SEARCH_CANDIDATES = 32, 200, 128


def faiss_module() -> Any:
    """faiss, or an ImportError that says how to get it."""
    try:
        import faiss
    except ImportError:
        raise ImportError(
            "this implementation needs faiss: pip install faiss-cpu; or take --implementation exact, which needs "
            "nothing"
        ) from None
    return faiss


def nearest_by_faiss(
    queries: np.ndarray, vectors: np.ndarray, k: int, *, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest`, by faiss's IndexFlatIP. All vectors are copied to memory as float32.

    Of vectors that tie for the last place faiss chooses some; the others are in the order of `nearest`.
    """
    index = faiss_module().IndexFlatIP(vectors.shape[1])
    return _searched(_filled(index, vectors, allowed), queries, k, allowed)


def nearest_by_hnsw(
    queries: np.ndarray, vectors: np.ndarray, k: int, *, allowed: np.ndarray | None = None, kept: Path | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest`, approximately: by a walk through a graph of neighbours (HNSW), which may miss some.

    Args:
        queries, vectors, k, allowed: as for `nearest`.
        kept: the file in which the graph is kept, which takes long to build; None to build it each time.
    """
    faiss = faiss_module()
    count = len(vectors) if allowed is None else int(np.count_nonzero(allowed))
    index = faiss.read_index(str(kept)) if kept and kept.exists() else None
    if index is None or (index.ntotal, index.d) != (count, vectors.shape[1]):
        index = faiss.IndexHNSWFlat(vectors.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = BUILD_CANDIDATES
        _filled(index, vectors, allowed)
        if kept:
            with replacing(kept) as file:
                faiss.write_index(index, file.name)
    index.hnsw.efSearch = max(LEAST_SEARCH_CANDIDATES, 2 * k)
    return _searched(index, queries, k, allowed)


def _filled(index: Any, vectors: np.ndarray, allowed: np.ndarray | None) -> Any:
    for start in range(0, len(vectors), ROWS_A_BLOCK):
        block = vectors[start : start + ROWS_A_BLOCK]
        if allowed is not None:
            block = block[allowed[start : start + ROWS_A_BLOCK]]
        index.add(np.ascontiguousarray(block, np.float32))
    return index


def _searched(index: Any, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    k = min(k, index.ntotal)
    if not k:
        return np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
    scores, places = index.search(np.ascontiguousarray(queries, np.float32), k)
    names = places if allowed is None else np.where(places < 0, NOT_FOUND, np.flatnonzero(allowed)[places])
    order = np.lexsort((names, -scores), axis=1)
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(names, order, axis=1)
