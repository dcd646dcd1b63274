"""Recall at k, chunked and without a sort, against sorting every row of the whole score matrix.

    python -m benchmarks.evaluation

Both give the same recall, or no time is reported. Times are the fastest of several repetitions in one process, taken in
turn.
"""

import argparse
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.device import RESULTS, device_name, write_results
from diptych.core.evaluation.retrieval import first_relevant_ranks
from diptych.core.report.charts.numbers import compact
from diptych.core.report.tables import text_table

# name: (queries, gallery items, width)
CASES = {
    "emoji, one language": (1_700, 1_914, 96),
    "emoji, 6 languages": (10_200, 1_914, 96),
    "COCO, a caption in ten": (2_500, 5_000, 768),
    "large gallery": (256, 100_000, 512),
}


def ranks_by_full_sort(query: np.ndarray, gallery: np.ndarray, relevant: np.ndarray, block: int = 1024) -> np.ndarray:
    """The obvious way: sort every row of scores and look where the right item stands; int64 [queries]."""
    ranks = np.empty(len(query), dtype=np.int64)
    for start in range(0, len(query), block):
        order = np.argsort(-(query[start : start + block] @ gallery.T), axis=1)
        ranks[start : start + block] = 1 + np.argmax(order == relevant[start : start + block, None], axis=1)
    return ranks


def problem(queries: int, items: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors whose right item is often, and not always, the nearest."""
    rng = np.random.default_rng(seed)
    gallery = _unit(rng.standard_normal((items, width), dtype=np.float32))
    relevant = rng.integers(items, size=queries)
    noise = rng.standard_normal((queries, width), dtype=np.float32) * np.float32(2.5 / np.sqrt(width))
    return _unit(gallery[relevant] + noise), gallery, relevant


def measure(queries: int, items: int, width: int, repetitions: int) -> dict[str, object]:
    """Queries a second and peak memory of both ways on one problem."""
    query, gallery, relevant = problem(queries, items, width)
    ways: dict[str, Callable] = {"chunked": first_relevant_ranks, "full_sort": ranks_by_full_sort}
    ranks, peaks = {}, {}
    for name, way in ways.items():
        tracemalloc.start()
        ranks[name] = way(query, gallery, relevant)
        peaks[name] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    recall = {name: float(np.mean(found <= 1)) for name, found in ranks.items()}
    # Scores within rounding are ties for one way and not for the other: a handful of ranks may differ by one.
    differing = float(np.mean(ranks["chunked"] != ranks["full_sort"]))
    if abs(recall["chunked"] - recall["full_sort"]) > 1e-3 or differing > 0.05:
        raise SystemExit(f"recall@1 {recall} with {differing:.1%} of the ranks differing: no time is reported.")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repetitions):
        for name, way in ways.items():
            start = time.perf_counter()
            way(query, gallery, relevant)
            seconds[name].append(time.perf_counter() - start)
    result: dict[str, object] = {"queries": queries, "gallery": items, "width": width, "recall@1": recall["chunked"]}
    for name in ways:
        result[name] = {
            "queries_per_second": queries / min(seconds[name]),
            "seconds": sorted(seconds[name]),
            "peak_bytes": peaks[name],  # held by NumPy and Python beyond the embeddings
        }
    result["speedup"] = min(seconds["full_sort"]) / min(seconds["chunked"])
    return result


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table and write results/<device>/evaluation.json."""
    parser = argparse.ArgumentParser(description="Queries a second of recall at k against a full sort.")
    parser.add_argument("--repetitions", type=int, default=3, help="of each way on each problem, in turn")
    parser.add_argument("--cases", nargs="*", choices=list(CASES), default=list(CASES), help="of the named problems")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    chosen = parser.parse_args(arguments)
    results = {name: measure(*CASES[name], chosen.repetitions) for name in chosen.cases}
    rows = [
        [
            name,
            f"{result['queries']:,} x {result['gallery']:,} x {result['width']}",
            compact(round(result["chunked"]["queries_per_second"])),
            compact(round(result["full_sort"]["queries_per_second"])),
            f"{result['speedup']:.1f}x",
            f"{result['chunked']['peak_bytes'] / 2**20:.0f} MB",
            f"{result['full_sort']['peak_bytes'] / 2**20:.0f} MB",
        ]
        for name, result in results.items()
    ]
    header = ["case", "queries x items x width", "queries/s", "full sort", "faster", "peak", "full sort"]
    print(text_table(header, rows))
    path = write_results("evaluation", {"numpy": np.__version__, "cases": results}, chosen.out)
    print(f"{device_name()}: {path}")


def _unit(array: np.ndarray) -> np.ndarray:
    return array / np.linalg.norm(array, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
