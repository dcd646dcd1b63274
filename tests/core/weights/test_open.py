"""The file or folder that a user names, and the weights in it in whatever format; pickles are never opened."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch

from diptych.core.files.errors import WeightFileError
from diptych.core.files.json_objects import read_json, write_json
from diptych.core.weights.npz import write_npz
from diptych.core.weights.open import WEIGHTS, find_weights, open_weights
from diptych.core.weights.safetensors import write_safetensors, write_safetensors_folder
from tests.core.weights.arrays import assert_refused, assert_same

TENSORS = {f"block_{n}.kernel": np.full((4, 8), n, np.float32) for n in range(6)}
INDEX = "model.safetensors.index.json"


def read_all(path):
    with open_weights(path) as file:
        return {name: file.read(name) for name in file.shapes}


@pytest.mark.parametrize("name", ["model.safetensors", "open_clip_model.safetensors", "any.safetensors"])
def test_the_safetensors_of_a_folder_are_found(tmp_path, name):
    write_safetensors(tmp_path / name, TENSORS)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    assert_same(read_all(tmp_path), TENSORS)
    assert_same(read_all(tmp_path / name), TENSORS)


def test_the_archive_of_a_folder_is_found(tmp_path):
    write_npz(tmp_path / "siglip2_b16_224.npz", TENSORS)
    assert_same(read_all(tmp_path), TENSORS)


def test_a_file_without_a_known_ending_is_told_by_what_it_holds(tmp_path):
    write_safetensors(tmp_path / "blob", TENSORS)
    assert_same(read_all(tmp_path / "blob"), TENSORS)


def test_of_several_files_the_first_of_the_list_is_read(tmp_path):
    names = ["a.npz", "model.safetensors", *WEIGHTS]
    assert find_weights(names) == WEIGHTS[0]
    assert find_weights(["a.npz", "model.safetensors", "config.json"]) == "model.safetensors"
    assert find_weights(["a.npz", "config.json"]) == "a.npz"
    assert find_weights(["a.npz", "b.npz"]) is None
    assert find_weights(["config.json", "pytorch_model.bin"]) is None


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "model.ckpt", "model.pth", "weights", "a.safetensors"]
)
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_are_refused_unread(tmp_path, name, zipped):
    torch.save({"a": torch.zeros(2)}, tmp_path / name, _use_new_zipfile_serialization=zipped)
    for path in (tmp_path, tmp_path / name):
        if path == tmp_path and name == "weights":
            continue  # nothing in its folder says that this is a file of weights
        with pytest.raises(WeightFileError, match="pickle.*safetensors.torch.save_file"):
            open_weights(path)


def test_what_a_pickle_would_run_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    for name in ("model.safetensors", "model.npz", "model.bin", "model.weights.h5", "blob"):
        (tmp_path / name).write_bytes(pickle.dumps(Trap()))
        with pytest.raises(WeightFileError):
            open_weights(tmp_path / name)
    np.savez(tmp_path / "model.npz", a=np.array([Trap()], object))
    with pytest.raises(WeightFileError):
        open_weights(tmp_path / "model.npz")
    assert not (tmp_path / "sprung").exists()
    pickle.loads((tmp_path / "blob").read_bytes())
    assert (tmp_path / "sprung").exists(), "the trap itself works"


def test_where_nothing_is_the_message_says_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a file nor a folder"):
        open_weights(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="no weights. Looked for .*model.safetensors.*found no files"):
        open_weights(tmp_path)
    for name in ("a.npz", "b.npz"):
        write_npz(tmp_path / name, TENSORS)
    with pytest.raises(FileNotFoundError, match="several files of weights, give one of them: a.npz, b.npz"):
        open_weights(tmp_path)


@pytest.fixture
def sharded(tmp_path):
    write_safetensors_folder(tmp_path, TENSORS, max_shard_bytes=2 * 128)
    assert_same(read_all(tmp_path), TENSORS)
    assert_same(read_all(tmp_path / INDEX), TENSORS)
    return tmp_path


def test_half_precision_shards_are_widened(tmp_path):
    half = {name: array.astype(np.float16) for name, array in TENSORS.items()}
    write_safetensors_folder(tmp_path, half, max_shard_bytes=128)
    with open_weights(tmp_path) as files:
        assert_same({name: files.read_float32(name) for name in files.shapes}, TENSORS)


@pytest.mark.parametrize(
    "file",
    [
        "../secret.safetensors",
        "/etc/secret.safetensors",
        "a/b.safetensors",
        "..",
        "",
        "model.bin",
        ".safetensors",
        7,
        None,
        {},
    ],
)
def test_a_list_cannot_name_files_elsewhere(sharded, file):
    (sharded / "a").mkdir()
    shard = sharded / "model-00001-of-00003.safetensors"
    shutil.copy(shard, sharded / "a" / "b.safetensors")
    shutil.copy(shard, sharded.parent / "secret.safetensors")
    index = read_json(sharded / INDEX)
    for name in ("block_0.kernel", "block_1.kernel"):
        index["weight_map"][name] = file
    write_json(sharded / INDEX, index)
    assert_refused(lambda: open_weights(sharded), "expected a file of weights beside it")


def test_a_list_and_its_files_must_agree(sharded):
    good = (sharded / INDEX).read_text()

    def change(**places):
        index = json.loads(good)
        index["weight_map"] |= places
        write_json(sharded / INDEX, {"weight_map": {name: file for name, file in index["weight_map"].items() if file}})

    first, second = "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"
    change(unheard_of=first)
    assert_refused(lambda: open_weights(sharded), f"1 missing: unheard_of in {first}")
    change(**{"block_0.kernel": None})
    assert_refused(lambda: open_weights(sharded), f"1 not listed: block_0.kernel in {first}")
    change(**{"block_0.kernel": second})
    assert_refused(lambda: open_weights(sharded), "(?s)1 missing.*1 not listed")
    change(unheard_of="model-9.safetensors")
    assert_refused(lambda: open_weights(sharded), "lists model-9.safetensors, which is not there")
    change(**{"block_0.kernel": [first, second]})
    write_safetensors(sharded / second, {n: TENSORS[n] for n in ("block_0.kernel", "block_2.kernel", "block_3.kernel")})
    assert_refused(lambda: open_weights(sharded), "1 in two files: block_0.kernel")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "JSON"),
        ("[]", "expected an object"),
        ("{}", "no weight_map"),
        ('{"weight_map": []}', "no weight_map"),
        ('{"weight_map": {}, "weight_map": {}}', "twice"),
        ("[" * 100_000, "JSON"),
        ('{"weight_map": "%s"}' % ("x" * 8_000_000), "more than 8,000,000 bytes"),
        (json.dumps({"weight_map": {str(n): f"{n}.safetensors" for n in range(1001)}}), "more than 1,000 files"),
    ],
    ids=["empty", "list", "bare", "no map", "twice", "deep", "large", "many"],
)
def test_a_hostile_list_is_refused(sharded, text, reason):
    (sharded / INDEX).write_text(text)
    assert_refused(lambda: open_weights(sharded), reason)
