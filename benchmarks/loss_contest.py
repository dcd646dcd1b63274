"""Implementations of a contrastive loss compared in one run: each is checked, judged in float64, and timed in turn."""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import ModuleType

import numpy as np

from benchmarks.contest import in_turn
from diptych.backends.cases import CASES, REGIMES
from diptych.backends.plan import block_size

SAMPLED_PAIRS = 2**24
"""Pairs, of some 256 rows of the gradients at most, that are computed again in float64."""

ROUNDOFF = {"float32": 0.0, "bfloat16": 2.0**-8, "float16": 2.0**-11}
CHECKED = ("square, balanced", "ragged, balanced", "ragged, initial", "ragged, trained")
SCALE, BIAS, POSITIVE_COSINE = (REGIMES["trained"][key] for key in ("logit_scale", "logit_bias", "positive_cosine"))
"""As in the released SigLIP 2 models."""


def loss_driver(backend: str) -> ModuleType:
    """What the framework's own code in benchmarks/native/ offers."""
    match backend:
        case "jax":
            from benchmarks.native import jax_loss as driver
        case "torch":
            from benchmarks.native import torch_loss as driver
        case _:
            from benchmarks.native import tensorflow_loss as driver
    return driver


def is_ours(name: str) -> bool:
    """Whether a contender is an implementation of this project, compiled or not."""
    from diptych import backends

    return name.partition(",")[0] in backends.IMPLEMENTATIONS


def arguments(driver, size: int, width: int, dtype: str, *scalars: float) -> list:
    """(x, y, *scalars) on the device, embeddings drawn there."""
    x, y = driver.embeddings(size, width, dtype, positive_cosine=POSITIVE_COSINE)
    return [x, y, *(driver.to_device(np.asarray(value, np.float32), "float32") for value in scalars)]


def mistake(driver, name: str, function: Callable, dtype: str, cases=CHECKED, loss: str = "sigmoid_loss") -> str | None:
    """What is wrong with a contender's answers on the cases that tests use; None for nothing.

    In 16 bits plain losses round their logits, their loss and their gradients; ours round the last alone.
    """
    from tests.oracle.loss_judge import Answer, allowed, check, expected, problem_of

    ours = is_ours(name)
    roundoff = ROUNDOFF[dtype]
    for case in cases:
        problem = problem_of(CASES[case], dtype, loss)
        given = [driver.to_device(a, dtype) for a in (problem.x, problem.y)]
        given += [driver.to_device(np.asarray(a, np.float32), "float32") for a in problem.scalars.values()]
        try:
            answer = Answer(*(np.asarray(_host(part), np.float32) for part in function(*given)))
        except Exception as error:
            return f"{case}: {type(error).__name__}: {error}"
        right = expected(problem)
        slack = roundoff if ours else 8 * roundoff * (1 + problem.logit_scale / 10)
        limits = allowed(problem, roundoff)
        slacks = {n: slack * np.linalg.norm(v) for n, v in right._asdict().items() if v is not None}
        tolerance = limits._replace(**{n: getattr(limits, n) + more for n, more in slacks.items()})
        try:
            check(answer, right, tolerance, who=case)
        except AssertionError as error:
            return str(error)
    return None


