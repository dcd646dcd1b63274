"""Weights one tensor at a time: reading and writing take the memory of the largest, not of the file."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from diptych.core.weights.npz import write_npz
from diptych.core.weights.safetensors import write_safetensors_folder

ELEMENTS = 6_500_000
ONE = ELEMENTS * 4 / 1e6  # megabytes of a tensor in float32
SLACK = 8  # megabytes for chunks, and for what an interpreter does beside

PRELUDE = """
import sys
from pathlib import Path
import numpy as np
from diptych.core.weights.open import open_weights
from diptych.core.weights.npz import write_npz
from diptych.core.weights.safetensors import write_safetensors

def peak():  # megabytes that were resident at most; the counter of getrusage would begin with that of the parent
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6

path = Path(sys.argv[1])
np.ones(1000).astype(np.float32)
before = peak()
"""


def peak_of(code: str, path) -> float:
    """Megabytes that some code adds to the peak of a fresh interpreter."""
    script = f"{PRELUDE}\n{code}\nprint(peak() - before)"
    run = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    return float(run.stdout)


READ = """
with open_weights(path) as files:
    for name in files.shapes:
        total = float(files.read_float32(name)[-1])
"""
READ_ALL = """
with open_weights(path) as files:
    kept = [files.read_float32(name) for name in files.shapes]
"""
WRITE = """
write_NAME(path, ((f"t{n}", np.full(ELEMENTS, n, np.float32)) for n in range(4)))
"""

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")


@pytest.mark.parametrize(("layout", "count"), [("one", 8), ("shards", 4), ("npz", 4), ("bfloat16", 4)])
def test_reading_takes_the_memory_of_one_tensor(tmp_path, layout, count):
    dtype = ml_dtypes.bfloat16 if layout == "bfloat16" else np.float32
    tensors = {f"t{n}": np.full(ELEMENTS, n, np.float32).astype(dtype) for n in range(count)}
    if layout == "npz":
        write_npz(tmp_path / "model.npz", tensors)
    else:
        write_safetensors_folder(tmp_path, tensors, max_shard_bytes=ELEMENTS * 8 if layout == "shards" else 10**10)
    assert peak_of(READ, tmp_path) < ONE + SLACK
    if layout == "one":
        assert peak_of(READ_ALL, tmp_path) > count * ONE, "what is measured grows when everything is kept"


@pytest.mark.parametrize("name", ["safetensors", "npz"])
def test_writing_takes_the_memory_of_two_tensors(tmp_path, name):
    """One is being written while the next is made."""
    code = WRITE.replace("NAME", name).replace("ELEMENTS", str(ELEMENTS))
    assert peak_of(code, tmp_path / f"model.{name}") < 2 * ONE + SLACK
