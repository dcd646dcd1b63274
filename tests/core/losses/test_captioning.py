"""The captioning loss: the same value and gradients however it is cut, in the memory of one chunk."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from diptych.core.losses import captioning
from diptych.core.losses.captioning import (
    captioning_loss,
    chunked_cross_entropy,
    combine_tasks,
    cross_entropy,
    tasks_present,
)
from tests.models.examples import numpy_of, value_and_gradients
from tests.oracle import captioner as oracle

NAMES = ("hidden", "kernel", "bias")


def problem(tokens, width, vocabulary, seed=0):
    """float32 arguments at which all matter, and what each token's loss is multiplied by."""
    rng = np.random.default_rng(seed)
    point = {
        "hidden": rng.normal(size=(tokens, width)),
        "kernel": rng.normal(size=(width, vocabulary)) / np.sqrt(width),
        "bias": rng.normal(size=vocabulary),
    }
    point = {name: value.astype("float32") for name, value in point.items()}
    return point, rng.integers(0, vocabulary, tokens).astype("int32"), rng.normal(size=tokens).astype("float32")


def evaluate(function, point, labels, cotangent, **arguments):
    """-> losses, Σ cotangent · loss, and its three gradients, as `Variables` give them."""
    variables = [keras.Variable(point[name]) for name in NAMES]

    def value():
        return ops.sum(ops.multiply(function(*(v.value for v in variables), labels, **arguments), cotangent))

    total, gradients = value_and_gradients(value, variables)
    losses = function(*(ops.convert_to_tensor(point[name]) for name in NAMES), labels, **arguments)
    return numpy_of(losses), float(total), [numpy_of(gradient) for gradient in gradients]


def relative_error(got, expected) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    tokens=st.sampled_from([1, 6, 13]),
    per_chunk=st.sampled_from([1, 4, 6, 100]),
    shape=st.sampled_from([(3, 2), (8, 31)]),
    seed=st.integers(0, 1000),
)
def test_value_and_gradients_are_the_oracles_however_it_is_cut(tokens, per_chunk, shape, seed):
    point, labels, cotangent = problem(tokens, *shape, seed)
    expected, backward = oracle.cross_entropy(*(point[name].astype("float64") for name in NAMES), labels)
    gradients = backward(cotangent.astype("float64"))
    whole = evaluate(cross_entropy, point, labels, cotangent)
    cut = evaluate(chunked_cross_entropy, point, labels, cotangent, tokens_per_chunk=per_chunk)
    for losses, total, got in (whole, cut):
        assert losses.dtype == np.float32
        # u times the square root of the sums' lengths, width and vocabulary, a few times over
        assert relative_error(losses, expected) < 2e-6
        assert total == pytest.approx(float(cotangent @ expected), rel=1e-5, abs=1e-5)
        for name, gradient, right in zip(NAMES, got, gradients, strict=True):
            assert np.linalg.norm(gradient - right) <= 4e-6 * np.linalg.norm(cotangent), name


def test_a_wrong_cross_entropy_is_seen():
    point, labels, cotangent = problem(13, 8, 31)
    expected, _ = oracle.cross_entropy(*(point[name].astype("float64") for name in NAMES), labels)
    shifted, _ = oracle.cross_entropy(*(point[name].astype("float64") for name in NAMES), (labels + 1) % 31)
    assert relative_error(shifted, expected) > 0.1
    assert relative_error(expected * np.nan, expected) != relative_error(expected * np.nan, expected)


def test_it_runs_compiled():
    point, labels, _ = problem(13, 8, 31)
    expected = numpy_of(cross_entropy(*(ops.convert_to_tensor(point[name]) for name in NAMES), labels))

    class Loss(keras.Model):
        def call(self, inputs):
            return chunked_cross_entropy(*(inputs[name] for name in (*NAMES, "labels")), tokens_per_chunk=4)[:, None]

    model = Loss()
    model.built = True
    got = _compiled(model)({**point, "labels": labels})
    assert np.allclose(numpy_of(got)[:, 0], expected, rtol=1e-5, atol=1e-6)


