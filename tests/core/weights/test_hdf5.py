"""Keras' weight files are read as Keras wrote them; everything else that HDF5 can do is refused."""

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest

from diptych.core.files.errors import WeightFileError
from diptych.core.weights import hdf5
from diptych.core.weights.hdf5 import Hdf5File
from diptych.core.weights.open import open_weights
from tests.core.weights.arrays import assert_refused, assert_same


def read_all(path):
    with open_weights(path) as file:
        return {name: file.read(name) for name in file.shapes}


def small_model(dtype="float32") -> keras.Model:
    inputs = keras.Input((6,))
    x = keras.layers.Dense(5, name="first", dtype=dtype)(inputs)
    x = keras.layers.BatchNormalization(dtype=dtype)(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="second", dtype=dtype)(x))


EXPECTED = {
    "layers/dense/vars/0": (6, 5),
    "layers/dense/vars/1": (5,),
    "layers/batch_normalization/vars/0": (5,),
    "layers/batch_normalization/vars/1": (5,),
    "layers/batch_normalization/vars/2": (5,),
    "layers/batch_normalization/vars/3": (5,),
    "layers/dense_1/vars/0": (5, 3),
    "layers/dense_1/vars/1": (3,),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_that_keras_saved_are_read(tmp_path, dtype):
    model = small_model(dtype)
    model.save_weights(tmp_path / "model.weights.h5")
    with open_weights(tmp_path) as file:
        assert file.shapes == EXPECTED
        kernel = keras.ops.convert_to_numpy(keras.ops.cast(model.get_layer("second").kernel, "float32"))
        assert_same({"": file.read_float32("layers/dense_1/vars/0")}, {"": kernel})
        stored = file.dtypes["layers/dense_1/vars/0"]
        assert stored == (ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype))


def test_shards_that_keras_saved_are_one(tmp_path):
    model = small_model()
    model.save_weights(tmp_path / "whole.weights.h5")
    (tmp_path / "sharded").mkdir()
    model.save_weights(tmp_path / "sharded" / "model.weights.json", max_shard_size=1.5e-7)
    assert len(list((tmp_path / "sharded").glob("model_*.weights.h5"))) == 2
    assert_same(read_all(tmp_path / "sharded"), read_all(tmp_path / "whole.weights.h5"))


def write(path, build) -> None:
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = np.arange(6, dtype=np.float32).reshape(2, 3)
        build(file)


def external_storage(file):
    file.create_dataset("b", (4,), "u1", external=[("secret.bin", 0, 4)])


def virtual(file):
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource("other.h5", "b", (4,))
    file.create_virtual_dataset("b", layout)


def soft_link(file):
    file["b"] = h5py.SoftLink("/layers/dense/vars/0")


def external_link(file):
    file["b"] = h5py.ExternalLink("other.h5", "/b")


def circle(file):
    file["layers/dense/again"] = file["layers"]


def two_names(file):
    file["b"] = file["layers/dense/vars/0"]


def deep(file):
    file.create_group("/".join(["a"] * (hdf5.MAX_DEPTH + 2)))


def unallocated(file):
    file.create_dataset("b", (10**12,), "f4")


def chunked_zeros(file):
    file.create_dataset("b", (10**6,), "f4", chunks=(10**6,), compression="gzip")


def impossible(file):
    file.create_dataset("b", (2**60, 0), "f4")


def text(file):
    file["b"] = "run me"


def references(file):
    file.create_dataset("b", (1,), h5py.ref_dtype)


def named_fields(file):
    file["b"] = np.zeros(2, [("x", "f4")])


def opaque(file):
    file["b"] = np.zeros(2, "V3")


def named_type(file):
    file["b"] = np.dtype("f4")


def nothing(file):
    file["b"] = h5py.Empty("f4")


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (external_storage, "in pieces, in other files"),
        (virtual, "in pieces, in other files"),
        (soft_link, "link to somewhere else"),
        (external_link, "link to somewhere else"),
        (circle, "circle"),
        (two_names, "overlap"),
        (deep, "deeper"),
        (unallocated, "4,000,000,000,000 bytes that has 0"),
        (chunked_zeros, "in pieces"),
        (impossible, "impossible shape"),
        (text, "object"),
        (references, "object"),
        (named_fields, "not of numbers"),
        (opaque, "V3"),
        (named_type, "a Datatype"),
        (nothing, "impossible shape"),
    ],
)
def test_what_keras_does_not_write_is_refused(tmp_path, build, reason):
    write(tmp_path / "model.weights.h5", build)
    assert_refused(lambda: open_weights(tmp_path), reason)
    write(tmp_path / "model.weights.h5", lambda file: file.create_group("empty/vars"))
    assert_same(read_all(tmp_path), {"layers/dense/vars/0": np.arange(6, dtype=np.float32).reshape(2, 3)})


def test_too_many_members_are_refused(tmp_path, monkeypatch):
    write(tmp_path / "a.h5", lambda file: [file.create_dataset(f"x{n}", data=np.float32(n)) for n in range(30)])
    Hdf5File(tmp_path / "a.h5").close()
    monkeypatch.setattr(hdf5, "MAX_TENSORS", 20)
    assert_refused(lambda: Hdf5File(tmp_path / "a.h5"), "more than 20 arrays")
    monkeypatch.setattr(hdf5, "MAX_LINKS", 20)
    assert_refused(lambda: Hdf5File(tmp_path / "a.h5"), "more than 20")


def test_damage_is_refused_or_harmless(tmp_path):
    path = tmp_path / "a.weights.h5"
    small_model().save_weights(path)
    raw, rng = path.read_bytes(), np.random.default_rng(0)
    for place in rng.integers(0, len(raw), 150):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ int(rng.integers(1, 256))]) + raw[place + 1 :])
        try:
            found = read_all(path)
        except WeightFileError:
            continue
        assert sum(array.nbytes for array in found.values()) <= len(raw)
    for length in (0, 4, 8, 100, len(raw) // 2, len(raw) - 1):
        path.write_bytes(raw[:length])
        with pytest.raises(WeightFileError, match="complete|JSON|is empty"):
            open_weights(path)
