"""NaFlex: positions are torch's antialiased bilinear resize, grids are data, and padding has no part in anything."""

from dataclasses import replace
from functools import cache

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.data.examples.naflex import patchify
from diptych.core.weights.resizing import resize_positions
from diptych.models import NaFlexVisionConfig, NaFlexVisionTransformer, SigLIP
from diptych.models.siglip.adapting import to_naflex
from diptych.models.siglip.naflex import ResizedPositionEmbedding, patch_places
from tests.models.examples import TINY, forward, numpy_of, value_and_gradients

LENGTH, WIDTH = 256, 3
EXACT = 3e-6
"""For tables of values in [-1, 1]."""

SMALL = NaFlexVisionConfig(width=16, depth=2, mlp_dim=24, num_heads=2, patch_size=2, position_grid=4)
SHAPES = np.array([[2, 3], [1, 7], [3, 3], [4, 1]], np.int32)
PATCHES = np.random.default_rng(0).uniform(-1, 1, (4, 9, 12)).astype("float32")


def positions_of(layer, spatial_shapes, length=LENGTH):
    """What the layer adds, `[batch, length, WIDTH]`."""
    return layer(keras.ops.zeros((spatial_shapes.shape[0], length, WIDTH)), spatial_shapes)


@cache
def table_and_function(grid):
    """A random table, and the layer that has it, as one compiled function on jax: of grids, which are data ->
    positions.
    """
    layer = ResizedPositionEmbedding(grid=grid)
    layer.build((None, LENGTH, WIDTH))
    table = np.random.default_rng(grid).uniform(-1, 1, (grid, grid, WIDTH)).astype("float32")
    layer.embedding.assign(table)
    return table, compiled(lambda spatial_shapes: positions_of(layer, spatial_shapes))[0]


def compiled(function):
    """(the function, compiled for whatever values its arguments have, a function that tells how often it was
    traced).
    """
    if keras.config.backend() == "jax":
        return _traced_by_jax(function)
    return {"torch": _traced_by_torch, "tensorflow": _traced_by_tensorflow}[keras.config.backend()](function)


def _traced_by_jax(function):
    import jax

    traces = []

    def traced(x):
        traces.append(x.shape)
        return function(x)

    return jax.jit(traced), lambda: len(traces)


def _traced_by_tensorflow(function):
    import tensorflow as tf

    graph = tf.function(function, jit_compile=True, autograph=False)
    return lambda x: graph(tf.constant(x)), graph.experimental_get_tracing_count


def _traced_by_torch(function):
    """torch.export: a graph without Python, so a step that depended on the grids' values would raise."""
    import torch

    class Module(torch.nn.Module):
        def forward(self, x):
            return function(x)

    programs = []

    def run(x):
        x = torch.from_numpy(x)
        if not programs:
            programs.append(torch.export.export(Module(), (x,)).module())
        return programs[0](x).detach()

    return run, lambda: len(programs)


def by_torch(table, rows, columns, *, antialias=True):
    """torch's resize of the table, `[rows * columns, width]`.

    A single column is resized as a single row: torch 2.13 on a CPU gives wrong values for an output of one column.
    """
    torch = pytest.importorskip("torch")
    if columns == 1 < rows:
        return by_torch(table.swapaxes(0, 1), 1, rows, antialias=antialias)
    picture = torch.from_numpy(table).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(
        picture, size=(rows, columns), mode="bilinear", antialias=antialias, align_corners=False
    )
    return resized[0].permute(1, 2, 0).reshape(rows * columns, -1).numpy()


def furthest(positions, table, spatial_shapes, reference):
    """The largest difference from the reference over the patches that exist."""
    differences = [
        np.abs(numpy_of(own)[: rows * columns] - reference(table, rows, columns)).max()
        for own, (rows, columns) in zip(positions, spatial_shapes.tolist(), strict=True)
    ]
    return max(differences)


