"""One block of the sigmoid loss's negatives on NVIDIA Hopper (sm_90): a Mosaic GPU product with an epilogue.

With s_ij = x_i·y_j and z = t s + b, over the pairs (i, j) with i < rows, j < columns and j != i + offset:

    probabilities_ij = σ(z),  sums = (Σ softplus(z), Σ σ(z) s, Σ σ(z))

Every other pair has probability 0 and is in no sum. Products and sums are in float32; without atomics, so the same
inputs give the same bits. `x` and `y` are bfloat16 or float16; probabilities are in the same dtype, float16 ones times
FLOAT16_SCALE.

A persistent CTA (one per SM) holds three warpgroups. One copies steps of tile_k of the width to a ring of stages in
shared memory. Two multiply, and either take tiles in turns, so that one has the tensor cores while the other is in its
epilogue, or half of each tile's rows. A stage's way round: the copies arrive at `full`, its readers wait for them,
multiply and arrive at `consumed`, for which the copying warpgroup waits before it fills the stage again. Each turn has
its own barriers, because a warpgroup has to see every phase of a barrier that it waits for.

Legend: m rows (images), n columns (texts), d width, padded to k; p CTAs; a tile is tile_m by tile_n pairs, of which a
warpgroup has `rows`.
docs/sigmoid_loss.md derives the formulas.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from diptych.backends.jax.contrastive.sweep import Block
from diptych.backends.plan import FLOAT16_SCALE, LARGEST_BLOCK, LEFT_TO_TRANSFERS, LOG1P

INTERPRETER_IS_PUBLIC = hasattr(plgpu, "InterpretGPUParams")
"""Not so in jax 0.10, the only difference between the versions that this file knows. The interpreter of that version
cannot read a transposed operand either, and is given y transposed."""

COMPUTE_WARPGROUPS = 2
COPY_REGISTERS, COMPUTE_REGISTERS = 40, 232
"""Of each thread of the warpgroup that copies, and of the two that multiply; an SM has 65,536."""

ROWS = 64
"""Of a tile's part that the epilogue has in registers beside the products, and that one copy stores."""

SUMS = 4
"""Three, and a row of zeros: a warpgroup's 128 threads fill shared memory in multiples of 128."""

BESIDE = ("rows_smem", "columns_smem")

