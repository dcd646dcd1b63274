"""One safetensors file of a checkpoint: named arrays, written exactly and read back with limits on what is trusted."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

MAX_HEADER_BYTES = 4_000_000
MAX_TENSORS = 20_000


class TensorFileError(ValueError):
    """A file that is not safetensors, is damaged, or asks for more than the limits of this module."""


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write arrays as safetensors, bit for bit, with the permissions of an ordinary new file.

    Raises: TensorFileError for names or counts that `read_tensors` would refuse; OSError or SafetensorError when the disk refuses.
    """
    if len(tensors) > MAX_TENSORS:
        raise TensorFileError(f"{path.name}: {len(tensors)} tensors, at most {MAX_TENSORS}")
    for name in tensors:
        if not isinstance(name, str) or name == "__metadata__":
            raise TensorFileError(f"{path.name}: {name!r} cannot be the name of a tensor, use another string")
    # safetensors copies memory as it lies, so a transposed view would be stored scrambled without a word.
    save_file({name: np.asarray(array, order="C") for name, array in tensors.items()}, path)
    header_bytes = _header_length(path)
    if header_bytes > MAX_HEADER_BYTES:
        raise TensorFileError(
            f"{path.name}: the names need a header of {header_bytes} bytes, at most {MAX_HEADER_BYTES}"
        )
    os.chmod(path, path.parent.stat().st_mode & 0o666)  # safetensors makes its files private to the user


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read every array of a safetensors file into memory that the caller owns and may change.

    Raises: TensorFileError with the reason when the file is not a safe, complete safetensors file.
    """
    _check_header(path)
    try:
        with safe_open(path, framework="np") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise TensorFileError(f"{path}: not a complete safetensors file ({error})") from error


def _header_length(path: Path) -> int:
    with open(path, "rb") as file:
        return int.from_bytes(file.read(8), "little")


def _check_header(path: Path) -> None:
    """Refuse a header so large, or so full of names, that parsing it would exhaust memory."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise TensorFileError(f"{path}: a header of {length} bytes, at most {MAX_HEADER_BYTES}")
        raw = file.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise TensorFileError(f"{path}: the header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise TensorFileError(f"{path}: the header is {type(header).__name__}, expected an object")
    if len(header) > MAX_TENSORS + 1:
        raise TensorFileError(f"{path}: {len(header)} tensors, at most {MAX_TENSORS}")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("a name occurs twice")
    return names
