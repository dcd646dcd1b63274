"""TensorBoard gets every number of a row, and hides what a killed run wrote after its last checkpoint."""

import sys

import numpy as np
import pytest

from diptych.core.training.metrics import MetricsWriter, read_metrics
from diptych.core.training.tensorboard import TensorBoard, tensorboard_if_installed


def read_scalars(folder) -> tuple[dict[str, list[tuple[int, float]]], list[int]]:
    """Scalars by name as (step, value) in the order written, and the steps from which earlier events are hidden."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2", reason="tensorboardX is not installed")
    scalars: dict[str, list[tuple[int, float]]] = {}
    hidden_from = []
    for path in sorted(folder.glob("events.*")):
        data, place = path.read_bytes(), 0
        while place < len(data):
            length = int.from_bytes(data[place : place + 8], "little")
            event = event_pb2.Event.FromString(data[place + 12 : place + 12 + length])
            place += 16 + length
            if event.HasField("session_log"):
                hidden_from.append(event.step)
            for value in event.summary.value:
                scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
    return scalars, hidden_from


def test_numbers_become_scalars_and_a_resume_hides_lost_steps(tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    for first, resume_step in ((1, 0), (3, 2)):
        board = TensorBoard(tmp_path / "tensorboard", resume_step=resume_step)
        with MetricsWriter(tmp_path / "m.jsonl", resume_step=resume_step, tensorboard=board) as metrics:
            for step in range(first, first + 4):
                metrics.write(step, {"loss": np.float32(step), "skipped": {"empty": 1}, "note": "text"})
    scalars, hidden_from = read_scalars(tmp_path / "tensorboard")
    assert scalars == {"loss": [(step, step) for step in (1, 2, 3, 4, 3, 4, 5, 6)]}
    assert hidden_from == [1, 3]
    assert [row["step"] for row in read_metrics(tmp_path / "m.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_without_the_package_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    board, sentence = tensorboard_if_installed(tmp_path)
    assert board is None
    assert "pip install 'diptych[tensorboard]'" in sentence
    with pytest.raises(ImportError, match="tensorboardX"):
        TensorBoard(tmp_path)


def test_with_the_package_a_sentence_says_how_to_look(tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    board, sentence = tensorboard_if_installed(tmp_path)
    board.close()
    assert sentence.endswith(f"tensorboard --logdir {tmp_path}")
