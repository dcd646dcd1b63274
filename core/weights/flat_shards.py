"""OpenAI's files of GPT-1: all weights behind each other, cut into ten .npy shards, with a list of their shapes.

`params_shapes.json` lists the shapes in order; `params_0.npy` to `params_9.npy` are the numbers, float32 in one axis,
and a weight may begin in one and end in the next (openai/finetune-transformer-lm, `train.py`).
"""

import json
import math
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from diptych.core.files.atomic import replacing
from diptych.core.files.errors import WeightFileError
from diptych.core.files.fields import read_limited
from diptych.core.files.json_objects import MAX_BYTES, json_bytes
from diptych.core.files.regular import open_regular
from diptych.core.weights.files import MAX_TENSORS, StoredWeights, Tensor, is_shape, raw_bytes
from diptych.core.weights.npz import npy_header

SHAPES_FILE = "params_shapes.json"
SHARDS = 10
_FLOAT32 = np.dtype("<f4")


def shard_file(number: int) -> str:
    """The name of a shard's file."""
    return f"params_{number}.npy"


class FlatShards(StoredWeights):
    """The weights that a list of shapes and ten shards beside it hold; the name of each is its place in the list, "0"
    to "145".

    Raises:
        WeightFileError: for a list that is none of shapes, and for shards that are not there, are no float32 in one
            axis, or together hold another number of values than the shapes say.
    """

    def __init__(self, path: Path):
        self.source = str(path)
        shapes = _listed_shapes(path)
        self.shapes = {str(place): shape for place, shape in enumerate(shapes)}
        self.dtypes = dict.fromkeys(self.shapes, _FLOAT32)
        sizes = [math.prod(shape) for shape in shapes]
        ends = np.cumsum([0, *sizes]).tolist()
        self._first = dict(zip(self.shapes, ends, strict=False))
        self._shards = [path.with_name(shard_file(number)) for number in range(SHARDS)]
        self._data_starts, counts = [], []
        for shard in self._shards:
            start, count = _checked_shard(path, shard)
            self._data_starts.append(start)
            counts.append(count)
        self._shard_ends = np.cumsum(counts).tolist()
        if self._shard_ends[-1] != ends[-1]:
            raise WeightFileError(
                f"{path} lists {ends[-1]:,} values, and {shard_file(0)} to {shard_file(SHARDS - 1)} beside it hold "
                f"{self._shard_ends[-1]:,}. Do they belong together? Fetch them again."
            )

    def _fill(self, name: str, memory: np.ndarray) -> None:
        place, done = self._first[name], 0
        while done < memory.nbytes:
            number = bisect_right(self._shard_ends, place)
            begin = self._shard_ends[number - 1] if number else 0
            count = min(memory.nbytes - done, (self._shard_ends[number] - place) * _FLOAT32.itemsize)
            with open(self._shards[number], "rb") as file:
                file.seek(self._data_starts[number] + (place - begin) * _FLOAT32.itemsize)
                if file.readinto(memory[done : done + count].data) != count:
                    raise WeightFileError(f"{self._shards[number]} was cut short while it was read.")
            place, done = place + count // _FLOAT32.itemsize, done + count


def write_flat_shards(folder: Path, shapes: Iterable[tuple[int, ...]], tensors: Iterable[Tensor]) -> None:
    """Writes the list of shapes and the ten shards of nearly equal size into a folder, which is made if need be.

    Args:
        shapes: of the weights, in their order.
        tensors: the weights, or functions that give them, called one at a time.

    Raises:
        WeightFileError: for a weight of another shape than was announced.
    """
    shapes = [tuple(shape) for shape in shapes]
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(math.prod(shape) for shape in shapes)
    pieces = _flat_pieces(shapes, tensors)
    rest = np.zeros(0, _FLOAT32)
    for number in range(SHARDS):
        wanted = total // SHARDS + (number < total % SHARDS)
        with replacing(folder / shard_file(number)) as file:
            npy.write_array_header_1_0(file, {"descr": _FLOAT32.str, "fortran_order": False, "shape": (wanted,)})
            while wanted:
                rest = rest if len(rest) else next(pieces)
                file.write(raw_bytes(rest[:wanted]))
                wanted, rest = wanted - len(rest[:wanted]), rest[wanted:]
    for left in pieces:  # empty weights at the end, whose shapes are to be compared too
        assert not len(left)
    with replacing(folder / SHAPES_FILE) as file:
        file.write(json_bytes(json.dumps([list(shape) for shape in shapes])))


def _flat_pieces(shapes: list[tuple[int, ...]], tensors: Iterable[Tensor]):
    for shape, tensor in zip(shapes, tensors, strict=True):
        array = np.asarray(tensor() if callable(tensor) else tensor, _FLOAT32, order="C")
        if array.shape != shape:
            raise WeightFileError(f"A weight of shape {array.shape} was given for one of shape {shape}.")
        yield array.reshape(-1)


def _listed_shapes(path: Path) -> list[tuple[int, ...]]:
    try:
        listed = json.loads(read_limited(path, MAX_BYTES, "JSON"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise WeightFileError(f"{path} is not JSON ({error}), expected a list of shapes.") from error
    if not isinstance(listed, list) or not listed or len(listed) > MAX_TENSORS or not all(map(is_shape, listed)):
        raise WeightFileError(
            f"{path} is no list of up to {MAX_TENSORS:,} shapes, each a list of sizes. Is it the file beside "
            f"{shard_file(0)}?"
        )
    return [tuple(shape) for shape in listed]


def _checked_shard(listed_by: Path, shard: Path) -> tuple[int, int]:
    """Where a shard's values begin, and how many there are."""
    if not shard.is_file():
        raise WeightFileError(f"{listed_by} needs {shard.name} beside it, which is not there; fetch or copy it too.")
    with open_regular(shard) as file:
        dtype, _, shape = npy_header(file, str(listed_by), shard.name)
        start = file.tell()
    if dtype != _FLOAT32 or len(shape) != 1:
        raise WeightFileError(f"{shard} holds {dtype} of shape {shape}, expected float32 in one axis.")
    size, needed = shard.stat().st_size, start + shape[0] * _FLOAT32.itemsize
    if size != needed:
        raise WeightFileError(
            f"{shard} has {size:,} bytes, and {shape[0]:,} values need {needed:,}. It was cut short or changed: fetch "
            "it again."
        )
    return start, shape[0]
