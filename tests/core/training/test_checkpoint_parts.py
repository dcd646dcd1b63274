"""Parts of checkpoints: together the tensors, each number once, in equal shares; never less than all of them."""

import json
import shutil
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from diptych.backends.shares import Held, whole
from diptych.core.training.checkpoint import CheckpointError, Saving, load, remove_leftovers, restore_latest
from diptych.core.training.checkpoint_parts import Piece, check_whole, joined, own_pieces, read_pieces
from tests.core.training.checkpoint_writer import assert_is_of_its_step, groups_of, state_of

SMALL = 64
SHAPES = {"kernel": (6, 8), "square": (4, 4, 12), "bias": (5,), "scale": (), "table": (40, 3), "none": (0, 3)}


def cut(array: np.ndarray, axis: int, parts: int, number: int, holders: tuple[int, ...]) -> Held:
    """The part of an array that a device holds where it is cut along an axis."""
    rows, width = int(np.prod(array.shape[:axis])), array.size // int(np.prod(array.shape[:axis])) // parts
    columns = array.reshape(rows, -1)[:, number * width : (number + 1) * width]
    return Held(
        array.shape, rows, number * width, width, array.itemsize, holders, lambda a, b: np.array(columns[:, a:b])
    )


def everywhere(array: np.ndarray) -> Held:
    return whole(array.shape, array.itemsize, lambda start, stop: np.array(array.reshape(-1)[start:stop]))


def held_by(process: int, processes: int, arrays: dict[str, np.ndarray]) -> dict[str, list[Held]]:
    """Of an even number of processes neighbours hold the halves of three tensors, along each of their axes; every
    process holds the rest.
    """
    held = {name: [everywhere(array)] for name, array in arrays.items()}
    if processes % 2 == 0:
        half = process % 2
        holders = tuple(range(half, processes, 2))
        for name, axis in (("kernel", 0), ("square", 1), ("table", 0)):
            held[name] = [cut(arrays[name], axis, 2, half, holders)]
        if processes == 2:
            held["square"] = [cut(arrays["square"], 2, 2, number, (0, 1)) for number in (0, 1)]
    return held


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 7])
def test_the_parts_of_all_processes_are_the_tensors_and_equally_large(processes):
    rng = np.random.default_rng(processes)
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    arrays["count"] = np.array(7, np.int64)
    parts = [
        own_pieces({"weights": held_by(process, processes, arrays)}, process, processes) for process in range(processes)
    ]
    check_whole(piece for part in parts for piece, _ in part)
    found = joined(pair for part in parts for pair in part)["weights"]
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].tobytes() == array.tobytes(), name
        assert found[name].shape == array.shape
    sizes = [sum(array.nbytes for _, array in part) for part in parts]
    column = 4 * 4 * 8, 8  # of the widest row, and of a count that is not divided
    assert max(sizes) - min(sizes) <= sum(column)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pieces: pieces[1:], "then those from 20"),
        (lambda pieces: pieces[:-1], "hold 40 of 60 columns"),
        (lambda pieces: [*pieces, pieces[1]], "up to 40 of 'a' of the weights and then those from 20"),
        (lambda pieces: [*pieces[:-1], pieces[-1]._replace(rows=2)], "differ in the shape"),
    ],
)
def test_a_number_that_is_missing_or_there_twice_is_found(change, message):
    pieces = [Piece("weights", "a", (20, 3), 1, start, stop) for start, stop in pairwise((0, 20, 40, 60))]
    check_whole(pieces)
    with pytest.raises(ValueError, match=message):
        check_whole(change(pieces))


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"start": -1}, {"stop": 1.5}, {"shape": [-1]}, {"more": 1}])
def test_a_piece_that_cannot_be_is_refused(wrong):
    good = Piece("weights", "a", (2,), 1, 0, 2)._asdict()
    assert read_pieces(json.loads(json.dumps([good]))) == [Piece("weights", "a", (2,), 1, 0, 2)]
    with pytest.raises(ValueError, match="describes a piece as"):
        read_pieces([good | wrong])


def savings(folder: Path, step: int, parts: int = 2, attempt: str = "a1") -> list[Saving]:
    return [Saving(folder, step, part=part, parts=parts, attempt=attempt) for part in range(1, parts + 1)]


def write(saving: Saving, step: int, part: int, parts: int = 2) -> None:
    groups = {
        group: {name: [everywhere(np.asarray(array))] for name, array in tensors.items()}
        for group, tensors in groups_of(step, SMALL).items()
    }
    saving.write(own_pieces(groups, part - 1, parts), state_of(step) if part == 1 else {})


