"""Batches: arrays whose first axis counts the examples, and the contract that the makers of the fields declare."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from diptych.core.data.ledger import RecordParts, Skipped

ANY = math.inf


@dataclass(frozen=True)
class ArrayField:
    """What one field of a batch holds: its type, its possible shapes by named axes, the range of its values, and a
    sentence.

    The first axis is "batch". Another axis is a number or a name; equal names are equal lengths in all fields of a
    batch.
    """

    dtype: type
    shapes: tuple[tuple[str | int, ...], ...]
    range: tuple[float, float]
    meaning: str

    def __str__(self) -> str:
        shapes = " or ".join(f"[{', '.join(map(str, shape))}]" for shape in self.shapes)
        return f"{np.dtype(self.dtype)} {shapes} in {list(self.range)}: {self.meaning}"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Matching arrays: row i of every field belongs to example i, and no record comes twice.

    `fields` go to the device: those that the preprocessing declares. The rest stays on the host: `index` int64 [batch]
    is the place of each example in the endless training order; `keys` and `languages` name its record and its caption's
    language; `skipped` lists the bad examples that were met and replaced while this batch was made, `left_out` the bad
    parts of its own.
    """

    fields: dict[str, np.ndarray] = field(repr=False)
    index: np.ndarray
    keys: tuple[str, ...] = field(repr=False)
    languages: tuple[str, ...] = field(repr=False)
    skipped: tuple[Skipped, ...] = ()
    left_out: tuple[RecordParts, ...] = ()

    def __len__(self) -> int:
        return len(self.index)

    def arrays(self) -> dict[str, np.ndarray]:
        """What goes to the device."""
        return dict(self.fields)

    def pieces(self, count: int) -> tuple["Batch", ...]:
        """The batch cut into `count` batches of equally many examples, in order; `skipped` and `left_out` stay with
        the first.

        Raises:
            ValueError: where the examples do not divide evenly.
        """
        if count < 1 or len(self) % count or not len(self):
            raise ValueError(
                f"a batch of {len(self)} cannot be cut into {count} equal pieces: choose a batch_size that is a "
                "multiple"
            )
        size = len(self) // count
        return tuple(self._piece(slice(number * size, (number + 1) * size)) for number in range(count))

    def _piece(self, rows: slice) -> "Batch":
        return Batch(
            fields={name: array[rows] for name, array in self.fields.items()},
            index=self.index[rows],
            keys=self.keys[rows],
            languages=self.languages[rows],
            skipped=() if rows.start else self.skipped,
            left_out=() if rows.start else self.left_out,
        )

    def validate(self, declared: Mapping[str, ArrayField]) -> "Batch":
        """Return the batch itself, or raise ValueError naming the field that breaks the contract.

        Args:
            declared: the fields that there must be, as `Preprocess.declared` has them.
        """
        size = len(self.index)
        if self.index.dtype != np.int64 or self.index.shape != (size,):
            raise ValueError(f"Batch.index is {_described(self.index)}, expected int64[{size}]")
        for name in ("keys", "languages"):
            if len(getattr(self, name)) != size:
                raise ValueError(f"Batch.{name} has {len(getattr(self, name))} entries for {size} examples")
        if missing := sorted(declared.keys() - self.fields.keys()):
            raise ValueError(f"Batch.{missing[0]} is missing, expected {declared[missing[0]]}")
        if unknown := sorted(self.fields.keys() - declared.keys()):
            raise ValueError(
                f"Batch.{unknown[0]} is no field that was declared, and these are: {', '.join(declared)}. Who makes a "
                "field declares it, as an ArrayField."
            )
        lengths = {"batch": (size, "index")}
        for name, array in self.fields.items():
            _check_array(name, array, declared[name], lengths)
        return self


def stack_examples(examples: Iterable[dict[str, np.ndarray]], count: int) -> dict[str, np.ndarray]:
    """The fields of `count` single examples (each without its batch axis) -> fields with it.

    Each is copied as it comes, while the processor has it at hand.

    Raises:
        ValueError: there are more or fewer, or an example's fields differ in name, shape or type from the first's.
    """
    fields: dict[str, np.ndarray] = {}
    for row, example in zip(range(count), examples, strict=True):
        if not row:
            fields = {
                name: np.empty((count, *np.shape(part)), np.asarray(part).dtype) for name, part in example.items()
            }
        if missing := sorted(fields.keys() - example.keys()):
            raise ValueError(f"An example lacks {missing[0]}, which the first one has.")
        for name, part in example.items():
            rows = fields.get(name)
            if rows is None or rows.shape[1:] != np.shape(part) or rows.dtype != np.asarray(part).dtype:
                first = "none" if rows is None else f"{rows.dtype}{list(rows.shape[1:])}"
                raise ValueError(f"{name} of an example is {_described(np.asarray(part))}, and {first} of the first.")
            rows[row] = part
    return fields


def join_rows(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The fields of runs of rows, in order -> the fields of all of them."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _check_array(name: str, array: np.ndarray, declared: ArrayField, lengths: dict[str, tuple[int, str]]) -> None:
    """Compare an array with its declaration; `lengths` of the named axes met so far, and where, is added to."""
    wrong = f"Batch.{name} is {_described(array)}, expected {declared}"
    shapes = [shape for shape in declared.shapes if len(shape) == array.ndim]
    if array.dtype != declared.dtype or not shapes:
        raise ValueError(wrong)
    for axis, length in zip(shapes[0], array.shape, strict=True):
        known = lengths.setdefault(axis, (length, name)) if isinstance(axis, str) else (axis, "its declaration")
        expected, where = known
        if length != expected:
            raise ValueError(f"{wrong}; the axis {axis} is {length} here and {expected} in {where}")
    low, high = declared.range
    if array.size and not (low <= array.min() and array.max() <= high):
        raise ValueError(f"{wrong}; its values are from {array.min()} to {array.max()}")


def _described(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)}"
