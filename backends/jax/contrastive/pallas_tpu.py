"""One block of the sigmoid loss's negatives on TPU: a Mosaic matrix product with the loss in its epilogue.

With s_ij = x_i·y_j and z = t s + b, over the pairs (i, j) with i < rows, j < columns and j != i + offset:

    probabilities_ij = σ(z),  sums = (Σ softplus(z), Σ σ(z) s, Σ σ(z))

Every other pair has probability 0 and is in no sum. Products and sums are in float32, of float32 embeddings in full
precision. `x` and `y` are bfloat16 or float32; probabilities are in the same dtype.

The grid is walked through in order, the width innermost: a tile's products are added up in VMEM, and the last step of
the width turns them into probabilities and sums. Each row of tiles has its own sums, one for each of a vector's 128
lanes.

Legend: m rows (images), n columns (texts), d width; a tile is tile_m by tile_n pairs; p partial sums.
docs/sigmoid_loss.md derives the formulas.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from diptych.backends.jax.contrastive.sweep import Block
from diptych.backends.plan import LOG1P

LANES = 128
SUBLANES = 8
STRIP = 16
"""Rows that the epilogue takes at once: a packed bfloat16 vector's. More of them would not stay in registers."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """How the block is cut.

    tile_m, tile_n: pairs whose products are in VMEM at once; multiples of 16 and 128.
    tile_k: width of one step; a multiple of 128.
    """

    tile_m: int = 512
    tile_n: int = 1024
    tile_k: int = 256


DEFAULT = Config()

CANDIDATES = (
    DEFAULT,
    Config(tile_m=256, tile_n=512),
    Config(tile_n=512, tile_k=512),
    Config(tile_m=1024, tile_n=1024),
)
"""What is worth timing on a TPU v5e or v6e."""


def negatives_block(
    x, y, scale_and_bias, limits, with_probabilities=True, *, config: Config = DEFAULT, interpret: bool = False
):
    """The probabilities of a block of pairs, each a negative, and partial sums.

    Args:
        x, y: `[m, d]` and `[n, d]`, both bfloat16 or both float32; m and n multiples of the tile.
        scale_and_bias: t and b, float32 `[2]`.
        limits: rows, columns and offset, int32 `[3]`; an offset outside of (-rows, columns) excludes nothing.
        with_probabilities: whether to write the matrix.
        interpret: whether to run in the interpreter, on any device, rather than on a TPU.

    Returns:
        probabilities `[m, n]` in x's dtype, or None, and sums, float32 `[p, 3]`, to be added up by the caller.

    Raises:
        ValueError: for a shape, dtype or tile that the kernel does not have.
    """
    outputs = [sums_by_lane(x, config), *([matrix_in_tiles(x, y, config)] if with_probabilities else [])]
    sums, *probabilities = over_tiles(
        _sigmoid, x, y, scale_and_bias, limits, outputs=outputs, config=config, interpret=interpret
    )
    return (probabilities[0] if with_probabilities else None), by_lane(sums, 3)


def over_tiles(
    epilogue: Callable,
    x,
    y,
    scalars,
    limits,
    *,
    beside: tuple = (),
    outputs: list,
    config: Config,
    interpret: bool,
) -> list[jax.Array]:
    """The product of x and y tile by tile, each handed to an epilogue when it is whole.

    Args:
        epilogue: `(products, scalars, limits, row, column, *beside, *outputs)` writes what a tile, whose first pair is
            (row, column), has.
        scalars: float32, one axis.
        beside, outputs: (specification of a tile's part, array) and (specification, (shape, dtype)).

    Raises:
        ValueError: for a shape, dtype or tile that the kernel does not have.
    """
    _check(x, y, config)
    (m, d), n = x.shape, y.shape[0]
    missing = -d % config.tile_k
    x, y = (jnp.pad(array, ((0, 0), (0, missing))) if missing else array for array in (x, y))
    in_smem = pl.BlockSpec(memory_space=pltpu.SMEM)
    return pl.pallas_call(
        partial(_kernel, epilogue),
        grid=(m // config.tile_m, n // config.tile_n, (d + missing) // config.tile_k),
        in_specs=[
            pl.BlockSpec((config.tile_m, config.tile_k), lambda i, j, k: (i, k)),
            pl.BlockSpec((config.tile_n, config.tile_k), lambda i, j, k: (j, k)),
            in_smem,
            in_smem,
            *(spec for spec, _ in beside),
        ],
        out_specs=[spec for spec, _ in outputs],
        out_shape=[jax.ShapeDtypeStruct(*shape) for _, shape in outputs],
        scratch_shapes=[pltpu.VMEM((config.tile_m, config.tile_n), jnp.float32)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary", "arbitrary")),
        interpret=pltpu.InterpretParams() if interpret else False,
    )(x, y, scalars, limits, *(array for _, array in beside))


def _check(x, y, config):
    if x.dtype != y.dtype or x.dtype not in (jnp.bfloat16, jnp.float32):
        raise ValueError(f"Got x of {x.dtype} and y of {y.dtype}, expected both bfloat16 or both float32.")
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"Got x of shape {x.shape} and y of shape {y.shape}, expected [m, d] and [n, d].")
    if x.shape[0] % config.tile_m or y.shape[0] % config.tile_n:
        raise ValueError(
            f"Got {x.shape[0]} rows and {y.shape[0]} columns, expected multiples of {config.tile_m} and "
            f"{config.tile_n}: pad them and give the sizes without the padding in `limits`."
        )
    if config.tile_m % STRIP or config.tile_n % LANES or config.tile_k % LANES:
        raise ValueError(f"Got {config}, expected tile_m a multiple of {STRIP}, tile_n and tile_k of {LANES}.")


def _kernel(epilogue, x, y, scalars, limits, *rest):
    """x `[tile_m, tile_k]`, y `[tile_n, tile_k]`, what goes with them, what is written, and products
    `[tile_m, tile_n]`, which stay from step to step.
    """
    *others, products = rest
    row, column = pl.program_id(0) * x.shape[0], pl.program_id(1) * y.shape[0]
    step, steps = pl.program_id(2), pl.num_programs(2)

    @pl.when(step == 0)
    def _start_tile():
        products[...] = jnp.zeros(products.shape, products.dtype)

    products[...] += lax.dot_general(
        x[...],
        y[...],
        (((1,), (1,)), ((), ())),
        precision=lax.Precision.HIGHEST if x.dtype == jnp.float32 else lax.Precision.DEFAULT,
        preferred_element_type=jnp.float32,
    )

    @pl.when(step == steps - 1)
    def _finish_tile():
        epilogue(products, scalars, limits, row, column, *others)


def _sigmoid(products, scale_and_bias, limits, row, column, sums, probabilities=None):
    """t and b `[2]` -> sums `[8, 128]`, probabilities `[tile_m, tile_n]` or nothing."""

    @first_of_a_row
    def _start_row():
        sums[...] = jnp.zeros(sums.shape, sums.dtype)

    @in_strips(products)
    def _strip(at, first, s):
        counts = kept(s.shape, limits, row + first, column)
        terms = _negatives(s, counts, scale_and_bias[0], scale_and_bias[1])
        if probabilities is not None:
            probabilities[at, :] = terms[2].astype(probabilities.dtype)
        for index, term in enumerate(terms):
            sums[index : index + 1, :] += lanes(term)


def first_of_a_row(function):
    """Calls it where a tile is the first of its row."""
    return pl.when(pl.program_id(1) == 0)(function)


def in_strips(products):
    """Calls a function with each strip of a tile: where it lies, its first row, its products."""

    def call(function):
        @pl.loop(0, products.shape[0] // STRIP)
        def _strip(index):
            first = pl.multiple_of(index * STRIP, STRIP)
            at = pl.ds(first, STRIP)
            function(at, first, products[at, :])

    return call


def kept(shape, limits, row, column):
    """Which of the pairs from (row, column) on count."""
    i = lax.broadcasted_iota(jnp.int32, shape, 0) + row
    j = lax.broadcasted_iota(jnp.int32, shape, 1) + column
    return (i < limits[0]) & (j < limits[1]) & (j - i != limits[2])


def _negatives(s, counts, scale, bias):
    """softplus(z), σ(z) s and σ(z) of products s, 0 for pairs that do not count."""
    z = jnp.where(counts, s * scale + bias, -jnp.inf)
    e = jnp.exp(-jnp.abs(z))
    reciprocal = 1.0 / (1.0 + e)
    probability = jnp.where(z >= 0.0, reciprocal, e * reciprocal)
    polynomial = jnp.full_like(e, LOG1P[-1])
    for coefficient in LOG1P[-2::-1]:
        polynomial = polynomial * e + coefficient
    return jnp.maximum(z, 0.0) + e * polynomial, probability * s, probability


def lanes(term):
    """The sums `[1, 128]` of a strip over its rows and over its columns of one lane."""
    over_rows = jnp.sum(term, axis=0, keepdims=True)
    return sum(over_rows[:, start : start + LANES] for start in range(0, term.shape[1], LANES))


def sums_by_lane(x, config: Config):
    """Of `over_tiles`' outputs: for each row of tiles 8 terms at most, each a sum for every lane."""
    shape = (x.shape[0] // config.tile_m * SUBLANES, LANES)
    return pl.BlockSpec((SUBLANES, LANES), lambda i, j, k: (i, 0)), (shape, jnp.float32)


def matrix_in_tiles(x, y, config: Config):
    """Of `over_tiles`' outputs: a number a pair, in x's dtype."""
    return pl.BlockSpec((config.tile_m, config.tile_n), lambda i, j, k: (i, j)), ((len(x), len(y)), x.dtype)


def by_lane(sums, terms: int):
    """What `sums_by_lane` has of so many terms, `[p, terms]`."""
    return sums.reshape(-1, SUBLANES, LANES)[:, :terms].swapaxes(1, 2).reshape(-1, terms)


LARGEST, MULTIPLE = 8192, 1024
"""Rows and columns of the largest block, and what they are padded to."""

BLOCK = Block(negatives_block, largest=LARGEST, multiple=MULTIPLE)
