"""Keras' HDF5 files (`model.weights.h5`): datasets of numbers in groups by layer.

HDF5 can do far more than hold arrays: point into other files, assemble arrays out of these, run filters, hold Python
objects by way of their text. Whatever Keras does not use is refused. h5py only walks the tree; an array is read by its
place in the file.
"""

import math
import os
from pathlib import Path

import h5py
import numpy as np

from diptych.core.files.errors import WeightFileError
from diptych.core.weights.files import BFLOAT16, MAX_TENSORS, StoredWeights, is_shape, read_at

MAX_LINKS = 200_000  # groups and datasets; Keras keeps an empty group for each layer that has no weights
MAX_DEPTH = 100


class Hdf5File(StoredWeights):
    """One HDF5 file, open for reading; names are paths without the first slash, "layers/dense/vars/0".

    Two-byte values without a type are bfloat16, which HDF5 has no name for.

    Raises:
        WeightFileError: for anything but groups and contiguous datasets of numbers within the limits of this module.
    """

    def __init__(self, path: Path):
        self.source = str(path)
        self.shapes, self.dtypes = {}, {}
        self._places: dict[str, int] = {}
        self._links = 0
        self._visited: set[int] = set()
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by `close`
        try:
            with h5py.File(path, "r") as tree:
                self._walk(tree, "", 0)
            self._check_total()
        except (OSError, RuntimeError, KeyError, TypeError, UnicodeError) as error:  # what h5py makes of damage
            self.close()
            raise WeightFileError(f"{path} is not a complete HDF5 file of weights ({error}).") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._file.close()

    def _fill(self, name: str, memory: np.ndarray) -> None:
        read_at(self._file.fileno(), self._places[name], memory, self.source)

    def _walk(self, group: h5py.Group, prefix: str, depth: int) -> None:
        address = h5py.h5o.get_info(group.id).addr
        self._links += group.id.get_num_objs()
        if address in self._visited or depth > MAX_DEPTH or self._links > MAX_LINKS:
            raise self._refused(prefix, f"groups in a circle, deeper than {MAX_DEPTH}, or more than {MAX_LINKS:,}")
        self._visited.add(address)
        for key in group:
            name = f"{prefix}{key}"
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise self._refused(name, "a link to somewhere else")
            kind = group.get(key, getclass=True)
            if kind is h5py.Group:
                self._walk(group[key], f"{name}/", depth + 1)
            elif kind is h5py.Dataset:
                self._add(name, group[key].id)
            else:
                raise self._refused(name, f"a {kind.__name__}")

    def _add(self, name: str, dataset: h5py.h5d.DatasetID) -> None:
        stored_as = dataset.get_create_plist()
        if stored_as.get_layout() != h5py.h5d.CONTIGUOUS or stored_as.get_external_count():
            raise self._refused(name, "an array in pieces, in other files, or behind a filter")
        if len(self.shapes) == MAX_TENSORS:
            raise self._refused(name, f"more than {MAX_TENSORS} arrays")
        dtype, shape = dataset.dtype, dataset.shape
        dtype = BFLOAT16 if dtype == np.dtype("V2") else dtype
        if dtype != BFLOAT16 and dtype.kind not in "fiub":
            raise self._refused(name, f"an array of {dtype}, not of numbers")
        if not is_shape(shape):
            raise self._refused(name, f"an array of the impossible shape {shape}")
        size, stored = math.prod(shape) * dtype.itemsize, dataset.get_storage_size()
        if size != stored:
            raise self._refused(name, f"an array of {size:,} bytes that has {stored:,}")
        self.shapes[name], self.dtypes[name] = shape, dtype
        self._places[name] = dataset.get_offset() if size else 0

    def _check_total(self) -> None:
        """Arrays that share their bytes could be read as more than there is."""
        there = os.fstat(self._file.fileno()).st_size
        spans = sorted(
            (self._places[name], math.prod(shape) * self.dtypes[name].itemsize) for name, shape in self.shapes.items()
        )
        end = 0
        for place, size in spans:
            if size and (place < end or place + size > there):
                raise WeightFileError(
                    f"{self.source} is not a complete HDF5 file: arrays overlap or lie behind its end."
                )
            end = place + size

    def _refused(self, name: str, what: str) -> WeightFileError:
        return WeightFileError(f"{self.source}: {name or '/'!r} is {what}; Keras writes no such weights.")
