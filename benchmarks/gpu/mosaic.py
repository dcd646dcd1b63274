"""The Mosaic kernel of the sigmoid loss alone on jax, with every tile: checked, then timed in turn."""

import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.contest import in_turn
from benchmarks.gpu.journal import Journal
from benchmarks.gpu.stages import Sizes
from benchmarks.native import jax_loss as native
from diptych.backends.jax.sigmoid_loss import pallas_gpu

SCALE, BIAS = 112.0, -16.5
OFFSET = 37
PROBABILITY_ERROR, SUM_ERROR = 2.0**-8, 1e-5


def measure(journal: Journal, sizes: Sizes) -> None:
    """All programs are compiled at once, in threads; a tile that answers wrongly gets no time, and SystemExit at the
    end.
    """
    configs = (replace(pallas_gpu.DEFAULT, tile_m=64, tile_n=64),) if sizes.interpreted else pallas_gpu.CANDIDATES
    checked, size = sizes.mosaic_checked, sizes.mosaic_blocks
    shapes = {
        config: (size // config.tile_m * config.tile_m, size // config.tile_n * config.tile_n) for config in configs
    }
    with ThreadPoolExecutor(sizes.compilers) as pool:
        small = {config: pool.submit(_compiled, config, sizes, checked, checked) for config in configs}
        large = {config: pool.submit(_compiled, config, sizes, *shape) for config, shape in shapes.items()}
    x, y = native.embeddings(size, sizes.width, "bfloat16")
    calls = {}
    for config, (rows, columns) in shapes.items():
        try:
            reason = mistake(small[config].result(), checked, sizes.width)
            call = partial(large[config].result(), x[:rows], y[:columns], *_scalars(rows, columns, 0))
        except Exception as error:  # a kernel that does not compile is a finding, and others are yet to come
            reason = f"{type(error).__name__}: {error}"
        if reason:
            journal.write("mosaic", variant=str(config), wrong=reason)
        else:
            calls[config] = call
    product = native.product(sizes.square, sizes.square, sizes.square, "bfloat16")
    taken = in_turn({**calls, "square": product}, native.elapsed, rounds=sizes.rounds, seconds=sizes.seconds)
    for config, seconds in taken.items():
        m, n, k = (*shapes[config], sizes.width) if config in calls else (sizes.square,) * 3
        median = statistics.median(seconds)
        fields = {"size": m, "width": k, "shipped": config == pallas_gpu.DEFAULT}
        journal.write("mosaic", variant=str(config), **fields, ms=1e3 * median, tflops=2 * m * n * k / median / 1e12)
    if missing := [config for config in configs if config not in calls]:
        raise SystemExit(f"Wrong: {', '.join(map(str, missing))}")


def _scalars(rows: int, columns: int, offset: int):
    return jnp.array([SCALE, BIAS], jnp.float32), jnp.array([rows, columns, offset], jnp.int32)


def _compiled(config, sizes: Sizes, rows: int, columns: int):
    block = jax.jit(partial(pallas_gpu.negatives_block, config=config, interpret=sizes.interpreted))
    x, y = (jax.ShapeDtypeStruct((length, sizes.width), jnp.bfloat16) for length in (rows, columns))
    return block.lower(x, y, *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in _scalars(0, 0, 0))).compile()


def mistake(program, size: int, width: int) -> str | None:
    """What is wrong with a tile's answer where the last rows and columns are padding, against float64 NumPy."""
    x, y = native.embeddings(size, width, "bfloat16")  # of pairs (i, i), which are negatives here, and hot ones
    rows, columns = size - 30, size - 3
    got, sums = program(x, y, *_scalars(rows, columns, OFFSET))
    again = program(x, y, *_scalars(rows, columns, OFFSET))
    if not (np.array_equal(got, again[0]) and np.array_equal(sums, again[1])):
        return "two runs gave different bits"
    got, total = np.asarray(got.astype(jnp.float32), np.float64), np.asarray(sums, np.float64).sum(0)
    s = np.asarray(x.astype(jnp.float32), np.float64) @ np.asarray(y.astype(jnp.float32), np.float64).T
    z = SCALE * s + BIAS
    i, j = np.indices(z.shape)
    z[(i >= rows) | (j >= columns) | (j - i == OFFSET)] = -np.inf
    exact = np.exp(-np.logaddexp(0.0, -z))
    softplus, cosine = np.logaddexp(0.0, z), exact * s
    scale = np.array([softplus.sum(), np.abs(cosine).sum(), exact.sum()])
    error = np.abs(total - [softplus.sum(), cosine.sum(), exact.sum()]) / scale
    if not error.max() <= SUM_ERROR:
        return f"the sums are off by a relative {error.max():.1e}, allowed {SUM_ERROR:.0e}"
    logit_error = 2.0**-24 * SCALE * (width**0.5 + 2)
    wrong = ~(np.abs(got - exact) <= (PROBABILITY_ERROR + 4 * logit_error) * exact + 2.0**-126)
    return f"{wrong.sum()} of {wrong.size} probabilities are wrong" if wrong.any() else None
