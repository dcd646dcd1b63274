"""Labelled pictures to evaluate on, read once and kept as arrays."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diptych.core.data.batch import stack_examples
from diptych.core.data.examples.class_targets import ClassTargets
from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.data.ledger import Skipped, leave_out, reasons_with_names, visit
from diptych.core.data.record_parts import usable_pixels
from diptych.core.data.records import LeftOut, Record, Source


@dataclass(frozen=True, kw_only=True)
class LabelledSet:
    """One image a record, and what it is of."""

    name: str
    images: np.ndarray  # uint8 [images, size, size, 3]
    keys: Sequence[str]  # [images]
    targets: np.ndarray  # int64 [images], or float32 [images, classes] where a picture may have several labels
    records: int  # that there are, of which evenly chosen ones were read where they are too many
    skipped: Mapping[str, int]  # bad records, by reason
    patches: np.ndarray | None = None  # uint8 [images, length, patch values], for towers that keep the aspect
    spatial_shapes: np.ndarray | None = None  # int32 [images, 2], (rows, columns) of the patches


def read_labelled(
    source: Source,
    preprocess: Preprocess,
    targets: ClassTargets,
    *,
    name: str,
    most_records: int | None = None,
    sequence_length: int | None = None,
) -> LabelledSet:
    """Decodes an image of each record, the first that can be used, of evenly chosen records where there are more than
    `most_records`.

    Records that cannot be used, such as those of unknown labels, are entered in the source's ledger.

    Args:
        sequence_length: each image is also cut into at most so many patches by the preprocessing's `naflex`.

    Raises:
        ValueError: for a set without any good record.
    """
    indices: Sequence[int] = range(len(source))
    if most_records and len(source) > most_records:
        indices = np.linspace(0, len(source) - 1, most_records).astype(int).tolist()
    images: list[np.ndarray] = []
    keys: list[str] = []
    numbers: list[np.ndarray] = []
    grids: list[dict[str, np.ndarray]] = []
    skipped: list[Skipped] = []

    def read(record: Record) -> tuple[np.ndarray, np.ndarray, Record, list[LeftOut]]:
        bad: list[LeftOut] = []
        (target,) = targets.of(record).values()
        return target, usable_pixels(source, record, left_out=bad), record, bad

    for index, (target, pixels, record, bad) in visit(source, read, indices, skipped=skipped):
        leave_out(source, index, record, bad)
        keys.append(record.key)
        numbers.append(target)
        images.append(preprocess.image(pixels))
        if sequence_length and preprocess.naflex:
            grids.append(preprocess.naflex.cut(pixels, sequence_length, preprocess.resize_method))
    if not images:
        why = reasons_with_names(skipped) or "there are none"
        raise ValueError(f"{name}: none of {len(indices)} records can be evaluated on: {why}.")
    return LabelledSet(
        name=name,
        images=np.stack(images),
        keys=tuple(keys),
        targets=np.stack(numbers).astype(np.float32 if targets.several else np.int64),
        records=len(source),
        skipped=Counter(one.reason for one in skipped),
        **(stack_examples(grids, len(grids)) if grids else {}),
    )
