"""Masked prediction: places are a set with an order of no consequence, and only masked patches count."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from diptych.core.losses.distillation import distillation_loss
from diptych.core.losses.masked_prediction import (
    chunked_masked_prediction,
    gather_patches,
    masked_prediction_loss,
    patch_mask,
)
from tests.models.examples import numpy_of, value_and_gradients

examples = settings(max_examples=12, deadline=None, derandomize=True, database=None)
RNG = np.random.default_rng(0)


def places(n, length, count, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([np.sort(rng.permutation(length)[:count]) for _ in range(n)]).astype("int32")


@examples
@given(shape=st.sampled_from([(1, 1, 1), (3, 4, 2), (2, 9, 9)]), seed=st.integers(0, 1000))
def test_mask_and_gather_are_numpys(shape, seed):
    n, length, count = shape
    masked = places(n, length, count, seed)
    tokens = np.random.default_rng(seed).normal(size=(n, length, 3)).astype("float32")
    expected = np.zeros((n, length), bool)
    np.put_along_axis(expected, masked, True, axis=1)
    mask = ops.convert_to_numpy(patch_mask(masked, length))
    assert mask.dtype == bool
    assert np.array_equal(mask, expected)
    assert np.array_equal(
        numpy_of(gather_patches(tokens, masked)), np.take_along_axis(tokens, masked[..., None], axis=1)
    )


def test_the_gradient_of_a_gather_is_dense_and_lands_where_it_came_from():
    tokens, masked = keras.Variable(RNG.normal(size=(2, 5, 3)).astype("float32")), places(2, 5, 2)
    cotangent = RNG.normal(size=(2, 2, 3)).astype("float32")
    _, (gradient,) = value_and_gradients(
        lambda: ops.sum(gather_patches(tokens.value, ops.convert_to_tensor(masked)) * ops.convert_to_tensor(cotangent)),
        [tokens],
    )
    assert type(gradient).__name__ != "IndexedSlices"
    expected = np.zeros((2, 5, 3))
    np.put_along_axis(expected, masked[..., None], cotangent, axis=1)
    np.testing.assert_allclose(numpy_of(gradient), expected, rtol=1e-6)


@examples
@given(seed=st.integers(0, 1000), count=st.sampled_from([1, 3, 6]))
def test_the_order_of_the_masked_patches_does_not_count(seed, count):
    rng = np.random.default_rng(seed)
    tokens = [rng.normal(size=(2, 6, 7)).astype("float32") for _ in range(2)]
    masked, centre = places(2, 6, count, seed), rng.normal(size=7).astype("float32")
    shuffled = rng.permuted(masked, axis=1)
    loss = [
        numpy_of(masked_prediction_loss(*(gather_patches(x, order) for x in tokens), centre))
        for order in (masked, shuffled)
    ]
    np.testing.assert_allclose(loss[0], loss[1], rtol=1e-6)
    assert np.array_equal(ops.convert_to_numpy(patch_mask(masked, 6)), ops.convert_to_numpy(patch_mask(shuffled, 6)))


def test_each_image_is_the_mean_over_its_patches():
    student, teacher = (RNG.normal(size=(3, 4, 6)).astype("float32") for _ in range(2))
    centre = RNG.normal(size=6).astype("float32")
    each = numpy_of(distillation_loss(student, teacher, centre))
    np.testing.assert_allclose(numpy_of(masked_prediction_loss(student, teacher, centre)), each.mean(1), rtol=1e-6)


@pytest.mark.parametrize("rows_per_chunk", [1, 5, None])
def test_chunks_cut_across_images(rows_per_chunk):
    student, teacher = (RNG.normal(size=(3, 4, 5)).astype("float32") for _ in range(2))
    prototypes, teacher_prototypes = (0.3 * RNG.normal(size=(5, 6)).astype("float32") for _ in range(2))
    centre = RNG.normal(size=6).astype("float32")
    temperatures = {"student_temperature": 0.2, "teacher_temperature": 0.1}
    expected = masked_prediction_loss(student @ prototypes, teacher @ teacher_prototypes, centre, **temperatures)
    got = chunked_masked_prediction(
        student, teacher, prototypes, teacher_prototypes, centre, rows_per_chunk=rows_per_chunk, **temperatures
    )
    np.testing.assert_allclose(numpy_of(got), numpy_of(expected), rtol=1e-5)


def test_features_of_different_images_are_refused():
    a, b = np.zeros((2, 3, 4), "float32"), np.zeros((3, 3, 4), "float32")
    with pytest.raises(ValueError, match="must both be"):
        chunked_masked_prediction(
            a, b, np.zeros((4, 5), "float32"), np.zeros((4, 5), "float32"), np.zeros(5, "float32")
        )
