"""The ceilings of a GPU: plain products in the shapes and layouts of the loss, and copies, once it is hot."""

import statistics
import subprocess
import time

from benchmarks.contest import in_turn
from benchmarks.gpu.journal import Journal
from benchmarks.gpu.stages import Sizes
from benchmarks.native import torch_products as native

QUERY = "name,driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu"


def measure(journal: Journal, sizes: Sizes) -> None:
    """Square products before and after heating, a copy, the loss's products, and the library's names for them."""
    _note_state(journal, "cold")
    square = native.product(sizes.square, sizes.square, sizes.square, "bfloat16")
    journal.write("cold", ms=1e3 * native.elapsed(square, 2) / 2)
    heat(sizes)
    _products(journal, sizes, {"square": (sizes.square, sizes.square, sizes.square, "NT", False)})
    copy = native.copy(sizes.copied // 4)
    taken = in_turn({"copy": copy}, native.elapsed, rounds=sizes.rounds, seconds=sizes.seconds)["copy"]
    journal.write("copy", ms=1e3 * statistics.median(taken), bytes_per_second=2 * sizes.copied / min(taken))
    del copy
    for width in (sizes.width, *sizes.widths):
        for size in sizes.ceilings:
            shapes = {
                "logits": (size, size, width, "NT", False),
                "image gradients": (size, width, size, "NN", True),
                "text gradients": (size, width, size, "TN", True),
            }
            _products(journal, sizes, shapes)
    _note_state(journal, "hot")


def heat(sizes: Sizes) -> None:
    """Products for as long as the clocks take to rise."""
    square = native.product(sizes.square, sizes.square, sizes.square, "bfloat16")
    end = time.perf_counter() + sizes.heating
    while time.perf_counter() < end:
        native.elapsed(square, 20)


def _products(journal: Journal, sizes: Sizes, shapes: dict[str, tuple]) -> None:
    """Times products in turn; the names of their kernels come last, since a profiler may be missing."""
    calls = {
        name: native.product(m, n, k, "bfloat16", layout, accumulate=accumulate)
        for name, (m, n, k, layout, accumulate) in shapes.items()
    }
    taken = in_turn(calls, native.elapsed, rounds=sizes.rounds, seconds=sizes.seconds)
    for name, (m, n, k, layout, _) in shapes.items():
        seconds = statistics.median(taken[name])
        fields = {"name": name, "m": m, "n": n, "k": k, "layout": layout}
        journal.write("product", **fields, ms=1e3 * seconds, tflops=2 * m * n * k / seconds / 1e12)
    if not native.ACCELERATED:
        return
    for name, (m, n, k, layout, _) in shapes.items():
        fields = {"name": name, "m": m, "n": n, "k": k, "layout": layout}
        try:
            journal.write("library", **fields, kernels=native.kernels(calls[name]))
        except Exception as error:  # a profiler that does not work takes no product's time away
            journal.write("library", **fields, failed=f"{type(error).__name__}: {error}")


def _note_state(journal: Journal, when: str) -> None:
    """Clocks, power and temperature as the driver tells them; nothing is set."""
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        said = f"nvidia-smi does not answer: {error}"
    journal.write("state", when=when, said=said, query=QUERY)
