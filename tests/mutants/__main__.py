"""Known faults, each made in a copy of the checkout to see that its test finds it: tests that cannot fail say nothing.

    python -m tests.mutants            all of them
    python -m tests.mutants NAME ...   these

Before that, the tests must pass on the code as it is. A fault that its test does not find is said to live; a test that
does not come to a verdict (it cannot be collected, is left out, or takes too long) makes its entry a broken one. Either
is an exit status of 1.
"""

import difflib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path
from typing import Literal

from tests.mutants.mutant import Mutant
from tests.mutants.tables import MUTANTS
from tests.packaging import copy_tree
from tests.tree import ROOT

SECONDS = 300
"""The longest that the test of one fault may take; it takes seconds."""

Verdict = Literal["caught", "lives", "broken"]


def verdict(status: int | None) -> Verdict:
    """What pytest's exit status says of a fault; None is that of a run that took too long, or in which nothing ran."""
    return "lives" if status == 0 else "caught" if status == 1 else "broken"


class Bench:
    """A copy of the checkout, in which tests run in processes of their own."""

    def __init__(self, tree: Path):
        self.tree = tree.resolve()
        code, place = self._run([sys.executable, "-c", "import diptych.core; print(diptych.core.__file__)"], "torch")
        if code != 0 or not place.strip().startswith(str(self.tree)):
            raise RuntimeError(f"{self.tree} is not what is imported there:\n{place}")

    def passes(self, tests: Sequence[str], backend: str) -> str:
        """Runs tests on the code as it is; returns what they print where one does not pass, else nothing."""
        status, printed = self._pytest(tests, backend, seconds=SECONDS + 30 * len(tests))
        return "" if status == 0 else f"{printed[-6000:]}\npytest ended with status {status} on {backend}"

    def judge(self, mutant: Mutant) -> tuple[Verdict, str]:
        """Makes a fault, runs its test and takes the fault back; -> the verdict, and what was printed."""
        path = self.tree / mutant.file
        text = path.read_text(encoding="utf-8")
        try:
            _write(path, text.replace(mutant.old, mutant.new))
            status, printed = self._pytest([mutant.test], mutant.backend, "-x", seconds=SECONDS)
        finally:
            _write(path, text)
        if status == 0 and not re.search(r"\d+ passed", printed):
            status = None  # it was left out, for instance as a test of another backend
        return verdict(status), printed

    def _pytest(self, tests: Sequence[str], backend: str, *options: str, seconds: int) -> tuple[int | None, str]:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", *options, *tests]
        return self._run(command, backend, seconds=seconds)

    def _run(self, command: list[str], backend: str, seconds: int = 60) -> tuple[int | None, str]:
        """-> the exit status, None where it took too long, and what was printed; nothing that it started is left
        behind.
        """
        own = {"KERAS_BACKEND": backend, "PYTHONPATH": str(self.tree), "TF_CPP_MIN_LOG_LEVEL": "2"}
        process = subprocess.Popen(
            command, cwd=self.tree, env=os.environ | own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", start_new_session=True,
        )  # fmt: skip
        try:
            printed, _ = process.communicate(timeout=seconds)
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            printed, _ = process.communicate()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return None, f"{printed}\nended after {seconds} s"
        return process.returncode, printed


def _write(path: Path, text: str) -> None:
    """Writes source, and forgets what was compiled of it: two texts of one length within a second look alike to
    Python.
    """
    path.write_text(text, encoding="utf-8")
    Path(cache_from_source(str(path))).unlink(missing_ok=True)


def chosen(names: Sequence[str]) -> list[Mutant]:
    """The mutants of these names, all where there are none. Raises SystemExit for a name that is not in the table."""
    by_name = {mutant.name: mutant for mutant in MUTANTS}
    for name in names:
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, n=3, cutoff=0.4)
            print(
                f"There is no mutant {name!r}. {'Near it: ' + ', '.join(near) + '.' if near else ''}", file=sys.stderr
            )
            raise SystemExit(2)
    return [by_name[name] for name in names] or list(MUTANTS)


def main(names: Sequence[str]) -> int:
    """Tries the mutants of these names, or all; returns the exit status."""
    mutants, began = chosen(names), time.monotonic()
    counts: dict[Verdict, int] = {"caught": 0, "lives": 0, "broken": 0}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        bench = Bench(copy_tree(ROOT, Path(folder) / "tree"))
        for mutant in mutants:
            if wrong := mutant.wrong(bench.tree):
                print(f"BROKEN  {mutant.name}: {'; '.join(wrong)}")
                return 1
        for backend in dict.fromkeys(mutant.backend for mutant in mutants):
            tests = dict.fromkeys(mutant.test for mutant in mutants if mutant.backend == backend)
            if printed := bench.passes([*tests], backend):
                print(f"{printed}\nThe tests must pass before faults are made.")
                return 1
        print(f"The tests pass on the code as it is ({time.monotonic() - began:.0f} s).", flush=True)
        for mutant in mutants:
            start = time.monotonic()
            found, printed = bench.judge(mutant)
            counts[found] += 1
            line = {
                "caught": f"caught  {mutant.name}  ({time.monotonic() - start:.1f} s)  by {mutant.test}",
                "lives": f"LIVES   {mutant.name}: {mutant.file}",
                "broken": f"BROKEN  {mutant.name}: {mutant.test} came to no verdict\n{printed[-3000:]}",
            }[found]
            print(line, flush=True)
    print(
        f"{counts['caught']} caught, {counts['lives']} live, {counts['broken']} broken, {time.monotonic() - began:.0f} "
        "s"
    )
    return int(counts["caught"] < len(mutants))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
