"""Everything worth knowing on a GPU, in the order of its worth, in eight minutes; what is known is kept at once.

    python -m benchmarks.gpu --output FOLDER
    python -m benchmarks.gpu --output FOLDER --stages "torch block" "torch loss"
    python -m benchmarks.gpu --output FOLDER --summarize
    python -m benchmarks.gpu --output FOLDER --rehearse

It takes the environment as it is and downloads nothing (`benchmarks.gpu.wheels` prepares what a machine without a
network lacks). The folder gets three files, up to date after every stage: results.jsonl, a line for each result, on the
disk before the next is asked for; summary.txt, tables made of it; logs.tar.gz, what the stages printed. A stage is a
process group with a limit of its own: one that fails, hangs or crashes keeps none after it from running.
"""

import argparse
import os
import signal
import sys
import tarfile
import tempfile
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from benchmarks.gpu import journal, summary
from benchmarks.gpu.journal import Journal
from benchmarks.gpu.stages import FAULTS, STAGES, Stage
from benchmarks.gpu.supervision import supervise
from diptych.core.training.card import git_state, machine

ROOT = Path(__file__).parents[2]
SHORTEST = 8.0
"""Seconds with which it is worth starting a stage."""
PATIENCE = 5
"""Times its limit for a stage that is rehearsed, on whatever CPU."""
LAST_WORDS = 3.0
"""Seconds before its limit at which a stage prints where its threads are."""
LOG_BYTES = 4 * 2**20
"""Of each log, its end."""


def main() -> None:
    options = _options()
    options.output.mkdir(parents=True, exist_ok=True)
    results = options.output / journal.NAME
    if options.summarize:
        print(summary.write(options.output))
        return
    if results.exists():
        raise SystemExit(f"{results} is there already. Name another folder with --output, or move it away.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the stage's group ends and the logs are kept
    deadline = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="gpu-") as temporary:
        scratch = Path(temporary)
        (scratch / "logs").mkdir()
        outcomes: dict[str, str] = {}
        Journal(results, "").write("machine", **_machine())
        try:
            for stage in _chosen(options):
                outcomes[stage.name] = _run(stage, deadline, options, scratch)
                _keep(options.output, scratch / "logs")
        finally:
            _keep(options.output, scratch / "logs")
            print("\n" + summary.write(options.output), flush=True)
    raise SystemExit(not _as_expected(outcomes, options.rehearse))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="for three files")
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything")
    names = [stage.name for stage in STAGES]
    parser.add_argument("--stages", nargs="+", choices=names, metavar="STAGE", help=f"of {', '.join(names)}")
    parser.add_argument("--backends", nargs="+", choices=["torch", "jax", "tensorflow"], help="those installed")
    parser.add_argument("--rehearse", action="store_true", help="every stage on a CPU, one that hangs, one that dies")
    parser.add_argument("--summarize", action="store_true", help="only write the summary again")
    return parser.parse_args()


def _machine() -> dict[str, str]:
    """The host, the versions of what is measured, and the checkout; the stages ask the GPU for its name."""
    packages = ("torch", "triton", "jax", "keras", "numpy", "siglip_kernel", "open_clip_torch")
    known = {name: version(name) for name in packages if find_spec(name.removesuffix("_torch"))}
    return {"host": str(machine()), "python": sys.version.split()[0], **known, "git": str(git_state(ROOT))}


def _chosen(options: argparse.Namespace) -> list[Stage]:
    """What is to run, in the order of its worth; in a rehearsal the faults come after the first stage."""
    chosen = [
        stage
        for stage in STAGES
        if (stage.name in options.stages if options.stages else not stage.asked_for)
        and stage.backend in (options.backends or (stage.backend,))
        and find_spec(stage.backend)
    ]
    if not chosen:
        raise SystemExit("There is nothing to run: no framework is installed that has one of the stages asked for.")
    return [*chosen[:1], *FAULTS, *chosen[1:]] if options.rehearse else chosen


def _run(stage: Stage, deadline: float, options: argparse.Namespace, scratch: Path) -> str:
    """Runs a stage, writes down how it ended and shows the end of what it printed if that was not well."""
    results, started = options.output.resolve() / journal.NAME, time.monotonic()
    patience = PATIENCE if options.rehearse and stage not in FAULTS else 1
    seconds = min(patience * stage.seconds, deadline - started)
    log = scratch / "logs" / f"{stage.name.replace(' ', '-')}.log"
    if seconds < min(SHORTEST, stage.seconds):
        outcome = "not run: no time was left"
    else:
        print(f"{stage.name}, at most {seconds:.0f} s", flush=True)
        command = [sys.executable, "-m", "benchmarks.gpu.stage", stage.name, "--journal", str(results)]
        command += ["--folder", str(log.parent), "--seconds", str(max(1.0, seconds - LAST_WORDS))]
        command += ["--rehearse"] if options.rehearse else []
        environment = _environment(stage.backend, scratch)
        outcome = supervise(command, seconds=seconds, log=log, folder=ROOT, environment=environment)
    taken = time.monotonic() - started
    Journal(results, stage.name).write("stage", outcome=outcome, seconds=round(taken, 1))
    print(f"{stage.name}: {outcome}, {taken:.0f} s", flush=True)
    if outcome != "passed" and log.exists():
        print("\n".join(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-12:]), flush=True)
    return outcome


def _environment(backend: str, scratch: Path) -> dict[str, str]:
    """A stage's: Keras' settings are its own, and jax takes memory as it needs it, so that its use can be measured."""
    return os.environ | {
        "KERAS_BACKEND": backend,
        "KERAS_HOME": str(scratch / "keras"),
        "JAX_COMPILATION_CACHE_DIR": str(scratch / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "PYTHONUNBUFFERED": "1",
        "DIPTYCH_DEVICE": "gpu",
        "DIPTYCH_REQUIRE_BACKENDS": backend,
    }


def _keep(folder: Path, logs: Path) -> None:
    """Packs the logs anew; a pack that is cut off does not take the one before with it."""
    for log in logs.iterdir():
        if log.stat().st_size > LOG_BYTES:
            log.write_bytes(log.read_bytes()[-LOG_BYTES:])
    new = folder / "logs.tar.gz.new"
    with tarfile.open(new, "w:gz") as archive:
        archive.add(logs, arcname="logs")
    new.replace(folder / "logs.tar.gz")
    summary.write(folder)


def _as_expected(outcomes: dict[str, str], rehearsed: bool) -> bool:
    """Whether nothing failed; in a rehearsal, nothing but what is made to."""
    expected = {"torch hangs": "out of time", "torch crashes": f"failed with status {-signal.SIGABRT}"}
    expected = expected if rehearsed else {}
    return all(
        outcome == expected.get(name, "passed") or outcome.startswith("not run") for name, outcome in outcomes.items()
    )


if __name__ == "__main__":
    main()