def save(folder: Path, step: int, parts: int = 2) -> None:
    whole = savings(folder, step, parts)
    for part, saving in reversed(list(enumerate(whole, 1))):
        write(saving, step, part, parts)
    whole[0].complete()


@pytest.fixture
def checkpoints(tmp_path) -> Path:
    for step in (10, 20):
        save(tmp_path, step)
    return tmp_path


@pytest.mark.parametrize("parts", [2, 3, 12])
def test_a_checkpoint_by_parts_is_read_as_one(tmp_path, parts):
    for step in (1, 2, 3):
        save(tmp_path, step, parts)
    assert_is_of_its_step(restore_latest(tmp_path), SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    newest = tmp_path / "step-00000003"
    assert json.loads((newest / "manifest.json").read_bytes())["parts"] == parts
    sizes = [sum(file.stat().st_size for file in newest.glob(f"*-{part:05d}-of-*")) for part in range(1, parts + 1)]
    assert max(sizes) < 2 * min(sizes)


def test_every_changed_byte_of_a_part_is_found_and_named(checkpoints):
    newest = checkpoints / "step-00000020"
    files = sorted(newest.iterdir())
    assert len(files) == 4 + 2 + 2, "groups of which a part holds nothing have no file there"
    for number, file in enumerate(files):
        raw = file.read_bytes()
        place = (7 * number + 11) % len(raw)
        file.write_bytes(raw[:place] + bytes([raw[place] ^ 4]) + raw[place + 1 :])
        with pytest.warns(UserWarning, match="Resuming from the checkpoint before it") as warned:
            assert_is_of_its_step(restore_latest(checkpoints), SMALL)
        assert str(file) in str(warned[0].message)
        (checkpoints / "damaged-step-00000020").rename(newest)
        file.write_bytes(raw)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert restore_latest(checkpoints).step == 20


@pytest.mark.parametrize("name", ["ema-00002-of-00002.safetensors", "part-00001.json", "state.json"])
def test_a_checkpoint_without_a_part_is_passed_over_with_a_message(checkpoints, name):
    (checkpoints / "step-00000020" / name).unlink()
    with pytest.warns(UserWarning, match=rf"{name} is missing\. Resuming from the checkpoint before it"):
        assert restore_latest(checkpoints).step == 10


def test_before_all_parts_are_there_nothing_is(checkpoints):
    first, second = savings(checkpoints, 30)
    write(first, 30, 1)
    with pytest.raises(CheckpointError, match=r"part-00002\.json"):
        first.complete()
    assert restore_latest(checkpoints).step == 20
    write(second, 30, 2)
    part = checkpoints / ".saving-step-00000030-a1" / "ema-00002-of-00002.safetensors"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=rf"{part.name} has \d+ bytes, expected \d+"):
        first.complete()
    assert restore_latest(checkpoints).step == 20
    write(second, 30, 2)
    first.complete()
    assert restore_latest(checkpoints).step == 30
    assert_is_of_its_step(load(checkpoints / "step-00000030"), SMALL)


def test_what_a_process_of_an_earlier_start_still_writes_spoils_nothing(checkpoints):
    earlier, (first, second) = savings(checkpoints, 30, attempt="0ld")[1], savings(checkpoints, 30)
    write(second, 30, 2)
    write(earlier, 40, 2)  # other numbers
    write(first, 30, 1)
    first.complete()
    assert_is_of_its_step(restore_latest(checkpoints), SMALL)


def test_the_parts_of_an_interrupted_save_are_cleared_away(checkpoints):
    first, _ = savings(checkpoints, 30)
    write(first, 30, 1)
    assert restore_latest(checkpoints).step == 20
    assert remove_leftovers(checkpoints) == [".saving-step-00000030-a1"]


def test_a_checkpoint_of_one_part_is_the_one_that_a_run_of_one_process_always_left(checkpoints, tmp_path):
    one = Saving(tmp_path / "one", 20)
    write(one, 20, 1, parts=1)
    one.complete()
    folder = tmp_path / "one" / "step-00000020"
    assert {path.name for path in folder.iterdir()} == {
        "weights.safetensors",
        "optimizer.safetensors",
        "ema.safetensors",
        "state.json",
        "manifest.json",
    }
    assert json.loads((folder / "manifest.json").read_bytes())["format"] == 1
    shutil.rmtree(checkpoints / "step-00000010")
    for found in (load(folder), restore_latest(checkpoints)):
        assert_is_of_its_step(found, SMALL)
