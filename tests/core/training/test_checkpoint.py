"""A checkpoint comes back bit for bit, replaces and prunes without a gap, and trusts no name in it."""

import os
import warnings

import numpy as np
import pytest

from diptych.core.files.errors import WeightFileError
from diptych.core.training.checkpoint import CheckpointError, load, remove_leftovers, restore_latest, save
from diptych.core.weights import files, safetensors
from tests.core.training.checkpoint_writer import assert_is_of_its_step, groups_of, state_of

SMALL = 64


def save_steps(folder, *steps, keep=2):
    for step in steps:
        save(folder, step, groups_of(step, SMALL), state_of(step), keep)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_checkpoint_comes_back_whole(tmp_path):
    save_steps(tmp_path, 1, 20)
    checkpoint = restore_latest(tmp_path)
    assert checkpoint.step == 20
    assert_is_of_its_step(checkpoint, SMALL)
    checkpoint.groups["weights"]["tower/kernel"] += 1
    with pytest.raises(AssertionError):
        assert_is_of_its_step(checkpoint, SMALL)


def test_where_nothing_was_saved_nothing_is_restored(tmp_path):
    assert restore_latest(tmp_path) is None
    assert restore_latest(tmp_path / "absent") is None
    (tmp_path / "notes").mkdir()
    assert restore_latest(tmp_path) is None


def test_the_newest_are_kept_and_steps_are_ordered_as_numbers(tmp_path):
    save_steps(tmp_path, 5, 99_999_999, 100_000_000, keep=2)
    assert names(tmp_path) == ["step-100000000", "step-99999999"]
    assert restore_latest(tmp_path).step == 100_000_000
    save_steps(tmp_path, 7, keep=1)
    assert names(tmp_path) == ["step-00000007", "step-100000000", "step-99999999"], (
        "a later step is never pruned by an earlier one"
    )


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 3, {"weights": {"a": np.zeros(3)}}, {"try": 1})
    save(tmp_path, 3, {"weights": {"a": np.ones(3)}}, {"try": 2})
    checkpoint = restore_latest(tmp_path)
    assert checkpoint.state == {"try": 2}
    assert checkpoint.groups["weights"]["a"].tolist() == [1, 1, 1]
    assert names(tmp_path) == ["step-00000003"]


def test_only_our_own_leftovers_are_removed(tmp_path):
    save_steps(tmp_path, 1, 2)
    foreign = [".saving-", ".saving-step-x", ".removing-step-00000001.bak", "saving-step-00000001", "mine"]
    for name in (*foreign, ".saving-step-00000003", ".removing-step-00000000", ".replaced-step-00000002"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.safetensors").write_bytes(b"half")
    assert remove_leftovers(tmp_path) == [".removing-step-00000000", ".replaced-step-00000002", ".saving-step-00000003"]
    assert names(tmp_path) == sorted([*foreign, "step-00000001", "step-00000002"])


def test_a_kill_between_the_renames_of_a_replacement_loses_nothing(tmp_path):
    save_steps(tmp_path, 1, 2)
    (tmp_path / "step-00000002").rename(tmp_path / ".replaced-step-00000002")
    remove_leftovers(tmp_path)
    assert restore_latest(tmp_path).step == 2


def test_files_have_the_permissions_of_ordinary_new_files(tmp_path):
    before = os.umask(0o027)
    try:
        folder = save(tmp_path, 1, {"weights": {"a": np.zeros(1)}}, {})
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o640}


@pytest.mark.parametrize("state", [{"rate": float("nan")}, {"pair": (1, 2)}, {1: "one"}, {"count": np.int64(3)}])
def test_a_state_that_json_would_change_is_refused(tmp_path, state):
    with pytest.raises(ValueError, match="state of a checkpoint"):
        save(tmp_path, 1, {}, state)
    assert names(tmp_path) == []


@pytest.mark.parametrize("group", ["../weights", "a/b", "", "Weights", "state.json", "."])
def test_a_group_that_is_no_file_name_is_refused(tmp_path, group):
    with pytest.raises(ValueError, match="group"):
        save(tmp_path, 1, {group: {}}, {})


def test_names_of_tensors_are_never_paths(tmp_path):
    hostile = ["../../escaped", "/escaped", "..", "a\0b", "weights.safetensors", "x" * 5000]
    save(tmp_path / "checkpoints", 1, {"weights": {name: np.zeros(1) for name in hostile}}, {})
    assert set(restore_latest(tmp_path / "checkpoints").groups["weights"]) == set(hostile)
    assert names(tmp_path) == ["checkpoints"]


def test_limits_are_checked_before_anything_is_lost(tmp_path, monkeypatch):
    save_steps(tmp_path, 1)
    monkeypatch.setattr(files, "MAX_TENSORS", 2)
    monkeypatch.setattr(safetensors, "MAX_HEADER_BYTES", 300)
    for tensors in (
        {"a": np.zeros(1), "b": np.zeros(1), "c": np.zeros(1)},
        {"a" * 400: np.zeros(1)},
        {"__metadata__": np.zeros(1)},
    ):
        with pytest.raises(WeightFileError, match="weights"):
            save(tmp_path, 2, {"weights": tensors}, {})
    assert names(tmp_path) == ["step-00000001"]


def test_a_signed_manifest_cannot_name_files_elsewhere(tmp_path):
    from diptych.core.training.checkpoint import _signed

    folder = save(tmp_path, 1, {"weights": {"a": np.zeros(1)}}, {})
    for name in ("../weights.safetensors", "/weights.safetensors", "weights.pkl", "manifest.json"):
        files = {name: {"bytes": 1, "sha256": ""}}
        (folder / "manifest.json").write_bytes(_signed({"format": 1, "step": 1, "files": files}))
        with pytest.raises(CheckpointError, match="no file of a checkpoint"):
            load(folder)
    for manifest in (
        {},
        {"format": 2, "step": 1, "files": {}},
        {"format": 1, "step": 2, "files": {}},
        {"format": 1, "step": 1, "files": 3},
    ):
        (folder / "manifest.json").write_bytes(_signed(manifest))
        with pytest.raises(CheckpointError):
            load(folder)


def test_a_checkpoint_can_be_loaded_under_another_name(tmp_path):
    save_steps(tmp_path, 4)
    (tmp_path / "step-00000004").rename(tmp_path / "best")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_is_of_its_step(load(tmp_path / "best"), SMALL)
