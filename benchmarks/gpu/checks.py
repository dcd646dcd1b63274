"""The tests that need a GPU, each failure written down as it happens."""

from importlib.util import find_spec

import pytest

from benchmarks.gpu.journal import Journal
from benchmarks.gpu.stages import Sizes

SECONDS = 60
"""Of a test, at most."""
PROCESSES = 6
"""Side by side, most of whose time goes to compiling."""


class Report:
    """pytest's plugin that writes failures, and at the end how many did what."""

    def __init__(self, journal: Journal):
        self.journal = journal
        self.counts = dict.fromkeys(("passed", "failed", "skipped"), 0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.journal.write("failure", test=report.nodeid, when=report.when, said=report.longreprtext[-1500:])
        if report.when == "call" or not report.passed:
            self.counts[report.outcome] += 1

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self.journal.write("tests", status=int(exitstatus), **self.counts)


def run_tests(journal: Journal, sizes: Sizes) -> None:
    """Those of tests/gpu/ on the backend that Keras runs on."""
    arguments = ["-q", "-p", "no:cacheprovider", "--timeout", str(SECONDS), "tests/gpu"]
    if find_spec("xdist"):
        arguments += ["-n", str(min(PROCESSES, sizes.compilers))]
    status = pytest.main(arguments, plugins=[Report(journal)])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise SystemExit(int(status))
