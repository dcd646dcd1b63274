"""One block of the sigmoid loss's negatives on NVIDIA Hopper (sm_90): a Mosaic GPU matrix product with the loss in its epilogue.

With s_ij = x_i·y_j and z = t s + b, over the pairs (i, j) with i < rows, j < columns and j != i + offset:

    probabilities_ij = σ(z),  sums = (Σ softplus(z), Σ σ(z) s, Σ σ(z))

Every other pair has probability 0 and is in no sum. Products and sums are in float32; without atomics, so the same inputs give
the same bits. `x` and `y` are bfloat16 or float16; probabilities are in the same dtype, float16 ones times FLOAT16_SCALE.

A persistent CTA (one per SM) holds three warpgroups: one copies tiles to shared memory, two multiply, each half of the tile's
rows. While they work on the epilogue the copies of the next tile are under way.

Legend: m rows (images), n columns (texts), d width, padded to k; p CTAs; a tile is tile_m by tile_n pairs.
docs/sigmoid_loss.md derives the formulas.
"""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from diptych.backends.jax.sigmoid_loss.sweep import Block
from diptych.backends.plan import FLOAT16_SCALE, LOG1P

INTERPRETER_IS_PUBLIC = hasattr(plgpu, "InterpretGPUParams")
"""Not so in jax 0.10, the only difference between the versions that this file knows. The interpreter of that version cannot
read a transposed operand either, and is given y transposed."""

COMPUTE_WARPGROUPS = 2
MEMORY_REGISTERS = 40
"""Of each thread of the warpgroup that only copies; the others share what it leaves."""

SLICE = 64
"""Rows and columns of a tile that the epilogue has in registers beside the products, and that one copy stores."""

SUMS = 4
"""Three, and a row of zeros: a warpgroup's 128 threads fill shared memory in multiples of 128."""

