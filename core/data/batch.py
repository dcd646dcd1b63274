"""The batch: what the loader promises and training, evaluation and models rely on, declared once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

_ANY = math.inf


@dataclass(frozen=True)
class ArrayField:
    """What one field of a batch holds: its type, its possible shapes by named axes, the range of its values, and a sentence.

    An axis is a number or a name; equal names are equal lengths in all fields of a batch. Every field has the axis "batch".
    """

    dtype: type
    shapes: tuple[tuple[str | int, ...], ...]
    range: tuple[float, float]
    meaning: str

    @property
    def batch_axis(self) -> int:
        """Which axis counts the examples."""
        return self.shapes[0].index("batch")

    def __str__(self) -> str:
        shapes = " or ".join(f"[{', '.join(map(str, shape))}]" for shape in self.shapes)
        return f"{np.dtype(self.dtype)} {shapes} in {list(self.range)}: {self.meaning}"


# fmt: off
FIELDS: dict[str, ArrayField] = {
    "image": ArrayField(
        np.uint8, (("batch", "height", "width", 3),), (0, 255),
        "the picture squashed to the model's square, RGB; models map it to [-1, 1]. NaFlex has patches instead",
    ),
    "text": ArrayField(
        np.int32, (("batch", "context_length"), ("batch", "captions", "context_length")), (0, _ANY),
        "token ids of the caption, or of several captions of the picture; end-of-text, then padding",
    ),
    "patches": ArrayField(
        np.uint8, (("batch", "length", "patch_values"),), (0, 255),
        "NaFlex: the picture at its own aspect as patches of (row, column, channel), row by row, padded with zeros",
    ),
    "spatial_shapes": ArrayField(
        np.int32, (("batch", 2),), (1, _ANY),
        "NaFlex: (rows, columns) of each picture's grid; their product is the number of patches that are not padding",
    ),
    "target_tokens": ArrayField(
        np.int32, (("batch", 3, "target_length"),), (0, _ANY),
        "what the decoder writes as caption, referring expression and grounded caption: prefix, target, end-of-text, padding",
    ),
    "target_weights": ArrayField(
        np.uint8, (("batch", 3, "target_length"),), (0, 1),
        "1 where predicting the target token counts: not in prefix and padding, nowhere in a task the example lacks",
    ),
    "parallel": ArrayField(
        np.bool_, (("batch",),), (False, True),
        "whether the example's caption is predicted in parallel instead of from left to right",
    ),
    "global_view": ArrayField(
        np.uint8, (("batch", "global_side", "global_side", 3),), (0, 255),
        "an augmented crop of most of the picture: whole for the teacher, masked for the student",
    ),
    "local_views": ArrayField(
        np.uint8, (("batch", "views", "local_side", "local_side", 3),), (0, 255),
        "augmented small crops of the picture, for the student",
    ),
    "masked_patches": ArrayField(
        np.int32, (("batch", "masked"),), (0, _ANY),
        "which patches of the global view the student does not see, in ascending order",
    ),
    "selection_noise": ArrayField(
        np.float32, (("chunks", "batch"),), (-_ANY, _ANY),
        "Gumbel(0, 1) numbers by which batch selection draws; one row a chunk, so that the examples are the second axis",
    ),
}
# fmt: on

_TOGETHER = (("patches", "spatial_shapes"), ("target_tokens", "target_weights", "parallel"))


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Matching arrays: row i of every field belongs to example i, and no record comes twice.

    `fields` go to the device: those of `FIELDS` that the preprocessing makes. The rest stays on the host: `index` int64 [batch]
    is the place of each example in the endless training order; `keys` and `languages` name its record and its caption's
    language; `skipped` lists the (record key, reason) of the bad examples that were met and replaced while this batch was made.
    """

    fields: dict[str, np.ndarray] = field(repr=False)
    index: np.ndarray
    keys: tuple[str, ...] = field(repr=False)
    languages: tuple[str, ...] = field(repr=False)
    skipped: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.index)

    def arrays(self) -> dict[str, np.ndarray]:
        """What goes to the device."""
        return dict(self.fields)

    def pieces(self, count: int) -> tuple["Batch", ...]:
        """The batch cut into `count` batches of equally many examples, in order; `skipped` stays with the first.

        Raises:
            ValueError: where the examples do not divide evenly.
        """
        if count < 1 or len(self) % count or not len(self):
            raise ValueError(
                f"a batch of {len(self)} cannot be cut into {count} equal pieces: choose a batch_size that is a multiple"
            )
        size = len(self) // count
        return tuple(self._piece(slice(number * size, (number + 1) * size)) for number in range(count))

    def _piece(self, rows: slice) -> "Batch":
        return Batch(
            fields={name: array[(slice(None),) * batch_axis(name) + (rows,)] for name, array in self.fields.items()},
            index=self.index[rows],
            keys=self.keys[rows],
            languages=self.languages[rows],
            skipped=() if rows.start else self.skipped,
        )

    def validate(self) -> "Batch":
        """Return the batch itself, or raise ValueError naming the field that breaks the contract."""
        size = len(self.index)
        if self.index.dtype != np.int64 or self.index.shape != (size,):
            raise ValueError(f"Batch.index is {_described(self.index)}, expected int64[{size}]")
        for name in ("keys", "languages"):
            if len(getattr(self, name)) != size:
                raise ValueError(f"Batch.{name} has {len(getattr(self, name))} entries for {size} examples")
        lengths = {"batch": (size, "index")}
        for name, array in self.fields.items():
            _check_array(name, array, lengths)
        for group in _TOGETHER:
            missing = [name for name in group if name not in self.fields]
            if missing and len(missing) < len(group):
                raise ValueError(f"Batch.{missing[0]} is missing: {', '.join(group)} come together")
        return self


def batch_axis(name: str) -> int:
    """Which axis of a field counts the examples; raises ValueError for a name that `FIELDS` does not declare."""
    return _declared(name).batch_axis


def stack_examples(examples: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The fields of single examples (each without its batch axis) -> fields with it."""
    return {name: np.stack([example[name] for example in examples], axis=batch_axis(name)) for name in examples[0]}


def join_rows(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The fields of runs of rows, in order -> the fields of all of them."""
    return {name: np.concatenate([part[name] for part in parts], axis=batch_axis(name)) for name in parts[0]}


def _declared(name: str) -> ArrayField:
    if name not in FIELDS:
        raise ValueError(
            f"Batch.{name} is no field of a batch: declare it in diptych.core.data.batch.FIELDS, beside {', '.join(FIELDS)}"
        )
    return FIELDS[name]


def _check_array(name: str, array: np.ndarray, lengths: dict[str, tuple[int, str]]) -> None:
    """Compare an array with its declaration; `lengths` of the named axes met so far, and where, is added to."""
    declared = _declared(name)
    wrong = f"Batch.{name} is {_described(array)}, expected {declared}"
    shapes = [shape for shape in declared.shapes if len(shape) == array.ndim]
    if array.dtype != declared.dtype or not shapes:
        raise ValueError(wrong)
    for axis, length in zip(shapes[0], array.shape, strict=True):
        expected, where = lengths.setdefault(axis, (length, name)) if isinstance(axis, str) else (axis, "FIELDS")
        if length != expected:
            raise ValueError(f"{wrong}; the axis {axis} is {length} here and {expected} in {where}")
    low, high = declared.range
    if array.size and not (low <= array.min() and array.max() <= high):
        raise ValueError(f"{wrong}; its values are from {array.min()} to {array.max()}")


def _described(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)}"
