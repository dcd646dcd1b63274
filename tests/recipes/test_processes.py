"""Runs by several processes: the losses of one, one end for all, resumed by any number."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from diptych.core.training.checkpoint import restore_latest
from diptych.core.training.metrics import read_metrics
from diptych.core.training.results import read_results
from diptych.recipes import siglip
from tests.recipes.photos import write_photos
from tests.recipes.processes import Processes
from tests.recipes.test_siglip import command

pytestmark = pytest.mark.skipif(
    os.environ["KERAS_BACKEND"] == "tensorflow", reason="on tensorflow one process carries out a run"
)
EXAMPLES, BATCH = 384, 16
LOSSES = ["sigmoid", "softmax"] if os.environ.get("DIPTYCH_THOROUGH") else ["sigmoid"]


@pytest.mark.parametrize("loss", LOSSES)
def test_two_train_as_one_does_and_leave_together(tmp_path, loss):
    """A signal that reaches the second alone stops both after the same step; the same commands go on from there."""
    photos = write_photos(tmp_path / "photos", 64)
    flags = ("--examples", str(EXAMPLES), "--loss", loss)
    assert siglip.main(command(photos, tmp_path / "one", *flags)[3:]) == 0
    together = command(photos, tmp_path / "two", *flags)
    with Processes(together, 2) as processes:
        processes.wait_for_steps(tmp_path / "two", 3)
        processes.signal(1, signal.SIGTERM)
        assert processes.ended() == [143, 143]
    stopped_at = restore_latest(tmp_path / "two" / "checkpoints").step
    assert 3 <= stopped_at < EXAMPLES // BATCH
    with Processes(together, 2) as processes:
        assert processes.ended() == [0, 0]
    assert_same_run(tmp_path / "two", tmp_path / "one")


def assert_same_run(folder: Path, expected: Path) -> None:
    rows, wanted = (read_metrics(path / "metrics.jsonl") for path in (folder, expected))
    assert [row["step"] for row in rows] == [row["step"] for row in wanted]
    for number in ("loss", "gradient_norm"):
        both = [[row[number] for row in some if number in row] for some in (rows, wanted)]
        np.testing.assert_allclose(*both, rtol=1e-4, err_msg=number)
    results = [read_results(path / "results.json")["training"]["examples_seen"] for path in (folder, expected)]
    assert results == [EXAMPLES, EXAMPLES]
    assert restore_latest(folder / "checkpoints").state["examples_read"] == EXAMPLES, "what both have met is counted"