def _compiled(function):
    if keras.config.backend() == "jax":
        import jax

        return jax.jit(lambda x: function(x))
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, autograph=False)
    return function


def test_with_a_kernel_of_zeros_each_token_costs_the_logarithm_of_the_vocabulary():
    hidden = np.ones((3, 4), "float32")
    losses = chunked_cross_entropy(
        ops.convert_to_tensor(hidden), ops.zeros((4, 256_000)), ops.zeros(256_000), np.array([0, 5, 255_999])
    )
    assert np.allclose(numpy_of(losses), 12.452932, atol=1e-5)


def test_sixteen_bit_features_give_float32_losses():
    point, labels, _ = problem(6, 8, 31)
    hidden = ops.cast(point["hidden"], "bfloat16")
    losses = chunked_cross_entropy(
        hidden, ops.convert_to_tensor(point["kernel"]), ops.convert_to_tensor(point["bias"]), labels
    )
    expected, _ = oracle.cross_entropy(numpy_of(hidden).astype("float64"), point["kernel"], point["bias"], labels)
    assert keras.backend.standardize_dtype(losses.dtype) == "float32"
    assert np.allclose(numpy_of(losses), expected, rtol=1e-5, atol=1e-5)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"Expected hidden \[tokens, width\].* got shapes \(3, 4\), \(5, 7\)"):
        chunked_cross_entropy(np.ones((3, 4)), np.ones((5, 7)), np.ones(7), np.ones(3, int))
    with pytest.raises(ValueError, match="number of tokens ahead"):
        chunked_cross_entropy(keras.KerasTensor((None, 4)), np.ones((4, 7)), np.ones(7), np.ones(3, int))


# Memory: 512 tokens over a vocabulary of 2,000 in chunks of 32; all logits are 4 MB, a chunk's 0.25 MB.
TOKENS, WIDTH, VOCABULARY, PER_CHUNK = 512, 8, 2000, 32
LOGITS = 4 * TOKENS * VOCABULARY
CUT = {"tokens_per_chunk": PER_CHUNK}


def saved_bytes_on_torch(function, **arguments) -> int:
    """Bytes of the distinct tensors that torch keeps for the backward pass."""
    import torch

    point, labels, _ = problem(TOKENS, WIDTH, VOCABULARY)
    tensors = [torch.tensor(point[name], requires_grad=True) for name in NAMES]
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = (storage.nbytes(), tensor)  # the tensor keeps its address from being used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function(*tensors, torch.tensor(labels), **arguments)
    return sum(size for size, _ in saved.values())


@pytest.mark.skipif(keras.config.backend() != "torch", reason="only torch tells which tensors it saves")
def test_torch_saves_no_logits():
    assert saved_bytes_on_torch(cross_entropy) > LOGITS
    assert saved_bytes_on_torch(chunked_cross_entropy, **CUT) < LOGITS / 8


@pytest.mark.skipif(keras.config.backend() != "jax", reason="only jax's compiler states its memory")
def test_jax_holds_the_logits_of_one_chunk():
    import jax

    point, labels, _ = problem(TOKENS, WIDTH, VOCABULARY)

    def temporary_bytes(function, **arguments):
        def total(hidden, kernel, bias):
            return ops.sum(function(hidden, kernel, bias, labels, **arguments))

        compiled = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2))).lower(*point.values()).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(cross_entropy) > LOGITS
    assert temporary_bytes(chunked_cross_entropy, **CUT) < LOGITS / 4


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="the lists of a gradient tape are tensorflow's")
def test_tensorflow_carries_no_logits_from_the_forward_pass_to_the_backward_pass(monkeypatch):
    """What a graph's forward loop leaves to its backward loop is in lists, an element for each chunk."""
    assert largest_kept_on_tensorflow() < PER_CHUNK * VOCABULARY
    monkeypatch.setattr(captioning, "remat", lambda function: function)
    assert largest_kept_on_tensorflow() >= PER_CHUNK * VOCABULARY


