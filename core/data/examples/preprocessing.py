"""Preprocessing as loaders know it: from a record to the fields of one example, of pictures or of texts."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from diptych.core.data.batch import ArrayField
from diptych.core.data.pixels import Normalization
from diptych.core.data.records import LeftOut, Record, Source
from diptych.core.data.sampling import Order, Place


class Preprocessing(Protocol):
    """How examples are made; it holds settings only, so it travels to worker processes."""

    @property
    def normalization(self) -> Normalization | None:
        """What the model makes of a batch's pixels; None for batches without pictures."""
        ...

    @property
    def declared(self) -> Mapping[str, ArrayField]:
        """The fields of a batch."""
        ...

    def __call__(
        self, record: Record, source: Source, place: Place, left_out: list[LeftOut] | None = None
    ) -> tuple[dict[str, np.ndarray], str]:
        """The fields of one example as `declared` has them, without the batch axis, and its language.

        Parts of the record that cannot be used are added to `left_out`. Raises `BadExample` for a record that cannot.
        """
        ...

    def check_batch_size(self, batch_size: int) -> None:
        """Raises ValueError for batches that cannot be cut into the pieces that some of them ask for."""
        ...

    def pieces(self, order: Order, batch: int) -> int:
        """How many optimizer steps a batch makes, each on an equal part of it."""
        ...

    def fingerprint(self) -> str:
        """A hash of everything that decides what an example looks like."""
        ...
