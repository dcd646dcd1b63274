"""safetensors files hold arrays bit for bit, as the safetensors library reads and writes them, and trust no header."""

import json
import os
import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from diptych.core.files.errors import WeightFileError
from diptych.core.files.json_objects import read_json
from diptych.core.weights import safetensors
from diptych.core.weights.files import MAX_TENSORS
from diptych.core.weights.open import open_weights
from diptych.core.weights.safetensors import (
    MAX_HEADER_BYTES,
    SafetensorsFile,
    read_tensors,
    write_safetensors,
    write_safetensors_folder,
)
from tests.core.weights.arrays import NAMES, arrays, assert_refused, assert_same
from tests.core.weights.flushes import lost, record_flushes


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@settings(max_examples=80, deadline=None)
@given(tensors=st.dictionaries(NAMES, arrays(), max_size=5), transpose=st.booleans(), lazily=st.booleans())
def test_any_arrays_come_back_bit_for_bit(tmp_path_factory, tensors, transpose, lazily):
    path = tmp_path_factory.mktemp("tensors") / "weights.safetensors"
    tensors = {name: array.T if transpose else array for name, array in tensors.items()}
    given = ((name, lambda array=array: array) for name, array in tensors.items()) if lazily else tensors
    write_safetensors(path, given)
    assert_same(read_tensors(path), tensors)
    assert_same(load_file(path), tensors)


@settings(max_examples=40, deadline=None)
@given(tensors=st.dictionaries(NAMES, arrays(), max_size=5))
def test_what_the_library_writes_is_read(tmp_path_factory, tensors):
    path = tmp_path_factory.mktemp("tensors") / "weights.safetensors"
    save_file({name: np.ascontiguousarray(array).reshape(array.shape) for name, array in tensors.items()}, path)
    assert_same(read_tensors(path), tensors)


@settings(max_examples=40, deadline=None)
@given(tensors=st.dictionaries(NAMES, arrays(max_dims=2), min_size=1, max_size=6))
def test_readers_in_place_find_every_array_aligned(tmp_path_factory, tensors):
    path = tmp_path_factory.mktemp("tensors") / "weights.safetensors"
    write_safetensors(path, iter(tensors.items()))
    with SafetensorsFile(path) as file:
        assert all(place % file.dtypes[name].itemsize == 0 for name, place in file._places.items())


def test_big_endian_arrays_are_stored_by_value(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", {"a": np.arange(3, dtype=">f4")})
    assert load_file(tmp_path / "a.safetensors")["a"].tolist() == [0.0, 1.0, 2.0]


def test_names_that_need_more_room_than_foreseen_find_it(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors, "_UNKNOWN_ROOM", 10)
    monkeypatch.setattr(safetensors, "_MOVE_BYTES", 1000)
    tensors = {f"layer_{n}": np.arange(n, dtype=np.float32) for n in range(100)}
    write_safetensors(tmp_path / "a.safetensors", iter(tensors.items()), metadata={"format": "pt"})
    assert_same(load_file(tmp_path / "a.safetensors"), tensors)
    with safe_open(tmp_path / "a.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"}
    with SafetensorsFile(tmp_path / "a.safetensors") as file:
        assert file.metadata == {"format": "pt"}


def test_files_of_known_names_are_hardly_larger_than_their_arrays(tmp_path):
    tensors = {f"layer_{n}/kernel": np.zeros((3, 5), np.float32) for n in range(50)}
    write_safetensors(tmp_path / "mapping.safetensors", tensors)
    write_safetensors(tmp_path / "items.safetensors", tensors.items())
    assert (tmp_path / "mapping.safetensors").stat().st_size < 50 * (15 * 4 + 150)
    assert (tmp_path / "mapping.safetensors").read_bytes() == (tmp_path / "items.safetensors").read_bytes()


def test_half_precision_is_widened_exactly(tmp_path):
    bits = np.arange(1 << 16, dtype=np.uint16)
    tensors = {"bfloat16": bits.view(ml_dtypes.bfloat16).reshape(4, -1), "float16": bits.view(np.float16)}
    write_safetensors(tmp_path / "a.safetensors", tensors)
    with SafetensorsFile(tmp_path / "a.safetensors") as file:
        for name, array in tensors.items():
            with np.errstate(invalid="ignore"):  # signalling not-a-numbers
                assert_same({name: file.read_float32(name)}, {name: array.astype(np.float32)})


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.float32])
def test_other_numbers_become_float32_too(tmp_path, dtype):
    write_safetensors(tmp_path / "a.safetensors", {"a": np.arange(6, dtype=dtype).reshape(2, 3)})
    with SafetensorsFile(tmp_path / "a.safetensors") as file:
        assert_same({"a": file.read_float32("a")}, {"a": np.arange(6, dtype=np.float32).reshape(2, 3)})


