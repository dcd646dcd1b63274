"""TensorBoard gets every number of a row, and hides what a killed run wrote after its last checkpoint."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diptych.core.training.metrics import MetricsWriter, read_metrics
from diptych.core.training.tensorboard import TensorBoard, _checksum


def fields(data: bytes) -> dict[int, list]:
    """The fields of a protocol buffer: integers, and bytes for everything that has a length or a fixed width."""
    found: dict[int, list] = {}
    place = 0

    def digits():
        nonlocal place
        value, shift = 0, 0
        while True:
            byte = data[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(data):
        field, kind = divmod(digits(), 8)
        if kind == 0:
            found.setdefault(field, []).append(digits())
        else:
            length = digits() if kind == 2 else {1: 8, 5: 4}[kind]
            found.setdefault(field, []).append(data[place : place + length])
            place += length
    return found


def read_events(folder: Path) -> list[tuple]:
    """(step, scalars) of every row, and (step, "start") of every session, with all checksums verified."""
    events = []
    for path in sorted(folder.iterdir()):
        data, place = path.read_bytes(), 0
        while place < len(data):
            header, body = data[place : place + 8], place + 12
            end = body + int.from_bytes(header, "little")
            assert data[place + 8 : body] == _checksum(header)
            assert data[end : end + 4] == _checksum(data[body:end])
            event, place = fields(data[body:end]), end + 4
            if 7 in event:
                events.append((event[2][0], "start"))
            if 5 in event:
                scalars = [fields(value) for value in fields(event[5][0]).get(1, [])]
                events.append(
                    (event[2][0], {one[1][0].decode(): np.frombuffer(one[2][0], "<f4").item() for one in scalars})
                )
    return events


def write_interrupted_run(folder: Path) -> None:
    """Six steps; the process of the first four was killed, and the last checkpoint was of step 2."""
    for first, resume_step in ((1, 0), (3, 2)):
        board = TensorBoard(folder / "tensorboard", resume_step=resume_step)
        with MetricsWriter(folder / "m.jsonl", resume_step=resume_step, tensorboard=board) as metrics:
            for step in range(first, first + 4):
                loss = np.float32(step + resume_step / 10)
                metrics.write(step, {"loss": loss, "recall/é": 1e300, "skipped": {"empty": 1}, "note": "text"})


def test_checksums_are_those_of_the_format():
    # CRC-32C of "123456789" is E3069283; the format rotates it by 15 bits and adds A282EAD8.
    crc = 0xE3069283
    assert _checksum(b"123456789") == (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def test_numbers_become_scalars_and_a_resume_marks_what_to_hide(tmp_path):
    write_interrupted_run(tmp_path)
    events = read_events(tmp_path / "tensorboard")
    assert [(step, what if what == "start" else round(what["loss"], 4)) for step, what in events] == [
        *[(1, "start"), (1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)],
        *[(3, "start"), (3, 3.2), (4, 4.2), (5, 5.2), (6, 6.2)],
    ]
    assert events[1][1] == {"loss": 1.0, "recall/é": float("inf")}
    assert [row["step"] for row in read_metrics(tmp_path / "m.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_tensorboard_itself_shows_the_surviving_steps(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    write_interrupted_run(tmp_path)
    shown = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert shown.Tags()["scalars"] == ["loss", "recall/é"]
    expected = [(1, 1.0), (2, 2.0), (3, 3.2), (4, 4.2), (5, 5.2), (6, 6.2)]
    assert [(scalar.step, round(scalar.value, 4)) for scalar in shown.Scalars("loss")] == expected


def test_it_brings_no_framework_along(tmp_path):
    code = (
        "import sys; from diptych.core.training.tensorboard import TensorBoard; "
        "TensorBoard(sys.argv[1]).close(); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "struct" in loaded
    assert not loaded & {"torch", "tensorflow", "jax", "keras", "tensorboard"}
