"""A changed byte anywhere in a checkpoint is found; the checkpoint before it is used, and said to be used."""

import random
import shutil
import warnings
from pathlib import Path

import pytest

from diptych.core.training.checkpoint import CheckpointError, load, restore_latest, save
from tests.core.training.checkpoint_writer import assert_is_of_its_step, groups_of, state_of

FILES = ("weights.safetensors", "optimizer.safetensors", "ema.safetensors", "state.json", "manifest.json")
FLIPS, TRUNCATIONS, SMALL = 200, 20, 64


@pytest.fixture
def checkpoints(tmp_path) -> Path:
    for step in (10, 20):
        save(tmp_path, step, groups_of(step, SMALL), state_of(step))
    return tmp_path


def damages(raw: bytes, seed: int):
    """(what was done, the bytes after it), every one of them different from `raw`."""
    rng = random.Random(seed)
    for _ in range(FLIPS):
        place, bits = rng.randrange(len(raw)), rng.randrange(1, 256)
        yield f"byte {place} xor {bits}", raw[:place] + bytes([raw[place] ^ bits]) + raw[place + 1 :]
    for _ in range(TRUNCATIONS):
        length = rng.randrange(len(raw))
        yield f"cut to {length} bytes", raw[:length]
    yield "one byte more", raw + b"\0"


@pytest.mark.parametrize("name", FILES)
def test_every_changed_byte_is_found_and_the_checkpoint_before_is_used(checkpoints, name):
    newest = checkpoints / "step-00000020"
    raw = (newest / name).read_bytes()
    tried = 0
    for what, damaged in damages(raw, seed=len(raw)):
        (newest / name).write_bytes(damaged)
        with pytest.warns(UserWarning, match="Resuming from the checkpoint before it") as warned:
            checkpoint = restore_latest(checkpoints)
        assert checkpoint.step == 10, what
        assert_is_of_its_step(checkpoint, SMALL)
        assert str(newest / name) in str(warned[0].message), what
        (checkpoints / "damaged-step-00000020").rename(newest)
        tried += 1
    assert tried == FLIPS + TRUNCATIONS + 1
    (newest / name).write_bytes(raw)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert restore_latest(checkpoints).step == 20


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(checkpoints, name):
    (checkpoints / "step-00000020" / name).unlink()
    with pytest.warns(UserWarning, match=name):
        assert restore_latest(checkpoints).step == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-3]), r"has \d+ bytes, expected \d+"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x07"),
            r"has SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}",
        ),
        (lambda path: path.unlink(), "is missing"),
    ],
)
def test_the_message_names_the_file_and_what_was_expected(checkpoints, change, message):
    path = checkpoints / "step-00000020" / "weights.safetensors"
    change(path)
    with pytest.raises(CheckpointError, match=rf"step-00000020/weights\.safetensors {message}"):
        load(path.parent)


def test_a_damaged_checkpoint_is_kept_aside_and_reported_once(checkpoints):
    (checkpoints / "step-00000020" / "state.json").write_bytes(b"{}")
    with pytest.warns(UserWarning, match="state.json"):
        restore_latest(checkpoints)
    assert (checkpoints / "damaged-step-00000020" / "weights.safetensors").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert restore_latest(checkpoints).step == 10
        save(checkpoints, 20, groups_of(20, SMALL), state_of(20))
    assert_is_of_its_step(restore_latest(checkpoints), SMALL)


def test_where_none_is_good_the_run_does_not_start_from_nothing(checkpoints):
    for step in (10, 20):
        (checkpoints / f"step-{step:08d}" / "weights.safetensors").write_bytes(b"")
    for _ in range(2):  # the first refusal must not make the second start a new run
        with pytest.raises(
            CheckpointError, match=r"(?s)none is good.*step-00000020.*step-00000010.*move .* away"
        ) as raised:
            restore_latest(checkpoints)
        assert str(checkpoints) in str(raised.value)
    shutil.rmtree(checkpoints / "step-00000010")
    with pytest.raises(CheckpointError, match="none is good"):
        restore_latest(checkpoints)
