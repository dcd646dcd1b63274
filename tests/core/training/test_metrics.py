"""Metrics are exact to the bit, survive a torn line, and after a resume hold no row of a step that was lost."""

import errno
import json
import math
import os
import struct
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.training.metrics import MetricsWriter, read_metrics
from diptych.core.training.tensorboard import TensorBoard
from tests.core.weights.flushes import lost, record_flushes


def write_steps(path, first, last, *, resume_step=0):
    with MetricsWriter(path, resume_step=resume_step) as metrics:
        for step in range(first, last + 1):
            metrics.write(step, {"loss": 1 / step})


def steps(path):
    return [row["step"] for row in read_metrics(path)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(width=32) | st.floats() | st.integers() | st.booleans() | st.none() | st.text(), max_size=5))
def test_every_value_comes_back_bit_for_bit(tmp_path_factory, values):
    values = [value for value in values if value not in ("NaN", "Infinity", "-Infinity")]
    path = tmp_path_factory.mktemp("metrics") / "metrics.jsonl"
    with MetricsWriter(path) as metrics:
        metrics.write(7, {f"value {place}": value for place, value in enumerate(values)})
    (row,) = read_metrics(path)
    assert row.pop("step") == 7
    for found, value in zip(row.values(), values, strict=True):
        assert type(found) is type(value)
        if isinstance(value, float) and not math.isnan(value):
            assert struct.pack("d", found) == struct.pack("d", value)
        else:
            assert found == value or (math.isnan(found) and math.isnan(value))


def test_arrays_of_one_number_are_exact_numbers(tmp_path):
    loss = np.float32(0.1)
    with MetricsWriter(tmp_path / "m.jsonl") as metrics:
        metrics.write(
            np.int64(1), {"loss": loss, "array": np.array(loss), "count": np.int32(3), "inf": np.float32("inf")}
        )
    assert read_metrics(tmp_path / "m.jsonl") == [
        {"step": 1, "loss": float(loss), "array": float(loss), "count": 3, "inf": math.inf}
    ]


def test_numbers_within_containers_are_exact_too(tmp_path):
    numbers = {"recall": {"en": math.inf, "sw": np.float32(0.1)}, "histogram": (np.int64(2), -math.inf, [0.5])}
    with MetricsWriter(tmp_path / "m.jsonl") as metrics:
        metrics.write(1, {"evaluation": numbers, "chance": {"bn": math.nan}})
    (row,) = read_metrics(tmp_path / "m.jsonl")
    assert math.isnan(row["chance"]["bn"])
    assert row["evaluation"] == {
        "recall": {"en": math.inf, "sw": float(np.float32(0.1))},
        "histogram": [2, -math.inf, [0.5]],
    }


def test_every_line_is_strict_json(tmp_path):
    with MetricsWriter(tmp_path / "m.jsonl") as metrics:
        metrics.write(1, {"a": math.nan, "b": -math.inf, "c": {"skipped": {"image_truncated": 2}}, "d": "é\n"})
    text = (tmp_path / "m.jsonl").read_text()
    assert text.count("\n") == 1

    def refuse(constant):
        raise AssertionError(constant)

    json.loads(text, parse_constant=refuse)


def test_rows_can_be_read_while_the_writer_is_open(tmp_path):
    with MetricsWriter(tmp_path / "m.jsonl") as metrics:
        metrics.write(1, {"loss": 1.0})
        assert steps(tmp_path / "m.jsonl") == [1]


@given(written=st.integers(0, 20), resumed=st.integers(0, 25))
@settings(max_examples=50, deadline=None)
def test_a_resume_removes_exactly_the_later_rows(tmp_path_factory, written, resumed):
    path = tmp_path_factory.mktemp("metrics") / "m.jsonl"
    write_steps(path, 1, written)
    write_steps(path, resumed + 1, resumed + 2, resume_step=resumed)
    assert steps(path) == [*range(1, min(written, resumed) + 1), resumed + 1, resumed + 2]
    assert not path.with_name("m.jsonl.tmp").exists()


def test_a_resume_without_later_rows_leaves_the_file_alone(tmp_path):
    path = tmp_path / "m.jsonl"
    write_steps(path, 1, 3)
    before = path.stat()
    MetricsWriter(path, resume_step=3).close()
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_every_torn_last_line_is_dropped(tmp_path):
    path = tmp_path / "m.jsonl"
    write_steps(path, 1, 3)
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for length in range(last, len(whole)):
        path.write_bytes(whole[:length])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert steps(path) == [1, 2]
            write_steps(path, 3, 4, resume_step=3)
            assert steps(path) == [1, 2, 3, 4]


