"""Logits of bfloat16 operands on an accelerator: its matrix units sum them up in float32, in the gradient too."""

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import ops

from diptych import backends
from tests.models.examples import numpy_of, value_and_gradients

pytestmark = pytest.mark.skipif(backends.device_name() is None, reason="there is no accelerator")

ROWS, WIDTH, WORDS = 256, 768, 1_000


def test_sums_of_rounded_operands_are_float32_and_so_are_those_of_the_gradient():
    rng = np.random.default_rng(0)
    features, table, incoming = (
        rng.normal(size=shape).astype(ml_dtypes.bfloat16).astype("float32")
        for shape in ((ROWS, WIDTH), (WIDTH, WORDS), (ROWS, WORDS))
    )
    product, variables = backends.product("bfloat16"), [keras.Variable(features), keras.Variable(table)]
    logits = product(*(variable.value for variable in variables))
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    _, gradients = value_and_gradients(
        lambda: ops.sum(product(*(v.value for v in variables)) * ops.convert_to_tensor(incoming)), variables
    )
    exact = [array.astype("float64") for array in (features, table, incoming)]
    expected = [exact[0] @ exact[1], exact[2] @ exact[1].T, exact[0].T @ exact[2]]
    for got, right in zip([logits, *gradients], expected, strict=True):
        error = np.linalg.norm(numpy_of(got) - right) / np.linalg.norm(right)
        assert error < 1e-4, "results stored in bfloat16 are off by 2e-3"
