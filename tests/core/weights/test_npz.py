"""Archives of arrays as big_vision writes them, bit for bit, and those that would unpack to too much or run."""

import io
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.files.errors import WeightFileError
from diptych.core.weights import npz
from diptych.core.weights.files import MAX_TENSORS
from diptych.core.weights.npz import NpzFile, write_npz
from tests.core.weights.arrays import DTYPES, arrays, assert_refused, assert_same

NAMES = st.text("abcLN_0123456789/é", min_size=1, max_size=12)


def read_all(path):
    with NpzFile(path) as file:
        return {name: file.read(name) for name in file.shapes}


@settings(max_examples=60, deadline=None)
@given(tensors=st.dictionaries(NAMES, arrays(), max_size=5), transpose=st.booleans(), lazily=st.booleans())
def test_any_arrays_come_back_bit_for_bit(tmp_path_factory, tensors, transpose, lazily):
    path = tmp_path_factory.mktemp("npz") / "weights.npz"
    tensors = {name: array.T if transpose else array for name, array in tensors.items()}
    write_npz(path, iter(tensors.items()) if lazily else tensors)
    assert_same(read_all(path), tensors)
    with np.load(path) as by_numpy:
        assert set(by_numpy.files) == set(tensors)
        for name, array in tensors.items():
            assert by_numpy[name].tobytes() == array.tobytes()


@settings(max_examples=40, deadline=None)
@given(
    tensors=st.dictionaries(NAMES.filter(lambda name: name != "file"), arrays(DTYPES), max_size=4),
    compressed=st.booleans(),
    transpose=st.booleans(),
)
def test_what_numpy_writes_is_read(tmp_path_factory, tensors, compressed, transpose):
    path = tmp_path_factory.mktemp("npz") / "weights.npz"
    tensors = {name: array.T if transpose else array for name, array in tensors.items()}
    stored = {name: x.view("V2") if x.dtype == ml_dtypes.bfloat16 else x for name, x in tensors.items()}
    (np.savez_compressed if compressed else np.savez)(path, **stored)
    assert_same(read_all(path), tensors)


def test_half_precision_is_widened_in_either_order(tmp_path):
    half = np.arange(24).reshape(2, 3, 4).astype(ml_dtypes.bfloat16)
    np.savez_compressed(tmp_path / "a.npz", rows=half.view("V2"), columns=np.asfortranarray(half.astype(np.float16)))
    with NpzFile(tmp_path / "a.npz") as file:
        for name in ("rows", "columns"):
            assert_same({name: file.read_float32(name)}, {name: half.astype(np.float32)})


def test_equal_arrays_make_equal_files(tmp_path):
    for name in ("a.npz", "b.npz"):
        write_npz(tmp_path / name, {"x": np.arange(5)})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("tensors", [{"a": np.array([None])}, {"a\0b": np.zeros(1)}, {"a": np.zeros(1, np.complex64)}])
def test_what_could_not_be_read_back_is_not_written(tmp_path, tensors):
    with pytest.raises(WeightFileError, match="cannot be stored"):
        write_npz(tmp_path / "a.npz", tensors)
    assert list(tmp_path.iterdir()) == []


def npy(array: np.ndarray, version=None) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=version, allow_pickle=True)
    return buffer.getvalue()


def npy_header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def archive(*members: tuple[str, bytes], method=zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in members:
            file.writestr(zipfile.ZipInfo(name), data, compress_type=method)
    return buffer.getvalue()


GOOD = npy(np.arange(8, dtype=np.float32))
HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }\n"


def test_the_good_twin_of_the_hostile_archives_is_read(tmp_path):
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        (tmp_path / "a.npz").write_bytes(archive(("a.npy", GOOD), method=method))
        assert_same(read_all(tmp_path / "a.npz"), {"a": np.arange(8, dtype=np.float32)})
    (tmp_path / "a.npz").write_bytes(archive(("a.npy", npy_header(HEADER % "2,") + bytes(8))))
    assert_same(read_all(tmp_path / "a.npz"), {"a": np.zeros(2, np.float32)})


def bomb() -> bytes:
    return archive(("a.npy", npy(np.zeros(100_000_000, np.uint8))), method=zipfile.ZIP_DEFLATED)


def entry_with(place: int, value: bytes) -> bytes:
    """A good archive with another value at a place of the directory's first entry."""
    raw = archive(("a.npy", GOOD))
    start = raw.index(b"PK\x01\x02") + place
    return raw[:start] + value + raw[start + len(value) :]


