"""A contrastive loss and its gradients: time, memory and error of every implementation that runs here, in one run.

    KERAS_BACKEND=jax python -m benchmarks.sigmoid_loss
    KERAS_BACKEND=torch python -m benchmarks.sigmoid_loss --dtype bfloat16 --batch-sizes 1024 2048 --peers
    KERAS_BACKEND=jax python -m benchmarks.sigmoid_loss --loss softmax

First each contender answers the cases that the tests use; one that is wrong there gets no time. Contenders are timed in
turn, so that whatever else the machine does hits all. The rate counts the 6 B² D operations that are needed, whatever
was done. Beside it stands what the device does in plain products: a large square one, and those of the loss's own
shapes, which are the ceiling. "naive" is the loss written plainly in the framework, with the matrix of all pairs; of
the softmax loss it is the definition in `core/losses/contrastive.py`.

It is for any device; `python -m benchmarks.gpu` asks a GPU more, in an order that fits a rented one.
"""

import argparse
import os
import subprocess
import sys

from benchmarks.contest import in_turn
from benchmarks.device import device_name, write_results
from benchmarks.loss_contest import BIAS, SCALE, arguments, ceiling, compared, is_ours, loss_driver, mistake
from diptych.backends.plan import LARGEST_BLOCK
from diptych.backends.selection import select_backend

EXACT_ALLOCATIONS = {
    "MALLOC_MMAP_THRESHOLD_": str(2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2 * 10**9),
    "TF_ENABLE_ONEDNN_OPTS": "0",  # with oneDNN tensorflow keeps what is freed
}
"""For the process whose memory is measured: arrays come from the system and go back to it, small pieces are kept."""

LOSSES = {"sigmoid": "sigmoid_loss", "softmax": "softmax_contrastive_loss"}


def main() -> None:
    options = _options()
    driver = loss_driver(options.backend)
    if options.memory_of:
        print(_peak_growth(driver, options))
        return
    dtype = options.dtype or ("bfloat16" if driver.ACCELERATED else "float32")
    sizes = options.batch_sizes or ([16_384, 65_536] if driver.ACCELERATED else [4096])
    contenders = driver.contenders(dtype, options.dim, options.peers, options.loss)
    if options.only:
        contenders = {name: function for name, function in contenders.items() if name in options.only}
    if not contenders:
        raise SystemExit(f"Nothing to time: --only {' '.join(options.only)} names none of the contenders.")
    print(f"{options.loss} by {options.backend} on {device_name(driver.device_name())}, {dtype}, D={options.dim}")
    wrong = {
        name: reason
        for name, function in contenders.items()
        if (reason := mistake(driver, name, function, dtype, loss=options.loss))
    }
    for name, reason in wrong.items():
        print(f"  {name} is wrong, so it is not timed: {reason}")
    results = {"backend": options.backend, "dtype": dtype, "dim": options.dim, "wrong": wrong, "sizes": {}}
    contenders = {name: function for name, function in contenders.items() if name not in wrong}
    square = 8192 if driver.ACCELERATED else 2048
    product = driver.product(square, square, square, dtype)
    taken = in_turn({"product": product}, driver.elapsed, rounds=5)["product"]
    results["square_product_flops"] = rate = 2 * square**3 / min(taken)
    print(f"  product of {square}² matrices: {rate / 1e12:.3g} TFLOP/s")
    for size in sizes:
        results["sizes"][size] = _measure(driver, options, contenders, size, dtype)
    name = f"{options.loss}-{options.backend}-{dtype}-{options.dim}-{'-'.join(map(str, sizes))}"
    print(write_results(name, results, accelerator=driver.device_name()))
    if any(map(is_ours, wrong)):
        raise SystemExit(1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loss", choices=LOSSES, default="sigmoid", help="SigLIP's, or CLIP's softmax loss")
    parser.add_argument("--batch-sizes", type=int, nargs="+", help="4096 on a CPU, 16384 and 65536 elsewhere")
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="float32 on a CPU, else bfloat16")
    parser.add_argument("--logit-scale", type=float, default=SCALE, help="as in the released SigLIP 2 models")
    parser.add_argument("--logit-bias", type=float, default=BIAS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these contenders alone")
    parser.add_argument("--peers", action="store_true", help="other people's implementations, where installed")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min([options.dim, options.repeats, *(options.batch_sizes or [1])]) < 1:
        parser.error("--batch-sizes, --dim and --repeats must be at least 1")
    options.backend = select_backend()
    options.scalars = (options.logit_scale, options.logit_bias)[: 2 if options.loss == "sigmoid" else 1]
    options.loss = LOSSES[options.loss]
    return options


def _measure(driver, options, contenders, size: int, dtype: str) -> dict:
    limit = ceiling(driver, size, options.dim, dtype, LARGEST_BLOCK if driver.ACCELERATED else 1024)
    given = arguments(driver, size, options.dim, dtype, *options.scalars)
    scalars = ", ".join(f"{name}={value:g}" for name, value in zip("tb", options.scalars, strict=False))
    print(f"\n  B={size}, {scalars}; products of the loss's shapes alone: {limit * 1e3:.2f} ms")
    print(
        f"  {'':<24}{'ms':>10}{'TFLOP/s':>10}{'of ceiling':>12}"
        f"{'MiB extra':>11}{'gradient error':>16}{'in float32':>12}"
    )
    rows = {}
    memory = None if driver.KNOWS_ITS_MEMORY else lambda name: _memory_of(name, options, size)
    for name, row in compared(driver, contenders, given, rounds=options.repeats, memory=memory):
        if "failed" in row:
            print(f"  {name:<24}{row['failed']}")
        elif "fastest_ms" in row:
            row["share_of_ceiling"] = limit * 1e3 / row["ms"]
            rows[name] = row
            print(
                f"  {name:<24}{row['ms']:>10.2f}{row['tflops']:>10.3g}{row['share_of_ceiling']:>11.0%} "
                f"{row['extra_mib']:>11.0f}{row['gradient_error']:>16.1e}{row['float32_gradient_error']:>12.1e}"
            )
    return {"ceiling_ms": limit * 1e3, "contenders": rows}


def _memory_of(name: str, options, size: int) -> int:
    """On a CPU: the growth of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.sigmoid_loss", "--memory-of", name, "--batch-sizes", str(size)]
    command += ["--loss", next(short for short, loss in LOSSES.items() if loss == options.loss)]
    command += ["--dim", str(options.dim)] + (["--dtype", options.dtype] if options.dtype else [])
    environment = os.environ | {"KERAS_BACKEND": options.backend} | EXACT_ALLOCATIONS
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"Measuring the memory of {name} failed:\n{done.stderr[-2000:]}")
    return int(done.stdout.strip().splitlines()[-1])


def _peak_growth(driver, options) -> int:
    """How far the resident memory rises above what it was, during a call, beside the call's results.

    A call goes before, so that libraries are loaded and the compiler has had the memory it needs: of this size where
    the framework gives back what it frees, or else of a quarter of it, whose memory alone it then has to spare.
    """
    dtype, (size,) = options.dtype or "float32", options.batch_sizes
    function = driver.contenders(dtype, options.dim, True, options.loss)[options.memory_of]
    before = size if driver.GIVES_MEMORY_BACK else max(1, size // 4)
    driver.wait(function(*arguments(driver, before, options.dim, dtype, *options.scalars)))
    given = arguments(driver, size, options.dim, dtype, *options.scalars)
    driver.wait(given)
    before = _status("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts again from here
    result = function(*given)
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
