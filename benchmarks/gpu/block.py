"""The Triton kernel of the sigmoid loss alone, with every tile: checked, timed in turn, the best in a whole sweep."""

import math
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import fields, replace
from functools import partial
from unittest import mock

import torch

from benchmarks.contest import in_turn
from benchmarks.gpu.ceilings import heat
from benchmarks.gpu.journal import Journal
from benchmarks.gpu.judge import OFFSET, ROUNDOFF, fault
from benchmarks.gpu.stages import Sizes
from benchmarks.loss_contest import BIAS, SCALE
from benchmarks.native import torch_products as native
from diptych.backends.torch import contrastive as loss
from diptych.backends.torch.contrastive import sigmoid, triton_block
from diptych.backends.torch.contrastive.triton_block import CANDIDATES, SMALL_TILE, Config

ALL_TILES = 10**6
BEST = 3


def variants(sizes: Sizes) -> dict[str, Config]:
    """Name -> tile; besides the candidates, the small tile with one program a multiprocessor and with one a tile."""
    if sizes.interpreted:
        small = Config(block_m=64, block_n=64, block_k=32, num_warps=4, num_stages=1, slices=2)
        return {"64x64": small, "64x64, a program a tile": replace(small, programs_per_sm=ALL_TILES)}
    configs = {_described(config): config for config in CANDIDATES}
    return configs | {
        f"{_described(SMALL_TILE)}, one program a multiprocessor": replace(SMALL_TILE, programs_per_sm=1),
        f"{_described(SMALL_TILE)}, a program a tile": replace(SMALL_TILE, programs_per_sm=ALL_TILES),
    }


def _described(config: Config) -> str:
    """The tile, its warps and stages, and what differs from a config's defaults."""
    shape = f"{config.block_m}x{config.block_n}x{config.block_k} w{config.num_warps} s{config.num_stages}"
    known = ("block_m", "block_n", "block_k", "num_warps", "num_stages", "programs_per_sm")
    changed = [
        f"{field.name}={getattr(config, field.name)}"
        for field in fields(config)
        if field.name not in known and getattr(config, field.name) != field.default
    ]
    return " ".join([shape, *changed])


def compile_all(journal: Journal, sizes: Sizes) -> None:
    """Every kernel that later stages launch, by several processes at once, into Triton's cache on the disk."""
    tasks: dict[str, Callable[[], None]] = {
        name: partial(_launch, config, sizes.width) for name, config in variants(sizes).items()
    }
    for width in (sizes.width, *sizes.tested_widths, *sizes.widths):
        for dtype in ("bfloat16", "float16"):
            tasks[f"whole loss, {dtype}, width {width}"] = partial(_compute, width, dtype)
    failed = []
    processes = multiprocessing.get_context("spawn")
    workers = min(sizes.compilers, max(1, (multiprocessing.cpu_count() or 1) - 1))
    with ProcessPoolExecutor(workers, mp_context=processes) as pool:
        futures = {pool.submit(_timed, task): name for name, task in tasks.items()}
        for future in as_completed(futures):
            try:
                journal.write("compiled", name=futures[future], seconds=future.result())
            except Exception as error:
                journal.write("compiled", name=futures[future], failed=f"{type(error).__name__}: {error}")
                failed.append(futures[future])
    if failed:
        raise SystemExit(f"Cannot be compiled: {', '.join(failed)}")


def _timed(task: Callable[[], None]) -> float:
    start = time.perf_counter()
    task()
    native.wait()
    return time.perf_counter() - start


def _launch(config: Config, width: int) -> None:
    x, y = native.embeddings(128, width, "bfloat16")
    scale_and_bias = torch.tensor([SCALE, BIAS], device=native.DEVICE)
    probabilities = x.new_empty(128, 128)
    triton_block.negatives_block(x, y, scale_and_bias, 0, probabilities, config=config)
    triton_block.negatives_block(x, y, scale_and_bias, 0, None, config=config)


def _compute(width: int, dtype: str) -> None:
    x, y = native.embeddings(64, width, dtype)
    loss.sigmoid_loss_and_gradients(x, y, logit_scale=SCALE, logit_bias=BIAS, implementation="triton")


