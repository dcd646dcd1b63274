"""NumPy's .npz archives, as big_vision writes its checkpoints: flat names, one .npy member each.

An archive is a zip file, and a small one can unpack to terabytes. So sizes are compared in its directory before
anything is unpacked, and only plain numbers are read: an array of Python objects would run code.
"""

import math
import os
import re
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from diptych.core.files.atomic import replacing
from diptych.core.files.errors import WeightFileError
from diptych.core.weights.files import (
    BFLOAT16,
    MAX_TENSORS,
    StoredWeights,
    Tensors,
    is_shape,
    named_arrays,
    raw_bytes,
)

SUFFIX = ".npy"
MAX_DIRECTORY_BYTES = 4_000_000
MAX_EXPANSION = 20  # weights hardly shrink at all
MIN_EXPANDED_BYTES = 64_000_000  # which are harmless at any ratio
MAX_NPY_HEADER_BYTES = 10_000

_END = b"PK\x05\x06"
_END_BYTES, _LOCATOR_BYTES, _END64_BYTES = 22, 20, 56
_ENCRYPTED = 1
_UNTYPED = "|V2"
_READ_BYTES = 1 << 20
_LENGTH_BYTES = {b"\x93NUMPY\x01\x00": 2, b"\x93NUMPY\x02\x00": 4}
_HEADER = re.compile(
    rb"\{'descr': '([^']*)', 'fortran_order': (True|False), 'shape': \(((?:\d{1,18}, ?)*\d{0,18})\),? ?\} *\n"
)
_PLAIN = [np.dtype(order + kind) for order in "<>" for kind in ("f2", "f4", "f8", "i2", "i4", "i8", "u2", "u4", "u8")]
_PLAIN += [np.dtype(kind) for kind in ("?", "i1", "u1")]
_DTYPES = {dtype.str.encode(): dtype for dtype in _PLAIN} | {_UNTYPED.encode(): BFLOAT16}


class NpzFile(StoredWeights):
    """One .npz archive, open for reading.

    Two-byte values without a type are bfloat16, which NumPy's format has no name for.

    Raises:
        WeightFileError: for anything but a zip archive of plain arrays within the limits of this module.
    """

    def __init__(self, path: Path):
        self.source = str(path)
        self.shapes, self.dtypes = {}, {}
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._columns_first: set[str] = set()
        self._header_bytes: dict[str, int] = {}
        self._file = open(path, "rb")  # noqa: SIM115 - closed by `close`
        try:
            self._check_end()
            self._archive = zipfile.ZipFile(self._file)
            self._check_directory()
            for name in self._members:
                self._read_header(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            self.close()
            raise WeightFileError(f"{path} is not a complete .npz archive ({error}).") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._file.close()

    def _check_end(self) -> None:
        """Refuse a directory that would take long to read, before `zipfile` reads it."""
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(0, size - _END_BYTES - _LOCATOR_BYTES - _END64_BYTES))
        tail = self._file.read()
        end, locator = tail[-_END_BYTES:], tail[:-_END_BYTES][-_LOCATOR_BYTES:]
        if not end.startswith(_END) or end[-2:] != b"\0\0":
            raise WeightFileError(f"{self.source} is not a complete .npz archive (it does not end like one).")
        directory = int.from_bytes(end[12:16], "little")
        if locator.startswith(b"PK\x06\x07"):  # the large form, for more than 4 GB
            end64 = tail[:_END64_BYTES]
            place = size - _END_BYTES - _LOCATOR_BYTES - _END64_BYTES
            if not end64.startswith(b"PK\x06\x06") or int.from_bytes(locator[8:16], "little") != place:
                raise WeightFileError(f"{self.source} is not a complete .npz archive (its end is in two minds).")
            directory = int.from_bytes(end64[40:48], "little")
        if directory > MAX_DIRECTORY_BYTES:
            raise WeightFileError(
                f"{self.source}: a directory of {directory:,} bytes, at most {MAX_DIRECTORY_BYTES:,}."
            )

    def _check_directory(self) -> None:
        members = self._archive.infolist()
        if len(members) > MAX_TENSORS:
            raise WeightFileError(f"{self.source}: {len(members)} tensors, at most {MAX_TENSORS}.")
        for member in members:
            name = member.filename.removesuffix(SUFFIX)
            if name == member.filename or name in self._members:
                raise WeightFileError(f"{self.source}: member {member.filename!r} is no array, or is there twice.")
            if member.flag_bits & _ENCRYPTED or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise WeightFileError(f"{self.source}: {name!r} is encrypted or compressed as no .npz is.")
            if member.compress_type == zipfile.ZIP_STORED and member.compress_size != member.file_size:
                raise WeightFileError(f"{self.source}: {name!r} is stored as it is and yet has two sizes.")
            self._members[name] = member
        expanded = sum(member.file_size for member in members)
        allowed = max(MIN_EXPANDED_BYTES, MAX_EXPANSION * os.fstat(self._file.fileno()).st_size)
        if expanded > allowed:
            raise WeightFileError(
                f"{self.source} would unpack to {expanded:,} bytes, at most {allowed:,} are plausible for its size."
            )

    def _read_header(self, name: str) -> None:
        member = self._members[name]
        with self._archive.open(member) as file:
            dtype, columns_first, shape = npy_header(file, self.source, name)
            self._header_bytes[name] = file.tell()
        if not is_shape(shape):
            raise WeightFileError(f"{self.source}: {name!r} has the impossible shape {shape}.")
        size = math.prod(shape) * dtype.itemsize
        if self._header_bytes[name] + size != member.file_size:
            raise WeightFileError(
                f"{self.source}: {name!r} takes {size:,} bytes as {dtype} {shape}, and {member.file_size:,} with its "
                "header are there."
            )
        self.shapes[name], self.dtypes[name] = shape, dtype
        if columns_first:
            self._columns_first.add(name)

    def _fill(self, name: str, memory: np.ndarray) -> None:
        view, done = memory.data, 0
        try:
            with self._archive.open(self._members[name]) as file:
                file.read(self._header_bytes[name])
                while piece := file.read(_READ_BYTES):  # past the end, so that the checksum is compared
                    view[done : done + len(piece)] = piece
                    done += len(piece)
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
            raise WeightFileError(f"{self.source}: {name!r} is damaged ({error}).") from error
        if done != len(view):
            raise WeightFileError(f"{self.source}: {name!r} has {done:,} bytes, expected {len(view):,}.")

    def _shaped(self, name: str, flat: np.ndarray) -> np.ndarray:
        return flat.reshape(self.shapes[name], order="F" if name in self._columns_first else "C")


