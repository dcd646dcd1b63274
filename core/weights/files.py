"""The interface of every format of weights: names, shapes and dtypes without reading, and one array at a time."""

import abc
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, Self

import ml_dtypes
import numpy as np

from diptych.core.files.errors import WeightFileError

MAX_TENSORS = 20_000
"""More than any model has; each costs memory before a single weight is read."""

MAX_AXES = 32
MAX_ELEMENTS = 1 << 50
"""NumPy refuses to count further than 2**63 bytes, even for arrays that have an axis of none."""

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
HALF = (BFLOAT16, np.dtype(np.float16))

Tensor = np.ndarray | Callable[[], np.ndarray]
Tensors = Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]
"""Names with arrays, or with functions that give them: these are called one at a time, when their turn has come."""

_CHUNK = 1 << 20


class WeightFiles(Protocol):
    """Named arrays on disk.

    source: what the files are called in messages.   shapes, dtypes: of every array, known without reading data.
    """

    source: str
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, np.dtype]

    def read(self, name: str) -> np.ndarray:
        """One array as it is stored."""
        ...

    def read_float32(self, name: str) -> np.ndarray:
        """One array as float32, in about the memory that the result takes."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *details) -> None: ...


class Closing:
    def close(self) -> None:
        """Let go of the files; nothing can be read any more."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details) -> None:
        self.close()


class StoredWeights(Closing, abc.ABC):
    """Arrays in files, read by file reads into memory that the caller owns.

    Mapped files would be simpler; but their pages count as resident, and a file that is truncated while it is mapped
    ends the process.
    """

    source: str
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, np.dtype]

    def read(self, name: str) -> np.ndarray:
        flat = np.empty(math.prod(self.shapes[name]), self.dtypes[name])
        self._fill(name, flat.view(np.uint8))
        return self._shaped(name, flat)

    def read_float32(self, name: str) -> np.ndarray:
        if self.dtypes[name] not in HALF:
            return as_float32(self.read(name))
        flat = np.empty(math.prod(self.shapes[name]), np.float32)
        self._fill(name, flat.view(np.uint8)[flat.nbytes // 2 :])
        _widen_second_half(flat, self.dtypes[name])
        return self._shaped(name, flat)

    @abc.abstractmethod
    def _fill(self, name: str, memory: np.ndarray) -> None:
        """Read the bytes of an array into `memory`, uint8 [bytes]."""

    def _shaped(self, name: str, flat: np.ndarray) -> np.ndarray:
        return flat.reshape(self.shapes[name])


def as_float32(array: np.ndarray) -> np.ndarray:
    """float16, bfloat16 and float64 become float32; float32 stays as it is, without a copy."""
    return array.astype(np.float32, copy=False)


def _widen_second_half(flat: np.ndarray, dtype: np.dtype) -> None:
    """16-bit floats in the second half of an array's memory become the array's float32 values, without a second array.

    Value i goes to bytes 4 i and is taken from bytes 2 n + 2 i, which lie behind: from the first to the last, nothing
    is overwritten before it was read, but for what a chunk overwrites of itself. So each chunk is copied first.
    """
    narrow = flat.view(dtype)[len(flat) :]
    for start in range(0, len(flat), _CHUNK):
        flat[start : start + _CHUNK] = narrow[start : start + _CHUNK].copy()


def named_arrays(tensors: Tensors, what: str) -> Iterator[tuple[str, np.ndarray]]:
    """Names and arrays, one at a time, in C order and little-endian.

    Raises:
        WeightFileError: for a name that is no text or comes twice, and for more than `MAX_TENSORS` names.
    """
    seen: set[str] = set()
    for name, tensor in tensors.items() if isinstance(tensors, Mapping) else tensors:
        if not isinstance(name, str) or name in seen:
            raise WeightFileError(f"{what}: {name!r} cannot be the name of a tensor, use another string.")
        seen.add(name)
        if len(seen) > MAX_TENSORS:
            raise WeightFileError(f"{what}: more than {MAX_TENSORS} tensors.")
        array = np.asarray(tensor() if callable(tensor) else tensor, order="C")
        yield name, array.astype(array.dtype.newbyteorder("<"), copy=False)


def is_shape(shape: object) -> bool:
    """Whether something read from a file is a list of sizes that an array can have."""
    if not isinstance(shape, (list, tuple)) or len(shape) > MAX_AXES:
        return False
    whole = all(type(size) is int and size >= 0 for size in shape)
    return whole and math.prod(max(size, 1) for size in shape) <= MAX_ELEMENTS


def raw_bytes(array: np.ndarray) -> memoryview:
    """The memory of an array in C order, without a copy."""
    return array.reshape(-1).view(np.uint8).data


def read_at(descriptor: int, offset: int, memory: np.ndarray, source: str) -> None:
    """Fill `memory`, uint8 [bytes], from a place in a file.

    Raises:
        WeightFileError: for a file that ends before.
    """
    view, done = memory.data, 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if not count:
            raise WeightFileError(f"{source} ends at byte {offset + done:,}: it was cut short while it was read.")
        done += count
