"""Positions on another grid, patch kernels for another patch size: identities that define them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.weights.resizing import interpolation_matrix, resize_patch_kernel, resize_positions

SIZES = st.integers(1, 40)


@settings(deadline=None)
@given(old=SIZES, new=SIZES, antialias=st.booleans())
def test_interpolation_averages(old, new, antialias):
    matrix = interpolation_matrix(old, new, antialias=antialias)
    assert matrix.shape == (new, old)
    assert matrix.min() >= 0
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-12)  # nothing prefers one end


@settings(deadline=None)
@given(old=st.integers(2, 20), factor=st.integers(2, 5))
def test_a_straight_line_stays_one_away_from_the_ends(old, factor):
    """Half-pixel centres: sample i of n lies at (i + 1/2) / n, whatever n is."""
    line = (np.arange(old) + 0.5) / old
    resized = interpolation_matrix(old, old * factor, antialias=True) @ line
    places = (np.arange(old * factor) + 0.5) / (old * factor)
    inside = (places >= line[0]) & (places <= line[-1])
    np.testing.assert_allclose(resized[inside], places[inside], atol=1e-12)


def test_shrinking_to_half_weighs_four_samples_by_a_triangle():
    np.testing.assert_allclose(interpolation_matrix(8, 4, antialias=True)[1], np.array([0, 1, 3, 3, 1, 0, 0, 0]) / 8)
    np.testing.assert_allclose(interpolation_matrix(8, 4, antialias=False)[1], np.array([0, 0, 1, 1, 0, 0, 0, 0]) / 2)


@settings(max_examples=20, deadline=None)
@given(grid=st.tuples(st.integers(1, 9), st.integers(1, 9)), new=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_a_constant_table_stays_constant_and_the_same_grid_is_untouched(grid, new):
    table = np.random.default_rng(0).standard_normal((*grid, 3)).astype(np.float32)
    assert resize_positions(table, grid) is table
    constant = np.broadcast_to(table[:1, :1], table.shape)
    np.testing.assert_allclose(resize_positions(constant, new), np.broadcast_to(table[0, 0], (*new, 3)), rtol=1e-6)
    assert resize_positions(table, new).dtype == np.float32


@settings(max_examples=20, deadline=None)
@given(old=st.integers(1, 8), growth=st.integers(0, 8), seed=st.integers(0, 99))
def test_grown_patches_give_what_they_gave(old, growth, seed):
    """The embedding of a resized patch by the resized kernel is the patch's own (FlexiViT, section 3.4)."""
    rng, new = np.random.default_rng(seed), old + growth
    kernel, patch = rng.standard_normal((old, old, 3, 5)), rng.standard_normal((old, old, 3))
    line = interpolation_matrix(old, new, antialias=False)
    grown = np.einsum("ia,jb,abc->ijc", line, line, patch)
    resized = resize_patch_kernel(kernel.astype(np.float32), new)
    expected = np.einsum("abc,abcw->w", patch, kernel)
    np.testing.assert_allclose(np.einsum("ijc,ijcw->w", grown, resized), expected, rtol=1e-4, atol=1e-4)


def test_shrunken_patches_are_as_close_as_can_be():
    """Against patches drawn from a unit normal no other kernel has a smaller squared error: its gradient is zero."""
    kernel = np.random.default_rng(0).standard_normal((6, 6, 1, 1)).astype(np.float32)
    line = interpolation_matrix(6, 4, antialias=False)
    resize = np.kron(line, line)
    error = resize.T @ resize_patch_kernel(kernel, 4).reshape(-1) - kernel.reshape(-1)
    np.testing.assert_allclose(resize @ error, 0, atol=1e-5)
    naive = (resize @ kernel.reshape(-1)) * 36 / 16
    assert np.abs(resize @ (resize.T @ naive - kernel.reshape(-1))).max() > 0.05


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resize_positions(np.zeros((4, 5)), 3), r"expected a table \[rows, columns, width\]"),
        (lambda: resize_positions(np.zeros((4, 4, 2)), 0), "a grid of 1 or more"),
        (
            lambda: resize_patch_kernel(np.zeros((4, 5, 3, 2)), 3),
            r"expected a kernel \[patch, patch, channels, width\]",
        ),
    ],
)
def test_what_cannot_be_resized_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
