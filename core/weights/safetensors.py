"""safetensors files: a header of names, dtypes, shapes and places, then the arrays.

Neither side needs more memory than one array: a file is read by (place, length) after its header has been checked
against its size, and written array by array behind room for the header. https://github.com/huggingface/safetensors
describes the format.
"""

import itertools
import json
import math
import os
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from diptych.core.files.atomic import flush_to_disk, replacing
from diptych.core.files.errors import WeightFileError
from diptych.core.files.json_objects import parse_object, write_config
from diptych.core.weights.files import (
    BFLOAT16,
    MAX_TENSORS,
    StoredWeights,
    Tensors,
    is_shape,
    named_arrays,
    raw_bytes,
    read_at,
)

MAX_HEADER_BYTES = 4_000_000
METADATA = "__metadata__"
DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype("<u1"),
    "I8": np.dtype("<i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "BF16": BFLOAT16,
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

_ENTRY_BYTES = 128  # what an entry takes beside its name: two long places and four axes
_UNKNOWN_ROOM = 128 * 1024  # for names that are not known before they are written: some 900 tensors
_ALIGNMENT = 8  # of the widest dtype; readers view arrays in place, and the format has no gaps
_MOVE_BYTES = 1 << 24


class SafetensorsFile(StoredWeights):
    """One safetensors file, open for reading.

    metadata: the text that its writer left in it.

    Raises:
        WeightFileError: for anything but a complete safetensors file within the limits of this module.
    """

    def __init__(self, path: Path):
        self.source = str(path)
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by `close`
        try:
            self._read_header()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._file.close()

    def _fill(self, name: str, memory: np.ndarray) -> None:
        read_at(self._file.fileno(), self._places[name], memory, self.source)

    def _read_header(self) -> None:
        length = int.from_bytes(self._file.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise WeightFileError(
                f"{self.source} is no safetensors file: its first bytes announce a header of {length:,} bytes, "
                f"expected at most {MAX_HEADER_BYTES:,}. Fetch it again."
            )
        text = self._file.read(length) or b""
        if len(text) < length:
            raise WeightFileError(
                f"{self.source} ends within its header, after {len(text):,} of {length:,} bytes. Fetch it again."
            )
        header = parse_object(text, f"{self.source}: the header")
        metadata = header.pop(METADATA, {})
        if len(header) > MAX_TENSORS:
            raise WeightFileError(f"{self.source}: {len(header)} tensors, at most {MAX_TENSORS}.")
        self.metadata: dict[str, str] = metadata
        self.shapes, self.dtypes, self._places = {}, {}, {}
        spans = []
        try:
            if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
                raise ValueError(f"{METADATA} is not text by name")
            for name, entry in header.items():
                dtype, shape, start, stop = _checked_entry(name, entry)
                self.shapes[name], self.dtypes[name], self._places[name] = shape, dtype, 8 + length + start
                spans.append((start, stop, name))
            _check_spans(spans, os.fstat(self._file.fileno()).st_size - 8 - length)
        except ValueError as error:
            raise WeightFileError(f"{self.source}: not a complete safetensors file ({error}).") from error


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Every array of a safetensors file, in memory that the caller owns and may change.

    Raises:
        WeightFileError: see `SafetensorsFile`.
    """
    with SafetensorsFile(path) as file:
        return {name: file.read(name) for name in file.shapes}


def write_safetensors(path: Path, tensors: Tensors, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write arrays as one safetensors file, bit for bit; it appears whole or not at all.

    Arrays whose size is no multiple of 8 bytes are kept until the end of the file, where they disturb nobody's
    alignment; all others are let go of as soon as they are written.

    Raises:
        WeightFileError: for names, dtypes or counts that `SafetensorsFile` would refuse.
        OSError: when the disk refuses.
    """
    _write(path, named_arrays(tensors, path.name), metadata or {}, _room(tensors), path.name)


def write_safetensors_folder(
    folder: Path,
    tensors: Tensors,
    *,
    metadata: Mapping[str, str] | None = None,
    stem: str = "model",
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write arrays as `model.safetensors`, or, where they take more than `max_shard_bytes`, as
    `model-00001-of-00002.safetensors` and so on with `model.safetensors.index.json`. What an earlier call left under
    such names is replaced.

    Raises:
        As `write_safetensors`; then the folder is as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shard_of: dict[str, int] = {}
    total = 0

    def numbered() -> Iterator[tuple[int, tuple[str, np.ndarray]]]:
        nonlocal total
        shard = size = 0
        for name, array in named_arrays(tensors, folder.name):
            if size and size + array.nbytes > max_shard_bytes:
                shard, size = shard + 1, 0
            shard_of[name] = shard
            size, total = size + array.nbytes, total + array.nbytes
            yield shard, (name, array)

    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as temporary:
        shards = []
        for shard, group in itertools.groupby(numbered(), key=lambda item: item[0]):
            shards.append(Path(temporary) / str(shard))
            _write(shards[-1], (pair for _, pair in group), metadata or {}, _room(tensors), folder.name)
        if not shards:
            raise WeightFileError(f"{folder}: there are no tensors to write.")
        names = [f"{stem}-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
        names = names if len(shards) > 1 else [f"{stem}.safetensors"]
        for path, name in zip(shards, names, strict=True):
            path.replace(folder / name)
    flush_to_disk(folder)
    index = f"{stem}.safetensors.index.json"
    if len(shards) > 1:
        places = {name: names[shard] for name, shard in shard_of.items()}
        write_config(folder / index, {"metadata": {"total_size": total}, "weight_map": places})
        names.append(index)
    earlier = re.compile(rf"{re.escape(stem)}(-\d{{5}}-of-\d{{5}})?\.safetensors(\.index\.json)?")
    for path in folder.iterdir():
        if earlier.fullmatch(path.name) and path.name not in names:
            path.unlink()


def _checked_entry(name: str, entry: object) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """What a header says of one tensor: dtype, shape, and where its bytes start and stop behind the header."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r} has no dtype, shape and data_offsets")
    dtype, shape, places = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{name!r} is of dtype {dtype!r}, expected one of {', '.join(DTYPES)}")
    if not is_shape(shape):
        raise ValueError(f"{name!r} has shape {shape!r:.200}")
    if not isinstance(places, list) or [type(place) for place in places] != [int, int]:
        raise ValueError(f"{name!r} lies at {places!r:.200}")
    start, stop = places
    size = math.prod(shape) * DTYPES[dtype].itemsize
    if stop - start != size:
        raise ValueError(f"{name!r} takes {size} bytes as {dtype} {shape} and has {stop - start}")
    return DTYPES[dtype], tuple(shape), start, stop


def _check_spans(spans: list[tuple[int, int, str]], size: int) -> None:
    """Tensors lie end to end: no byte is used twice, none is left out."""
    end = 0
    for start, stop, name in sorted(spans):
        if start != end:
            raise ValueError(f"{name!r} starts at byte {start}, the one before it stops at {end}")
        end = stop
    if end != size:
        raise ValueError(f"the tensors take {end} bytes and {size} are there")


def _write(
    path: Path, arrays: Iterator[tuple[str, np.ndarray]], metadata: Mapping[str, str], room: int, what: str
) -> None:
    """Write one file. The header comes first in it and is known last, so the arrays are written behind room for it."""
    header: dict[str, dict] = {METADATA: dict(metadata)} if metadata else {}
    with replacing(path) as file:
        start = end = _padded(8 + room)
        file.seek(start)
        for name, array in _odd_sizes_last(arrays):
            if name == METADATA or array.dtype not in _NAMES:
                raise WeightFileError(
                    f"{what}: {name!r} of dtype {array.dtype} cannot be stored; expected another name than {METADATA} "
                    f"and one of {', '.join(str(dtype) for dtype in _NAMES)}."
                )
            file.write(raw_bytes(array))
            places = [end - start, end - start + array.nbytes]
            header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": places}
            end += array.nbytes
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) > MAX_HEADER_BYTES:
            raise WeightFileError(
                f"{what}: the names need a header of {len(text)} bytes, at most {MAX_HEADER_BYTES}; use shorter ones."
            )
        needed = _padded(8 + len(text))
        if needed > start:
            file.flush()
            _move(file.fileno(), start, end, needed - start)
            start = needed
        file.seek(0)
        file.write((start - 8).to_bytes(8, "little") + text.ljust(start - 8))


def _odd_sizes_last(arrays: Iterator[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
    odd = []
    for name, array in arrays:
        if array.nbytes % _ALIGNMENT:
            odd.append((name, array))
        else:
            yield name, array
    yield from sorted(odd, key=lambda item: -item[1].itemsize)


def _room(tensors: Tensors) -> int:
    """Bytes that are enough for a header in all likelihood; whatever can only be gone through once is not asked for its
    names.
    """
    if not isinstance(tensors, Collection):
        return _UNKNOWN_ROOM
    names = tensors if isinstance(tensors, Mapping) else [pair[0] for pair in tensors]
    return min(MAX_HEADER_BYTES, _ENTRY_BYTES + sum(len(str(name).encode()) + _ENTRY_BYTES for name in names))


def _padded(length: int) -> int:
    return -(-length // _ALIGNMENT) * _ALIGNMENT


def _move(descriptor: int, start: int, end: int, distance: int) -> None:
    """Move a part of a file towards its end, the last bytes first."""
    while end > start:
        size = min(_MOVE_BYTES, end - start)
        end -= size
        os.pwrite(descriptor, os.pread(descriptor, size, end), end + distance)
