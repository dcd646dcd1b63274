"""The blocks of CLIP's softmax loss on TPU: the normalisers of a block of pairs, and its weights, in Pallas.

The tiles are those of `pallas_tpu`, with two other epilogues. With z = t x_i·y_j, over the pairs (i, j) with i < rows,
j < columns and j != i + offset:

    normalisers    log Σ_j exp(z_ij) of each row and log Σ_i exp(z_ij) of each column
    weights        w_ij = exp(z_ij - rows_i) + exp(z_ij - columns_j), and Σ w s

A sum of exponentials is kept as its largest term and the sum over it, and grows strip by strip.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from diptych.backends.jax.contrastive.pallas_tpu import (
    DEFAULT,
    LARGEST,
    MULTIPLE,
    SUBLANES,
    Config,
    by_lane,
    first_of_a_row,
    in_strips,
    kept,
    lanes,
    matrix_in_tiles,
    over_tiles,
    sums_by_lane,
)
from diptych.backends.jax.contrastive.sweep import Block


def normalisers_block(x, y, scale, limits, *, config: Config = DEFAULT, interpret: bool = False):
    """The logarithms, float32 `[m]` and `[n]`, minus infinity where no pair counts.

    Args:
        x, y, limits, config, interpret: as for `pallas_tpu.negatives_block`.
        scale: t, float32 scalar.
    """
    (m, n), down = (len(x), len(y)), x.shape[0] // config.tile_m
    of_rows = pl.BlockSpec((config.tile_m, 1), lambda i, j, k: (i, 0)), ((m, 1), jnp.float32)
    of_columns = pl.BlockSpec((SUBLANES, config.tile_n), lambda i, j, k: (i, j)), ((down * SUBLANES, n), jnp.float32)
    outputs = [of_rows, of_rows, of_columns]
    tops, totals, columns = over_tiles(
        _normalisers, x, y, scale.reshape(1), limits, outputs=outputs, config=config, interpret=interpret
    )
    by_tile = columns.reshape(down, SUBLANES, n)
    rows = (tops + jnp.log(totals))[:, 0]
    return rows, jax.nn.logsumexp(by_tile[:, 0] + jnp.log(by_tile[:, 1]), axis=0)


def weights_block(
    x,
    y,
    scale,
    limits,
    with_weights,
    row_logarithms,
    column_logarithms,
    *,
    config: Config = DEFAULT,
    interpret: bool = False,
):
    """The weights `[m, n]` in x's dtype, and Σ w s in parts, float32 `[p, 1]`; arguments as for `WeighedPairs`."""
    beside = (
        (pl.BlockSpec((config.tile_m, 1), lambda i, j, k: (i, 0)), row_logarithms[:, None]),
        (pl.BlockSpec((1, config.tile_n), lambda i, j, k: (0, j)), column_logarithms[None, :]),
    )
    outputs = [sums_by_lane(x, config), matrix_in_tiles(x, y, config)]
    sums, weights = over_tiles(
        _weights, x, y, scale.reshape(1), limits, beside=beside, outputs=outputs, config=config, interpret=interpret
    )
    return weights, by_lane(sums, 1)


def _normalisers(products, scale, limits, row, column, row_tops, row_totals, columns):
    """Rows' `[tile_m, 1]` grow over a row of tiles; columns `[8, tile_n]` hold a tile's in the first two of them."""

    @first_of_a_row
    def _start_row():
        row_tops[...] = jnp.full(row_tops.shape, -jnp.inf, jnp.float32)
        row_totals[...] = jnp.zeros(row_totals.shape, jnp.float32)

    columns[0:1, :] = jnp.full((1, columns.shape[1]), -jnp.inf, jnp.float32)
    columns[1:2, :] = jnp.zeros((1, columns.shape[1]), jnp.float32)

    @in_strips(products)
    def _strip(at, first, s):
        z = jnp.where(kept(s.shape, limits, row + first, column), s * scale[0], -jnp.inf)
        row_tops[at, :], row_totals[at, :] = _grown(row_tops[at, :], row_totals[at, :], z, axis=1)
        columns[0:1, :], columns[1:2, :] = _grown(columns[0:1, :], columns[1:2, :], z, axis=0)


def _grown(top, total, z, axis):
    """The largest exponent, and the sum of exp(exponent - largest), with those of z along an axis."""
    grown = jnp.maximum(top, jnp.max(z, axis=axis, keepdims=True))
    above = jnp.where(grown == -jnp.inf, 0.0, grown)
    return grown, total * jnp.exp(top - above) + jnp.sum(jnp.exp(z - above), axis=axis, keepdims=True)


def _weights(products, scale, limits, row, column, row_logarithms, column_logarithms, sums, weights):
    @first_of_a_row
    def _start_row():
        sums[...] = jnp.zeros(sums.shape, sums.dtype)

    @in_strips(products)
    def _strip(at, first, s):
        z = jnp.where(kept(s.shape, limits, row + first, column), s * scale[0], -jnp.inf)
        w = jnp.exp(z - row_logarithms[at, :]) + jnp.exp(z - column_logarithms[...])
        weights[at, :] = w.astype(weights.dtype)
        sums[0:1, :] += lanes(w * s)


NORMALISERS = Block(normalisers_block, largest=LARGEST, multiple=MULTIPLE)
WEIGHTS = Block(weights_block, largest=LARGEST, multiple=MULTIPLE)