INTERPRETED_CORES = 2
"""CTAs in the interpreter, where no device says how many there are: few, so that each has more than one tile."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """How the block is cut.

    tile_m, tile_n: pairs whose products are in registers at once; multiples of 64.
    turns: 2 where the warpgroups take tiles in turns; 1 where they halve each tile's rows: tile_m is a multiple of 128.
    tile_k: width of one copy to shared memory; 64 elements are a row of the widest swizzle.
    stages: how many such copies are under way or in use.
    columns: of a tile's part in the epilogue; fewer than 64 where the products leave it too few registers.
    band: columns of tiles that are walked through row by row, so that neighbouring CTAs share their operands in L2.
    """

    tile_m: int = 128
    tile_n: int = 128
    turns: int = 2
    tile_k: int = 64
    stages: int = 4
    columns: int = 64
    band: int = 8


DEFAULT = Config()

CANDIDATES = (
    DEFAULT,
    Config(stages=5),
    Config(tile_n=192, columns=32),
    Config(turns=1),
    Config(turns=1, tile_n=256, stages=3),
    Config(turns=1, tile_m=256, stages=3),
)
"""What is worth timing on an H100 or H200."""


@dataclass(frozen=True)
class Epilogue:
    """What becomes of the products of a tile, in each of the warpgroups that multiply.

    outputs: shapes and dtypes of what it writes.
    scratch: name -> its shared memory.
    open: `(inputs, outputs, scratch, core, warpgroup)` -> (begin, tile, close). Inputs and outputs are tuples of
        references in global memory. `begin(row, column)` is called before the products of a warpgroup's part of a
        tile, whose first pair is (row, column), `tile(s, row, column)` with them, `[rows, tile_n]`, and `close()`
        after the last.
    """

    outputs: list[jax.ShapeDtypeStruct]
    scratch: dict[str, Any]
    open: Callable


def negatives_block(
    x,
    y,
    scale_and_bias,
    limits,
    with_probabilities=True,
    *,
    config: Config = DEFAULT,
    left_free: int = 0,
    interpret: bool = False,
):
    """The probabilities of a block of pairs, each a negative, and partial sums.

    Args:
        x, y: `[m, d]` and `[n, d]`, both bfloat16 or both float16; m and n multiples of the tile.
        scale_and_bias: t and b, float32 `[2]`.
        limits: rows, columns and offset, int32 `[3]`; an offset outside of (-rows, columns) excludes nothing.
        with_probabilities: whether to write the matrix.
        left_free: multiprocessors on which no CTA runs.
        interpret: whether to run in the interpreter, on any device, rather than on a GPU.

    Returns:
        probabilities `[m, n]` in x's dtype, or None, and sums, float32 `[p, 3]`, to be added up by the caller.

    Raises:
        ValueError: for a shape, dtype or tile that the kernel does not have.
    """
    weigh = partial(sums_and_matrix, _negatives, terms=3, with_matrix=with_probabilities)
    plan = {"config": config, "left_free": left_free, "interpret": interpret}
    sums, probabilities = summed(over_tiles(weigh, x, y, (scale_and_bias, limits), **plan), 3)
    return probabilities, sums * jnp.array([math.log(2.0), 1.0, 1.0], jnp.float32)


def over_tiles(epilogue: Callable[..., Epilogue], x, y, inputs: tuple, *, config, left_free, interpret) -> list:
    """The product of x and y tile by tile, each handed to an epilogue when it is whole; what the epilogue writes.

    Args:
        epilogue: `(m, n, dtype, cores, config)` -> the epilogue of a block of m by n pairs on so many CTAs.
        inputs: arrays that the epilogue reads.

    Raises:
        ValueError: for a shape, dtype or tile that the kernel does not have.
    """
    _check(x, y, config)
    (m, d), n = x.shape, y.shape[0]
    missing = -d % config.tile_k
    x, y = (jnp.pad(array, ((0, 0), (0, missing))) if missing else array for array in (x, y))
    cores = max(1, (INTERPRETED_CORES if interpret else _cores()) - left_free)
    cores = min(cores, (m // config.tile_m) * (n // config.tile_n))
    after = epilogue(m, n, x.dtype, cores, config)
    width_first = interpret and not INTERPRETER_IS_PUBLIC
    call = plgpu.kernel(
        partial(_kernel, epilogue=after, inputs=len(inputs), config=config, width_first=width_first),
        out_type=after.outputs,
        grid=(cores,),
        grid_names=("core",),
        num_threads=COMPUTE_WARPGROUPS + 1,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
        **({"interpret": _interpreter()} if interpret else {}),
    )
    return call(x, y.T if width_first else y, *inputs)


def _check(x, y, config):
    if x.dtype != y.dtype or x.dtype not in (jnp.bfloat16, jnp.float16):
        raise ValueError(f"Got x of {x.dtype} and y of {y.dtype}, expected both bfloat16 or both float16.")
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"Got x of shape {x.shape} and y of shape {y.shape}, expected [m, d] and [n, d].")
    if x.shape[0] % config.tile_m or y.shape[0] % config.tile_n:
        raise ValueError(
            f"Got {x.shape[0]} rows and {y.shape[0]} columns, expected multiples of {config.tile_m} and "
            f"{config.tile_n}: pad them and give the sizes without the padding in `limits`."
        )
    if (
        config.turns not in (1, COMPUTE_WARPGROUPS)
        or rows_of(config) % ROWS
        or config.tile_n % 64
        or config.tile_k % 64
        or config.columns not in (32, 64)
    ):
        raise ValueError(
            f"Got {config}, expected turns of 1 or 2, tile_m a multiple of 128 (of 64 with 2 turns), "
            "tile_n and tile_k of 64, columns of 32 or 64."
        )


def rows_of(config: Config) -> int:
    """Rows of a tile that one warpgroup has."""
    return config.tile_m * config.turns // COMPUTE_WARPGROUPS


def _kernel(x_gmem, y_gmem, *rest, epilogue, inputs, config, width_first):
    """x `[m, k]`, y `[n, k]` or, width first, `[k, n]`, then what the epilogue reads, and what it writes."""
    tiles = (x_gmem.shape[0] // config.tile_m, y_gmem.shape[width_first] // config.tile_n)
    steps, rows, dtype = x_gmem.shape[1] // config.tile_k, rows_of(config), x_gmem.dtype
    y_tile = (config.tile_k, config.tile_n) if width_first else (config.tile_n, config.tile_k)

    def body(x_smem, y_smem, full, consumed, **scratch):
        core, warpgroup = lax.axis_index("core"), lax.axis_index("warpgroup")
        own_tiles = pl.cdiv(tiles[0] * tiles[1] - core, lax.axis_size("core"))

        def first_pair(own_tile):
            """The row and the column at which a tile of this CTA begins."""
            index = core + own_tile * lax.axis_size("core")
            tile_row, tile_column = plgpu.planar_snake(index, tiles, 1, config.band)
            return tile_row * config.tile_m, tile_column * config.tile_n

        def stage_and_barrier(step):
            """Where a step, counted over all tiles of this CTA, is copied to, and the index of its barriers."""
            stage, turn = lax.rem(step, config.stages), lax.rem(lax.div(step, steps), config.turns)
            return stage, turn * config.stages + stage

        @pl.when(warpgroup == COMPUTE_WARPGROUPS)
        def _copy():
            plgpu.set_max_registers(COPY_REGISTERS, action="decrease")

            @pl.loop(0, own_tiles * steps)
            def _step(step):
                @pl.when(step >= config.stages)
                def _free():
                    plgpu.barrier_wait(consumed.at[stage_and_barrier(step - config.stages)[1]])

                stage, barrier = stage_and_barrier(step)
                row, column = first_pair(lax.div(step, steps))
                x_at = (pl.ds(row, config.tile_m), pl.ds(lax.rem(step, steps) * config.tile_k, config.tile_k))
                y_at = (pl.ds(column, config.tile_n), x_at[1])
                plgpu.copy_gmem_to_smem(x_gmem.at[x_at], x_smem.at[stage], full.at[barrier])
                plgpu.copy_gmem_to_smem(
                    y_gmem.at[y_at[::-1] if width_first else y_at], y_smem.at[stage], full.at[barrier]
                )

            @pl.loop(lax.max(own_tiles * steps - config.stages, 0), own_tiles * steps)
            def _last(step):
                plgpu.barrier_wait(consumed.at[stage_and_barrier(step)[1]])

        @pl.when(warpgroup < COMPUTE_WARPGROUPS)
        def _compute():
            plgpu.set_max_registers(COMPUTE_REGISTERS, action="increase")
            begin, tile, close = epilogue.open(rest[:inputs], rest[inputs:], scratch, core, warpgroup)
            turn, first_own_row = (warpgroup, 0) if config.turns == COMPUTE_WARPGROUPS else (0, warpgroup * rows)

            @pl.loop(0, pl.cdiv(own_tiles - turn, config.turns))
            def _tile(index):
                own_tile = index * config.turns + turn
                row, column = first_pair(own_tile)
                row += first_own_row
                begin(row, column)

                @partial(pl.run_scoped, products=plgpu.ACC((rows, config.tile_n), jnp.float32))
                def _with_products(products):
                    @pl.loop(own_tile * steps, (own_tile + 1) * steps)
                    def _multiply(step):
                        stage, barrier = stage_and_barrier(step)
                        plgpu.barrier_wait(full.at[barrier])
                        x_stage, y_stage = x_smem.at[stage, pl.ds(first_own_row, rows)], y_smem.at[stage]
                        plgpu.wgmma(products, x_stage, y_stage if width_first else y_stage.T)
                        plgpu.wgmma_wait(1)  # for the step before, of which the tensor cores are done then

                        @pl.when(step > own_tile * steps)
                        def _release():
                            plgpu.barrier_arrive(consumed.at[stage_and_barrier(step - 1)[1]])

                    s = products[...]
                    plgpu.barrier_arrive(consumed.at[stage_and_barrier((own_tile + 1) * steps - 1)[1]])
                    tile(s, row, column)

            close()

    scratch = {
        "x_smem": plgpu.SMEM(
            (config.stages, config.tile_m, config.tile_k), dtype, transforms=_layout(config.tile_k, dtype)
        ),
        "y_smem": plgpu.SMEM((config.stages, *y_tile), dtype, transforms=_layout(y_tile[1], dtype)),
        "full": plgpu.Barrier(num_arrivals=2, num_barriers=config.turns * config.stages),
        "consumed": plgpu.Barrier(
            num_arrivals=COMPUTE_WARPGROUPS // config.turns, num_barriers=config.turns * config.stages
        ),
    }
    pl.run_scoped(body, **scratch, **epilogue.scratch, collective_axes="warpgroup")


def sums_and_matrix(
    terms_of, m, n, dtype, cores, config, *, terms: int, with_matrix: bool, with_beside: bool = False
) -> Epilogue:
    """Sums of a few terms of each pair, and a number of each pair as a matrix.

    terms_of: `(s, inputs, row, column, *beside)` -> terms of the pairs from (row, column) on: the first `terms` of them
        are added up, and the last is the matrix's, in x's dtype, float16 ones times FLOAT16_SCALE.
    with_beside: whether the last two inputs, float32 `[m]` and `[n]`, are a number of each row and of each column;
        those of the pairs are handed to terms_of as beside.
    """
    rows = rows_of(config)
    sums = jax.ShapeDtypeStruct((cores, COMPUTE_WARPGROUPS, SUMS, rows), jnp.float32)
    scratch = {"sums_smem": plgpu.SMEM(sums.shape[1:], jnp.float32)}
    if with_matrix:
        shape = (COMPUTE_WARPGROUPS, 2, ROWS, config.columns)
        scratch["matrix_smem"] = plgpu.SMEM(shape, dtype, transforms=_layout(config.columns, dtype))
    if with_beside:
        scratch |= beside_in_smem(config)
        scratch["beside_full"] = plgpu.Barrier(num_arrivals=2, num_barriers=COMPUTE_WARPGROUPS)

    def open_(inputs, outputs, scratch, core, warpgroup):
        own_sums = scratch["sums_smem"].at[warpgroup]
        own_sums[...] = jnp.zeros(own_sums.shape, jnp.float32)
        of_rows, of_columns = (scratch[name].at[warpgroup] for name in BESIDE) if with_beside else (None, None)

        def begin(row, column):
            """Copies what is beside the tile while it is multiplied; the tile before ended with `commit_smem`, after
            all threads had read theirs.
            """
            if with_beside:
                full = scratch["beside_full"].at[warpgroup]
                plgpu.copy_gmem_to_smem(inputs[-2].at[pl.ds(row, rows)], of_rows, full)
                plgpu.copy_gmem_to_smem(inputs[-1].at[pl.ds(column, config.tile_n)], of_columns, full)

        def tile(s, row, column):
            if with_beside:
                plgpu.barrier_wait(scratch["beside_full"].at[warpgroup])
            copies = 0
            for r in range(0, rows, ROWS):
                row_sums = [0.0] * terms  # in registers: an addition in shared memory has the warpgroup wait for itself
                for c in range(0, config.tile_n, config.columns):
                    part = s[r : r + ROWS, c : c + config.columns]
                    beside = (of_rows[r : r + ROWS], of_columns[c : c + config.columns]) if with_beside else ()
                    found = terms_of(part, inputs, row + r, column + c, *beside)
                    row_sums = [
                        total + jnp.sum(term, axis=1) for total, term in zip(row_sums, found[:terms], strict=True)
                    ]
                    if with_matrix:
                        slot = scratch["matrix_smem"].at[warpgroup, copies % 2]
                        plgpu.wait_smem_to_gmem(min(copies, 1), wait_read_only=True)  # until its last copy was read
                        slot[...] = (found[-1] * (FLOAT16_SCALE if dtype == jnp.float16 else 1.0)).astype(dtype)
                        plgpu.commit_smem()
                        at = (pl.ds(row + r, ROWS), pl.ds(column + c, config.columns))
                        plgpu.copy_smem_to_gmem(slot, outputs[1].at[at])
                        copies += 1
                for index, total in enumerate(row_sums):
                    own_sums[index, r : r + ROWS] += total

        def close():
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(own_sums, outputs[0].at[core, warpgroup])
            plgpu.wait_smem_to_gmem(0)

        return begin, tile, close

    matrix = [jax.ShapeDtypeStruct((m, n), dtype)] if with_matrix else []
    return Epilogue([sums, *matrix], scratch, open_)


def beside_in_smem(config: Config) -> dict[str, Any]:
    """Shared memory for a number of each row and each column of a warpgroup's part of a tile."""
    lengths = rows_of(config), config.tile_n
    return {
        name: plgpu.SMEM((COMPUTE_WARPGROUPS, length), jnp.float32)
        for name, length in zip(BESIDE, lengths, strict=True)
    }


