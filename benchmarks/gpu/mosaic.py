"""The Mosaic kernel of the sigmoid loss alone on jax, with every tile: checked, then timed in turn."""

import math
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.contest import in_turn
from benchmarks.gpu.journal import Journal
from benchmarks.gpu.judge import OFFSET, ROUNDOFF, fault
from benchmarks.gpu.stages import Sizes
from benchmarks.loss_contest import BIAS, SCALE
from benchmarks.native import jax_loss as native
from diptych.backends.jax.contrastive import pallas_gpu


def measure(journal: Journal, sizes: Sizes) -> None:
    """Programs are compiled at once, in threads; a tile that answers wrongly gets no time.

    Raises:
        SystemExit: at the end, where one did.
    """
    configs = (replace(pallas_gpu.DEFAULT, tile_m=64, tile_n=64),) if sizes.interpreted else pallas_gpu.CANDIDATES
    checked, size = sizes.mosaic_checked, sizes.mosaic_blocks
    shapes = {
        config: (size // config.tile_m * config.tile_m, size // config.tile_n * config.tile_n) for config in configs
    }
    programs = {}
    with ThreadPoolExecutor(sizes.compilers) as pool:  # jax lowers in Python, where threads gain nothing
        for config, shape in shapes.items():
            try:
                lowered = [_lowered(config, sizes, *lengths) for lengths in ((checked, checked), shape)]
                programs[config] = [pool.submit(program.compile) for program in lowered]
            except Exception as error:
                _refuse(journal, config, error)
    x, y = native.embeddings(size, sizes.width, "bfloat16")
    calls = {}

    def write(config, seconds: float) -> None:
        m, n, k = (*shapes[config], sizes.width) if config in calls else (sizes.square,) * 3
        fields = {"size": m, "width": k, "shipped": config == pallas_gpu.DEFAULT}
        tflops = 2 * m * n * k / seconds / 1e12
        journal.write("mosaic", variant=str(config), **fields, ms=1e3 * seconds, tflops=tflops)

    for config, (small, large) in programs.items():
        rows, columns = shapes[config]
        try:
            reason, error = mistake(small.result(), checked, sizes.width)
            journal.write("checked", variant=str(config), sum_error=error, **({"wrong": reason} if reason else {}))
            call = partial(large.result(), x[:rows], y[:columns], *_scalars(rows, columns, 0))
            native.elapsed(call, 1)
            if reason is None:
                calls[config] = call
                write(config, native.elapsed(call, 1))
        except Exception as error:
            _refuse(journal, config, error)
    product = native.product(sizes.square, sizes.square, sizes.square, "bfloat16")
    taken = in_turn({**calls, "square product": product}, native.elapsed, rounds=sizes.rounds, seconds=sizes.seconds)
    for config, seconds in taken.items():
        write(config, statistics.median(seconds))
    if missing := [config for config in configs if config not in calls]:
        raise SystemExit(f"Wrong: {', '.join(map(str, missing))}")


def _refuse(journal: Journal, config: pallas_gpu.Config, error: Exception) -> None:
    """A kernel that does not compile or run is a finding, and others are yet to come."""
    journal.write("checked", variant=str(config), wrong=f"{type(error).__name__}: {error}")


def _scalars(rows: int, columns: int, offset: int):
    return jnp.array([SCALE, BIAS], jnp.float32), jnp.array([rows, columns, offset], jnp.int32)


def _lowered(config: pallas_gpu.Config, sizes: Sizes, rows: int, columns: int):
    block = jax.jit(partial(pallas_gpu.negatives_block, config=config, interpret=sizes.interpreted))
    x, y = (jax.ShapeDtypeStruct((length, sizes.width), jnp.bfloat16) for length in (rows, columns))
    return block.lower(x, y, *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in _scalars(0, 0, 0)))


def mistake(program: Callable, size: int, width: int) -> tuple[str | None, float]:
    """What is wrong with a tile's answer where the last rows and columns are padding, and the error of its sums."""
    x, y = native.embeddings(size, width, "bfloat16")
    rows, columns = size - 30, size - 3
    (got, sums), again = (program(x, y, *_scalars(rows, columns, OFFSET)) for _ in range(2))
    if not (np.array_equal(got, again[0]) and np.array_equal(sums, again[1])):
        return "two runs gave different bits", math.nan
    given = [np.asarray(array.astype(jnp.float32)) for array in (x, y, got, sums)]
    return fault(*given, rows=rows, columns=columns, roundoff=ROUNDOFF)
