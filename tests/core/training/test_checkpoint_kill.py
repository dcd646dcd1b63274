"""Kills at any moment of saving: a checkpoint at least as new as the last one that was confirmed is left."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from diptych.core.training.checkpoint import remove_leftovers, restore_latest
from diptych.core.training.faults import FAULT_POINTS, FAULT_STATUS, FAULT_VARIABLE, fault_point
from tests.core.training.checkpoint_writer import assert_is_of_its_step

KILLS = 320 if os.environ.get("DIPTYCH_THOROUGH") else 32
WRITER = [sys.executable, "-m", "tests.core.training.checkpoint_writer"]


def lines_of_one_writer(starter: subprocess.Popen, seconds: float) -> list[str]:
    """Start a writer, kill it so long after its first confirmed step, and return what it printed."""
    starter.stdin.write("\n")
    starter.stdin.flush()
    pid, first = int(starter.stdout.readline()), starter.stdout.readline()
    assert first.strip().isdecimal(), f"the writer could not restore, it printed {first!r}"
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    return [first, *iter(starter.stdout.readline, "ended\n")]


def test_no_kill_spoils_a_checkpoint(tmp_path):
    rng, acknowledged, interrupted = random.Random(0), -1, 0
    starter = subprocess.Popen([*WRITER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for _ in range(KILLS):
        steps = [int(line) for line in lines_of_one_writer(starter, rng.uniform(0, 0.06))]
        assert steps == list(range(steps[0], steps[-1] + 1))
        assert steps[0] in (acknowledged + 1, acknowledged + 2), "one step at most was saved and not yet confirmed"
        acknowledged = steps[-1]
        interrupted += any(path.name.startswith(".") for path in tmp_path.iterdir())
        checkpoint = restore_latest(tmp_path)
        assert checkpoint.step in (acknowledged, acknowledged + 1)
        assert_is_of_its_step(checkpoint)
    starter.communicate()
    assert interrupted >= KILLS // 8, "too few kills came during a save to show anything"
    assert acknowledged >= KILLS
    remove_leftovers(tmp_path)
    assert all(path.name.startswith("step-") for path in tmp_path.iterdir())


@pytest.mark.parametrize("point", FAULT_POINTS)
def test_an_exit_at_a_named_place_keeps_the_last_checkpoint(tmp_path, point):
    nth = 4 if point != "during_prune" else 2  # each of them during the save of step 3
    writer = subprocess.run(
        [*WRITER, str(tmp_path), "10"],
        env={**os.environ, FAULT_VARIABLE: f"{point}:{nth}"},
        capture_output=True,
        text=True,
    )
    assert writer.returncode == FAULT_STATUS
    assert writer.stdout.split() == ["0", "1", "2"], "step 3 was not confirmed"
    checkpoint = restore_latest(tmp_path)
    assert checkpoint.step == (3 if point in ("after_rename", "during_prune") else 2)
    assert_is_of_its_step(checkpoint)

    again = subprocess.run([*WRITER, str(tmp_path), "2"], capture_output=True, text=True, check=True)
    assert again.stdout.split() == [str(checkpoint.step + 1), str(checkpoint.step + 2)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{checkpoint.step + n:08d}" for n in (1, 2)]


@pytest.mark.parametrize("value", ["before_renam", "before_rename:x", "before_rename:-1", ":2"])
def test_a_misspelt_fault_is_an_error(monkeypatch, value):
    monkeypatch.setenv(FAULT_VARIABLE, value)
    with pytest.raises(ValueError, match="before_rename"):
        fault_point("after_tensors")
