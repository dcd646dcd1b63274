"""Labels: which classes a record is of, as data sets write it down, and as numbers."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from diptych.core.data.ledger import visit
from diptych.core.data.records import BadExample, Source

LABEL_FIELDS = ("label", "labels", "class", "cls")
SEPARATOR = "|"
"""Between several labels in one text, such as a cell of CSV."""
NO_LABEL = -1
MAX_LABEL_BYTES = 1_000
_LARGEST_NUMBER = 9  # digits
_NAMES_SHOWN = 10


def labels_from_fields(
    fields: Mapping[str, Any], names: Sequence[str] = LABEL_FIELDS, class_names: Sequence[str] = ()
) -> tuple[str, ...]:
    """The labels in a JSON object or table row: of the first of the fields that is there, a text, a whole number, or a
    list of such; nothing for anything else.

    Args:
        class_names: what the numbers stand for, where the data say so.
    """
    value = next((fields[name] for name in names if fields.get(name) is not None), None)
    given = value if isinstance(value, list | tuple) else [value]
    return tuple(_label(one, class_names) for one in given if isinstance(one, str | int) and not isinstance(one, bool))


def labels_from_text(data: bytes) -> tuple[str, ...]:
    """The labels in a file of their own, such as a shard's .cls: one a line."""
    lines = data[:MAX_LABEL_BYTES].decode("utf-8", "replace").splitlines()
    return tuple(line for line in map(str.strip, lines) if line)


def is_number(label: str) -> bool:
    """Whether a label is a class's number, 0 or more, in decimal."""
    return label.isascii() and label.isdigit() and len(label) <= _LARGEST_NUMBER


def _label(value: str | int, class_names: Sequence[str]) -> str:
    if isinstance(value, int) and 0 <= value < len(class_names):
        return class_names[value]
    return str(value).strip()


@dataclass(frozen=True)
class ClassNames:
    """The classes that there are: a label means one of them by its name or, where no name is like it, by its number.

    names: [classes], all different.
    """

    names: tuple[str, ...]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def number(self, label: str) -> int:
        """From 0 to classes - 1; raises `BadExample` (label_unknown), naming the label, for one of no class."""
        found = self._numbers.get(label)
        if found is None and is_number(label):
            found = int(label)
        if found is None or found >= len(self.names):
            shown = ", ".join(self.names[:_NAMES_SHOWN]) + (", ..." if len(self.names) > _NAMES_SHOWN else "")
            raise BadExample("label_unknown", f"{label[:100]!r} is none of the {len(self.names):,} classes: {shown}")
        return found

    def numbers(self, labels: Iterable[str]) -> list[int]:
        """The numbers of several labels, each of which may be several, separated by `SEPARATOR`; errors as `number`."""
        return [self.number(one.strip()) for label in labels for one in label.split(SEPARATOR) if one.strip()]


def class_names_in(source: Source, *, several: bool = False) -> ClassNames:
    """The classes that a source's records have: in the order in which the data name them, else numbers by size, else
    names by the alphabet.

    Raises:
        ValueError: for data without labels.
    """
    found = {label for _, labels in visit(source, lambda record: record.labels) for label in labels}
    if several:
        found = {one.strip() for label in found for one in label.split(SEPARATOR) if one.strip()}
    if not found:
        raise ValueError(
            "no record has a label: put the pictures of each class into a folder of its name, or give a column "
            f"{', '.join(LABEL_FIELDS)} (--label-field names another), or .cls files in shards."
        )
    named = tuple(getattr(source, "class_names", ()))
    if found <= set(named):
        return ClassNames(named)
    return ClassNames(tuple(sorted(found, key=int if all(map(is_number, found)) else str)))


@dataclass(frozen=True, kw_only=True)
class RecordLabels:
    """A class for each record of a source.

    of_records: int64 [records], `NO_LABEL` where there is none.
    unlabelled: records without a usable label, by reason.
    """

    of_records: np.ndarray
    unlabelled: Mapping[str, int] = field(default_factory=dict)


def read_labels(source: Source, classes: ClassNames | None) -> RecordLabels:
    """The one label of each record, as a number; records that cannot be read, or have no image, have none.

    Args:
        classes: None where labels are numbers, of classes that are not named.

    The reasons are label_missing, label_unknown and, without classes, label_not_a_number. Of several labels the first
    one counts.
    """
    numbers, reasons = np.full(len(source), NO_LABEL, np.int64), Counter[str]()
    for index, (images, labels) in visit(source, lambda record: (record.images, record.labels)):
        if not images:
            continue
        if not labels:
            reasons["label_missing"] += 1
        elif classes is None and not is_number(labels[0]):
            reasons["label_not_a_number"] += 1
        elif classes is None:
            numbers[index] = int(labels[0])
        else:
            try:
                numbers[index] = classes.number(labels[0])
            except BadExample as error:
                reasons[error.reason] += 1
    return RecordLabels(of_records=numbers, unlabelled=dict(reasons))
