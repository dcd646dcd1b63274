"""The running of tests: the slow ones first, or left out; memory that is bounded; times that are written down."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests import plugin, times
from tests.plugin import LARGEST_MEGABYTES, Measurement
from tests.times import Record

RECORD = Record(
    {"tests": 60.0},
    {
        plugin.part(): {
            "tests/test_a.py": {times.REST: 1.0},
            "tests/test_b.py": {"test_slow[1]": 30.0, "test_long": 0.9, times.REST: 0.5},
        }
    },
)
COLLECTED = (
    "tests/test_a.py::test_x",
    "tests/test_new.py::test_y",
    "tests/test_b.py::test_slow[1]",
    "tests/test_b.py::test_long",
)


def arranged(monkeypatch, *, quick: bool) -> list[str]:
    """The tests that are run, in their order."""
    monkeypatch.setattr(times, "recorded", lambda: RECORD)
    left_out: list = []
    config = SimpleNamespace(
        getoption=lambda name: quick, hook=SimpleNamespace(pytest_deselected=lambda items: left_out.extend(items))
    )
    items = [SimpleNamespace(nodeid=name) for name in COLLECTED]
    plugin.pytest_collection_modifyitems(config, items)
    assert len(items) + len(left_out) == len(COLLECTED)
    return [item.nodeid for item in items]


def test_files_that_take_longest_come_first_and_stay_together(monkeypatch):
    assert arranged(monkeypatch, quick=False) == [COLLECTED[2], COLLECTED[3], COLLECTED[0], COLLECTED[1]]


def test_quick_leaves_out_what_is_recorded_as_slow_and_nothing_else(monkeypatch):
    assert arranged(monkeypatch, quick=True) == [COLLECTED[3], COLLECTED[0], COLLECTED[1]]


def report(megabytes: float, when: str = "teardown") -> SimpleNamespace:
    return SimpleNamespace(
        nodeid="tests/test_a.py::test_x", duration=1.5, when=when, user_properties=[("megabytes", megabytes)]
    )


@pytest.mark.parametrize(
    ("part", "megabytes", "status"),
    [
        ("tests jax", LARGEST_MEGABYTES + 1, 1),
        ("tests jax", LARGEST_MEGABYTES - 1, 0),
        (None, LARGEST_MEGABYTES + 1, 0),
    ],
)
def test_a_process_that_grows_too_large_fails_continuous_integration(tmp_path, part, megabytes, status):
    measurement, session = Measurement(part, tmp_path), SimpleNamespace(exitstatus=pytest.ExitCode.OK)
    measurement.pytest_runtest_logreport(report(megabytes))
    measurement.pytest_sessionfinish(session)
    assert session.exitstatus == status


def test_a_tests_seconds_are_those_of_its_parts(tmp_path):
    measurement = Measurement("tests jax", tmp_path)
    for when in ("setup", "call", "teardown"):
        measurement.pytest_runtest_logreport(report(10.0, when))
    (timed,) = times.measured(tmp_path)
    assert timed == times.Timed("tests jax", "tests/test_a.py::test_x", 4.5, 10.0)


def test_the_memory_of_processes_that_have_ended_counts():
    taken = "x = bytearray(300_000_000); x[::4096] = bytes(len(x[::4096]))"
    subprocess.run([sys.executable, "-c", taken], check=True)
    assert plugin.peak_megabytes() > 300
