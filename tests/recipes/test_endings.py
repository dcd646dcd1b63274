"""Ends of runs: refused at once, stopped from outside, with warnings of what went wrong, early without patience."""

import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from diptych import backends
from diptych.core.placement import Placement
from diptych.core.training.checkpoint import restore_latest
from diptych.core.training.metrics import read_metrics
from diptych.core.training.results import read_results
from diptych.core.training.run_folder import RunFolder
from diptych.engine.command_line import parse_recipe
from diptych.engine.training import evaluation, staged_run
from diptych.engine.training.held_out import what_warnings_ask
from diptych.engine.training.run_plan import plan_run
from diptych.engine.training.terms import TERMS
from diptych.recipes import siglip
from tests.marks import ABOVE_THE_BACKENDS
from tests.recipes.photos import write_photos
from tests.recipes.test_siglip import FEW_THREADS, command, read_steps


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_photos(tmp_path_factory.mktemp("data") / "photos", 64)


def arguments(photos: Path, run_dir: Path, *more: str) -> list[str]:
    small = "--model siglip_mu16_224 --image-size 32 --context-length 8 --batch-size 16 --val-fraction 0.2 --no-report"
    paths = ["--train-data", str(photos), "--run-dir", str(run_dir), "--no-tensorboard"]
    return [*small.split(), *paths, *more]


def test_warnings_know_the_opening_and_the_bound_of_the_scale():
    given = ["--max-logit-scale", "50", "--opening-examples", "640"]
    plan = plan_run(parse_recipe(siglip.siglip(), given, program="siglip", description=""), TERMS)
    asked = what_warnings_ask(plan.recipe, plan.planned["training"])
    assert asked == {"fresh": True, "settled_after": 640, "max_logit_scale": 50.0}


@ABOVE_THE_BACKENDS
def test_a_run_that_learns_nothing_says_so_and_ends_early(photos, tmp_path, capsys, monkeypatch):
    """At a rate of 1000: it warns already when it is stopped, and patience ends it; with more it is not finished."""
    often = ("--evaluate-every", "160", "--best-by", "recall@1", "--learning-rate", "1000", "--examples", "640")
    given = arguments(photos, tmp_path, *often)
    with monkeypatch.context() as patched:
        patched.setattr(evaluation.Evaluation, "finish", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        assert siglip.main([*given, "--patience", "1"]) == 143
    warned(capsys.readouterr().err)
    assert siglip.main([*given, "--patience", "1"]) == 0
    said = capsys.readouterr()
    warned(said.err)
    results = read_results(tmp_path / "results.json")["training"]
    assert results["stopped_early"]
    assert 320 <= results["examples_seen"] < results["examples_planned"] == 640
    assert f"with recall@1 {results['best']['value']:.1%}: {tmp_path / 'best'}" in said.out
    planned = SimpleNamespace(stage=SimpleNamespace(name="training"), examples_before=0, examples=640)
    ended = {patience: bool(staged_run.finished(RunFolder(tmp_path), planned, patience)) for patience in (1, 2, None)}
    assert ended == {1: True, 2: False, None: False}


def warned(said: str) -> None:
    """The first warning is of the loss."""
    warning = next(line for line in said.splitlines() if line.startswith("Warning: "))
    assert warning.startswith("Warning: The loss ended at")
    assert "Lower --learning-rate" in warning


def test_one_of_several_processes_that_cannot_join_is_refused(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert siglip.main(arguments(photos, tmp_path / "run")) == 1
    assert "WORLD_SIZE=2" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(backends.name() != "torch", reason="jax knows the whole batch, and tensorflow has one process")
@pytest.mark.parametrize(
    ("flags", "obstacle"),
    [
        (["--compile"], "--compile"),
        (["--accum-freq", "16"], "in 16 pieces, over 2 processes"),
        (["--batch-size", "15"], "multiple of 2"),
        (["--embed-images-once"], "--embed-images-once is done by one process"),
    ],
)
def test_what_two_processes_would_train_otherwise_than_one_is_refused(
    flags, obstacle, photos, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(backends, "join", lambda *_, **__: Placement(process=0, processes=2))
    assert siglip.main(arguments(photos, tmp_path / "run", *flags)) == 1
    assert obstacle in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_data_without_captions_say_what_was_seen(tmp_path, capsys):
    folder = write_photos(tmp_path / "photos", 20)
    (folder / "captions.jsonl").rename(folder / "metadata.jsonl")
    lines = (folder / "metadata.jsonl").read_text().replace('"caption"', '"prompt"')
    (folder / "metadata.jsonl").write_text(lines)
    given = arguments(folder, tmp_path / "run", "--dry-run")
    assert siglip.main(given) == 1
    assert "the fields are file_name, prompt" in capsys.readouterr().err
    assert siglip.main([*given, "--caption-field", "prompt"]) == 0


@ABOVE_THE_BACKENDS
def test_a_worker_that_is_killed_ends_the_run_with_what_is_done(photos, tmp_path):
    run_dir = tmp_path / "run"
    endless = ["--examples", "1600000", "--evaluate-every", "1600000", "--checkpoint-every", "100000"]
    process = subprocess.Popen(
        command(photos, run_dir, *endless, "--workers", "1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | FEW_THREADS,
    )
    while not (run_dir / "metrics.jsonl").exists() or read_steps(run_dir) < 3:
        assert process.poll() is None
        time.sleep(0.05)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(workers) == 1
    os.kill(int(workers[0]), signal.SIGKILL)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 1
    assert "WorkerDied: data worker 0" in errors
    assert "Traceback" not in errors
    assert restore_latest(run_dir / "checkpoints").step == read_steps(run_dir)


@ABOVE_THE_BACKENDS
def test_a_signal_before_the_first_step_leaves_at_once(photos, tmp_path):
    process = subprocess.Popen(
        command(photos, tmp_path / "run"), stdout=subprocess.PIPE, text=True, env=os.environ | FEW_THREADS
    )
    while not process.stdout.readline().startswith("Data:"):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert time.monotonic() - started < 10
    assert process.returncode == 143
    assert "Stopped by SIGTERM. The same command goes on from there." in output


@ABOVE_THE_BACKENDS
def test_a_polite_signal_saves_first(photos, tmp_path):
    run_dir = tmp_path / "run"
    process = subprocess.Popen(
        command(photos, run_dir, "--checkpoint-every", "100000", "--examples", "160000", "--evaluate-every", "160000"),
        stdout=subprocess.PIPE,
        text=True,
    )
    while not (run_dir / "metrics.jsonl").exists() or not (run_dir / "metrics.jsonl").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "The same command goes on from there" in output
    step = max(row["step"] for row in read_metrics(run_dir / "metrics.jsonl"))
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == [f"step-{step:08d}"]
