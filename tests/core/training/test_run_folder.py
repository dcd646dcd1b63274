"""One run a folder at a time, and only a configuration that computes the same may continue it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from diptych.core.files.json_objects import write_json
from diptych.core.training.run_folder import ConfigMismatch, RunFolder, RunFolderError
from tests.core.weights.flushes import lost, record_flushes

HOLD = """
import sys
from diptych.core.training.run_folder import RunFolder
with RunFolder(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""
CONFIG = {
    "seed": 0,
    "optimizer": {"learning_rate": 1e-3, "betas": [0.9, 0.95]},
    "data": {"workers": 2, "source": "emoji"},
}


def hold(folder: Path, code: str = HOLD) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_in_a_folder_is_refused_and_told_by_whom(tmp_path):
    folder = tmp_path / "run"
    holder = hold(folder)
    with (
        pytest.raises(RunFolderError, match=rf"(?s)in use by process {holder.pid} on .*kill {holder.pid}.*--run-dir"),
        RunFolder(folder),
    ):
        raise AssertionError("entered a folder in use")
    holder.communicate("")
    with RunFolder(folder):
        pass


def test_a_killed_run_leaves_no_lock(tmp_path):
    holder = hold(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with RunFolder(tmp_path):
        assert str(os.getpid()) in (tmp_path / "lock").read_text()


def test_a_child_that_outlives_its_run_is_told_apart(tmp_path):
    orphaning = HOLD.replace(
        "print(",
        "import os, subprocess, time; child = os.fork()\n    if not child: os.close(1); time.sleep(60)\n    "
        "print(child); print(",
    ).replace("with RunFolder(sys.argv[1]): ", "with RunFolder(sys.argv[1]):\n    ")
    holder = subprocess.Popen(
        [sys.executable, "-c", orphaning, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    child = int(holder.stdout.readline())
    holder.kill()
    holder.communicate()
    try:
        with (
            pytest.raises(RunFolderError, match="has ended, but a process it started still holds"),
            RunFolder(tmp_path),
        ):
            raise AssertionError("entered a folder in use")
    finally:
        os.kill(child, signal.SIGKILL)


def test_the_lock_is_held_within_one_process_too_and_given_back(tmp_path):
    with RunFolder(tmp_path), pytest.raises(RunFolderError, match="in use"), RunFolder(tmp_path):
        raise AssertionError("entered a folder in use")
    with RunFolder(tmp_path) as run:
        assert run.checkpoints.is_dir()


def test_leftovers_of_a_kill_are_removed_on_entering(tmp_path):
    (tmp_path / "checkpoints" / ".saving-step-00000003").mkdir(parents=True)
    (tmp_path / ".saving-best").mkdir()
    (tmp_path / ".replaced-best").mkdir()
    with RunFolder(tmp_path) as run:
        assert list(run.checkpoints.iterdir()) == []
        assert run.best.is_dir(), "the kill came between the two renames"
    assert not list(tmp_path.glob(".*-best"))


def test_a_folder_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RunFolderError, match=r"cannot write the run into .*--run-dir"),
        RunFolder(tmp_path / "file" / "run"),
    ):
        pass
    with tempfile.TemporaryDirectory() as outer:
        os.chmod(outer, 0o555)
        privileged = os.geteuid() == 0
        if privileged:
            os.seteuid(65534)
        try:
            with pytest.raises(RunFolderError, match="Permission denied"), RunFolder(Path(outer) / "run"):
                pass
        finally:
            if privileged:
                os.seteuid(0)


def changed(path: str, value: object) -> dict:
    config = json.loads(json.dumps(CONFIG))
    *outer, last = path.split(".")
    inner = config
    for name in outer:
        inner = inner[name]
    inner[last] = value
    return config


def test_the_same_configuration_continues(tmp_path):
    with RunFolder(tmp_path) as run:
        run.check_config(CONFIG)
        run.write_card({"config": CONFIG})
        run.check_config(CONFIG)
        run.check_config(json.loads(json.dumps(CONFIG)))
        run.check_config(changed("optimizer.betas", (0.9, 0.95)))


@pytest.mark.parametrize(("path", "value"), [("data.workers", 0), ("progress", False), ("backend", "torch")])
def test_a_harmless_difference_continues(tmp_path, path, value):
    with RunFolder(tmp_path) as run:
        run.write_card({"config": CONFIG})
        run.check_config(changed(path, value), harmless=[path])
        with pytest.raises(ConfigMismatch, match=path):
            run.check_config(changed(path, value), harmless=["seed"])


def test_what_an_earlier_version_stored_is_compared_in_todays_form(tmp_path):
    stored = {"lr": 0.001, **CONFIG}
    with RunFolder(tmp_path) as run:
        run.write_card({"config": stored})
        with pytest.raises(ConfigMismatch, match="lr: stored 0.001, given nothing"):
            run.check_config(CONFIG)
        run.check_config(CONFIG, as_now=lambda config: {name: x for name, x in config.items() if name != "lr"})


@pytest.mark.parametrize(
    ("path", "value", "shown"),
    [
        ("optimizer.learning_rate", 2e-3, "optimizer.learning_rate: stored 0.001, given 0.002"),
        ("optimizer.betas", [0.9, 0.99], r"optimizer.betas: stored \[0.9, 0.95\], given \[0.9, 0.99\]"),
        ("seed", None, "seed: stored 0, given null"),
        ("stage", "two", 'stage: stored nothing, given "two"'),
        ("optimizer", {}, "optimizer: stored nothing, given {}"),
    ],
)
def test_a_difference_in_the_mathematics_is_refused_and_listed(tmp_path, path, value, shown):
    with RunFolder(tmp_path) as run:
        run.write_card({"config": CONFIG})
        with pytest.raises(ConfigMismatch, match=shown) as raised:
            run.check_config(changed(path, value))
    assert "--run-dir" in str(raised.value)
    assert "workers" not in str(raised.value)


def test_restarts_are_added_to_the_card(tmp_path):
    with RunFolder(tmp_path) as run:
        run.write_card({"config": CONFIG, "start_time": "monday", "restarts": []})
        run.write_card({"config": CONFIG, "start_time": "tuesday", "restarts": []}, resume_step=40)
        run.write_card({"config": CONFIG, "start_time": "friday", "restarts": []}, resume_step=None)
        card = run.read_card()
    assert card["start_time"] == "monday"
    assert card["restarts"] == [{"time": "tuesday", "step": 40}, {"time": "friday", "step": 0}]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_an_unreadable_card_stops_with_its_path(tmp_path, text):
    with RunFolder(tmp_path) as run:
        run.card.write_text(text)
        with pytest.raises(RunFolderError, match=r"card\.json"):
            run.check_config(CONFIG)


def test_json_files_are_replaced_whole(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"recall": 0.5})
    with pytest.raises(TypeError):
        write_json(path, {"recall": object()})
    assert json.loads(path.read_text()) == {"recall": 0.5}


def test_results_survive_a_loss_of_power(tmp_path, monkeypatch):
    flushed = record_flushes(monkeypatch)
    write_json(tmp_path / "results.json", {"recall": 0.5})
    assert "results.json" not in lost(tmp_path, flushed)
