"""Files of arrays: what was written is read, and a file that was replaced is noticed."""

import numpy as np
import pytest

from diptych.core.files.array_file import ArrayFile, write_arrays


def test_arrays_and_what_is_said_of_them_come_back(tmp_path):
    arrays = {"a": np.arange(5, dtype=np.int16), "none": np.zeros((0, 3)), "b": np.random.default_rng(0).random((2, 3))}
    write_arrays(tmp_path / "x.arrays", {"names": ["ä"]}, arrays)
    file = ArrayFile(tmp_path / "x.arrays")
    assert file.about == {"names": ["ä"]}
    assert list(file) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(file[name], array, strict=True)


def test_a_file_that_was_replaced_is_not_read_at_the_places_of_the_old_one(tmp_path):
    path = tmp_path / "x.arrays"
    write_arrays(path, {}, {"a": np.arange(4)})
    old = ArrayFile(path)
    write_arrays(path, {}, {"other": np.arange(9), "a": np.arange(8)})
    with pytest.raises(ValueError, match=r"x\.arrays was replaced by another"):
        old["a"]
    np.testing.assert_array_equal(ArrayFile(path)["a"], np.arange(8))


@pytest.mark.parametrize("content", [b"", b"arrays 2", b"arrays 1" + (2).to_bytes(8, "little") + b"{}"])
def test_another_file_is_told(tmp_path, content):
    (tmp_path / "x.arrays").write_bytes(content)
    with pytest.raises((ValueError, KeyError)):
        ArrayFile(tmp_path / "x.arrays")
