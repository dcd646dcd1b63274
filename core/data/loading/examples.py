"""Rows of batches, made from nothing but (source, preprocess, order, batch number): the same in any process, at any
time.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

import numpy as np

from diptych.core.data.batch import stack_examples
from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.data.records import BadExample, Source
from diptych.core.data.sampling import Order, Place
from diptych.core.files.errors import Failure

MOST_FAILURES_IN_A_ROW = 64


class TooManySkipped(Failure):
    """More examples are bad than a run should put up with; `reasons` counts them by reason."""

    def __init__(self, message: str, reasons: Mapping[str, int]):
        super().__init__(message, dict(reasons))
        self.reasons = dict(reasons)

    def __str__(self) -> str:
        return self.args[0]


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of one batch; fields as in `Batch`."""

    fields: dict[str, np.ndarray]
    keys: tuple[str, ...]
    languages: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Examples:
    """Makes the examples of a source in the order of `order`; bad ones are replaced by others of the same epoch."""

    source: Source
    preprocess: Preprocess
    order: Order

    def rows(self, batch: int, first: int, last: int) -> Rows:
        """Rows first..last-1 of a batch; raises `TooManySkipped` where one bad example follows the other."""
        planned = self.order.records(batch)
        examples, keys, languages = [], [], []
        skipped: list[tuple[str, str]] = []
        for row in range(first, last):
            key, fields, language = self._example(batch, row, planned, skipped)
            examples.append(fields)
            keys.append(key)
            languages.append(language)
        return Rows(stack_examples(examples), tuple(keys), tuple(languages), tuple(skipped))

    def _example(
        self, batch: int, row: int, planned: np.ndarray, skipped: list[tuple[str, str]]
    ) -> tuple[str, dict[str, np.ndarray], str]:
        """The example of one row, tried again with other records until one is good; the bad ones are added to
        `skipped`.
        """
        order = self.order
        index = batch * order.batch_size + row
        failures: list[BadExample] = []
        for attempt in count():
            record_index = int(planned[row]) if attempt == 0 else order.replacement(batch, row, attempt)
            enough_others = attempt * order.batch_size < order.size
            if attempt and enough_others and record_index in planned:
                continue
            key = f"record {record_index}"
            try:
                record = self.source.record(record_index)
                key = record.key
                place = Place(order.seed, index, attempt, order.stage, order.batch_size)
                return key, *self.preprocess(record, self.source, place)
            except BadExample as error:
                skipped.append((key, error.reason))
                failures.append(error)
            if len(failures) == MOST_FAILURES_IN_A_ROW:
                reasons = Counter(failure.reason for failure in failures)
                raise TooManySkipped(
                    f"{len(failures)} examples in a row are bad: {listed(reasons)}. The last was {key} "
                    f"({failures[-1]}). Check that the data is what it should be.",
                    reasons,
                )
        raise AssertionError("unreachable: count() does not end")


def listed(reasons: Mapping[str, int]) -> str:
    """Reasons with their counts, the most frequent first: "image_truncated 12, caption_empty 3"."""
    return ", ".join(f"{reason} {number}" for reason, number in Counter(reasons).most_common())
