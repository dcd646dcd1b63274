"""Products of bfloat16 operands: rounded once, summed in float32, in the gradient too, however the rows are cut."""

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import ops

from diptych import backends
from diptych.core.losses.captioning import chunked_cross_entropy, cross_entropy
from diptych.core.losses.distillation import chunked_distillation
from diptych.core.losses.products import bfloat16_product, float32_product, multiply_bfloat16
from tests.models.examples import forward, numpy_of, value_and_gradients
from tests.oracle import captioner as oracle

TOKENS, WIDTH, WORDS = 13, 300, 40


def draw(*shape, seed=0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype("float32")


def rounded(array) -> np.ndarray:
    """What bfloat16 keeps of it, in float64."""
    return np.asarray(array).astype(ml_dtypes.bfloat16).astype("float64")


def relative(got, expected) -> float:
    return float(np.linalg.norm(numpy_of(got) - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_runs_precision_chooses_its_operands_and_sums_are_float32(precision):
    features, table = draw(TOKENS, WIDTH), draw(WIDTH, WORDS)
    exact, coarse = features.astype("float64") @ table, rounded(features) @ rounded(table)
    logits = forward(lambda arrays: backends.product(precision)(*arrays), (features, table))
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    if precision == "float32":
        assert relative(logits, exact) < 1e-6
    else:
        assert relative(logits, coarse) < 1e-6, "sums of bfloat16 would be off by 1e-3"
        assert 1e-4 < relative(logits, exact) < 4e-3


@pytest.mark.parametrize("multiply", [multiply_bfloat16, None], ids=["definition", "native"])
def test_the_gradient_is_that_of_rounded_operands_and_a_rounded_incoming_gradient(multiply):
    product = backends.product("bfloat16") if multiply is None else bfloat16_product(multiply)
    features, table, incoming = (
        draw(TOKENS, WIDTH), draw(WIDTH, WORDS), rounded(draw(TOKENS, WORDS)).astype("float32"),
    )  # fmt: skip
    variables = [keras.Variable(features), keras.Variable(table)]
    _, gradients = value_and_gradients(
        lambda: ops.sum(product(*(v.value for v in variables)) * ops.convert_to_tensor(incoming)), variables
    )
    if multiply is None or keras.config.backend() != "jax":  # XLA on the CPU leaves out a rounding and its way back
        assert relative(gradients[0], incoming.astype("float64") @ rounded(table).T) < 1e-6
        assert relative(gradients[1], rounded(features).T @ incoming) < 1e-6
    assert relative(gradients[0], incoming.astype("float64") @ table.T) < 4e-3
    assert relative(gradients[1], features.astype("float64").T @ incoming) < 4e-3


@pytest.mark.parametrize("tokens_per_chunk", [4, 13])
def test_the_captioning_loss_of_bfloat16_operands_is_near_the_oracles_however_it_is_cut(tokens_per_chunk):
    point = {"hidden": draw(TOKENS, WIDTH), "kernel": draw(WIDTH, WORDS) / 17, "bias": draw(WORDS)}
    labels = np.arange(TOKENS, dtype="int32")
    product = backends.product("bfloat16")
    variables = [keras.Variable(value) for value in point.values()]
    settings = {"tokens_per_chunk": tokens_per_chunk, "product": product}
    value, gradients = value_and_gradients(
        lambda: ops.sum(chunked_cross_entropy(*(v.value for v in variables), labels, **settings)), variables
    )
    right, backward = oracle.cross_entropy(rounded(point["hidden"]), rounded(point["kernel"]), point["bias"], labels)
    assert float(value) == pytest.approx(right.sum(), rel=1e-6)
    for got, wanted in zip(gradients, backward(np.ones(TOKENS)), strict=True):
        assert relative(got, wanted) < 4e-3
    losses = cross_entropy(*(v.value for v in variables), ops.convert_to_tensor(labels))
    exact, _ = oracle.cross_entropy(*point.values(), labels)
    assert relative(losses, exact) < 2e-6, "without a product nothing is rounded"


@pytest.mark.parametrize("rows_per_chunk", [2, 5])
def test_the_distillation_loss_of_bfloat16_operands_is_near_that_of_float32(rows_per_chunk):
    def unit(*shape, axis, seed):
        array = draw(*shape, seed=seed)
        return array / np.linalg.norm(array, axis=axis, keepdims=True)

    features, prototypes = unit(5, 3, 64, axis=-1, seed=1), unit(64, 21, axis=0, seed=2)
    teacher = unit(5, 64, axis=-1, seed=3), unit(64, 21, axis=0, seed=4)
    variables = [keras.Variable(features), keras.Variable(prototypes)]
    found = []
    for product in (float32_product, backends.product("bfloat16")):
        value, gradients = value_and_gradients(
            lambda product=product: ops.sum(
                chunked_distillation(
                    variables[0].value, teacher[0], variables[1].value, teacher[1], np.zeros(21, "float32"),
                    rows_per_chunk=rows_per_chunk, product=product,
                )
            ),
            variables,
        )  # fmt: skip
        found.append((float(value), *map(numpy_of, gradients)))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-3)
    assert found[1][0] != found[0][0]
    for exact, coarse in zip(found[0][1:], found[1][1:], strict=True):
        assert relative(coarse, exact) < 0.02


def test_what_chunks_add_to_a_tables_gradient_is_summed_up_in_float32():
    """A thousand gradients of one size: bfloat16 would stop growing at 256 of them."""
    kernel = keras.Variable(np.zeros((2, 3), "float32"))
    hidden, labels = np.ones((1024, 2), "float32"), np.zeros(1024, "int32")
    settings = {"tokens_per_chunk": 1, "product": backends.product("bfloat16")}
    _, (gradient,) = value_and_gradients(
        lambda: ops.sum(
            chunked_cross_entropy(ops.convert_to_tensor(hidden), kernel.value, ops.zeros(3), labels, **settings)
        ),
        [kernel],
    )
    np.testing.assert_allclose(numpy_of(gradient)[0], [-1024 * 2 / 3, 1024 / 3, 1024 / 3], rtol=4e-3)
