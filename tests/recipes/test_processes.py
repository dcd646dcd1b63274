"""Runs by several processes: the losses of one, one end for all, resumed by any number."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from diptych.core.training.checkpoint import restore_latest
from diptych.core.training.faults import FAULT_STATUS, FAULT_VARIABLE
from diptych.core.training.metrics import read_metrics
from diptych.core.training.results import read_results
from diptych.recipes import siglip
from tests.recipes.photos import write_photos
from tests.recipes.processes import Processes
from tests.recipes.small_stages import STAGES
from tests.recipes.test_siglip import command

pytestmark = pytest.mark.skipif(
    os.environ["KERAS_BACKEND"] == "tensorflow", reason="on tensorflow one process carries out a run"
)
EXAMPLES, BATCH = 384, 16
THOROUGH = bool(os.environ.get("DIPTYCH_THOROUGH"))
LOSSES = ["sigmoid", "softmax"] if THOROUGH else ["sigmoid"]
LESS_SPREAD = ["--zero"] if os.environ["KERAS_BACKEND"] == "torch" else []


@pytest.mark.parametrize("loss", LOSSES)
def test_two_train_as_one_does_and_leave_together(tmp_path, monkeypatch, loss):
    """A signal that reaches the second alone stops both after the same step; commands like theirs go on from there,
    with the state that was spread in another way.
    """
    photos = write_photos(tmp_path / "photos", 64)
    flags = ("--examples", str(EXAMPLES), "--loss", loss)
    assert siglip.main(command(photos, tmp_path / "one", *flags)[3:]) == 0
    together = command(photos, tmp_path / "two", *flags)
    with Processes([*together, *spread_over_all(monkeypatch)], 2) as processes:
        processes.wait_for_steps(tmp_path / "two", 3)
        processes.signal(1, signal.SIGTERM)
        assert processes.ended() == [143, 143]
    stopped_at = restore_latest(tmp_path / "two" / "checkpoints").step
    assert 3 <= stopped_at < EXAMPLES // BATCH
    assert parts_of(tmp_path / "two", stopped_at) == 2
    if THOROUGH:
        assert_goes_on_alike(photos, tmp_path, flags, stopped_at)
    with Processes([*together, *LESS_SPREAD], 2) as processes:
        assert processes.ended() == [0, 0]
    assert_same_run(tmp_path / "two", tmp_path / "one")


def parts_of(run_dir: Path, step: int) -> int:
    """In how many parts the checkpoint of a step was written."""
    manifest = json.loads((run_dir / "checkpoints" / f"step-{step:08d}" / "manifest.json").read_bytes())
    return manifest.get("parts", 1)


def assert_goes_on_alike(photos: Path, tmp_path: Path, flags: Sequence[str], stopped_at: int) -> None:
    """One process, on this backend and on the other, and three or four go on from the parts of two as each other."""
    other = {"jax": "torch", "torch": "jax"}[os.environ["KERAS_BACKEND"]]
    losses = {}
    for name, count, environment in (("alone", 1, {}), ("four", 4, {}), (other, 1, {"KERAS_BACKEND": other})):
        shutil.copytree(tmp_path / "two", tmp_path / name)
        line = command(photos, tmp_path / name, *flags)
        if count > 1:
            with Processes(line, count) as processes:
                assert processes.ended() == [0] * count
        else:
            assert subprocess.run(line, env=os.environ | environment, check=False).returncode == 0
        rows = read_metrics(tmp_path / name / "metrics.jsonl")
        losses[name] = [row["loss"] for row in rows if "loss" in row and row["step"] > stopped_at]
    assert len(losses["alone"]) == EXAMPLES // BATCH - stopped_at
    for name in ("four", other):
        np.testing.assert_allclose(losses[name], losses["alone"], rtol=5e-6, err_msg=name)


def spread_over_all(monkeypatch) -> list[str]:
    """The flags by which two processes share the state; those of jax have two devices each."""
    if os.environ["KERAS_BACKEND"] != "jax":
        return ["--fsdp", "2"]
    virtual = "--xla_force_host_platform_device_count=2"
    monkeypatch.setenv("XLA_FLAGS", f"{os.environ.get('XLA_FLAGS', '')} {virtual}")
    return ["--data-parallel", "2", "--fsdp", "4"]


@pytest.mark.timeout(1_800)
@pytest.mark.skipif(not THOROUGH, reason="takes minutes: with DIPTYCH_THOROUGH")
@pytest.mark.parametrize("spread", [False, True], ids=["whole", "spread"])
def test_two_carry_out_every_kind_of_stage(tmp_path, monkeypatch, spread):
    """Captions, a teacher, views, masks, NaFlex and curated batches, each from the end of another."""
    one, two = ([sys.executable, "-m", "tests.recipes.small_stages", str(tmp_path / name)] for name in ("one", "two"))
    assert subprocess.run(one, check=False).returncode == 0
    with Processes([*two, *(spread_over_all(monkeypatch) if spread else ())], 2) as processes:
        assert processes.ended() == [0, 0]
    for stage in STAGES:
        rows, wanted = (read_metrics(tmp_path / name / stage.name / "metrics.jsonl") for name in ("two", "one"))
        both = [[row["loss"] for row in some if "loss" in row] for some in (rows, wanted)]
        assert len(both[0]) > 1
        np.testing.assert_allclose(*both, rtol=1e-4, err_msg=stage.name)


@pytest.mark.skipif(not THOROUGH, reason="takes a minute: with DIPTYCH_THOROUGH")
@pytest.mark.parametrize("number", [0, 1])
def test_one_that_is_killed_ends_the_other_and_the_same_bits_come_out(tmp_path, number):
    photos = write_photos(tmp_path / "photos", 64)
    flags = ("--examples", str(EXAMPLES), "--checkpoint-every", "2")
    with Processes(command(photos, tmp_path / "whole", *flags), 2) as processes:
        assert processes.ended() == [0, 0]
    together = command(photos, tmp_path / "broken", *flags)
    with Processes(together, 2) as processes:
        processes.wait_for_steps(tmp_path / "broken", 5)
        processes.signal(number, signal.SIGKILL)
        killed = time.monotonic()
        assert all(processes.ended())
        assert time.monotonic() - killed < 75, "a heartbeat, and the end of a process"
    with Processes(together, 2) as processes:
        assert processes.ended() == [0, 0]
    rows, wanted = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("broken", "whole"))
    assert [row.get("loss") for row in rows] == [row.get("loss") for row in wanted]
    ends = [restore_latest(tmp_path / name / "checkpoints").groups["weights"] for name in ("broken", "whole")]
    assert all(np.array_equal(ends[0][path], ends[1][path]) for path in ends[1])


@pytest.mark.skipif(not THOROUGH, reason="takes a minute: with DIPTYCH_THOROUGH")
@pytest.mark.parametrize(
    ("number", "place"), [(0, "after_part"), (1, "after_part"), (1, "after_tensors"), (0, "before_rename")]
)
def test_one_that_is_killed_within_saving_loses_no_complete_checkpoint(tmp_path, number, place):
    """The third checkpoint is of steps 6; the two before are complete, and the same bits come out."""
    photos = write_photos(tmp_path / "photos", 64)
    flags = ("--examples", str(EXAMPLES), "--checkpoint-every", "2")
    with Processes(command(photos, tmp_path / "whole", *flags), 2) as processes:
        assert processes.ended() == [0, 0]
    together = command(photos, tmp_path / "broken", *flags)
    with Processes(together, 2, {number: {FAULT_VARIABLE: f"{place}:3"}}) as processes:
        assert processes.ended()[number] == FAULT_STATUS
    found = sorted(path.name for path in (tmp_path / "broken" / "checkpoints").iterdir())
    assert found[-2:] == ["step-00000002", "step-00000004"], "and what is left of the third"
    with Processes(together, 2) as processes:
        assert processes.ended() == [0, 0]
    ends = [restore_latest(tmp_path / name / "checkpoints").groups["weights"] for name in ("broken", "whole")]
    assert all(np.array_equal(ends[0][path], ends[1][path]) for path in ends[1])


def assert_same_run(folder: Path, expected: Path) -> None:
    rows, wanted = (read_metrics(path / "metrics.jsonl") for path in (folder, expected))
    assert [row["step"] for row in rows] == [row["step"] for row in wanted]
    for number in ("loss", "gradient_norm"):
        both = [[row[number] for row in some if number in row] for some in (rows, wanted)]
        np.testing.assert_allclose(*both, rtol=1e-4, err_msg=number)
    results = [read_results(path / "results.json")["training"]["examples_seen"] for path in (folder, expected)]
    assert results == [EXAMPLES, EXAMPLES]
    assert restore_latest(folder / "checkpoints").state["examples_read"] == EXAMPLES, "what both have met is counted"
