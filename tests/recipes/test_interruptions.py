"""A run that is killed and started again ends as if nothing had happened; and the check would notice if it did not."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diptych.core.training.checkpoint import restore_latest
from diptych.core.training.metrics import read_metrics
from tests.recipes import interruptions
from tests.recipes.interruptions import CommandFailed, Outcome, run_undisturbed, run_with_fault, run_with_kills

STEPS = 60
SEEDS = range(1, 21 if os.environ.get("DIPTYCH_THOROUGH") else 3)


def command(run_dir: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "tests.recipes.line_fit", "--run-dir", str(run_dir), "--steps", str(STEPS), *options]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Outcome:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    outcome = run_undisturbed(command(folder), folder)
    assert list(outcome.by_step()) == list(range(1, STEPS + 1))
    return outcome


def killed(undisturbed: Outcome, folder: Path, *options: str, kills: int, seed: int) -> Outcome:
    return run_with_kills(
        command(folder, *options),
        folder,
        kills=kills,
        seed=seed,
        undisturbed=undisturbed,
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_kills_at_random_moments_change_no_bit(undisturbed, tmp_path, seed):
    outcome = killed(undisturbed, tmp_path / "run", kills=6, seed=seed)
    assert outcome.kills >= 3
    assert outcome.by_step() == undisturbed.by_step()
    assert outcome.weights_sha256 == undisturbed.weights_sha256


@pytest.mark.parametrize("point", ["after_tensors", "before_rename", "after_rename"])
def test_an_exit_inside_saving_changes_no_bit(undisturbed, tmp_path, point):
    outcome = run_with_fault(command(tmp_path / "run"), tmp_path / "run", fault=f"{point}:3")
    assert outcome.by_step() == undisturbed.by_step()
    assert outcome.weights_sha256 == undisturbed.weights_sha256


def test_a_run_that_loses_its_momentum_is_found(undisturbed, tmp_path):
    outcome = run_with_fault(
        command(tmp_path / "run", "--forget", "momentum"), tmp_path / "run", fault="after_rename:3"
    )
    assert outcome.by_step() != undisturbed.by_step()
    assert outcome.weights_sha256 != undisturbed.weights_sha256


def test_a_run_that_keeps_rows_of_lost_steps_is_found(tmp_path):
    outcome = run_with_fault(command(tmp_path / "run", "--forget", "rows"), tmp_path / "run", fault="before_rename:3")
    with pytest.raises(AssertionError, match="stands twice"):
        outcome.by_step()


def test_a_command_that_fails_by_itself_is_reported_with_its_output(tmp_path):
    with pytest.raises(CommandFailed, match=r"status 3[\s\S]*what went wrong"):
        run_undisturbed([sys.executable, "-c", "print('what went wrong'); raise SystemExit(3)"], tmp_path / "run")


def test_a_process_left_behind_is_found_and_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(interruptions, "ORPHAN_GRACE_S", 0.5)
    leave_one = "import os, sys, time; pid = os.fork(); time.sleep(0 if pid else 60); print(pid)"
    with pytest.raises(CommandFailed, match=r"left processes \[\d+\]") as raised:
        run_undisturbed([sys.executable, "-c", leave_one], tmp_path / "run")
    (pid,) = map(int, re.findall(r"\[(\d+)\]", str(raised.value)))
    stat, deadline = Path(f"/proc/{pid}/stat"), time.monotonic() + 5
    while stat.exists() and ") Z " not in stat.read_text():
        assert time.monotonic() < deadline, f"process {pid} still runs"


def test_a_fault_that_is_never_reached_is_an_error(tmp_path):
    with pytest.raises((AssertionError, CommandFailed)):
        run_with_fault(command(tmp_path / "run"), tmp_path / "run", fault="after_rename:1000")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_stop_signal_saves_first_and_the_same_command_resumes(undisturbed, tmp_path, name):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        command(folder, "--step-s", "0.05"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while not (folder / "metrics.jsonl").exists() or len(read_metrics(folder / "metrics.jsonl")) < 2:
        time.sleep(0.01)
    process.send_signal(signal.Signals[name])
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.Signals[name]
    assert name in errors
    steps = [row["step"] for row in read_metrics(folder / "metrics.jsonl")]
    assert restore_latest(folder / "checkpoints").step == steps[-1] < STEPS
    outcome = run_undisturbed(command(folder), folder)
    assert outcome.by_step() == undisturbed.by_step()
    assert outcome.weights_sha256 == undisturbed.weights_sha256


def test_no_secret_reaches_any_output(tmp_path):
    canary = "canary-5f1c"
    secrets = {"WANDB_API_KEY": canary, "HF_TOKEN": canary, "AWS_SECRET_ACCESS_KEY": canary, "GIT_ASKPASS": canary}
    done = subprocess.run(
        command(tmp_path / "run", "--hub-token", canary),
        env={**os.environ, **secrets, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    written = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert len(written) >= 8
    assert b"OMP_NUM_THREADS" in written[tmp_path / "run" / "card.json"]
    assert canary not in done.stdout + done.stderr
    assert not [path for path, data in written.items() if canary.encode() in data]