def judge(driver, x, y, t: float, b: float | None = None) -> Callable[..., float]:
    """-> function of both embeddings' gradients: ‖error‖ / ‖gradient‖ over some of their rows, against float64.

    Of the sigmoid loss, or, without a bias, of the softmax loss.
    """
    from keras import ops

    size = len(x)
    rows = np.unique(np.linspace(0, size - 1, max(1, min(256, SAMPLED_PAIRS // size))).astype(int))
    right = []
    with driver.float64():
        is_pair = ops.convert_to_tensor(rows[:, None] == np.arange(size))
        for all_own, other in ((x, y), (y, x)):
            own, other = ops.cast(ops.take(all_own, rows, axis=0), "float64"), ops.cast(other, "float64")
            logits = t * ops.matmul(own, ops.transpose(other))
            if b is not None:
                weights = ops.where(is_pair, -ops.sigmoid(-(logits + b)), ops.sigmoid(logits + b))
            else:
                shares = ops.softmax(logits, axis=1) + ops.exp(logits - _normalisers(all_own, other, t))
                weights = shares / 2 - ops.cast(is_pair, "float64")
            right.append(ops.convert_to_numpy(ops.matmul(weights, other)) * (t / size))

    def error(gradients) -> float:
        sampled = [_host(ops.take(gradient, rows, axis=0)) for gradient in gradients]
        difference = [got - exact for got, exact in zip(sampled, right, strict=True)]
        return float(np.linalg.norm(difference) / np.linalg.norm(right))

    return error


def _normalisers(x, y, t: float):
    """log Σ_i exp(t x_i·y_j), float64 `[n]`, some rows of the logits at a time; y is float64."""
    from keras import ops

    total = ops.full((len(y),), -math.inf, dtype="float64")
    at_once = max(1, SAMPLED_PAIRS // len(y))
    for start in range(0, len(x), at_once):
        logits = t * ops.matmul(ops.cast(x[start : start + at_once], "float64"), ops.transpose(y))
        total = ops.logaddexp(total, ops.logsumexp(logits, axis=0))
    return total


def _host(array):
    """float32 NumPy of any framework's array."""
    from keras import ops

    return ops.convert_to_numpy(ops.cast(array, "float32"))


def compared(
    driver,
    contenders: Mapping[str, Callable],
    given: list,
    *,
    rounds: int,
    seconds: float = 0.0,
    memory: Callable[[str], int] | None = None,
    beside: Mapping[str, Callable] | None = None,
) -> Iterator[tuple[str, dict]]:
    """Each contender's memory and errors as soon as they are known, and then all again with their times.

    Args:
        contenders: name -> function of (x, y, *scalars) that returns the loss and its gradients.
        given: (x, y, *scalars) on the device.
        rounds, seconds: as for `in_turn`.
        memory: name -> bytes beside arguments and results; None to ask the driver, if it knows.
        beside: functions of nothing, timed in turn with the contenders.

    Yields:
        (name, row): `failed`, why there is no time; or `first_ms` and `ms` of the first two calls, `extra_mib`,
        `gradient_error` and `float32_gradient_error`; once more with `ms` (the median in turn), `fastest_ms` and
        `tflops`, of the 6 B² D operations that are needed.
    """
    gradient_error = judge(driver, *given[:2], *(float(_host(value)) for value in given[2:]))
    rows, calls = {}, {}
    for name, function in contenders.items():
        call = partial(function, *given)
        try:
            row = {"first_ms": driver.elapsed(call, 1) * 1e3, "ms": driver.elapsed(call, 1) * 1e3}
            if memory or driver.KNOWS_ITS_MEMORY:
                row["extra_mib"] = (memory(name) if memory else driver.extra_bytes(function, given)) / 2**20
            row["gradient_error"] = gradient_error(call()[1:3])
            exact = driver.explicit_gradients(name, *given)
            row["float32_gradient_error"] = gradient_error(exact[1:3]) if exact is not None else math.nan
        except Exception as error:
            reason = "out of memory" if driver.out_of_memory(error) else f"{type(error).__name__}: {error}"
            yield name, {"failed": reason}
            continue
        rows[name], calls[name] = row, call
        yield name, row
    size, width = given[0].shape
    for name, taken in in_turn({**calls, **(beside or {})}, driver.elapsed, rounds=rounds, seconds=seconds).items():
        times = {"ms": statistics.median(taken) * 1e3, "fastest_ms": min(taken) * 1e3}
        if name in rows:
            times["tflops"] = 6 * size**2 * width / statistics.median(taken) / 1e12
        yield name, rows.get(name, {}) | times


def products(driver, size: int, width: int, dtype: str, largest: int) -> dict[str, Callable]:
    """The three products of a block of the loss, alone: logits, gradients of the images, gradients of the texts."""
    block = block_size(size, largest, min(largest, 128))
    return {
        "logits": driver.product(block, block, width, dtype),
        "images": driver.product(block, width, block, dtype, "NN", accumulate=True),
        "texts": driver.product(block, width, block, dtype, "TN", accumulate=True),
    }


def ceiling(driver, size: int, width: int, dtype: str, largest: int) -> float:
    """Seconds of the three products alone, in blocks of at most so many rows and columns."""
    block = block_size(size, largest, min(largest, 128))
    taken = in_turn(products(driver, size, width, dtype, largest), driver.elapsed, rounds=5)
    return sum(min(seconds) for seconds in taken.values()) * (size / block) ** 2