@st.composite
def grids(draw):
    """Four grids of at most LENGTH patches."""
    rows = st.integers(1, 64) | st.sampled_from([1, LENGTH])
    shapes = []
    for _ in range(4):
        row_count = draw(rows)
        shapes.append((row_count, draw(st.integers(1, LENGTH // row_count) | st.just(LENGTH // row_count))))
    return np.array(draw(st.permutations(shapes)), np.int32)


@given(spatial_shapes=grids(), grid=st.sampled_from([1, 3, 7, 16]))
@settings(max_examples=60, deadline=None)
def test_positions_are_torchs_antialiased_bilinear_resize(spatial_shapes, grid):
    table, positions = table_and_function(grid)
    assert furthest(positions(spatial_shapes), table, spatial_shapes, by_torch) < EXACT


@given(spatial_shapes=grids(), grid=st.sampled_from([3, 16]))
@settings(max_examples=30, deadline=None)
def test_positions_are_those_of_a_table_that_was_resized_in_float64(spatial_shapes, grid):
    def in_float64(table, rows, columns):
        return resize_positions(table, (rows, columns)).reshape(rows * columns, -1)

    table, positions = table_and_function(grid)
    assert furthest(positions(spatial_shapes), table, spatial_shapes, in_float64) < EXACT


@pytest.mark.parametrize("shape", [(1, 1), (1, 256), (256, 1), (64, 4), (16, 16), (5, 7), (15, 17)])
def test_positions_of_grids_that_are_named(shape):
    shapes = np.array([shape] * 4, np.int32)
    table, positions = table_and_function(16)
    assert furthest(positions(shapes), table, shapes, by_torch) < EXACT
    if shape == (16, 16):
        assert np.array_equal(numpy_of(positions(shapes))[0], table.reshape(256, WIDTH))


def test_a_resize_without_antialiasing_is_told_apart():
    shapes = np.array([[5, 7]] * 4, np.int32)
    table, positions = table_and_function(16)

    def plain(table, rows, columns):
        return by_torch(table, rows, columns, antialias=False)

    assert furthest(positions(shapes), table, shapes, plain) > 0.1
    transposed = positions(shapes[:, ::-1].copy())
    assert furthest(transposed, table, shapes, by_torch) > 0.1


@pytest.mark.parametrize("length", [1, 3, 17, 255])
def test_lengths_may_be_odd(length):
    table, _ = table_and_function(7)
    layer = ResizedPositionEmbedding(grid=7)
    layer.build((None, None, WIDTH))
    layer.embedding.assign(table)
    shapes = np.array([[1, length], [length, 1], [1, 1]], np.int32)
    positions = forward(lambda x: positions_of(layer, x, length), shapes)
    assert furthest(positions, table, shapes, by_torch) < EXACT


def test_the_whole_tower_is_traced_once_for_all_grids():
    tower = NaFlexVisionTransformer(SMALL)
    run, traces = compiled(
        lambda shapes: tower({"patches": keras.ops.convert_to_tensor(PATCHES), "spatial_shapes": shapes})["pooled"]
    )
    several = [SHAPES, SHAPES[::-1].copy(), np.ones_like(SHAPES), np.full_like(SHAPES, 3)]
    pooled = [numpy_of(run(shapes)) for shapes in several]
    assert traces() == 1
    for shapes, got in zip(several, pooled, strict=True):
        assert np.allclose(got, numpy_of(forward(tower, batch_of(shapes))["pooled"]), atol=1e-5)
    assert np.abs(pooled[0] - pooled[2]).max() > 1e-2


def batch_of(spatial_shapes, patches=PATCHES):
    return {"patches": patches, "spatial_shapes": spatial_shapes}


def randomized(model):
    """The model with random values in every weight, biases too."""
    rng = np.random.default_rng(3)
    for weight in model.weights:
        weight.assign(rng.normal(0, 0.3, weight.shape))
    return model


def exists(spatial_shapes, length):
    return np.arange(length) < spatial_shapes.prod(axis=1, keepdims=True)


@pytest.mark.parametrize("pooling", ["map", "gap"])
@pytest.mark.parametrize("garbage", [1e4, -3e15])
def test_what_stands_in_padding_changes_nothing(pooling, garbage):
    tower = randomized(NaFlexVisionTransformer(replace(SMALL, pooling=pooling)))
    real = exists(SHAPES, PATCHES.shape[1])
    assert not real.all()
    before, after = (
        forward(tower, batch_of(SHAPES, np.where(real[..., None], PATCHES, fill).astype("float32")))
        for fill in (0, garbage)
    )
    assert np.isfinite(numpy_of(before["pooled"])).all()
    assert np.array_equal(numpy_of(before["pooled"]), numpy_of(after["pooled"]))
    assert np.array_equal(numpy_of(before["tokens"])[real], numpy_of(after["tokens"])[real])
    last_real = np.where(real[..., None], PATCHES, 0).astype("float32")
    last_real[0, SHAPES[0].prod() - 1] += 1
    assert (
        np.abs(numpy_of(forward(tower, batch_of(SHAPES, last_real))["pooled"]) - numpy_of(before["pooled"]))[0].max()
        > 1e-3
    )


def test_how_much_padding_there_is_changes_nothing():
    tower = randomized(NaFlexVisionTransformer(SMALL))
    padded = np.concatenate([PATCHES, np.full((4, 8, 12), 7.0, "float32")], axis=1)
    short, long = (numpy_of(forward(tower, batch_of(SHAPES, x))["pooled"]) for x in (PATCHES, padded))
    assert np.allclose(short, long, atol=1e-5)


def test_padding_has_no_gradient_and_gradients_are_finite():
    tower = randomized(NaFlexVisionTransformer(SMALL))
    patches = keras.Variable(np.where(exists(SHAPES, 9)[..., None], PATCHES, 1e4).astype("float32"))

    def loss():
        batch = batch_of(keras.ops.convert_to_tensor(SHAPES), patches.value)
        return keras.ops.sum(keras.ops.square(tower(batch)["pooled"]))

    _, gradients = value_and_gradients(loss, [patches, *tower.trainable_variables])
    of_patches, *of_weights = (numpy_of(gradient) for gradient in gradients)
    real = exists(SHAPES, 9)
    assert np.all(of_patches[~real] == 0)
    assert np.all(np.abs(of_patches[real]).max(axis=-1) > 0)
    assert all(np.isfinite(gradient).all() for gradient in of_weights)


def test_images_do_not_see_each_other():
    tower = randomized(NaFlexVisionTransformer(SMALL))
    order = [2, 0, 3, 1]
    pooled = numpy_of(forward(tower, batch_of(SHAPES))["pooled"])
    permuted = numpy_of(forward(tower, batch_of(SHAPES[order], PATCHES[order]))["pooled"])
    assert np.allclose(permuted, pooled[order], atol=1e-6)
    assert not np.allclose(permuted, pooled, atol=1e-3)


@pytest.mark.parametrize("pooling", ["map", "gap"])
@pytest.mark.parametrize("padding", [0, 4])
def test_on_square_images_it_is_the_model_of_fixed_resolution(pooling, padding):
    side, patch = 20, TINY.vision.patch_size
    fixed = randomized(SigLIP(replace(TINY, vision=replace(TINY.vision, image_size=side, pooling=pooling))))
    flexible = to_naflex(fixed, max_num_patches=25)
    images = np.random.default_rng(5).uniform(-1, 1, (3, side, side, 3)).astype("float32")
    patches = np.stack([patchify(image, patch) for image in images])
    patches = np.pad(patches, ((0, 0), (0, padding), (0, 0)), constant_values=9.0)
    shapes = np.full((3, 2), side // patch, np.int32)
    square = numpy_of(forward(fixed.image_embedder(), images))
    native = numpy_of(forward(flexible.image_embedder(), batch_of(shapes, patches)))
    assert np.allclose(square, native, atol=1e-5)
    assert np.abs(square[0] - square[1]).max() > 1e-2
    token_ids = np.ones((3, TINY.text.context_length), np.int32)
    texts = [numpy_of(forward(model.text_embedder(), token_ids)) for model in (fixed, flexible)]
    assert np.array_equal(*texts)


def test_patches_lie_row_by_row():
    row, column, there = (
        numpy_of(x) for x in patch_places(keras.ops.convert_to_tensor(np.array([[2, 3]], np.int32)), 8)
    )
    assert row[0, :6].tolist() == [0, 0, 0, 1, 1, 1]
    assert column[0, :6].tolist() == [0, 1, 2, 0, 1, 2]
    assert there[0].tolist() == [1, 1, 1, 1, 1, 1, 0, 0]
    assert row[0].max() <= 1
