"""The blocks of CLIP's softmax loss on NVIDIA Hopper: the normalisers of a block of pairs, and its weights, in Mosaic.

The product is that of `pallas_gpu`, with two other epilogues. With z = t x_i·y_j, over the pairs (i, j) with i < rows,
j < columns and j != i + offset:

    normalisers    log Σ_j exp(z_ij) of each row and log Σ_i exp(z_ij) of each column
    weights        w_ij = exp(z_ij - rows_i) + exp(z_ij - columns_j), and Σ w s

Exponents are to base 2, as in `pallas_gpu`. Each warpgroup writes the logarithms of its part of a tile, which are added
up outside: 8 bytes a row or column of 128 pairs, beside the 256 of those pairs' weights.
"""

import math
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from diptych.backends.jax.contrastive.pallas_gpu import (
    BESIDE,
    BLOCK,
    DEFAULT,
    ROWS,
    Config,
    Epilogue,
    beside_in_smem,
    over_tiles,
    rows_of,
    summed,
    sums_and_matrix,
    without_excluded,
)
from diptych.backends.jax.contrastive.sweep import Block
from diptych.backends.plan import LEFT_TO_TRANSFERS

LOG2E = math.log2(math.e)


def normalisers_block(
    x, y, scale, limits, *, config: Config = DEFAULT, left_free: int = 0, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """The logarithms, float32 `[m]` and `[n]`, minus infinity where no pair counts.

    Args:
        x, y, limits, config, left_free, interpret: as for `pallas_gpu.negatives_block`.
        scale: t, float32 scalar.
    """
    plan = {"config": config, "left_free": left_free, "interpret": interpret}
    parts = over_tiles(_logarithms, x, y, (scale.reshape(1), limits), **plan)
    rows, columns = (jax.nn.logsumexp(part * math.log(2.0), axis=0) for part in parts)
    return rows, columns


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
    left_free: int = 0,
    interpret: bool = False,
):
    """The weights `[m, n]` in x's dtype, and Σ w s in parts, float32 `[p, 1]`; arguments as for `WeighedPairs`."""
    inputs = scale.reshape(1), limits, row_logarithms * LOG2E, column_logarithms * LOG2E
    weigh = partial(sums_and_matrix, _weights, terms=1, with_matrix=True, with_beside=True)
    plan = {"config": config, "left_free": left_free, "interpret": interpret}
    sums, weights = summed(over_tiles(weigh, x, y, inputs, **plan), 1)
    return weights, sums


def _weights(s, inputs, row, column, rows, columns):
    """w s and w of products s, whose first is that of the pair (row, column)."""
    scale, limits, *_ = inputs
    z = without_excluded(s * (scale[0] * LOG2E), limits, row, column)
    w = jnp.exp2(z - lax.broadcast_in_dim(rows, z.shape, (0,)))
    w += jnp.exp2(z - lax.broadcast_in_dim(columns, z.shape, (1,)))
    return w * s, w


def _logarithms(m, n, dtype, cores, config) -> Epilogue:
    """Of each part of a tile: log2 Σ exp2 of its rows, `[n / tile_n, m]`, and of its columns, `[m / rows, n]`."""
    rows = rows_of(config)
    shapes = (n // config.tile_n, m), (m // rows, n)

    def open_(inputs, outputs, scratch, core, warpgroup):
        scale, limits = inputs
        of_rows, of_columns = (scratch[name].at[warpgroup] for name in BESIDE)

        def tile(s, row, column):
            def z(r, c):
                part = s[r : r + ROWS, c : c + config.columns] * (scale[0] * LOG2E)
                return without_excluded(part, limits, row + r, column + c)

            plgpu.wait_smem_to_gmem(0, wait_read_only=True)  # until the last tile's were read
            down, across = range(0, rows, ROWS), range(0, config.tile_n, config.columns)
            for r in down:
                of_rows[r : r + ROWS] = _log2_sum([z(r, c) for c in across], axis=1)
            for c in across:
                of_columns[c : c + config.columns] = _log2_sum([z(r, c) for r in down], axis=0)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(of_rows, outputs[0].at[column // config.tile_n, pl.ds(row, rows)])
            plgpu.copy_smem_to_gmem(of_columns, outputs[1].at[row // rows, pl.ds(column, config.tile_n)])

        return (lambda row, column: None), tile, lambda: plgpu.wait_smem_to_gmem(0)

    outputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return Epilogue(outputs, beside_in_smem(config), open_)


def _log2_sum(parts, axis):
    """log2 of the sum of exp2 over an axis of all parts, of one shape; minus infinity where all are.

    Parts are met pair by pair first: what goes across threads, and for columns across shared memory, is one of them.
    """
    top = jnp.max(reduce(jnp.maximum, parts), axis=axis)
    above = jnp.where(top == -jnp.inf, 0.0, top)
    beside = lax.broadcast_in_dim(above, parts[0].shape, (1 - axis,))
    total = jnp.sum(sum(jnp.exp2(part - beside) for part in parts), axis=axis)
    return above + jnp.log(total) * LOG2E


def _block(compute):
    return Block(
        compute,
        largest=BLOCK.largest,
        multiple=BLOCK.multiple,
        processors=BLOCK.processors,
        beside_transfers=partial(compute, left_free=LEFT_TO_TRANSFERS),
    )


NORMALISERS, WEIGHTS = _block(normalisers_block), _block(weights_block)
