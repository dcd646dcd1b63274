"""Named arrays in one file, of which no more is read than is asked for."""

import hashlib
import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.files.atomic import replacing

MOST_MAPPED = 64
"""Files of which parts are in memory at a time."""

_MAGIC = b"arrays 1"
_NUMBER_BYTES = 8
_MOST_ABOUT_BYTES = 1 << 30


class ArrayFile(Mapping[str, np.ndarray]):
    """The arrays of a file by name, read-only; the file is mapped into memory while it is in use. It can be pickled.

    Attributes:
        about: the JSON object that was written with them.

    Raises:
        ValueError: for a file that is damaged or of another kind.
        OSError: for one that cannot be read.
    """

    def __init__(self, path: Path):
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise ValueError(f"{path} is no file of arrays")
            length = int.from_bytes(file.read(_NUMBER_BYTES), "little")
            if length > _MOST_ABOUT_BYTES:
                raise ValueError(f"{path} is damaged")
            header = file.read(length)
            described = json.loads(header)
            status = os.fstat(file.fileno())
        self.about: dict[str, Any] = described["about"]
        self._layout: dict[str, list] = described["arrays"]  # (dtype, shape, offset, bytes) of each
        self._path, self._header = path, (len(header), hashlib.sha256(header).digest())
        end = max((offset + size for _, _, offset, size in self._layout.values()), default=0)
        if status.st_size < _data_offset(length) + end:
            raise ValueError(f"{path} is shorter than it should be")
        self._offset = _data_offset(length)

    def __getitem__(self, name: str) -> np.ndarray:
        dtype, shape, offset, size = self._layout[name]
        begin = self._offset + offset
        return _mapped(self._path, self._header)[begin : begin + size].view(dtype).reshape(shape)

    def __iter__(self):
        return iter(self._layout)

    def __len__(self) -> int:
        return len(self._layout)


def write_arrays(path: Path, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Replace a file in one rename; its folder is made."""
    layout, offset = {}, 0
    for name, array in arrays.items():
        layout[name] = [array.dtype.str, array.shape, offset, array.nbytes]
        offset += _aligned(array.nbytes)
    described = json.dumps({"about": about, "arrays": layout}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(_MAGIC + len(described).to_bytes(_NUMBER_BYTES, "little") + described)
        file.write(bytes(_data_offset(len(described)) - file.tell()))
        for array in arrays.values():
            file.write(array.tobytes())
            file.write(bytes(_aligned(array.nbytes) - array.nbytes))


@lru_cache(maxsize=MOST_MAPPED)
def _mapped(path: Path, header: tuple[int, bytes]) -> np.ndarray:
    """All bytes of the file that has this header: its length and digest."""
    mapped = np.asarray(np.memmap(path, np.uint8, "r"))
    length, digest = header
    begin = len(_MAGIC) + _NUMBER_BYTES
    if hashlib.sha256(mapped[begin : begin + length].tobytes()).digest() != digest:
        raise ValueError(f"{path} was replaced by another while it was in use. Start again.")
    return mapped


def _data_offset(described: int) -> int:
    return _aligned(len(_MAGIC) + _NUMBER_BYTES + described)


def _aligned(size: int) -> int:
    return -(-size // 8) * 8
