"""Arrays of every kind that weights are stored in, and what a file that is refused may cost."""

import time
import tracemalloc
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from diptych.core.files.errors import WeightFileError

DTYPES = (np.float64, np.float32, np.float16, np.int64, np.int32, np.uint8, np.bool_, ml_dtypes.bfloat16)
NAMES = st.text(min_size=1).filter(lambda name: name != "__metadata__" and "\0" not in name)


def arrays(dtypes=DTYPES, **shape) -> st.SearchStrategy[np.ndarray]:
    """Arrays of any bits: not-a-numbers with payloads, infinities and negative zeros included."""
    shapes = hnp.array_shapes(**({"min_dims": 0, "max_dims": 4, "min_side": 0, "max_side": 4} | shape))

    def of_bits(dtype, shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray]:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        bits = st.binary(min_size=size, max_size=size)
        if dtype is np.bool_:
            bits = bits.map(lambda raw: bytes(byte & 1 for byte in raw))
        return bits.map(lambda raw: np.frombuffer(raw, dtype).reshape(shape))

    return st.tuples(st.sampled_from(dtypes), shapes).flatmap(lambda pair: of_bits(*pair))


def assert_same(found: Mapping[Any, np.ndarray], expected: Mapping[Any, np.ndarray]) -> None:
    """The same names, dtypes, shapes and bits."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


def assert_refused(open_file, reason: str, *, seconds: float = 2.0, megabytes: float = 40.0) -> None:
    """Opening raises WeightFileError for the reason, in little processor time and memory."""
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(WeightFileError, match=reason):
            open_file()
        elapsed, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert elapsed < seconds
    assert peak < megabytes * 1e6
