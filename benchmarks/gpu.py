"""Everything that needs a GPU, in one command and at most ten minutes: tests, tuning, benchmarks, for each framework
installed.

    python -m benchmarks.gpu

It takes the environment as it is and downloads nothing; `nox -s gpu` makes an environment first, `nox --no-venv -s gpu`
does not. Each step has a process and a time limit of its own; one that fails or runs out of time does not keep the
others from running. Results go to benchmarks/results/<device>/, and with --log-dir the steps' output goes there, too.
"""

import argparse
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

LARGEST = ["--batch-sizes", "1048576", "--repeats", "1", "--only"]
BENCHMARK = ["-m", "benchmarks.sigmoid_loss"]
ENCODING = ["-m", "benchmarks.encoding", "--batch-size", "256", "--precision", "bfloat16"]

STEPS = {
    "torch": (
        ("tests", 110, ["-m", "pytest", "-q", "tests/gpu"]),
        ("time", 100, [*BENCHMARK, "--batch-sizes", "16384", "65536", "--peers"]),
        ("tune", 110, ["-m", "benchmarks.tune_sigmoid_loss", "--repeats", "3"]),
        ("a million", 110, [*BENCHMARK, *LARGEST, "triton"]),
        ("encode", 90, [*ENCODING, "--compile"]),
    ),
    "jax": (
        ("tests", 110, ["-m", "pytest", "-q", "tests/gpu"]),
        ("time", 100, [*BENCHMARK, "--batch-sizes", "16384", "65536"]),
        ("tune", 90, ["-m", "benchmarks.tune_sigmoid_loss", "--repeats", "3"]),
        ("encode", 60, ENCODING),
    ),
    "tensorflow": (
        ("tests", 110, ["-m", "pytest", "-q", "tests/gpu"]),
        ("time", 100, [*BENCHMARK, "--batch-sizes", "16384"]),
    ),
}
"""backend -> (name, seconds at most, arguments of Python), in the order in which they are worth having."""

AGREEMENT = (
    ("agreement", 900, ["-m", "pytest", "-q", "tests/agreement", "--ignore=tests/agreement/test_sigmoid_loss.py"]),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backends", nargs="+", choices=list(STEPS), help="those that are installed")
    parser.add_argument(
        "--agreement", action="store_true", help="the models' agreement with the oracle, too; takes longer"
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="for everything")
    parser.add_argument("--log-dir", type=Path, help="a file for each step's output")
    options = parser.parse_args()
    backends = options.backends or [name for name in STEPS if find_spec(name)]
    if not backends:
        raise SystemExit(f"None of {', '.join(STEPS)} is installed.")
    steps = {backend: STEPS[backend] + (AGREEMENT if options.agreement else ()) for backend in backends}
    deadline = time.monotonic() + 60 * options.minutes
    outcomes = {}
    for place in range(max(map(len, steps.values()))):
        for backend in backends:
            if place < len(steps[backend]):
                name, limit, arguments = steps[backend][place]
                seconds = min(limit, deadline - time.monotonic())
                outcomes[f"{backend}, {name}"] = _run(backend, name, arguments, seconds, options.log_dir)
    width = max(map(len, outcomes))
    print("\n" + "\n".join(f"{step:<{width}}  {outcome}" for step, outcome in outcomes.items()))
    if any(outcome.startswith("failed") for outcome in outcomes.values()):
        raise SystemExit(1)


def _run(backend: str, name: str, arguments: list[str], seconds: float, log_dir: Path | None) -> str:
    """Runs a step, showing and keeping what it prints -> how it ended."""
    if seconds < 5:
        return "not run: no time was left"
    print(f"\n== {backend}, {name} (at most {seconds:.0f} s)", flush=True)
    # jax leaves memory to others, and asks for it as it needs it, so that its use can be measured.
    environment = os.environ | {
        "KERAS_BACKEND": backend,
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "PYTHONUNBUFFERED": "1",
    }
    environment |= {"DIPTYCH_DEVICE": "gpu", "DIPTYCH_REQUIRE_BACKENDS": backend}
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        output, _ = process.communicate(timeout=seconds)
        outcome = "passed" if process.returncode == 0 else f"failed with status {process.returncode}"
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        outcome = "failed: out of time"
    print(output[-6000:], flush=True)
    if log_dir:
        log_dir.mkdir(parents=True, exist_ok=True)
        (log_dir / f"{backend}-{name.replace(' ', '-')}.log").write_text(output)
    return f"{outcome}, {time.monotonic() - started:.0f} s"


if __name__ == "__main__":
    main()