def summed(written: list, terms: int):
    """What `sums_and_matrix` wrote -> sums in parts, float32 `[p, terms]`, and the matrix or None."""
    sums, *matrix = written
    return jnp.sum(sums[:, :, :terms], axis=3).reshape(-1, terms), (matrix[0] if matrix else None)


def _negatives(s, inputs, row, column):
    """softplus(z) / ln 2, σ(z) s and σ(z) of products s, whose first is that of the pair (row, column).

    The exponent is to base 2: z / ln 2 takes no more operations than z, and a power of 2 is one instruction.
    """
    scale_and_bias, limits = inputs
    z = s * (scale_and_bias[0] * math.log2(math.e)) + scale_and_bias[1] * math.log2(math.e)
    z = without_excluded(z, limits, row, column)
    e = jnp.exp2(-jnp.abs(z))
    root = lax.rsqrt(1.0 + e)
    reciprocal = root * root  # within 3 roundings, one instruction and a product; a division is some ten
    probability = jnp.where(z >= 0.0, reciprocal, e * reciprocal)
    polynomial = jnp.full_like(e, LOG1P[-1] / math.log(2.0))
    for coefficient in LOG1P[-2::-1]:
        polynomial = polynomial * e + coefficient / math.log(2.0)
    softplus = jnp.maximum(z, 0.0) + e * polynomial
    return softplus, probability * s, probability


def without_excluded(z, limits, row, column):
    """z, with -inf for the pairs that do not count: probability and softplus are then 0. Few tiles have such pairs."""
    rows, columns, offset = limits[0], limits[1], limits[2]
    first, last = column - row - (z.shape[0] - 1), column - row + (z.shape[1] - 1)
    touched = (row + z.shape[0] > rows) | (column + z.shape[1] > columns) | ((first <= offset) & (offset <= last))

    def exclude(z):
        i = lax.broadcasted_iota(jnp.int32, z.shape, 0) + row
        j = lax.broadcasted_iota(jnp.int32, z.shape, 1) + column
        return jnp.where((i < rows) & (j < columns) & (j - i != offset), z, -jnp.inf)

    return lax.cond(touched, exclude, lambda z: z, z)


def _layout(columns, dtype):
    """How rows of so many elements lie in shared memory for the tensor cores, and for copies without bank conflicts."""
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


BLOCK = Block(
    negatives_block,
    largest=LARGEST_BLOCK,
    multiple=128,
    processors=_cores,
    beside_transfers=partial(negatives_block, left_free=LEFT_TO_TRANSFERS),
)
