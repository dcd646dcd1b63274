"""pytest plugin: how the tests are ordered, measured and kept small.

Files run in the order of their recorded times, the longest first, so that processes side by side end together. Between
two files, and where a process has grown, compiled programs are let go. In continuous integration each test's seconds
are written down (`tests/times.py`), and a process that grows beyond `LARGEST_MEGABYTES` fails the run. With --quick,
tests that are recorded as slow are left out.
"""

import ctypes
import gc
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests import times

LARGEST_MEGABYTES = 3_000
GROWN_MEGABYTES = 250
"""A process that has grown by so much lets compiled programs go within a file too."""
MEASURED = os.environ.get("DIPTYCH_PART")
"""The part of continuous integration that this is; none by hand."""


def part() -> str:
    """The name under which this run's tests are recorded."""
    return MEASURED or f"tests {os.environ['KERAS_BACKEND']}"


def pytest_addoption(parser: pytest.Parser) -> None:
    message = f"leave out the tests that are recorded with more than {times.QUICK_SECONDS:g} s"
    parser.addoption("--quick", action="store_true", help=message)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # one of several processes leaves it to the one that started them
        config.pluginmanager.register(Measurement(MEASURED), "measurement")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    record = times.recorded()
    if config.getoption("quick"):
        slow = [item for item in items if record.seconds(part(), item.nodeid) > times.QUICK_SECONDS]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    items.sort(key=lambda item: -record.file_seconds(part(), item.nodeid.partition("::")[0]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None):
    yield
    ended = nextitem is None or nextitem.path != item.path
    if ended and "tensorflow" in sys.modules and (keras := sys.modules.get("keras")):
        keras.utils.clear_session(free_memory=False)
    if ended or megabytes("VmRSS") > _kept + GROWN_MEGABYTES:
        let_go()


def let_graphs_go() -> None:
    """Forget what keeps graphs of tensorflow alive: the gradient of each call of a function with a custom gradient
    within a graph, which tensorflow registers for ever. What is traced already does not ask for it again.
    """
    gradients = sys.modules["tensorflow.python.framework.ops"].gradient_registry._registry
    for name in [name for name in gradients if name.startswith("CustomGradient-")]:
        del gradients[name]


_kept = 0.0  # megabytes, after programs were let go


def let_go() -> None:
    """Free what was compiled; what is needed again is taken from the cache on the disk."""
    global _kept
    if jax := sys.modules.get("jax"):
        jax.clear_caches()
    if "tensorflow" in sys.modules:
        let_graphs_go()
    gc.collect()
    with suppress(AttributeError, OSError):  # glibc alone has it, and keeps what was freed otherwise
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    _kept = megabytes("VmRSS")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = yield
    if call.when == "teardown":
        report.user_properties.append(("megabytes", peak_megabytes()))
    return report


def peak_megabytes() -> float:
    """The most memory that this process has taken, or one that it started and that has ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1_024) / 1e6
    return max(megabytes("VmHWM"), children)


def megabytes(field: str) -> float:
    """A figure that Linux gives of this process's memory, such as the present "VmRSS" or the greatest, "VmHWM";
    elsewhere 0.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith(field)) * 1_024 / 1e6


class Measurement:
    """Hears of every test, whichever process ran it; adds up, writes down, and judges the memory at the end.

    Args:
        part: of continuous integration, None where this is none: then nothing is written down, and any memory is
            allowed.
        folder: where to write.
    """

    def __init__(self, part: str | None, folder: Path = times.MEASURED) -> None:
        self._part, self._folder = part, folder
        self._seconds: dict[str, float] = {}
        self._largest = (0.0, "")
        if part:
            times.begin(part, folder)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] = self._seconds.get(report.nodeid, 0.0) + report.duration
        if report.when == "teardown":
            megabytes = dict(report.user_properties)["megabytes"]
            if megabytes > self._largest[0]:
                self._largest = (megabytes, report.nodeid)
            if self._part:
                timed = times.Timed(self._part, report.nodeid, self._seconds.pop(report.nodeid), megabytes)
                times.write(timed, self._folder)

    @property
    def _too_large(self) -> bool:
        return bool(self._part) and self._largest[0] > LARGEST_MEGABYTES

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._too_large and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        megabytes, test = self._largest
        allowed = f", and {LARGEST_MEGABYTES:,} MB are allowed" if self._too_large else ""
        terminalreporter.line(
            f"The largest process took {megabytes:,.0f} MB after {test}{allowed}.", red=self._too_large
        )
