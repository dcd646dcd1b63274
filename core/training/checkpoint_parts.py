"""Parts of a checkpoint: which numbers of each tensor a process writes, and whole tensors of what all have written.

A tensor is seen as `rows` equal rows, and a piece of it is some columns of all of them. One row makes pieces of
consecutive numbers; more make pieces along any other axis.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from diptych.core.weights.files import is_shape
from diptych.core.weights.safetensors import SafetensorsFile


class Held(Protocol):
    """See `diptych.backends.shares.Held`."""

    shape: tuple[int, ...]
    rows: int
    start: int
    width: int
    itemsize: int
    holders: tuple[int, ...]
    copied: Callable[[int, int], np.ndarray]


class Piece(NamedTuple):
    """Where some numbers of a tensor stand: the columns from `start` to `stop` of its `rows` rows."""

    group: str
    tensor: str
    shape: tuple[int, ...]
    rows: int
    start: int
    stop: int

    @property
    def key(self) -> str:
        """The name of the piece in its part's file of the group."""
        return f"{self.tensor}:{self.start}"

    @property
    def columns(self) -> int:
        """Of the whole tensor."""
        return math.prod(self.shape) // self.rows


Pieces = list[tuple[Piece, np.ndarray]]
"""Numbers [rows, columns] with where they stand."""


def own_pieces(groups: Mapping[str, Mapping[str, Sequence[Held]]], process: int, processes: int) -> Pieces:
    """Copies of what this process writes of all that it holds. What several hold each of them writes an equal part of:
    all of it counts as one long row, which is cut into as many pieces as there are holders.

    Args:
        groups: by group and name what this process holds of a tensor; the same order in all processes.
    """
    by_holders: dict[tuple[int, ...], list[tuple[str, str, Held]]] = {}
    for group, tensors in groups.items():
        for name, parts in tensors.items():
            for held in parts:
                by_holders.setdefault(held.holders or tuple(range(processes)), []).append((group, name, held))
    pieces: Pieces = []
    for holders, row in by_holders.items():
        number, total = holders.index(process), sum(held.rows * held.width * held.itemsize for *_, held in row)
        edges = [total * cut // len(holders) for cut in (number, number + 1)]
        place = 0
        for group, name, held in row:
            column = held.rows * held.itemsize
            start, stop = (min(max(-(-(edge - place) // column), 0), held.width) for edge in edges)
            if start < stop or (not held.width and not number):
                piece = Piece(group, name, held.shape, held.rows, held.start + start, held.start + stop)
                pieces.append((piece, held.copied(start, stop)))
            place += column * held.width
    return pieces


def pieces_of(groups: Mapping[str, Mapping[str, np.ndarray]]) -> Pieces:
    """Whole tensors as pieces."""
    return [
        (Piece(group, name, array.shape, 1, 0, array.size), array.reshape(1, -1))
        for group, tensors in groups.items()
        for name, array in ((name, np.asarray(tensor)) for name, tensor in tensors.items())
    ]


def check_whole(pieces: Iterable[Piece]) -> None:
    """Raises ValueError, with its name, for a tensor of which a number is missing, or is there twice."""
    by_tensor: dict[tuple[str, str], list[Piece]] = {}
    for piece in pieces:
        by_tensor.setdefault((piece.group, piece.tensor), []).append(piece)
    for (group, tensor), some in by_tensor.items():
        if len({(piece.shape, piece.rows) for piece in some}) > 1:
            raise ValueError(f"the parts differ in the shape of {tensor!r} of the {group}")
        end = 0
        for piece in sorted(some, key=lambda piece: (piece.start, piece.stop)):
            if piece.start != end:
                raise ValueError(
                    f"the parts hold columns up to {end} of {tensor!r} of the {group} and then those from {piece.start}"
                )
            end = piece.stop
        if end != some[0].columns:
            raise ValueError(f"the parts hold {end} of {some[0].columns} columns of {tensor!r} of the {group}")


def joined(pieces: Iterable[tuple[Piece, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
    """Whole tensors, by group and name, of all their pieces (`check_whole`), which are taken one after another."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    for piece, array in pieces:
        tensors = groups.setdefault(piece.group, {})
        if piece.stop - piece.start == piece.columns:
            tensors[piece.tensor] = array.reshape(piece.shape)
            continue
        if piece.tensor not in tensors:
            tensors[piece.tensor] = np.empty(piece.shape, array.dtype)
        whole = tensors[piece.tensor]
        if whole.dtype != array.dtype:
            raise ValueError(f"the parts differ in the dtype of {piece.tensor!r}: {whole.dtype} and {array.dtype}")
        whole.reshape(piece.rows, -1)[:, piece.start : piece.stop] = array
    return groups


def described(pieces: Iterable[Piece]) -> list[dict]:
    """Pieces as plain JSON."""
    return [piece._asdict() for piece in pieces]


def read_pieces(text: object) -> list[Piece]:
    """The pieces that `described` wrote.

    Raises:
        ValueError: for anything else.
    """
    if not isinstance(text, list):
        raise ValueError("lists no pieces")
    pieces = []
    for entry in text:
        if not isinstance(entry, dict) or entry.keys() != set(Piece._fields) or not is_shape(entry["shape"]):
            raise ValueError(f"describes a piece as {str(entry):.200}")
        piece = Piece(**entry | {"shape": tuple(entry["shape"])})
        numbers = (piece.rows, piece.start, piece.stop)
        if any(type(number) is not int for number in numbers) or piece.rows < 1 or not 0 <= piece.start <= piece.stop:
            raise ValueError(f"describes a piece as {str(entry):.200}")
        pieces.append(piece)
    return pieces


def read_arrays(path: Path, pieces: Iterable[Piece]) -> Iterable[tuple[Piece, np.ndarray]]:
    """The numbers of the pieces in a part's file of a group, one piece at a time.

    Raises:
        ValueError: where the file holds others.
    """
    with SafetensorsFile(path) as file:
        wanted = {piece.key: piece for piece in pieces}
        if file.shapes.keys() != wanted.keys():
            raise ValueError(f"{path} holds other pieces than its part lists")
        for key, piece in wanted.items():
            if file.shapes[key] != (piece.rows, piece.stop - piece.start):
                raise ValueError(f"{path} holds {key!r} as {list(file.shapes[key])}, which its part does not list")
            yield piece, file.read(key)