def failing(error):
    yield "a", np.ones(1000)
    raise error


@pytest.mark.parametrize("error", [OSError("the disk is full"), KeyboardInterrupt()])
def test_a_write_that_fails_changes_nothing(tmp_path, error):
    write_safetensors_folder(tmp_path, {"a": np.zeros(2)})
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(type(error)):
        write_safetensors(tmp_path / "model.safetensors", failing(error))
    with pytest.raises(type(error)):
        write_safetensors_folder(tmp_path, failing(error))
    assert names(tmp_path) == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("max_shard_bytes", [100, 1_000])
def test_what_is_written_survives_a_loss_of_power(tmp_path, monkeypatch, max_shard_bytes):
    flushed = record_flushes(monkeypatch)
    write_safetensors_folder(tmp_path, {name: np.ones(10) for name in "abc"}, max_shard_bytes=max_shard_bytes)
    assert lost(tmp_path, flushed) == []


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"__metadata__": np.zeros(1)}, "__metadata__"),
        ({7: np.zeros(1)}, "name"),
        ([("a", np.zeros(1)), ("a", np.zeros(1))], "'a'"),
        ({"a": np.zeros(1, np.complex64)}, "complex64"),
        ({"a": np.array([None])}, "object"),
        ({"x" * MAX_HEADER_BYTES: np.zeros(1)}, "header"),
        (((str(n), np.zeros(0)) for n in range(MAX_TENSORS + 1)), "more than"),
    ],
    ids=["metadata", "number", "twice", "complex", "object", "long", "many"],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path, tensors, reason):
    with pytest.raises(WeightFileError, match=reason):
        write_safetensors(tmp_path / "a.safetensors", tensors)
    assert names(tmp_path) == []


TENSORS = {f"block_{n}.kernel": np.full((4, 8), n, np.float32) for n in range(6)}
SHARDS = [f"model-{n:05d}-of-00003.safetensors" for n in (1, 2, 3)]


