"""The hot kernel of the contrastive losses on NVIDIA GPUs: a block of pairs, every one of them a negative, in Triton.

With s_ij = x_i·y_j, over the pairs (i, j) with j != i + offset, by the epilogue:

    SIGMOID        z = t s + b: probabilities_ij = σ(z_ij), sums = (Σ log(1 + exp(z)), Σ σ(z) s, Σ σ(z))
    NORMALISERS    z = t s: log Σ_j exp(z_ij) of each row and log Σ_i exp(z_ij) of each column of a tile
    SOFTMAX        z = t s: w_ij = exp(z_ij - rows_i) + exp(z_ij - columns_j), sums = (0, Σ w s, 0)

`negatives_block` is the first, the other two are launched by `triton_softmax`.

It is a matrix product whose results never reach memory: a program makes a tile of s in registers, and from it a tile of
probabilities and its share of the sums. Products and sums are in float32. Programs are as many as the GPU runs at once;
each takes tile after tile and writes its own sums, so two runs give the same bits. docs/sigmoid_loss.md has the
derivations.

Legend: m rows of x, n rows of y, d width; a tile is BM x BN pairs, made in steps of BK along d.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from diptych.backends.plan import FLOAT16_SCALE
from diptych.backends.torch.contrastive.triton_functions import (
    LARGEST_PRODUCT,
    LN_2,
    LOG2_E,
    log2,
    log2_of_one_more,
    product_less_one,
    product_of_rows,
    sigmoid_parts,
)

INTERPRETED = triton.knobs.runtime.interpret
"""Whether TRITON_INTERPRET=1: kernels are then NumPy on a CPU, one program after the other."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """How a block is cut into tiles, and what the compiler may spend on one."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int
    """Steps along d whose loads are under way at once."""
    max_registers: int | None = None
    """Registers of a thread; None leaves them to the compiler."""
    slices: int = 4
    """Pieces into which a tile's columns are cut before σ and softplus, 1, 2 or 4: fewer values live at once."""
    group_m: int = 8
    """Rows of tiles that are walked down together, column by column, so that they share what they read."""
    programs_per_sm: int = 1
    copy_engine: bool = True
    """Whether the copy engine (TMA) moves whole tiles, or each thread its own part: before compute capability 9.0."""

    def __post_init__(self):
        if self.block_n // self.slices > LARGEST_PRODUCT:
            raise ValueError(
                f"A slice of a tile is at most {LARGEST_PRODUCT} columns wide, whose product of 1 + exp(-|z|) float32 "
                f"holds; got {self.block_n} columns in {self.slices} slices. Cut the tile into more."
            )


# Two programs share a multiprocessor: while one computes probabilities, the other multiplies.
SMALL_TILE = Config(block_m=128, block_n=128, block_k=64, num_warps=4, num_stages=3, programs_per_sm=2)
# A quarter less is read for a product, but nothing multiplies while the probabilities are computed.
LARGE_TILE = Config(block_m=128, block_n=256, block_k=64, num_warps=8, num_stages=4)
# For GPUs with less shared memory.
LIGHT_TILE = Config(block_m=128, block_n=128, block_k=32, num_warps=8, num_stages=4)

CONFIGS = {80: replace(LIGHT_TILE, copy_engine=False), 90: SMALL_TILE, 100: SMALL_TILE, 120: LIGHT_TILE}
"""Ten times the lowest compute capability -> what is used from there on."""

CANDIDATES = (
    SMALL_TILE,
    replace(SMALL_TILE, group_m=16),
    replace(SMALL_TILE, num_warps=8, max_registers=128),
    replace(LARGE_TILE, num_stages=3),
    LARGE_TILE,
    replace(LARGE_TILE, group_m=16),
    replace(LARGE_TILE, block_m=256, block_n=128),
)
"""What is worth timing on a GPU of compute capability 9.0; all compile without spilled registers."""


def config_for(capability: tuple[int, int]) -> Config:
    """The config for a GPU of compute capability (major, minor), at least 8.0."""
    fitting = [lowest for lowest in CONFIGS if lowest <= 10 * capability[0]]
    if not fitting:
        raise ValueError(
            f"No tiles are known for compute capability {capability[0]}.{capability[1]}: expected 8.0 or higher. "
            "Use another implementation."
        )
    return CONFIGS[max(fitting)]


