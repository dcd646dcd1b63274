"""The whole loss with its gradients beside others': a large batch, a huge one, small ones, other widths, and CLIP's."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

from benchmarks.gpu.journal import Journal
from benchmarks.gpu.stages import Sizes
from benchmarks.loss_contest import BIAS, SCALE, arguments, compared, is_ours, judge, loss_driver, mistake

DTYPE = "bfloat16"
CHECKED = ("ragged, trained",)
LARGEST_ERROR = 1e-2
"""Relative, of our gradients in bfloat16."""


def measure(what: str, backend: str, journal: Journal, sizes: Sizes, folder: Path) -> None:
    """One of the stages, on the backend that Keras runs on.

    Raises:
        SystemExit: at its end, where an answer of ours was wrong or did not come.
    """
    driver = loss_driver(backend)
    if sizes.interpreted and backend == "torch":
        _interpret_triton()
    contest = Contest(driver, journal, sizes)
    match what:
        case "loss":
            _large(contest, min(sizes.batch, 16_384 if backend == "tensorflow" else sizes.batch), folder)
        case "million":
            _million(driver, journal, sizes)
        case "small":
            for size in sizes.small:
                contest.hold("small", driver.contenders_of_small_batches(DTYPE), size, sizes.width)
        case "softmax":
            contenders = driver.contenders(DTYPE, sizes.width, True, SOFTMAX)
            contest.hold("softmax", contenders, min(sizes.batch, 32_768), sizes.width, SOFTMAX)
        case "widths":
            for width in sizes.widths:
                contenders = driver.contenders(DTYPE, width, peers=False)
                ours = {name: function for name, function in contenders.items() if name in FAST}
                contest.hold("widths", ours, sizes.batch, width)
    if contest.faults:
        raise SystemExit("\n".join(contest.faults))


SOFTMAX = "softmax_contrastive_loss"

FAST = ("triton", "pallas_gpu", "xla")
"""Ours for 16 bits; `xla` is what a kernel has to beat on its framework."""


def _interpret_triton() -> None:
    """Has Triton's kernels run in their interpreter, in this process, which is a rehearsal's and ends with it.

    Mosaic's interpreter takes seconds for a tile: `mosaic` alone calls it, and jax rehearses with XLA's block.
    """
    from diptych.backends.torch import contrastive as native

    known = native.obstacle
    mock.patch.object(native, "obstacle", lambda name, **at: None if name == "triton" else known(name, **at)).start()


class Contest:
    """Contenders that are checked, timed in turn with a square product, and written down.

    Attributes:
        faults: what was wrong with ours.
    """

    def __init__(self, driver, journal: Journal, sizes: Sizes):
        self.driver, self.journal, self.sizes = driver, journal, sizes
        self.faults: list[str] = []
        self.wrong: dict[str, str | None] = {}

    def hold(
        self, title: str, contenders: dict[str, Callable], size: int, width: int, loss: str = "sigmoid_loss"
    ) -> None:
        fields = {"contest": title, "size": size, "width": width, "dtype": DTYPE}
        right = {}
        for name, function in contenders.items():
            if reason := self._mistake(name, function, loss):
                self._write(name, fields, {"wrong": reason})
            else:
                right[name] = function
        driver, square = self.driver, self.sizes.square
        given = arguments(driver, size, width, DTYPE, *((SCALE,) if loss == SOFTMAX else (SCALE, BIAS)))
        beside = {"square product": driver.product(square, square, square, DTYPE)}
        options = {"rounds": self.sizes.rounds, "seconds": self.sizes.seconds, "beside": beside}
        for name, row in compared(driver, right, given, **options):
            if name in beside:
                row["tflops"] = 2 * square**3 / row["ms"] / 1e9
            elif "fastest_ms" in row and title == "small":
                row["host_us"] = 1e6 * _host_seconds(driver, partial(right[name], *given), self.sizes.host_calls)
            self._write(name, fields, row)

    def _write(self, name: str, fields: dict, row: dict) -> None:
        self.journal.write("loss", contender=name, **fields, **row)
        reason = row.get("wrong", row.get("failed"))
        if row.get("gradient_error", 0.0) > LARGEST_ERROR:
            reason = f"the gradients are off by a relative {row['gradient_error']:.1e}, allowed {LARGEST_ERROR:.0e}"
        if reason and is_ours(name):
            self.faults.append(f"{name}, {fields['size']} by {fields['width']}: {reason}")

    def _mistake(self, name: str, function: Callable, loss: str) -> str | None:
        """Of ours, asked once of each; what is compiled for one shape is judged by its gradients' error, as others'."""
        if name not in FAST:
            return None
        if name not in self.wrong:
            self.wrong[name] = mistake(self.driver, name, function, DTYPE, CHECKED, loss)
        return self.wrong[name]


def _large(contest: Contest, batch: int, folder: Path) -> None:
    """Ours first; then beside what others run as it is; then, with what takes long to compile, once more."""
    driver, width = contest.driver, contest.sizes.width
    contenders = driver.contenders(DTYPE, width, peers=False)
    fast = next(name for name in FAST if name in contenders)
    ours = {fast: contenders[fast]}
    contest.hold("alone", ours, batch, width)
    if hasattr(driver, "hlo"):
        program = driver.hlo(contenders[fast], arguments(driver, batch, width, DTYPE, SCALE, BIAS))
        (folder / "hlo.txt").write_text(program)
    contenders |= driver.contenders(DTYPE, width, peers=True) | ours
    contenders.pop("chunked", None)  # for whatever runs nothing else
    compiled = {name: function for name, function in contenders.items() if "compile" in name}
    contest.hold("as they are", {n: f for n, f in contenders.items() if n not in compiled}, batch, width)
    if compiled:
        contest.hold("compiled", ours | compiled, batch, width)


def _host_seconds(driver, call: Callable, calls: int) -> float:
    """What a call occupies the host with until the next can be made."""
    driver.wait(call())
    start = time.perf_counter()
    for _ in range(calls):
        result = call()
    taken = (time.perf_counter() - start) / calls
    driver.wait(result)
    return taken


def _million(driver, journal: Journal, sizes: Sizes) -> None:
    """Once, after a batch that has everything loaded; some rows of its gradients are judged."""
    function = driver.contenders(DTYPE, sizes.width, peers=False)[FAST[0]]
    driver.wait(function(*arguments(driver, min(sizes.batch, sizes.million), sizes.width, DTYPE, SCALE, BIAS)))
    given = arguments(driver, sizes.million, sizes.width, DTYPE, SCALE, BIAS)
    fields = {"contest": "million", "contender": FAST[0], "size": sizes.million, "width": sizes.width, "dtype": DTYPE}
    results = []
    seconds = driver.elapsed(lambda: results.append(function(*given)), 1)
    row = {"ms": 1e3 * seconds, "tflops": 6 * sizes.million**2 * sizes.width / seconds / 1e12}
    journal.write("loss", **fields, **row)
    row["gradient_error"] = judge(driver, *given[:2], SCALE, BIAS)(results.pop()[1:3])
    journal.write("loss", **fields, **row)
    if driver.KNOWS_ITS_MEMORY:
        row["extra_mib"] = driver.extra_bytes(function, given) / 2**20
        journal.write("loss", **fields, **row)