def test_one_shard_needs_no_index_and_several_have_one(tmp_path):
    write_safetensors_folder(tmp_path, TENSORS)
    assert names(tmp_path) == ["model.safetensors"]
    write_safetensors_folder(tmp_path, TENSORS, max_shard_bytes=2 * 128, metadata={"format": "pt"})
    assert names(tmp_path) == [*SHARDS, "model.safetensors.index.json"]
    index = read_json(tmp_path / "model.safetensors.index.json")
    assert index["metadata"]["total_size"] == 6 * 128
    assert index["weight_map"] == {name: SHARDS[n // 2] for n, name in enumerate(TENSORS)}
    for shard in SHARDS:
        with safe_open(tmp_path / shard, framework="np") as file:
            assert file.metadata() == {"format": "pt"}
    with open_weights(tmp_path) as files:
        assert_same({name: files.read(name) for name in files.shapes}, TENSORS)
    write_safetensors_folder(tmp_path, TENSORS, max_shard_bytes=3 * 128)
    assert [name for name in names(tmp_path) if "of-00003" in name] == []
    write_safetensors_folder(tmp_path, TENSORS, stem="other", max_shard_bytes=1)
    assert len(names(tmp_path)) == 3 + 7, "what has another stem stays"


def test_a_tensor_larger_than_a_shard_has_one_to_itself(tmp_path):
    tensors = {"a": np.zeros(1), "large": np.zeros(100), "b": np.zeros(1)}
    write_safetensors_folder(tmp_path, tensors.items(), max_shard_bytes=16)
    assert names(tmp_path) == [*SHARDS, "model.safetensors.index.json"]


def test_one_array_at_a_time_is_asked_for(tmp_path):
    alive, most = 0, 0

    class Counted(np.ndarray):
        def __del__(self):
            nonlocal alive
            alive -= self.base is None

    def give():
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        return np.ndarray.__new__(Counted, (64,), np.float64)

    write_safetensors_folder(tmp_path, {str(n): give for n in range(20)}, max_shard_bytes=3000)
    assert 1 <= most <= 2


def file_bytes(header: bytes | dict, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(shape=(4,), places=(0, 16), dtype="F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(places)}


EMPTY = entry([0], [0, 0])
DATA = bytes(range(16))
GOOD = file_bytes({"a": entry()}, DATA)


def test_the_good_twin_of_the_hostile_files_is_read(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(GOOD)
    assert_same(read_tensors(path), {"a": np.frombuffer(DATA, np.float32)})


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "JSON"),
        (b"\xff" * 7, "header"),
        (struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{}", "header of"),
        (struct.pack("<Q", 2**63) + b"{}", "header of"),
        (file_bytes(b"[]"), "object"),
        (file_bytes(b"\xff\xfe"), "JSON"),
        (file_bytes('{"a": 1}'.encode("utf-16")), "JSON"),
        (file_bytes(b"[" * 100_000), "JSON"),
        (file_bytes(b'{"a":' * 100_000), "JSON"),
        (file_bytes(b'{"a":%b,"a":%b}' % ((json.dumps(EMPTY).encode(),) * 2)), "twice"),
        (file_bytes(b'{"a":{"dtype":"F32","dtype":"F32","shape":[0],"data_offsets":[0,0]}}'), "twice"),
        (file_bytes({str(n): EMPTY for n in range(MAX_TENSORS + 2)}), "tensors, at most"),
        (file_bytes({"a": entry()}, DATA[:12]), "complete"),
        (file_bytes({"a": entry(places=[0, 12])}, DATA[:12]), "complete"),
        (file_bytes({"a": entry([2**62], [0, 4])}, DATA[:4]), "complete"),
        (file_bytes({"a": entry([2**62, 0], [0, 0])}), "complete"),
        (file_bytes({"a": entry([1] * 100, [0, 4])}, DATA[:4]), "complete"),
        (file_bytes({"a": entry([-4], [16, 0])}, DATA), "complete"),
        (file_bytes({"a": entry([-2, -2])}, DATA), "complete"),
        (file_bytes({"a": entry([4.0])}, DATA), "complete"),
        (file_bytes({"a": entry([True, 4])}, DATA), "complete"),
        (file_bytes({"a": entry(places=[16, 32])}, DATA * 2), "starts at"),
        (file_bytes({"a": entry(), "b": entry()}, DATA), "starts at"),
        (file_bytes({"a": entry(), "b": entry([2], [20, 28])}, DATA * 2), "starts at"),
        (file_bytes({"a": entry()}, DATA + b"x"), "17 are there"),
        (file_bytes({"a": entry(places=[0, 16, 16])}, DATA), "complete"),
        (file_bytes({"a": entry(places=["0", "16"])}, DATA), "complete"),
        (file_bytes({"a": entry(dtype="F31")}, DATA), "F31"),
        (file_bytes({"a": entry(dtype=["F32"])}, DATA), "dtype"),
        (file_bytes({"a": entry() | {"run": "me"}}, DATA), "no dtype, shape"),
        (file_bytes({"a": 7}, DATA), "no dtype, shape"),
        (file_bytes({"__metadata__": {"a": 1}, "a": entry()}, DATA), "__metadata__"),
        (file_bytes({"__metadata__": [], "a": entry()}, DATA), "__metadata__"),
        (GOOD[:-1], "complete"),
        (GOOD[:20], "ends within its header, after 12 of"),
        (struct.pack("<Q", 2) + b"{]", "JSON"),
    ],
)
def test_a_hostile_file_is_refused(tmp_path, raw, reason):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(raw)
    assert_refused(lambda: read_tensors(path), reason)


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255))
def test_any_byte_may_be_wrong(tmp_path_factory, place, byte):
    path = tmp_path_factory.mktemp("tensors") / "weights.safetensors"
    path.write_bytes(GOOD[:place] + bytes([byte]) + GOOD[place + 1 :])
    try:
        found = read_tensors(path)
    except WeightFileError:
        return
    assert sum(array.nbytes for array in found.values()) == len(DATA)


def test_a_file_that_shrinks_while_it_is_open_is_noticed(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(GOOD)
    with SafetensorsFile(path) as file:
        os.truncate(path, len(GOOD) - 4)
        with pytest.raises(WeightFileError, match="cut short"):
            file.read("a")