INTERPRETED_CORES = 2
"""CTAs in the interpreter, where no device says how many there are: few, so that each has more than one tile."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """How the block is cut.

    tile_m, tile_n: pairs of one step of a CTA; multiples of 128 and 64.
    tile_k: width of one copy to shared memory; 64 elements are a row of the widest swizzle.
    stages: how many such copies are under way or in use.
    band: columns of tiles that are walked through row by row, so that neighbouring CTAs share their operands in L2.
    """

    tile_m: int = 128
    tile_n: int = 128
    tile_k: int = 64
    stages: int = 4
    band: int = 8


DEFAULT = Config()

CANDIDATES = (
    DEFAULT,
    Config(band=16),
    Config(tile_k=128, stages=2),
    Config(tile_n=192),
    Config(tile_n=256, stages=3),
    Config(tile_m=256, stages=3),
)
"""What is worth timing on an H100 or H200."""


def negatives_block(
    x, y, scale_and_bias, limits, with_probabilities=True, *, config: Config = DEFAULT, interpret: bool = False
):
    """The probabilities of a block of pairs, each a negative, and partial sums.

    Args:
        x, y: `[m, d]` and `[n, d]`, both bfloat16 or both float16; m and n multiples of the tile.
        scale_and_bias: t and b, float32 `[2]`.
        limits: rows, columns and offset, int32 `[3]`; an offset outside of (-rows, columns) excludes nothing.
        with_probabilities: whether to write the matrix.
        interpret: whether to run in the interpreter, on any device, rather than on a GPU.

    Returns:
        probabilities `[m, n]` in x's dtype, or None, and sums, float32 `[p, 3]`, to be added up by the caller.

    Raises:
        ValueError: for a shape, dtype or tile that the kernel does not have.
    """
    _check(x, y, config)
    (m, d), n = x.shape, y.shape[0]
    missing = -d % config.tile_k
    x, y = (jnp.pad(array, ((0, 0), (0, missing))) if missing else array for array in (x, y))
    cores = min(INTERPRETED_CORES if interpret else _cores(), (m // config.tile_m) * (n // config.tile_n))
    rows = config.tile_m // COMPUTE_WARPGROUPS
    probabilities = [jax.ShapeDtypeStruct((m, n), x.dtype)] if with_probabilities else []
    width_first = interpret and not INTERPRETER_IS_PUBLIC
    call = plgpu.kernel(
        partial(_kernel, config=config, width_first=width_first),
        out_type=[jax.ShapeDtypeStruct((cores, COMPUTE_WARPGROUPS, SUMS, rows), jnp.float32), *probabilities],
        grid=(cores,),
        grid_names=("core",),
        num_threads=COMPUTE_WARPGROUPS + 1,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
        **({"interpret": _interpreter()} if interpret else {}),
    )
    sums, *probabilities = call(x, y.T if width_first else y, scale_and_bias, limits)
    return (probabilities[0] if with_probabilities else None), jnp.sum(sums[:, :, :3], axis=3).reshape(-1, 3)


def _check(x, y, config):
    if x.dtype != y.dtype or x.dtype not in (jnp.bfloat16, jnp.float16):
        raise ValueError(f"Got x of {x.dtype} and y of {y.dtype}, expected both bfloat16 or both float16.")
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"Got x of shape {x.shape} and y of shape {y.shape}, expected [m, d] and [n, d].")
    if x.shape[0] % config.tile_m or y.shape[0] % config.tile_n:
        raise ValueError(
            f"Got {x.shape[0]} rows and {y.shape[0]} columns, expected multiples of {config.tile_m} and {config.tile_n}: "
            "pad them and give the sizes without the padding in `limits`."
        )
    if config.tile_m % (COMPUTE_WARPGROUPS * SLICE) or config.tile_n % SLICE or config.tile_k % 16:
        raise ValueError(
            f"Got {config}, expected tile_m a multiple of {COMPUTE_WARPGROUPS * SLICE}, tile_n of {SLICE} and tile_k of 16."
        )


def _kernel(x_gmem, y_gmem, scale_and_bias_gmem, limits_gmem, sums_gmem, *probabilities_gmem, config, width_first):
    """x `[m, k]`, y `[n, k]` or, width first, `[k, n]`, t and b `[2]`, limits `[3]`
    -> sums `[p, 2, 4, tile_m / 2]`, probabilities `[m, n]` or nothing.
    """
    tiles = (x_gmem.shape[0] // config.tile_m, y_gmem.shape[width_first] // config.tile_n)
    rows = config.tile_m // COMPUTE_WARPGROUPS
    slices = [(r, c) for r in range(0, rows, SLICE) for c in range(0, config.tile_n, SLICE)]
    dtype = x_gmem.dtype
    operands, stored = _layout(config.tile_k, dtype), _layout(SLICE, dtype)

    if width_first:
        y_spec = plgpu.BlockSpec(
            (config.tile_k, config.tile_n), lambda k: (k, 0), transforms=_layout(config.tile_n, dtype)
        )
    else:
        y_spec = plgpu.BlockSpec((config.tile_n, config.tile_k), lambda k: (0, k), transforms=operands)

    def pipeline(step, context):
        return plgpu.emit_pipeline_warp_specialized(
            step,
            grid=(x_gmem.shape[1] // config.tile_k,),
            memory_registers=MEMORY_REGISTERS,
            in_specs=[
                plgpu.BlockSpec((config.tile_m, config.tile_k), lambda k: (0, k), transforms=operands),
                y_spec,
            ],
            wg_axis="warpgroup",
            num_compute_wgs=COMPUTE_WARPGROUPS,
            max_concurrent_steps=config.stages,
            compute_context=context,
        )

    def nothing(*_):
        return None

    def body(buffers, sums_smem, probabilities_smem=None):
        core, warpgroup = lax.axis_index("core"), lax.axis_index("warpgroup")
        own_sums = sums_smem.at[warpgroup]

        @pl.when(warpgroup < COMPUTE_WARPGROUPS)
        def _start():
            own_sums[...] = jnp.zeros(own_sums.shape, jnp.float32)

        @plgpu.nd_loop((tiles[0] * tiles[1],), collective_axes="core")
        def _tile(loop):
            tile_row, tile_column = plgpu.planar_snake(loop.index[0], tiles, 1, config.band)
            first_row, first_column = tile_row * config.tile_m, tile_column * config.tile_n
            own_rows = pl.ds(warpgroup * rows, rows)

            def multiply(_, x_smem, y_smem, products):
                plgpu.wgmma(products, x_smem.at[own_rows], y_smem if width_first else y_smem.T)
                plgpu.wgmma_wait(0)
                return products

            def with_epilogue(run_pipeline):
                @partial(pl.run_scoped, products=plgpu.ACC((rows, config.tile_n), jnp.float32))
                def _products(products):
                    run_pipeline(products)
                    s_tile = products[...]
                    scale, bias = scale_and_bias_gmem[0], scale_and_bias_gmem[1]
                    limits = limits_gmem[0], limits_gmem[1], limits_gmem[2]
                    if probabilities_gmem:
                        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                    for index, (r, c) in enumerate(slices):
                        s = s_tile[r : r + SLICE, c : c + SLICE]
                        row, column = first_row + warpgroup * rows + r, first_column + c
                        terms = _negatives(s, scale, bias, limits, row, column)
                        for sum_index, term in enumerate(terms):
                            own_sums[sum_index, r : r + SLICE] += jnp.sum(term, axis=1)
                        if probabilities_gmem:
                            plgpu.wait_smem_to_gmem(1, wait_read_only=True)
                            slot = probabilities_smem.at[warpgroup, index % 2]
                            scaled = terms[2] * FLOAT16_SCALE if slot.dtype == jnp.float16 else terms[2]
                            slot[...] = scaled.astype(slot.dtype)
                            plgpu.commit_smem()
                            at = (pl.ds(row, SLICE), pl.ds(column, SLICE))
                            plgpu.copy_smem_to_gmem(slot, probabilities_gmem[0].at[at])

            columns = pl.ds(first_column, config.tile_n)
            pipeline(multiply, with_epilogue)(
                x_gmem.at[pl.ds(first_row, config.tile_m), :],
                y_gmem.at[:, columns] if width_first else y_gmem.at[columns, :],
                allocations=buffers,
            )

        @pl.when(warpgroup < COMPUTE_WARPGROUPS)
        def _finish():
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(own_sums, sums_gmem.at[core, warpgroup])
            plgpu.wait_smem_to_gmem(0)

    scratch = {
        "buffers": pipeline(nothing, nothing).get_allocations(x_gmem, y_gmem),
        "sums_smem": plgpu.SMEM((COMPUTE_WARPGROUPS, SUMS, rows), jnp.float32),
    }
    if probabilities_gmem:
        shape = (COMPUTE_WARPGROUPS, 2, SLICE, SLICE)
        scratch["probabilities_smem"] = plgpu.SMEM(shape, dtype, transforms=stored)
    pl.run_scoped(body, **scratch, collective_axes="warpgroup")


def _negatives(s, scale, bias, limits, row, column):
    """softplus(z), σ(z) s and σ(z) of products s, whose first is that of the pair (row, column).

    The exponent is to base 2: z / ln 2 takes no more operations than z, and a power of 2 is one instruction.
    """
    z = s * (scale * math.log2(math.e)) + bias * math.log2(math.e)
    z = _without_excluded(z, limits, row, column)
    e = jnp.exp2(jnp.abs(z) * -1.0)
    root = lax.rsqrt(1.0 + e)
    reciprocal = root * root  # within 3 roundings, one instruction and a product; a division is some ten
    probability = jnp.where(z >= 0.0, reciprocal, e * reciprocal)
    polynomial = jnp.full_like(e, LOG1P[-1])
    for coefficient in LOG1P[-2::-1]:
        polynomial = polynomial * e + coefficient
    softplus = jnp.maximum(z, 0.0) * math.log(2.0) + e * polynomial
    return softplus, probability * s, probability


def _without_excluded(z, limits, row, column):
    """z, with -inf for the pairs that do not count: probability and softplus are then 0. Few tiles have such pairs."""
    rows, columns, offset = limits
    first, last = column - row - (z.shape[0] - 1), column - row + (z.shape[1] - 1)
    touched = (row + z.shape[0] > rows) | (column + z.shape[1] > columns) | ((first <= offset) & (offset <= last))

    def exclude(z):
        i = lax.broadcasted_iota(jnp.int32, z.shape, 0) + row
        j = lax.broadcasted_iota(jnp.int32, z.shape, 1) + column
        return jnp.where((i < rows) & (j < columns) & (j - i != offset), z, -jnp.inf)

    return lax.cond(touched, exclude, lambda z: z, z)


def _layout(columns, dtype):
    """How rows of that many elements lie in shared memory for the tensor cores and for copies without bank conflicts."""
    size = jnp.dtype(dtype).itemsize
    swizzle = plgpu.find_swizzle(columns * size * 8)
    return plgpu.TilingTransform((8, swizzle // size)), plgpu.SwizzleTransform(swizzle)


def _cores() -> int:
    """SMs of the GPU that the program is traced for, which need not be there."""
    abstract = jax.sharding.get_abstract_mesh().abstract_device
    if abstract is not None and abstract.num_cores is not None:
        return abstract.num_cores
    return jax.devices("gpu")[0].core_count


def _interpreter():
    """The parameters that run a kernel in the interpreter."""
    if INTERPRETER_IS_PUBLIC:
        return plgpu.InterpretGPUParams()
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

    return InterpretGPUParams()


BLOCK = Block(negatives_block, largest=8448, multiple=128)
"""66 by 66 tiles are 33 on each of the 132 SMs of an H100 or H200."""
