"""A disk that refuses: saving says so with numbers, cleans up, and leaves the earlier checkpoint as it was."""

import errno
import os
import re
import resource
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from diptych.core.training.checkpoint import CheckpointError, restore_latest, save
from tests.core.training.checkpoint_writer import assert_is_of_its_step, groups_of, state_of
from tests.core.weights.flushes import lost, record_flushes

SMALL, LARGE = 64, 1_000_000
NOBODY = 65534


@contextmanager
def largest_file(size: int):
    """While entered, no file of this process grows beyond `size` bytes: the system refuses the write as it does on a
    full disk.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def small_disk(size: str):
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True
        )
        if mounted.returncode:
            pytest.skip(f"a file system of its own needs the right to mount: {mounted.stderr.strip()}")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


def assert_only_the_first_is_left(folder: Path) -> None:
    assert [path.name for path in folder.iterdir()] == ["step-00000001"]
    assert_is_of_its_step(restore_latest(folder), SMALL)


def test_a_refused_write_keeps_the_checkpoint_before(tmp_path):
    save(tmp_path, 1, groups_of(1, SMALL), state_of(1))
    with largest_file(100_000), pytest.raises(CheckpointError, match="File too large"):
        save(tmp_path, 2, groups_of(2, LARGE), state_of(2))
    assert_only_the_first_is_left(tmp_path)
    save(tmp_path, 2, groups_of(2, SMALL), state_of(2))
    assert restore_latest(tmp_path).step == 2


def test_a_full_disk_is_reported_with_needed_and_free_bytes():
    with small_disk("8m") as folder:
        save(folder, 1, groups_of(1, SMALL), state_of(1))
        with pytest.raises(CheckpointError, match="No space left") as raised:
            save(folder, 2, groups_of(2, LARGE), state_of(2))
        needed, free = (
            int(number.replace(",", ""))
            for number in re.search(r"needs ([\d,]+) bytes and ([\d,]+) are free", str(raised.value)).groups()
        )
        assert needed == sum(array.nbytes for tensors in groups_of(2, LARGE).values() for array in tensors.values())
        assert 4_000_000 < free < 8 * 2**20, "measured after the half-written folder was removed"
        assert str(folder / "step-00000002") in str(raised.value)
        assert_only_the_first_is_left(folder)


@pytest.mark.parametrize("call", range(5))
def test_an_input_output_error_while_flushing_keeps_the_checkpoint_before(tmp_path, monkeypatch, call):
    save(tmp_path, 1, groups_of(1, SMALL), state_of(1))
    calls = 0

    def failing(descriptor):
        nonlocal calls
        calls += 1
        if calls > call:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(CheckpointError, match="Input/output error"):
        save(tmp_path, 2, groups_of(2, SMALL), state_of(2))
    assert_only_the_first_is_left(tmp_path)


def test_a_saved_checkpoint_survives_a_loss_of_power(tmp_path, monkeypatch):
    flushed = record_flushes(monkeypatch)
    for step in (1, 2):
        save(tmp_path / "checkpoints", step, groups_of(step, SMALL), state_of(step))
        assert lost(tmp_path, flushed) == []


def test_a_folder_without_write_permission_is_reported():
    with tempfile.TemporaryDirectory() as outer:
        os.chmod(outer, 0o755)
        folder = Path(outer) / "checkpoints"
        save(folder, 1, groups_of(1, SMALL), state_of(1))
        os.chmod(folder, 0o555)
        privileged = os.geteuid() == 0
        if privileged:
            os.seteuid(NOBODY)
        try:
            with pytest.raises(CheckpointError, match=r"Permission denied.*choose another --run-dir"):
                save(folder, 2, groups_of(2, SMALL), state_of(2))
            assert_only_the_first_is_left(folder)
        finally:
            if privileged:
                os.seteuid(0)
            os.chmod(folder, 0o755)


def test_an_old_checkpoint_that_cannot_be_deleted_is_only_a_warning(tmp_path, monkeypatch):
    save(tmp_path, 1, groups_of(1, SMALL), state_of(1), keep=1)

    def refuse(path, *_, **options):
        if not options.get("ignore_errors"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("shutil.rmtree", refuse)
    with pytest.warns(UserWarning, match="could not delete the old checkpoint"):
        save(tmp_path, 2, groups_of(2, SMALL), state_of(2), keep=1)
    assert restore_latest(tmp_path).step == 2
