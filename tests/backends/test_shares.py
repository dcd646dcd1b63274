"""The shares of a run's state: large tensors are cut along their longest axis that the parts divide, others whole."""

import math

import pytest

from diptych.backends.shares import SMALLEST, cut_axis, share


@pytest.mark.parametrize(
    ("shape", "parts", "axis"),
    [
        ((256_000, 768), 8, 0),
        ((768, 3_072), 8, 1),
        ((768, 768), 8, 0),
        ((1_152, 4_304), 64, 0),  # the longest axis is no multiple of 64
        ((1_152, 4_304), 256, None),
        ((768,), 8, None),
        ((), 8, None),
        ((SMALLEST - 1,), 1, None),
        ((768, 3_072), 1, None),
    ],
)
def test_a_tensor_is_cut_along_its_longest_axis_that_the_parts_divide(shape, parts, axis):
    assert cut_axis(shape, parts) == axis
    assert share(shape, parts) * (parts if axis is not None else 1) == math.prod(shape)
