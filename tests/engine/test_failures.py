"""The ends of a recipe: a sentence and status 1 for what a person can mend, a traceback for a fault of ours."""

import errno
import io
import os

import pytest

from diptych.core.data.loading.examples import TooManySkipped
from diptych.core.data.loading.worker import WorkerDied
from diptych.core.files.errors import HubError
from diptych.core.training.checkpoint import CheckpointError
from diptych.core.training.learner import TrainingDiverged
from diptych.core.training.run_folder import ConfigMismatch
from diptych.engine.embedding.index_folder import IndexFolderError
from diptych.engine.failures import exit_status
from diptych.recipes.siglip import siglip


def raising(error: BaseException):
    def run() -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (CheckpointError("c"), "CheckpointError: c"),
        (ConfigMismatch("c"), "ConfigMismatch: c"),
        (HubError("h"), "HubError: h"),
        (IndexFolderError("i"), "IndexFolderError: i"),
        (TooManySkipped("t", {"image_truncated": 1}), "TooManySkipped: t"),
        (TrainingDiverged("t"), "TrainingDiverged: t"),
        (WorkerDied("w"), "WorkerDied: w"),
        (TimeoutError("hangs"), "TimeoutError: hangs"),
        (MemoryError(), "no memory left. A smaller --batch-size"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "metrics.jsonl"), "'metrics.jsonl'. Free some space"),
        (ValueError("lower batch_size to 60"), "ValueError: lower --batch-size to 60"),
    ],
)
def test_an_expected_failure_is_a_sentence(error, words, capsys):
    assert exit_status(raising(error), siglip()) == 1
    printed = capsys.readouterr().err
    assert words in printed
    assert "Traceback" not in printed


def test_ctrl_c_is_no_fault(capsys):
    assert exit_status(raising(KeyboardInterrupt())) == 130
    assert "Stopped by SIGINT." in capsys.readouterr().err


def test_a_fault_of_ours_keeps_its_traceback():
    with pytest.raises(KeyError):
        exit_status(raising(KeyError("x")))


def test_a_variable_shows_all_of_an_expected_failure(monkeypatch):
    monkeypatch.setenv("DIPTYCH_TRACEBACK", "1")
    with pytest.raises(ValueError, match="x"):
        exit_status(raising(ValueError("x")))
    assert exit_status(lambda: 3) == 3


def test_any_name_can_be_printed(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), "ascii", errors="strict", write_through=True)
    monkeypatch.setattr("sys.stdout", terminal)
    assert exit_status(lambda: print("photos/caf\udce9 \u7d75") or 3) == 3
    assert terminal.errors == "strict"
    assert terminal.buffer.getvalue() == b"photos/caf\\udce9 \\u7d75\n"
