"""The Triton kernel of the sigmoid loss alone, with every tile: checked, timed in turn, the best in a whole sweep."""

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
from benchmarks.gpu.stages import Sizes
from benchmarks.native import torch_products as native
from diptych.backends.torch import sigmoid_loss as loss
from diptych.backends.torch.sigmoid_loss import sweep, triton_block
from diptych.backends.torch.sigmoid_loss.triton_block import CANDIDATES, SMALL_TILE, Config

SCALE, BIAS = 112.0, -16.5
OFFSET = 37
ALL_TILES = 10**6
PROBABILITY_ERROR = 2.0**-7
"""Relative: bfloat16 cut off, as the interpreter does; a GPU rounds, to half of it."""
SUM_ERROR = 1e-5
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
    right: dict[str, tuple[Config, float | None]] = {}
    for name, config in variants(sizes).items():
        reason, error = judged(config, *sizes.checked, sizes.width, scale_and_bias)
        if reason:
            journal.write("block", variant=name, wrong=reason, sum_error=error)
        else:
            right[name] = (config, error)
    fastest: dict[str, float] = {}
    for size in sizes.blocks:
        for name, milliseconds in _timed_blocks(journal, sizes, size, right, scale_and_bias):
            fastest[name] = milliseconds
    best = sorted(fastest, key=fastest.__getitem__)[:BEST]
    _sweeps(journal, sizes, {name: right[name][0] for name in best}, scale_and_bias)
    if missing := variants(sizes).keys() - fastest.keys():
        raise SystemExit(f"Wrong: {', '.join(sorted(missing))}")


def _timed_blocks(journal, sizes, size, right, scale_and_bias):
    """(name, milliseconds) of every tile; the plain product of the same shape is timed in turn."""
    x, y = native.embeddings(size, sizes.width, "bfloat16")
    probabilities = x.new_empty(size, size)
    calls, differing = {"plain product": partial(torch.matmul, x, y.T)}, set()
    shipped = triton_block.config_on(x.device)
    for name, (config, _) in right.items():
        call = partial(triton_block.negatives_block, x, y, scale_and_bias, 0, probabilities, config=config)
        once, kept = call(), probabilities.clone()
        if not (torch.equal(once, call()) and torch.equal(probabilities, kept)):
            differing.add(name)
        calls[name] = call
    calls["sums alone, as shipped"] = partial(triton_block.negatives_block, x, y, scale_and_bias, 0, None)
    taken = in_turn(calls, native.elapsed, rounds=sizes.rounds, seconds=sizes.seconds)
    for name, seconds in taken.items():
        config, error = right.get(name, (None, None))
        median = statistics.median(seconds)
        journal.write(
            "block",
            variant=name,
            size=size,
            width=sizes.width,
            ms=1e3 * median,
            tflops=2 * size**2 * sizes.width / median / 1e12,
            sum_error=error,
            shipped=config == shipped,
            **({"wrong": "two runs gave different bits"} if name in differing else {}),
        )
        if config is not None and name not in differing:
            yield name, 1e3 * median


def judged(config: Config, m: int, n: int, width: int, scale_and_bias: torch.Tensor) -> tuple[str | None, float | None]:
    """(what is wrong with a tile's answer, the relative error of its sums); memory it is to write holds NaN before."""
    x, y = native.embeddings(max(m, n), width, "bfloat16")  # of pairs (i, i), which are negatives here, and hot ones
    x, y = x[:m], y[:n]
    probabilities = x.new_full((m, -(-n // 8) * 8), torch.nan)[:, :n]
    try:
        sums = triton_block.negatives_block(x, y, scale_and_bias, OFFSET, probabilities, config=config)
        native.wait()
    except Exception as error:  # a kernel that does not compile is a finding, and others are yet to come
        return f"{type(error).__name__}: {error}", None
    return fault(x, y, scale_and_bias, probabilities, sums)


def fault(x, y, scale_and_bias, probabilities, sums) -> tuple[str | None, float]:
    """What is wrong with an answer for the pairs but (i, i + OFFSET), and its sums' relative error; in float64."""
    s = x.double() @ y.double().T
    z = s * scale_and_bias[0].double() + scale_and_bias[1].double()
    z.diagonal(OFFSET).fill_(-torch.inf)
    exact, softplus = torch.sigmoid(z), z.clamp(min=0) + torch.log1p(torch.exp(-z.abs()))
    cosine = exact * s
    right, scale = (torch.stack([softplus.sum(), term.sum(), exact.sum()]) for term in (cosine, cosine.abs()))
    error = ((sums.sum(0, dtype=torch.float64) - right).abs() / scale).max().item()
    if not error <= SUM_ERROR:
        return f"the sums are off by a relative {error:.1e}, allowed {SUM_ERROR:.0e}", error
    logit_error = 2.0**-24 * SCALE * (x.shape[1] ** 0.5 + 2)
    allowed = (PROBABILITY_ERROR + 4 * logit_error) * exact + 2.0**-126
    wrong = int((~((probabilities.double() - exact).abs() <= allowed)).sum())
    return (f"{wrong} of {exact.numel()} probabilities are wrong" if wrong else None), error


def _sweeps(journal: Journal, sizes: Sizes, configs: dict[str, Config], scale_and_bias: torch.Tensor) -> None:
    """The whole sweep, gradients' products included, with the best tiles and each size of blocks."""
    x, y = native.embeddings(sizes.batch, sizes.width, "bfloat16")

    def call(config, largest):
        with mock.patch.object(triton_block, "config_on", return_value=config):
            sweep.triton(x, y, scale_and_bias, 0, largest=largest)

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
