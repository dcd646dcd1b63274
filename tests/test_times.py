"""The short suite's time: what it was measured to take is within its budget, and nothing escapes."""

import json
import re
from dataclasses import replace

import pytest

from tests import times
from tests.times import Record, Timed
from tests.tree import ROOT, files

LEFT_TO_OTHERS = ("tests/gpu/",)  # skipped where there is no GPU


def test_the_recorded_times_add_up_to_less_than_the_budget():
    assert times.over_budget(times.recorded()) == ""


def test_every_file_of_tests_is_recorded():
    known = {file for found in times.recorded().parts.values() for file in found}
    there = {path.as_posix() for path in files(ROOT, ".py") if re.fullmatch(r"tests/.*test_\w+\.py", path.as_posix())}
    there = {path for path in there if not path.startswith(LEFT_TO_OTHERS)}
    assert len(there) >= 150
    assert there - known == set(), "run nox, then: python -m tests.times --record"


def test_contributing_says_how_long_each_session_takes():
    """Within half a minute, or a third."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    said = {name: float(minutes) for name, minutes in re.findall(r"^\| `([^`]+)` \| ([\d.]+) \|", text, re.M)}
    taken = {name: seconds / 60 for name, seconds in times.recorded().sessions.items()}
    assert said.keys() >= taken.keys() >= {"lint", "docs", "recipes", "tests(backend='jax')", "agreement"}
    assert {
        name: (said[name], minutes)
        for name, minutes in taken.items()
        if abs(said[name] - minutes) > max(0.5, minutes / 3)
    } == {}


@pytest.mark.parametrize(
    ("sessions", "message"),
    [
        ({"lint": 30.0, "tests": 2_300.0}, ""),
        ({"lint": 130.0, "tests": 2_300.0}, "40.5 minutes"),
        ({}, "nothing is recorded"),
    ],
)
def test_a_record_beyond_the_budget_is_refused(sessions, message):
    assert message in times.over_budget(Record(sessions, {}))
    assert bool(message) == bool(times.over_budget(Record(sessions, {})))


def test_seconds_of_tests_beyond_what_their_session_took_are_refused():
    """Somebody has edited one of the two."""
    record = Record({"tests(backend='jax')": 100.0}, {"tests jax": {"tests/test_a.py": {"test_x": 500.0}}})
    assert "tests jax" in times.over_budget(record)


def test_what_is_measured_comes_back_in_the_record_and_the_summary(tmp_path):
    tests = [
        Timed("tests jax", "tests/test_a.py::test_slow[1]", 5.0, 900.0),
        Timed("tests jax", "tests/test_a.py::test_fast", 0.25, 800.0),
        Timed("tests jax", "tests/test_a.py::test_faster", 0.25, 800.0),
    ]
    times.begin("tests jax", tmp_path)
    for timed in tests:
        times.write(timed, tmp_path)
    (tmp_path / times.SESSIONS).write_text(json.dumps({"sessions": [{"signatures": ["lint"], "duration": 90.0}]}))
    assert times.measured(tmp_path) == tests
    record = times.record_of(times.measured(tmp_path), times.sessions(tmp_path))
    assert record == Record({"lint": 90.0}, {"tests jax": {"tests/test_a.py": {"test_slow[1]": 5.0, times.REST: 0.5}}})
    assert record.seconds("tests jax", "tests/test_a.py::test_slow[1]") == 5.0
    assert record.seconds("tests jax", "tests/test_a.py::test_fast") == 0.0
    assert record.file_seconds("tests jax", "tests/test_a.py") == 5.5
    text = times.summary(tests, times.sessions(tmp_path), record)
    assert "1.5 min  lint" in text
    assert "900 MB" in text
    assert text.index("test_slow") < text.index("test_fast")
    times.begin("tests jax", tmp_path)
    assert times.measured(tmp_path) == []


def test_a_file_that_takes_much_longer_than_recorded_is_named():
    usual = [Timed("tests jax", f"tests/test_{name}.py::test", 20.0, 0.0) for name in "abcde"]
    record = times.record_of(usual, {})
    assert times.grown(usual, record) == []
    slower_machine = [replace(timed, seconds=50.0) for timed in usual]
    assert times.grown(slower_machine, record) == []
    assert times.grown([*usual[:4], replace(usual[4], seconds=60.0)], record) == [
        "tests jax: tests/test_e.py took 60 s, recorded are 20 s"
    ]
