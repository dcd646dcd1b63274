"""The shares of a run's state that devices hold where it is spread: which tensors are cut, along which axis."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

SMALLEST = 2**14
"""Numbers of the smallest tensor that is cut. A message costs as much for fewer, and what is smaller in a
tower, biases and norms, is 0.15% of it."""


def cut_axis(shape: Sequence[int], parts: int) -> int | None:
    """The axis along which a tensor is cut into equal parts: the longest that they divide, the first of equals; None
    where it stays whole, because it is small or no axis divides.

    >>> cut_axis((256_000, 768), 8), cut_axis((768,), 8), cut_axis((1152, 4304), 64)
    (0, None, 0)
    """
    if parts == 1 or math.prod(shape) < SMALLEST:
        return None
    divisible = [axis for axis, length in enumerate(shape) if length % parts == 0]
    return max(divisible, key=lambda axis: shape[axis], default=None)


def share(shape: Sequence[int], parts: int) -> int:
    """How many numbers of a tensor one of so many devices holds.

    >>> share((256_000, 768), 8), share((768,), 8)
    (24576000, 768)
    """
    return math.prod(shape) // (1 if cut_axis(shape, parts) is None else parts)


@dataclass(frozen=True)
class Held:
    """Numbers of a tensor of the state that this process holds, for a checkpoint: of the tensor as `rows` equal rows
    those columns from `start` on that are as many as `width`.

    Attributes:
        shape: of the whole tensor.
        itemsize: bytes of a number.
        holders: the processes that hold the same numbers, this one among them, in their order; () for all.
        copied: some of the columns, from one to another counted from `start`, as an array [rows, columns] in the memory
            of the host that no later step touches.
    """

    shape: tuple[int, ...]
    rows: int
    start: int
    width: int
    itemsize: int
    holders: tuple[int, ...]
    copied: Callable[[int, int], np.ndarray]


def whole(shape: Sequence[int], itemsize: int, numbers: Callable[[int, int], np.ndarray]) -> Held:
    """A tensor that every process holds whole; `numbers` copies some of it, as one row, from one place to another."""
    return Held(
        tuple(shape), 1, 0, math.prod(shape), itemsize, (), lambda start, stop: numbers(start, stop).reshape(1, -1)
    )