def measure(journal: Journal, sizes: Sizes) -> None:
    """A tile that answers wrongly gets no time; there is SystemExit at the end where one did."""
    heat(sizes)
    scale_and_bias = torch.tensor([SCALE, BIAS], device=native.DEVICE)
    right: dict[str, Config] = {}
    for name, config in variants(sizes).items():
        reason, error = judged(config, sizes, scale_and_bias)
        journal.write("checked", variant=name, sum_error=error, **({"wrong": reason} if reason else {}))
        if reason is None:
            right[name] = config
    fastest: dict[str, float] = {}
    for size in sizes.blocks:
        fastest |= _timed_blocks(journal, sizes, size, right, scale_and_bias)
    best = sorted(fastest, key=fastest.__getitem__)[:BEST]
    _sweeps(journal, sizes, {name: right[name] for name in best}, scale_and_bias)
    if missing := variants(sizes).keys() - fastest.keys():
        raise SystemExit(f"Wrong: {', '.join(sorted(missing))}")


def judged(config: Config, sizes: Sizes, scale_and_bias: torch.Tensor) -> tuple[str | None, float]:
    """What is wrong with a tile's answer, and the error of its sums; memory that it is to write holds NaN before."""
    rows, columns = sizes.checked
    x, y = native.embeddings(max(rows, columns), sizes.width, "bfloat16")
    x, y = x[:rows], y[:columns]
    probabilities = x.new_full((rows, -(-columns // 8) * 8), torch.nan)[:, :columns]
    try:
        sums = triton_block.negatives_block(x, y, scale_and_bias, OFFSET, probabilities, config=config)
        given = [array.float().cpu().numpy() for array in (x, y, probabilities, sums)]
    except Exception as error:  # a kernel that does not compile is a finding, and others are yet to come
        return f"{type(error).__name__}: {error}", math.nan
    roundoff = 2 * ROUNDOFF if sizes.interpreted else ROUNDOFF  # the interpreter cuts off where a GPU rounds
    return fault(*given, rows=rows, columns=columns, roundoff=roundoff)


def _timed_blocks(
    journal: Journal, sizes: Sizes, size: int, configs: dict[str, Config], scale_and_bias: torch.Tensor
) -> dict[str, float]:
    """Milliseconds of every tile: written as it is timed alone, and again when all were timed in turn.

    The plain product of the same shape, and the sums alone, are timed with them.
    """
    x, y = native.embeddings(size, sizes.width, "bfloat16")
    probabilities = x.new_empty(size, size)
    shipped = triton_block.config_on(x.device)

    def write(name: str, seconds: float) -> float:
        fields = {"size": size, "width": sizes.width, "shipped": configs.get(name) == shipped}
        tflops = 2 * size**2 * sizes.width / seconds / 1e12
        journal.write("block", variant=name, **fields, ms=1e3 * seconds, tflops=tflops)
        return 1e3 * seconds

    calls = {"plain product": partial(torch.matmul, x, y.T)}
    for name, config in configs.items():
        call = partial(triton_block.negatives_block, x, y, scale_and_bias, 0, probabilities, config=config)
        once, kept = call(), probabilities.clone()
        if torch.equal(once, call()) and torch.equal(probabilities, kept):
            calls[name] = call
            write(name, native.elapsed(call, 1))
        else:
            journal.write("checked", variant=name, size=size, wrong="two runs gave different bits")
    tiles = calls.keys() & configs.keys()
    calls["sums alone, as shipped"] = partial(triton_block.negatives_block, x, y, scale_and_bias, 0, None)
    taken = in_turn(calls, native.elapsed, rounds=sizes.rounds, seconds=sizes.seconds)
    written = {name: write(name, statistics.median(seconds)) for name, seconds in taken.items()}
    return {name: milliseconds for name, milliseconds in written.items() if name in tiles}


def _sweeps(journal: Journal, sizes: Sizes, configs: dict[str, Config], scale_and_bias: torch.Tensor) -> None:
    """The whole sweep, gradients' products included, with the best tiles and each size of blocks."""
    x, y = native.embeddings(sizes.batch, sizes.width, "bfloat16")

    def call(config, largest):
        with mock.patch.object(triton_block, "config_on", return_value=config):
            sigmoid.triton(scale_and_bias, True, largest, x, y, 0)

    calls = {
        (name, largest): partial(call, config, largest) for name, config in configs.items() for largest in sizes.blocks
    }
    taken = in_turn(calls, native.elapsed, rounds=sizes.rounds)
    for (name, largest), seconds in taken.items():
        median = statistics.median(seconds)
        tflops = 6 * sizes.batch**2 * sizes.width / median / 1e12
        journal.write(
            "sweep", variant=name, largest=largest, size=sizes.batch, width=sizes.width, ms=1e3 * median, tflops=tflops
        )