NARROW = tl.constexpr(LARGEST_PRODUCT // 2)
SIGMOID = tl.constexpr(0)
NORMALISERS = tl.constexpr(1)
SOFTMAX = tl.constexpr(2)


@triton.jit
def _halves(a):
    """[rows, columns] -> its left and its right half."""
    rows: tl.constexpr = a.shape[0]
    columns: tl.constexpr = a.shape[1]
    return tl.split(tl.permute(tl.reshape(a, (rows, 2, columns // 2)), (0, 2, 1)))


@triton.jit
def _column_slices(a, SLICES: tl.constexpr):
    """[rows, columns] -> SLICES pieces of as many columns, from left to right."""
    if SLICES == 1:
        return (a,)
    elif SLICES == 2:
        return _halves(a)
    else:
        left, right = _halves(a)
        first, second = _halves(left)
        third, fourth = _halves(right)
        return first, second, third, fourth


@triton.jit
def _tile_origin(tile, m, n, BM: tl.constexpr, BN: tl.constexpr, GROUP_M: tl.constexpr):
    """The first row and column of a tile: GROUP_M rows of tiles at a time, each group column by column."""
    tiles_down, tiles_across = tl.cdiv(m, BM), tl.cdiv(n, BN)
    group_size = GROUP_M * tiles_across
    first = tile // group_size * GROUP_M
    rows = tl.minimum(tiles_down - first, GROUP_M)
    within = tile % group_size
    return (first + within % rows) * BM, within // rows * BN


@triton.jit
def _add_tile(
    tile,
    softplus_sum,
    cosine_sum,
    probability_sum,
    x,
    y,
    probabilities,
    rows_logarithms,
    columns_logarithms,
    scale,
    bias,
    m,
    n,
    offset,
    EPILOGUE: tl.constexpr,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    SLICES: tl.constexpr,
    GROUP_M: tl.constexpr,
    PROBABILITY_SCALE: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """Write what a tile's pairs have -> the three sums `[BM]`, of every row of a tile, with this tile's pairs added;
    that of softplus in units of log(2).
    """
    row, column = _tile_origin(tile, m, n, BM, BN, GROUP_M)
    s = tl.zeros((BM, BN), tl.float32)
    for k in range(0, D, BK):
        x_tile = x.load([row, k])
        y_tile = y.load([column, k])
        if INTERPRETED:  # the interpreter multiplies the bit patterns of bfloat16
            x_tile = x_tile.to(tl.float32)
            y_tile = y_tile.to(tl.float32)
        s = tl.dot(x_tile, y_tile.T, s)

    on_diagonal = (row + offset < column + BN) & (row + BM + offset > column)
    masked = on_diagonal | (row + BM > m) | (column + BN > n)
    WIDTH: tl.constexpr = BN // SLICES
    slices = _column_slices(s, SLICES)
    own_rows = row + tl.arange(0, BM)
    if EPILOGUE == NORMALISERS:
        largest = tl.full((BM,), float("-inf"), tl.float32)
        total = tl.zeros((BM,), tl.float32)
    elif EPILOGUE == SOFTMAX:
        of_rows = tl.load(rows_logarithms + own_rows, mask=own_rows < m, other=0.0)
    for i in tl.static_range(SLICES):
        first = column + i * WIDTH
        z = slices[i] * scale + bias
        if masked:
            rows = row + tl.arange(0, BM)[:, None]
            columns = first + tl.arange(0, WIDTH)[None, :]
            z = tl.where((rows < m) & (columns < n) & (rows + offset != columns), z, float("-inf"))
        if EPILOGUE == SIGMOID:
            sigmoid, e = sigmoid_parts(z, INTERPRETED)
            softplus_sum += tl.sum(tl.maximum(z, 0.0), 1)
            product = product_of_rows(e, WIDTH, INTERPRETED)
            if WIDTH <= NARROW and i % 2 == 0 and i + 1 < SLICES:  # one logarithm for two slices
                waiting = product
            else:
                if WIDTH <= NARROW and i % 2 == 1:
                    product = product_less_one(waiting, product)
                softplus_sum += log2_of_one_more(product, INTERPRETED)
            cosine_sum += tl.sum(sigmoid * slices[i], 1)
            probability_sum += tl.sum(sigmoid, 1)
            if probabilities is not None:
                probabilities.store([row, first], (sigmoid * PROBABILITY_SCALE).to(probabilities.dtype))
        else:
            own_columns = first + tl.arange(0, WIDTH)
            if EPILOGUE == SOFTMAX:
                of_columns = tl.load(columns_logarithms + own_columns, mask=own_columns < n, other=0.0)
                weights = tl.exp2(z - of_rows[:, None]) + tl.exp2(z - of_columns[None, :])
                cosine_sum += tl.sum(weights * slices[i], 1)
                probabilities.store([row, first], (weights * PROBABILITY_SCALE).to(probabilities.dtype))
            else:
                top = tl.max(z, 0)
                above = tl.where(top == float("-inf"), 0.0, top)
                of_columns = top + log2(tl.sum(tl.exp2(z - above[None, :]), 0), INTERPRETED)
                tl.store(columns_logarithms + row // BM * n + own_columns, of_columns, mask=own_columns < n)
                grown = tl.maximum(largest, tl.max(z, 1))
                above = tl.where(grown == float("-inf"), 0.0, grown)
                total = total * tl.exp2(largest - above) + tl.sum(tl.exp2(z - above[:, None]), 1)
                largest = grown
    if EPILOGUE == NORMALISERS:
        of_rows = largest + log2(total, INTERPRETED)
        tl.store(rows_logarithms + column // BN * m + own_rows, of_rows, mask=own_rows < m)
    return softplus_sum, cosine_sum, probability_sum


@triton.jit(do_not_specialize=["m", "n", "offset", "x_stride", "y_stride", "probability_stride"])
def negatives_kernel(
    x,
    y,
    probabilities,
    rows_logarithms,
    columns_logarithms,
    scale_and_bias,
    sums,
    m,
    n,
    offset,
    x_stride,
    y_stride,
    probability_stride,
    EPILOGUE: tl.constexpr,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    SLICES: tl.constexpr,
    GROUP_M: tl.constexpr,
    PROBABILITY_SCALE: tl.constexpr,
    COPY_ENGINE: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """See `negatives_block` and `triton_softmax`. With COPY_ENGINE x, y and probabilities are descriptors, or else
    pointers. Strides are in units of 8, logarithms to base 2.

    Tiles are BM x BK of x, BN x BK of y, BM x BN / SLICES of the probabilities.
    """
    if not COPY_ENGINE:
        # That a stride is 8 times something is how the compiler knows that it may load 16 bytes at once.
        x = tl.make_tensor_descriptor(x, [m, D], [x_stride * 8, 1], [BM, BK])
        y = tl.make_tensor_descriptor(y, [n, D], [y_stride * 8, 1], [BN, BK])
        if probabilities is not None:
            probabilities = tl.make_tensor_descriptor(
                probabilities, [m, n], [probability_stride * 8, 1], [BM, BN // SLICES]
            )
    scale = tl.load(scale_and_bias) * LOG2_E
    bias = tl.load(scale_and_bias + 1) * LOG2_E if EPILOGUE == SIGMOID else 0.0
    softplus = tl.zeros((BM,), tl.float32)
    cosine = tl.zeros((BM,), tl.float32)
    probability = tl.zeros((BM,), tl.float32)

    program, programs = tl.program_id(0), tl.num_programs(0)
    tiles = tl.cdiv(m, BM) * tl.cdiv(n, BN)
    if INTERPRETED:  # with NumPy 2.4, Triton 3.6 interprets no loop whose bounds are known only at run time
        tile = program
        while tile < tiles:
            softplus, cosine, probability = _add_tile(
                tile, softplus, cosine, probability, x, y, probabilities, rows_logarithms, columns_logarithms,
                scale, bias, m, n, offset, EPILOGUE, D, BM, BN, BK, SLICES, GROUP_M, PROBABILITY_SCALE, INTERPRETED,
            )  # fmt: skip
            tile += programs
    else:  # flattened: the next tile's first loads are under way while this tile's probabilities are computed
        for tile in tl.range(program, tiles, programs, flatten=True):
            softplus, cosine, probability = _add_tile(
                tile, softplus, cosine, probability, x, y, probabilities, rows_logarithms, columns_logarithms,
                scale, bias, m, n, offset, EPILOGUE, D, BM, BN, BK, SLICES, GROUP_M, PROBABILITY_SCALE, INTERPRETED,
            )  # fmt: skip

    tl.store(sums + 3 * program, tl.sum(softplus) * LN_2)
    tl.store(sums + 3 * program + 1, tl.sum(cosine))
    tl.store(sums + 3 * program + 2, tl.sum(probability))


def constants(
    config: Config, width: int, probability_dtype: torch.dtype | None, epilogue: tl.constexpr = SIGMOID
) -> dict[str, Any]:
    """The kernel's compile-time arguments for embeddings of this width; the dtype is None where nothing is written."""
    return {
        "EPILOGUE": epilogue.value,
        "D": width,
        "BM": config.block_m,
        "BN": config.block_n,
        "BK": config.block_k,
        "SLICES": config.slices,
        "GROUP_M": config.group_m,
        "PROBABILITY_SCALE": FLOAT16_SCALE if probability_dtype == torch.float16 else 1.0,
        "COPY_ENGINE": config.copy_engine,
        "INTERPRETED": INTERPRETED,
    }


def options(config: Config) -> dict[str, Any]:
    """What the compiler is told beside the kernel's arguments."""
    return {"num_warps": config.num_warps, "num_stages": config.num_stages, "maxnreg": config.max_registers}


def negatives_block(
    x: torch.Tensor,
    y: torch.Tensor,
    scale_and_bias: torch.Tensor,
    offset: int,
    probabilities: torch.Tensor | None,
    sums: torch.Tensor | None = None,
    config: Config | None = None,
) -> torch.Tensor:
    """Write σ(t x_i·y_j + b) of a block of pairs and sum it up, all but the pairs (i, i + offset), whose probability is
    0.

    Args:
        x, y: `[m, d]` and `[n, d]`, bfloat16 or float16, both the same, on a CUDA device; d a multiple of 8. Memory as
            the copy engine reads it: starts at a multiple of 16 bytes, rows a multiple of 8 elements apart and
            contiguous.
        scale_and_bias: float32 `[2]`, t and b, on the device.
        offset: the column of row 0's excluded pair; outside of (-m, n) no pair is excluded.
        probabilities: `[m, n]`, written over: x's dtype and memory as above, so it may be a part of a larger buffer.
            float16 holds FLOAT16_SCALE times the probabilities. None to compute the sums alone, at a third of the cost
            of all that the gradients take.
        sums: what to write the sums to, contiguous; as many programs run as it has rows. By default `programs` of them.
        config: the tiles; by default those for the device.

    Returns:
        float32 `[programs, 3]`: Σ log(1 + exp(z)), Σ σ(z) s and Σ σ(z) of each program's pairs, σ before it is rounded,
        for the caller to add up in float64.
    """
    config = config or config_on(x.device)
    if sums is None:
        sums = torch.empty(programs(len(x), len(y), x.device, config), 3, dtype=torch.float32, device=x.device)
    launch(x, y, scale_and_bias, offset, probabilities, sums, config=config, epilogue=SIGMOID)
    return sums


def launch(
    x: torch.Tensor,
    y: torch.Tensor,
    scalars: torch.Tensor,
    offset: int,
    written: torch.Tensor | None,
    sums: torch.Tensor,
    *,
    config: Config,
    epilogue: tl.constexpr,
    rows: torch.Tensor | None = None,
    columns: torch.Tensor | None = None,
) -> None:
    """The kernel with one of its epilogues; as many programs run as there are sums."""
    (m, d), n = x.shape, len(y)
    _check(x, y, written)
    with torch.cuda.device_of(x):
        negatives_kernel[(len(sums),)](
            _argument(x, config.block_m, config.block_k, config),
            _argument(y, config.block_n, config.block_k, config),
            None if written is None else _argument(written, config.block_m, config.block_n // config.slices, config),
            rows,
            columns,
            scalars,
            sums,
            m,
            n,
            offset if -m < offset < n else n,
            x.stride(0) // 8,
            y.stride(0) // 8,
            0 if written is None else written.stride(0) // 8,
            **constants(config, d, None if written is None else written.dtype, epilogue),
            **options(config),
        )


def config_on(device: torch.device) -> Config:
    """The config for a device; in the interpreter that of compute capability 9.0."""
    return config_for(torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0))


def programs(m: int, n: int, device: torch.device, config: Config, *, left_free: int = 0) -> int:
    """How many programs share the tiles of m by n pairs: one each, or as many as the device runs at once on all
    multiprocessors but those that are to be left free.
    """
    tiles = triton.cdiv(m, config.block_m) * triton.cdiv(n, config.block_n)
    return min(tiles, config.programs_per_sm * max(1, multiprocessors(device) - left_free))


def _argument(a: torch.Tensor, rows: int, columns: int, config: Config):
    return TensorDescriptor.from_tensor(a, [rows, columns]) if config.copy_engine else a


def _check(x, y, probabilities) -> None:
    d = x.shape[1]
    if x.dtype != y.dtype or x.dtype not in (torch.bfloat16, torch.float16) or y.shape[1] != d or d % 8:
        raise ValueError(
            f"Cannot multiply {x.dtype} {tuple(x.shape)} by {y.dtype} {tuple(y.shape)}: expected [m, d] and [n, d], "
            "both bfloat16 or both float16, d a multiple of 8. Convert, or pad with columns of zeros."
        )
    if probabilities is not None and probabilities.shape != (len(x), len(y)):
        raise ValueError(
            f"Cannot write the probabilities of {len(x)} by {len(y)} pairs to {tuple(probabilities.shape)}: "
            "expected [m, n]. Slice the buffer."
        )


@cache
def multiprocessors(device: torch.device) -> int:
    """Of a GPU; 2 stand for the interpreter's, enough for programs to share the tiles."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
