"""The shares of a run's state that devices hold where it is spread: which tensors are cut, along which axis."""

import math
from collections.abc import Sequence

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
