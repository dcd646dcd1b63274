"""The sigmoid loss and its four gradients: time, memory and error of every implementation that runs here, in one run.

    KERAS_BACKEND=jax python -m benchmarks.sigmoid_loss
    KERAS_BACKEND=torch python -m benchmarks.sigmoid_loss --dtype bfloat16 --batch-sizes 16384 65536 --peers

First each contender answers the cases that the tests use; one that is wrong there gets no time. Contenders are timed in
turn, so that whatever else the machine does hits all. The rate counts the 6 B² D operations that are needed, whatever
was done. Beside it stands what the device does in plain products: a large square one, and those of the loss's own
shapes, which are the ceiling. "naive" is the loss written plainly in the framework, with the matrix of all pairs.
"""

import argparse
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from types import ModuleType

import numpy as np

from benchmarks.device import device_name, write_results
from diptych.backends.selection import select_backend

SAMPLED_PAIRS = 2**24
"""Pairs, of some 256 rows of the gradients at most, that are computed again in float64."""

EXACT_ALLOCATIONS = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": str(2 * 10**9)}
"""For the process whose memory is measured: arrays come from the system and go back to it, small pieces are kept."""


def main() -> None:
    options = _options()
    driver = _driver(options.backend)
    if options.memory_of:
        print(_peak_growth(driver, options))
        return
    dtype = options.dtype or ("bfloat16" if driver.ACCELERATED else "float32")
    sizes = options.batch_sizes or ([16_384, 65_536] if driver.ACCELERATED else [4096])
    contenders = driver.contenders(dtype, options.dim, options.peers)
    if options.only:
        contenders = {name: function for name, function in contenders.items() if name in options.only}
    if not contenders:
        raise SystemExit(f"Nothing to time: --only {' '.join(options.only)} names none of the contenders.")
    print(f"{options.backend} on {device_name(driver.device_name())}, {dtype}, D={options.dim}")
    ours = _native_names() & contenders.keys()
    wrong = {
        name: reason
        for name, function in contenders.items()
        if (reason := _mistake(driver, function, dtype, is_ours=name in ours))
    }
    for name, reason in wrong.items():
        print(f"  {name} is wrong, so it is not timed: {reason}")
    results = {"backend": options.backend, "dtype": dtype, "dim": options.dim, "wrong": wrong, "sizes": {}}
    contenders = {name: function for name, function in contenders.items() if name not in wrong}
    square = 8192 if driver.ACCELERATED else 2048
    results["square_product_flops"] = rate = (
        2 * square**3 / _fastest(driver, driver.product(square, square, square, dtype))
    )
    print(f"  product of {square}² matrices: {rate / 1e12:.3g} TFLOP/s")
    for size in sizes:
        results["sizes"][size] = _measure(driver, options, contenders, size, dtype)
    name = f"sigmoid_loss-{options.backend}-{dtype}-{options.dim}-{'-'.join(map(str, sizes))}"
    print(write_results(name, results, accelerator=driver.device_name()))
    if ours & wrong.keys():
        raise SystemExit(1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-sizes", type=int, nargs="+", help="4096 on a CPU, 16384 and 65536 elsewhere")
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="float32 on a CPU, else bfloat16")
    parser.add_argument("--logit-scale", type=float, default=112.0, help="as in the released SigLIP 2 models")
    parser.add_argument("--logit-bias", type=float, default=-16.5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these contenders alone")
    parser.add_argument("--peers", action="store_true", help="other people's implementations, where installed")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min([options.dim, options.repeats, *(options.batch_sizes or [1])]) < 1:
        parser.error("--batch-sizes, --dim and --repeats must be at least 1")
    options.backend = select_backend()
    return options


def _driver(backend: str) -> ModuleType:
    match backend:
        case "jax":
            from benchmarks.native import jax_loss as driver
        case "torch":
            from benchmarks.native import torch_loss as driver
        case _:
            from benchmarks.native import tensorflow_loss as driver
    return driver


def _native_names() -> set[str]:
    from diptych import backends

    return set(backends.IMPLEMENTATIONS)


def _mistake(driver, function, dtype, *, is_ours: bool) -> str | None:
    """What is wrong with a contender's answers on the cases that tests use; None for nothing.

    In 16 bits plain losses round their logits, their loss and their gradients; ours round the last alone.
    """
    from diptych.backends.cases import CASES
    from tests.oracle.loss_judge import Answer, allowed, check, expected, problem_of

    roundoff = 2.0**-8 if dtype == "bfloat16" else 2.0**-11 if dtype == "float16" else 0.0
    for name in ("square, balanced", "ragged, balanced", "ragged, initial", "ragged, trained"):
        problem = problem_of(CASES[name], dtype)
        scalars = (np.float32(problem.logit_scale), np.float32(problem.logit_bias))
        arguments = [driver.to_device(a, dtype) for a in (problem.x, problem.y)]
        arguments += [driver.to_device(np.asarray(a), "float32") for a in scalars]
        try:
            answer = Answer(*(np.asarray(_host(part), np.float32) for part in function(*arguments)))
        except Exception as error:
            if is_ours:
                raise
            return f"{name}: {type(error).__name__}: {error}"
        right = expected(problem)
        slack = roundoff if is_ours else 8 * roundoff * (1 + problem.logit_scale / 10)
        tolerance = Answer(
            *(limit + slack * np.linalg.norm(v) for limit, v in zip(allowed(problem, roundoff), right, strict=True))
        )
        try:
            check(answer, right, tolerance, who=name)
        except AssertionError as error:
            return str(error)
    return None


def _host(array):
    """float32 NumPy of any framework's array."""
    from keras import ops

    return ops.convert_to_numpy(ops.cast(array, "float32"))


def _measure(driver, options, contenders, size: int, dtype: str) -> dict:
    flops = 6 * size**2 * options.dim
    ceiling = _ceiling(driver, size, options.dim, dtype)
    host, arguments = _arguments(driver, options, size, dtype)
    print(
        f"\n  B={size}, t={options.logit_scale:g}, b={options.logit_bias:g}; products of the loss's shapes alone: "
        f"{ceiling * 1e3:.2f} ms"
    )
    print(
        f"  {'':<24}{'ms':>10}{'TFLOP/s':>10}{'of ceiling':>12}"
        f"{'MiB extra':>11}{'gradient error':>16}{'in float32':>12}"
    )
    gradient_error = _judge(host, options)
    errors, seconds = {}, {}
    for name, function in contenders.items():
        try:
            result = function(*arguments)
            driver.wait(result)
        except Exception as error:
            if not driver.out_of_memory(error):
                raise
            print(f"  {name:<24}{'out of memory':>10}")
            continue
        errors[name] = gradient_error(result[1:3])
        exact = driver.explicit_gradients(name, *arguments)
        errors[name, "float32"] = gradient_error(exact[1:3]) if exact is not None else math.nan
        seconds[name] = []
        del result, exact
    for _ in range(options.repeats):
        for name, measured in seconds.items():
            start = time.perf_counter()
            driver.wait(contenders[name](*arguments))
            measured.append(time.perf_counter() - start)
    rows = {}
    for name, measured in seconds.items():
        time_taken = statistics.median(measured)
        known = driver.KNOWS_ITS_MEMORY
        extra = driver.extra_bytes(contenders[name], arguments) if known else _memory_of(name, options, size)
        rows[name] = {
            "ms": time_taken * 1e3,
            "fastest_ms": min(measured) * 1e3,
            "tflops": flops / time_taken / 1e12,
            "share_of_ceiling": ceiling / time_taken,
            "extra_mib": extra / 2**20,
            "gradient_error": errors[name],
            "float32_gradient_error": errors[name, "float32"],
        }
        row = rows[name]
        print(
            f"  {name:<24}{row['ms']:>10.2f}{row['tflops']:>10.3g}{row['share_of_ceiling']:>11.0%} "
            f"{row['extra_mib']:>11.0f}{row['gradient_error']:>16.1e}{row['float32_gradient_error']:>12.1e}"
        )
    return {"ceiling_ms": ceiling * 1e3, "contenders": rows}


def _arguments(driver, options, size, dtype):
    """((x, y) in float32 as the dtype holds them, the device's arguments)."""
    from diptych.backends.cases import Case
    from tests.oracle.loss_judge import round_to

    case = Case(images=size, texts=size, width=options.dim, positive_cosine=0.15, logit_scale=1.0, logit_bias=0.0)
    host = [round_to(array, dtype) for array in case.draw()]
    scalars = [np.asarray(value, np.float32) for value in (options.logit_scale, options.logit_bias)]
    return host, [*(driver.to_device(a, dtype) for a in host), *(driver.to_device(a, "float32") for a in scalars)]


def _ceiling(driver, size, dim, dtype) -> float:
    """Seconds of the three products alone, in super-blocks of the largest size that the batch has."""
    block = min(size, 8192 if driver.ACCELERATED else 1024)
    logits = _fastest(driver, driver.product(block, block, dim, dtype))
    gradient = _fastest(driver, driver.product(block, dim, block, dtype, accumulate=True))
    return (logits + 2 * gradient) * (size / block) ** 2


def _fastest(driver, function, repeats: int = 5) -> float:
    driver.wait(function())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        driver.wait(function())
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _judge(host, options) -> Callable:
    """-> function of both embeddings' gradients: ‖error‖ / ‖gradient‖ over some of their rows, against float64."""
    from tests.oracle.contrastive import sigmoid

    size = len(host[0])
    rows = np.unique(np.linspace(0, size - 1, max(1, min(256, SAMPLED_PAIRS // size))).astype(int))
    right = []
    for own, other in (host, host[::-1]):
        other = other.astype(np.float64)
        logits = options.logit_scale * (own[rows].astype(np.float64) @ other.T) + options.logit_bias
        weights = sigmoid(logits)
        pairs = np.arange(len(rows)), rows
        weights[pairs] = -sigmoid(-logits[pairs])
        right.append(options.logit_scale / size * (weights @ other))

    def error(gradients) -> float:
        difference = [_host(gradient)[rows] - exact for gradient, exact in zip(gradients, right, strict=True)]
        return float(np.linalg.norm(difference) / np.linalg.norm(right))

    return error


def _memory_of(name: str, options, size: int) -> int:
    """On a CPU: the growth of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.sigmoid_loss", "--memory-of", name, "--batch-sizes", str(size)]
    command += ["--dim", str(options.dim)] + (["--dtype", options.dtype] if options.dtype else [])
    environment = os.environ | {"KERAS_BACKEND": options.backend} | EXACT_ALLOCATIONS
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"Measuring the memory of {name} failed:\n{done.stderr[-2000:]}")
    return int(done.stdout.strip().splitlines()[-1])


def _peak_growth(driver, options) -> int:
    """How far the resident memory rises above what it was, during the first call of this size, beside the call's
    results.

    A quarter of the batch goes before, so that libraries are loaded and the compiler has had the memory it needs. Later
    calls of this size would show less: what a framework has freed it may keep.
    """
    dtype, (size,) = options.dtype or "float32", options.batch_sizes
    function = driver.contenders(dtype, options.dim, peers=True)[options.memory_of]
    driver.wait(function(*_arguments(driver, options, max(1, size // 4), dtype)[1]))
    _, arguments = _arguments(driver, options, size, dtype)
    before = _status("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts again from here
    result = function(*arguments)
    driver.wait(result)
    kept = 2 * size * options.dim * 4
    return max(0, _status("VmHWM") - before - kept)


def _status(field: str) -> int:
    """Bytes of a line of /proc/self/status."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(field))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
