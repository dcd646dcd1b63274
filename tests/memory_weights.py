"""Arrays in memory that are read as weights in files are."""

from collections.abc import Mapping

import numpy as np

from diptych.core.weights.files import Closing, as_float32


class MemoryWeights(Closing):
    """Fulfils `WeightFiles`; `source` is how a message calls it."""

    def __init__(self, arrays: Mapping[str, np.ndarray], source: str = "memory"):
        self.arrays, self.source = dict(arrays), source
        self.shapes = {name: tuple(array.shape) for name, array in self.arrays.items()}
        self.dtypes = {name: array.dtype for name, array in self.arrays.items()}

    def read(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def read_float32(self, name: str) -> np.ndarray:
        return as_float32(self.arrays[name])
