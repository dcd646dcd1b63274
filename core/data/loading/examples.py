"""Rows of batches from nothing but (source, preprocess, order, batch number), the same in any process."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import numpy as np

from diptych.core.data.batch import stack_examples
from diptych.core.data.examples.preprocessing import Preprocessing
from diptych.core.data.ledger import RecordParts, Skipped, TooManySkipped, examined, left_out_of
from diptych.core.data.reasons import listed
from diptych.core.data.records import LeftOut, Record, Source
from diptych.core.data.sampling import Order, Place
from diptych.core.data.sources.fetching import fetch

MOST_FAILURES_IN_A_ROW = 64


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of one batch; fields as in `Batch`."""

    fields: dict[str, np.ndarray]
    keys: tuple[str, ...]
    languages: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    left_out: tuple[RecordParts, ...]


@dataclass(frozen=True)
class Examples:
    """Makes the examples of a source in the order of `order`; bad ones are replaced by others of the same epoch."""

    source: Source
    preprocess: Preprocessing
    order: Order

    def rows(self, batch: int, first: int, last: int) -> Rows:
        """Rows first..last-1 of a batch; raises `TooManySkipped` where one bad example follows the other."""
        planned = self.order.records(batch)
        fetch(self.source, planned[first:last].tolist())
        keys, languages = [], []
        skipped: list[Skipped] = []
        left_out: list[RecordParts] = []

        def examples() -> Iterator[dict[str, np.ndarray]]:
            for row in range(first, last):
                key, fields, language, parts = self._example(batch, row, planned, skipped)
                keys.append(key)
                languages.append(language)
                left_out.extend([parts] if parts.parts else [])
                yield fields

        fields = stack_examples(examples(), last - first)
        return Rows(fields, tuple(keys), tuple(languages), tuple(skipped), tuple(left_out))

    def _example(self, batch: int, row: int, planned: np.ndarray, skipped: list[Skipped]) -> "_Example":
        """The example of one row, tried again with other records until one is good; the bad ones are added to
        `skipped`.
        """
        order = self.order
        index = batch * order.batch_size + row
        failures: list[Skipped] = []
        for attempt in count():
            record_index = int(planned[row]) if attempt == 0 else order.replacement(batch, row, attempt)
            enough_others = attempt * order.batch_size < order.size
            if attempt and enough_others and record_index in planned:
                continue
            place = Place(order.seed, index, attempt, order.stage, order.batch_size)

            def made(record: Record, place: Place = place, index: int = record_index) -> _Example:
                parts: list[LeftOut] = []
                fields, language = self.preprocess(record, self.source, place, parts)
                return _Example(record.key, fields, language, left_out_of(self.source, index, record, parts))

            example = examined(self.source, record_index, made)
            if not isinstance(example, Skipped):
                return example
            skipped.append(example)
            failures.append(example)
            if len(failures) == MOST_FAILURES_IN_A_ROW:
                reasons = Counter(failure.reason for failure in failures)
                raise TooManySkipped(
                    f"{len(failures)} examples in a row are bad: {listed(reasons)}. The last was {example.name} "
                    f"({example.reason}: {example.detail}). Check that the data is what it should be.",
                    reasons,
                )
        raise AssertionError("unreachable: count() does not end")


class _Example(NamedTuple):
    key: str
    fields: dict[str, np.ndarray]
    language: str
    left_out: RecordParts
