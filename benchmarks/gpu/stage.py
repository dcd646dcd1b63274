"""The process of a stage, or of several, one after the other.

python -m benchmarks.gpu.stage "torch ceilings" --journal results.jsonl --folder logs
"""

import argparse
import faulthandler
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu.journal import Journal
from benchmarks.gpu.stages import GPU, REHEARSAL, Sizes

ENCODING = ["-m", "benchmarks.encoding", "--batch-size", "256", "--precision", "bfloat16"]
AGREEMENT = ["-m", "pytest", "-q", "tests/agreement", "--ignore=tests/agreement/test_contrastive.py"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="STAGE")
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="for files that a stage has beside its log")
    parser.add_argument("--seconds", type=float, help="after which every thread's place is printed")
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    if options.seconds:
        faulthandler.dump_traceback_later(options.seconds)
    sizes = REHEARSAL if options.rehearse else GPU
    if options.rehearse:
        os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
    for name in options.names:
        run(name, Journal(options.journal, name), sizes, options.folder)


def run(name: str, journal: Journal, sizes: Sizes, folder: Path) -> None:
    """A stage in this process; files of its own go to the folder."""
    backend, _, what = name.partition(" ")
    match what:
        case "ceilings":
            from benchmarks.gpu import ceilings

            ceilings.measure(journal, sizes)
        case "compile" | "block" if backend == "torch":
            from benchmarks.gpu import block

            (block.compile_all if what == "compile" else block.measure)(journal, sizes)
        case "block":
            from benchmarks.gpu import mosaic

            mosaic.measure(journal, sizes)
        case "loss" | "million" | "small" | "softmax" | "widths":
            from benchmarks.gpu import losses

            losses.measure(what, backend, journal, sizes, folder)
        case "tests":
            from benchmarks.gpu import checks

            checks.run_tests(journal, sizes)
        case "encoding":
            compiled = ["--compile"] if backend == "torch" else []
            _run_command([*ENCODING, *compiled, "--out", str(folder)], sizes)
        case "agreement":
            _run_command(AGREEMENT, sizes)
        case "hangs":
            _hang(journal)
        case "crashes":
            journal.write("fault", what="crashes")
            os.abort()
        case _:
            raise SystemExit(f"Unknown stage {name!r}.")


def _run_command(arguments: list[str], sizes: Sizes) -> None:
    """A command of its own; a rehearsal only asks whether it is there."""
    rehearsed = ["--help"] if sizes.interpreted else []
    subprocess.run([sys.executable, *arguments, *rehearsed], check=True)


def _hang(journal: Journal) -> None:
    """Like the worst of programs: with a child that holds the output open, and both deaf to a polite end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, 1); time.sleep(1000)"])
    journal.write("fault", what="hangs", child=child.pid)
    time.sleep(1000)


if __name__ == "__main__":
    main()