def largest_kept_on_tensorflow() -> int:
    """Numbers in the largest array that a chunk's forward pass keeps for its backward pass."""
    import tensorflow as tf

    point, labels, _ = problem(TOKENS, WIDTH, VOCABULARY)

    @tf.function(autograph=False)
    def gradients(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            total = ops.sum(chunked_cross_entropy(*tensors, labels, **CUT))
        return tape.gradient(total, tensors)

    graph = gradients.get_concrete_function(*(tf.constant(point[name]) for name in NAMES)).graph
    functions = [graph, *(graph._get_function(name).graph for name in graph._functions)]
    kept = [
        np.prod(operation.inputs[1].shape.as_list() or [1])
        for function in functions
        for operation in function.get_operations()
        if operation.type == "TensorListPushBack"
    ]
    return max(kept)


def test_each_sequence_is_divided_by_its_own_number_of_counted_tokens():
    losses = np.array([[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]], [[1.0, 1.0, 1.0, 9.0], [2.0, 2.0, 2.0, 2.0]]])
    weights = np.array([[[0, 1, 1, 0], [1, 1, 1, 1]], [[1, 1, 1, 1], [0, 0, 0, 0]]], "uint8")
    got = numpy_of(captioning_loss(losses, weights))
    assert np.array_equal(got, [[2.5, 6.5], [3.0, 0.0]])
    present = numpy_of(tasks_present(weights))
    assert np.array_equal(present, [[1, 1], [1, 0]])


def test_an_example_without_boxes_weighs_as_much_as_one_with_boxes():
    """By the mean; by the sum it weighs as many sequences as it has. One that has nothing at all costs nothing."""
    losses, present = np.array([[3.0, 5.0, 4.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), np.tri(3)[[2, 0, 0]]
    present[2] = 0
    assert np.array_equal(numpy_of(combine_tasks(losses, present)), [4.0, 3.0, 0.0])
    assert np.array_equal(numpy_of(combine_tasks(losses, present, weighting="sum")), [12.0, 3.0, 0.0])
    variable = keras.Variable(losses.astype("float32"))
    for weighting, of_a_row in (("mean", [1 / 3, 1 / 3, 1 / 3]), ("sum", [1, 1, 1])):
        _, (gradient,) = value_and_gradients(
            lambda weighting=weighting: ops.sum(combine_tasks(variable.value, present, weighting=weighting)),
            [variable],
        )
        alone = [1, 0, 0]
        assert np.allclose(numpy_of(gradient), [of_a_row, alone, [0, 0, 0]], rtol=1e-6)


def test_the_losses_of_parts_are_the_losses_of_the_whole():
    rng = np.random.default_rng(0)
    losses, weights = rng.random((6, 3, 5)), rng.integers(0, 2, (6, 3, 5))

    def combined(rows):
        return numpy_of(combine_tasks(captioning_loss(losses[rows], weights[rows]), tasks_present(weights[rows])))

    whole, parts = combined(slice(6)), [combined(rows) for rows in (slice(4), slice(4, 6))]
    assert np.allclose(np.concatenate(parts), whole, rtol=1e-6)


def test_a_token_that_does_not_count_has_no_gradient():
    losses = keras.Variable(np.ones((2, 2, 3), "float32"))
    weights = np.array([[[1, 0, 1], [0, 0, 0]], [[1, 1, 1], [0, 1, 0]]], "uint8")
    _, (gradient,) = value_and_gradients(lambda: ops.sum(captioning_loss(losses.value, weights)), [losses])
    counted = weights.sum(-1, keepdims=True)
    assert np.allclose(numpy_of(gradient), weights / np.maximum(counted, 1), rtol=1e-6)


def test_another_weighting_is_refused():
    with pytest.raises(ValueError, match="must be mean or sum, got 'max'"):
        combine_tasks(np.ones((2, 3)), np.ones((2, 3)), weighting="max")