def npy_header(file: IO[bytes], source: str, name: str) -> tuple[np.dtype, bool, tuple[int, ...]]:
    """What an array in NumPy's .npy format says at its beginning: dtype, whether columns come first, shape.

    NumPy would evaluate it as Python; one spelling is all that anybody writes.

    Args:
        file: at the array's beginning; afterwards at its data.
        source, name: of the array, for the error.

    Raises:
        WeightFileError: for anything but plain numbers.
    """
    start = file.read(8)
    if start not in _LENGTH_BYTES:
        raise WeightFileError(f"{source}: {name!r} is no array, or one of a later format ({start!r}).")
    length = int.from_bytes(file.read(_LENGTH_BYTES[start]), "little")
    found = _HEADER.fullmatch(file.read(min(length, MAX_NPY_HEADER_BYTES)))
    if found is None or found[1] not in _DTYPES:
        what = found[1] if found else "more than a dtype of numbers, an order and a shape"
        raise WeightFileError(f"{source}: the header of {name!r} has {what!r}, expected plain numbers.")
    shape = tuple(int(size) for size in found[3].replace(b",", b" ").split())
    return _DTYPES[found[1]], found[2] == b"True", shape


def write_npz(path: Path, tensors: Tensors) -> None:
    """Write arrays as one .npz archive, uncompressed, with equal bytes for equal arrays; it appears whole or not at
    all.

    bfloat16 is stored as two bytes without a type, as big_vision does and `NpzFile` reads.

    Raises:
        WeightFileError: for names or dtypes that `NpzFile` would refuse.
        OSError: when the disk refuses.
    """
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in named_arrays(tensors, path.name):
            if "\0" in name or (array.dtype != BFLOAT16 and array.dtype.kind not in "fiub"):
                raise WeightFileError(
                    f"{path.name}: {name!r} of dtype {array.dtype} cannot be stored, only numbers can."
                )
            kind = "|V2" if array.dtype == BFLOAT16 else array.dtype.str
            with archive.open(zipfile.ZipInfo(name + SUFFIX), "w", force_zip64=True) as member:
                npy.write_array_header_1_0(member, {"descr": kind, "fortran_order": False, "shape": array.shape})
                member.write(raw_bytes(array))