def end_with(place: int, value: bytes) -> bytes:
    raw = archive(("a.npy", GOOD))
    start = raw.index(b"PK\x05\x06") + place
    return raw[:start] + value + raw[start + len(value) :]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "complete"),
        (b"PK\x03\x04" + bytes(100), "complete"),
        (archive(("a.npy", GOOD))[:-1], "complete"),
        (archive(("a.npy", GOOD)) + b"x", "complete"),
        (bomb(), "would unpack to"),
        (archive(("a.npy", npy(np.array([{}])))), "header of 'a'"),
        (archive(("a.npy", npy(np.zeros(2, [("x", "f4")])))), "header of 'a'"),
        (archive(("a.npy", npy(np.zeros(2, [("é", "f4")]), version=(3, 0)))), "later format"),
        (archive(("a.npy", npy(np.array(["text"])))), "<U4"),
        (archive(("a.npy", npy(np.zeros(2, "V3")))), "V3"),
        (archive(("a.npy", npy(np.zeros(2, "M8[s]")))), "M8.s"),
        (archive(("a.npy", npy_header(HEADER % "10**13,"))), "header of"),
        (archive(("a.npy", npy_header(HEADER % "10000000000000,"))), "with its header are there"),
        (archive(("a.npy", npy_header(HEADER % "100000000000000000, 0,"))), "impossible shape"),
        (archive(("a.npy", npy_header(HEADER % "-2, -1,") + bytes(8))), "header of"),
        (archive(("a.npy", npy_header(HEADER % ("1, " * 40)) + bytes(4))), "impossible shape"),
        (archive(("a.npy", npy_header("{'descr': '<f4', 'shape': (2,)}\n") + bytes(8))), "header of"),
        (archive(("a.npy", npy_header("(" * 9000) + bytes(8))), "header of"),
        (archive(("a.npy", npy_header("-" * 9000 + "1") + bytes(8))), "header of"),
        (archive(("a.npy", npy_header(" " * 60_000) + bytes(8))), "header of"),
        (archive(("a.npy", b"nonsense")), "no array"),
        (archive(("a.npy", b"")), "no array"),
        (archive(("a.npy", GOOD + b"x")), "with its header are there"),
        (archive(("a.npy", GOOD[:-1])), "with its header are there"),
        (archive(("a.npy", GOOD), ("a.txt", b"hello")), "no array"),
        (archive(("model/data.pkl", b"\x80\x02."), ("model/version", b"3")), "no array"),
        (archive(*((f"{n}.npy", b"") for n in range(MAX_TENSORS + 1))), "at most"),
        (archive(("a.npy", GOOD), method=zipfile.ZIP_LZMA), "compressed"),
        (archive(("a.npy", GOOD), method=zipfile.ZIP_BZIP2), "compressed"),
        (entry_with(8, b"\x01"), "encrypted"),
        (entry_with(20, b"\xff\x00"), "two sizes"),
        (entry_with(24, b"\xff\x00"), "two sizes"),
        (entry_with(42, b"\xff\xff"), "complete"),
        (entry_with(46, b"b"), "complete"),
        (end_with(12, struct.pack("<I", npz.MAX_DIRECTORY_BYTES + 1)), "directory of"),
        (end_with(12, struct.pack("<I", 10_000)), "complete"),
        (end_with(20, b"\x05\x00"), "complete"),
    ],
)
def test_a_hostile_archive_is_refused(tmp_path, raw, reason):
    path = tmp_path / "weights.npz"
    path.write_bytes(raw)
    assert_refused(lambda: NpzFile(path), reason)


def test_two_members_of_one_name_are_refused(tmp_path):
    path = tmp_path / "weights.npz"
    with pytest.warns(UserWarning, match="Duplicate"):
        path.write_bytes(archive(("a.npy", GOOD), ("a.npy", GOOD)))
    assert_refused(lambda: NpzFile(path), "twice")


def test_a_directory_of_the_large_form_is_limited_too(tmp_path):
    good = archive(("a.npy", GOOD))
    start, end = good.index(b"PK\x01\x02"), good.index(b"PK\x05\x06")

    def large(directory_bytes: int, place: int) -> bytes:
        fields = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, directory_bytes, start)
        return good[:end] + fields + struct.pack("<4sIQI", b"PK\x06\x07", 0, place, 1) + good[end:]

    path = tmp_path / "weights.npz"
    path.write_bytes(large(end - start, end))
    assert_same(read_all(path), {"a": np.arange(8, dtype=np.float32)})
    path.write_bytes(large(npz.MAX_DIRECTORY_BYTES + 1, end))
    assert_refused(lambda: NpzFile(path), "directory of")
    path.write_bytes(large(end - start, end - 4))
    assert_refused(lambda: NpzFile(path), "two minds")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damage_within_an_array_is_noticed_when_it_is_read(tmp_path, method):
    values = np.random.default_rng(0).normal(size=1000)
    raw = bytearray(archive(("a.npy", npy(values)), method=method))
    raw[4000] ^= 1
    (tmp_path / "a.npz").write_bytes(raw)
    with NpzFile(tmp_path / "a.npz") as file, pytest.raises(WeightFileError, match="damaged"):
        file.read("a")


def test_more_than_four_gigabytes_can_be_described(tmp_path, monkeypatch):
    """The large form of the format is used for every member, so it needs no large file to be tried."""
    write_npz(tmp_path / "a.npz", {"a": np.arange(3)})
    with zipfile.ZipFile(tmp_path / "a.npz") as file, open(tmp_path / "a.npz", "rb") as raw:
        raw.seek(file.infolist()[0].header_offset + 18)
        assert raw.read(8) == b"\xff" * 8