@pytest.mark.parametrize("line", [b"\0" * 30, b"[1]", b'{"loss": 1}', b'{"step": "1"}', b'{"step": 1', b"\xff"])
def test_an_unreadable_line_costs_itself_and_says_so(tmp_path, line):
    path = tmp_path / "m.jsonl"
    write_steps(path, 1, 3)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\n" + line + b"\n", 1))
    with pytest.warns(UserWarning, match="line 2"):
        assert steps(path) == [1, 2, 3]
    with pytest.warns(UserWarning, match="line 2"):
        write_steps(path, 4, 4, resume_step=3)
    assert steps(path) == [1, 2, 3, 4]


def test_a_missing_file_has_no_rows(tmp_path):
    assert read_metrics(tmp_path / "absent") == []


def test_a_value_that_is_no_json_is_refused(tmp_path):
    with MetricsWriter(tmp_path / "m.jsonl") as metrics:
        with pytest.raises((TypeError, ValueError)):
            metrics.write(1, {"logits": np.zeros(3)})
        metrics.write(2, {"loss": 1.0})
    assert steps(tmp_path / "m.jsonl") == [2], "a refused row leaves no half line"


def test_rows_survive_a_loss_of_power_once_they_are_synchronised(tmp_path, monkeypatch):
    flushed = record_flushes(monkeypatch)
    with MetricsWriter(tmp_path / "metrics.jsonl", resume_step=0) as metrics:
        metrics.write(1, {"loss": 1.0})
        assert "metrics.jsonl" in lost(tmp_path, flushed)
        metrics.sync()
        assert "metrics.jsonl" not in lost(tmp_path, flushed)


class FullDisk:
    """Lies before a file: takes so many bytes and refuses the rest, until `room` is raised."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = bytes(data[: self.room])
        self.room -= len(taken)
        return self.file.write(taken)

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [0, 1, 30, 45])
def test_rows_wait_for_a_full_disk_and_none_is_missing(tmp_path, room):
    said = []
    with MetricsWriter(tmp_path / "m.jsonl", say=said.append) as metrics:
        metrics._file = FullDisk(metrics._file, room)
        for step in (1, 2, 3):
            metrics.write(step, {"loss": 1 / step})
        metrics.sync()
        assert len(metrics.waiting) >= 1
        metrics._file.room = 10**6
        metrics.write(4, {"loss": 0.25})
        assert metrics.waiting == []
    assert [row["loss"] for row in read_metrics(tmp_path / "m.jsonl")] == [1 / step for step in (1, 2, 3, 4)]
    assert len(said) == 2
    assert "No space left" in said[0]
    assert "none is missing" in said[1]


@pytest.mark.parametrize("written_later", [False, True])
def test_rows_that_a_checkpoint_kept_are_written_once_on_resume(tmp_path, written_later):
    path = tmp_path / "m.jsonl"
    first = MetricsWriter(path, say=lambda text: None)
    first.write(1, {"loss": 1.0})
    first._file = FullDisk(first._file, 5)
    first.write(2, {"loss": 0.5})
    first.write(3, {"loss": 0.25})
    kept = first.waiting
    first._file.room = 10**6 if written_later else 0
    first.write(4, {"loss": 0.125})
    with MetricsWriter(path, resume_step=3, waiting=kept) as metrics:
        metrics.write(4, {"loss": 0.125})
    assert [(row["step"], row["loss"]) for row in read_metrics(path)] == [(1, 1.0), (2, 0.5), (3, 0.25), (4, 0.125)]


def test_a_device_that_is_always_full_ends_nothing(tmp_path):
    path = tmp_path / "m.jsonl"
    path.symlink_to("/dev/full")
    said = []
    with MetricsWriter(path, say=said.append) as metrics:
        metrics.write(1, {"loss": 1.0})
        metrics.sync()
        assert metrics.waiting == ['{"step": 1, "loss": 1.0}']
    assert len(said) == 1


def test_a_full_disk_ends_tensorboards_file_and_nothing_else(tmp_path):
    said = []
    board = TensorBoard(tmp_path / "board")
    board._file = FullDisk(board._file, 0)
    with MetricsWriter(tmp_path / "m.jsonl", tensorboard=board, say=said.append) as metrics:
        for step in (1, 2):
            metrics.write(step, {"loss": 1.0})
    assert steps(tmp_path / "m.jsonl") == [1, 2]
    assert len(said) == 1
    assert "TensorBoard" in said[0]
