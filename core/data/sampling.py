"""The endless training order: the example at each place, and the image and caption that a record shows there."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from itertools import accumulate
from math import gcd
from typing import NamedTuple

import numpy as np

from diptych.core.data.records import BadExample, Caption, Record

OTHER_LANGUAGES = "*"
_ROUNDS = 12


@dataclass(frozen=True)
class Order:
    """The order of records: epochs one after the other, each a permutation drawn from (seed, stage, epoch) and cut into
    batches.

    Any place is found without visiting those before it. Every record comes once an epoch. A batch that ends one epoch
    and begins the next holds no record twice either, as long as `size >= 2 * batch_size`: the next epoch's permutation
    has the records that would repeat swapped to a later place.
    """

    size: int
    batch_size: int
    seed: int
    stage: int = 0

    def __post_init__(self):
        if self.size < 1 or self.batch_size < 1:
            raise ValueError(f"Order needs size >= 1 and batch_size >= 1, got {self.size} and {self.batch_size}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must lie in [0, 2**64), got {self.seed}")

    def indices(self, batch: int) -> np.ndarray:
        """Global example indices of a batch, int64 [batch_size]."""
        return np.arange(batch * self.batch_size, (batch + 1) * self.batch_size, dtype=np.int64)

    def records(self, batch: int) -> np.ndarray:
        """Record indices of a batch, int64 [batch_size] in [0, size)."""
        epochs, positions = np.divmod(self.indices(batch), self.size)
        records = np.empty(self.batch_size, np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            records[here] = self._epoch_records(int(epoch), positions[here])
        return records

    def replacement(self, batch: int, row: int, attempt: int) -> int:
        """Record to try instead of the bad one at `row`, for attempt = 1, 2, ...; may be one the batch holds already.

        It stands `attempt` batches further in the epoch in which the batch begins, so that two rows of one batch never
        get the same record while `attempt * batch_size < size`. Where those steps would come back to a place, they go
        on one place later: a row tries every record once before any again.
        """
        first_epoch = batch * self.batch_size // self.size
        returns = attempt // (self.size // gcd(self.size, self.batch_size))
        position = batch * self.batch_size + row - first_epoch * self.size + attempt * self.batch_size + returns
        return int(self._epoch_records(first_epoch, np.array([position % self.size]))[0])

    def _epoch_records(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        records = self._permuted(epoch, positions)
        swapped_positions, swapped_records = _swaps_at_epoch_start(self, epoch)
        for position, record in zip(swapped_positions, swapped_records, strict=True):
            records[positions == position] = record
        return records

    def _permuted(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """The epoch's permutation before any swap: a Feistel network on (row, column) of a rows x columns rectangle.

        The rectangle has a few more cells than there are records; who lands on one of those walks on until it is back
        inside (cycle walking; Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002, sections 4 and 5).
        """
        rows = int(np.ceil(np.sqrt(self.size)))
        columns = -(-self.size // rows)
        keys = _round_keys(self.seed, self.stage, epoch)
        cells = np.array(positions, np.uint64)
        outside = np.ones(cells.shape, bool)
        while outside.any():
            row, column = np.divmod(cells[outside], np.uint64(columns))
            for row_key, column_key in keys:
                row = (row + _mixed(column ^ row_key)) % np.uint64(rows)
                column = (column + _mixed(row ^ column_key)) % np.uint64(columns)
            cells[outside] = row * np.uint64(columns) + column
            outside = cells >= self.size
        return cells.astype(np.int64)


class Part(IntEnum):
    """What random numbers are for; each part has its own streams, so that it takes nothing from the others.

    Numbers are never given away again: they stand in the counter, and old runs are resumed with them.
    """

    EXAMPLE = 0  # which image and captions, and the image's augmentation
    TARGETS = 1
    VIEWS = 2
    SELECTION = 3
    SEQUENCE_LENGTH = 4
    OWN = 5  # what fields of one's own are made from
    DROPOUT = 6


class Place(NamedTuple):
    """Where in training an example stands: all that its random choices come from.

    example: its index in the endless order.   attempt: how many records were tried in vain for it.
    """

    seed: int
    example: int
    attempt: int = 0
    stage: int = 0
    batch_size: int = 1

    @property
    def batch(self) -> int:
        """Number of the batch that the example is in."""
        return self.example // self.batch_size

    def rng(self, part: Part = Part.EXAMPLE) -> np.random.Generator:
        """The random numbers of one part of the example; each call begins the stream anew."""
        return example_rng(self.seed, self.example, attempt=self.attempt, stage=self.stage, part=part)


def example_rng(
    seed: int, index: int, *, attempt: int = 0, stage: int = 0, part: Part = Part.EXAMPLE
) -> np.random.Generator:
    """The random numbers of one example: a Philox stream of its own, so that any example can be made again alone."""
    return np.random.Generator(_philox((seed, index), (0, part, attempt, stage)))


def draw_image(record: Record, rng: np.random.Generator) -> object:
    """One of a record's images, evenly; raises `BadExample` where there is none."""
    if not record.images:
        raise BadExample("image_missing", record.key)
    return record.images[int(rng.random() * len(record.images))]


def draw(
    record: Record, rng: np.random.Generator, language_weights: Mapping[str, float] | None = None
) -> tuple[object, Caption]:
    """Pick one of a record's images evenly, then a language by weight, then one of its captions by the captions' own
    weights; captions that cannot be used are not there.

    `language_weights` maps language codes to relative weights; "*" is the weight of all other languages of the record
    together, shared evenly. None picks among all captions of the record. Raises `BadExample` where there is nothing to
    pick.
    """
    if not record.images:
        raise BadExample("image_missing", record.key)
    captions = record.require_captions()
    image_share, language_share, caption_share = rng.random(3)
    image = record.images[int(image_share * len(record.images))]
    if language_weights is not None:
        groups = record.captions_by_language
        ends = _ends_of_shares(tuple(groups), tuple(language_weights.items()))
        if not ends[-1]:
            raise BadExample("caption_language_missing", f"{record.key} has {', '.join(groups)}")
        captions = tuple(groups.values())[_place(ends, language_share)]
    if len(captions) == 1:
        return image, captions[0]
    return image, captions[_place(list(accumulate(caption.weight for caption in captions)), caption_share)]


@lru_cache(maxsize=1024)
def _ends_of_shares(languages: tuple[str, ...], language_weights: tuple[tuple[str, float], ...]) -> list[float]:
    """Running sum of the languages' weights."""
    weights = dict(language_weights)
    others = sum(language not in weights for language in languages)
    share = weights.get(OTHER_LANGUAGES, 0.0) / max(others, 1)
    return list(accumulate(weights.get(language, share) for language in languages))


def _place(ends: Sequence[float], share: float) -> int:
    """Index of the interval into which `share` of [0, 1) falls, given where each interval ends; empty ones are passed
    over.
    """
    return min(bisect_right(ends, share * ends[-1]), len(ends) - 1)


@lru_cache(maxsize=64)
def _round_keys(seed: int, stage: int, epoch: int) -> np.ndarray:
    """Keys of the Feistel network of one epoch, uint64 [rounds / 2, 2]."""
    return _philox((seed, epoch), (0, 0, 0, stage)).random_raw(_ROUNDS).reshape(-1, 2)


def _philox(key: tuple[int, int], counter: tuple[int, int, int, int]) -> np.random.Philox:
    return np.random.Philox(key=np.array(key, np.uint64), counter=np.array(counter, np.uint64))


def _mixed(words: np.ndarray) -> np.ndarray:
    """Scramble 64-bit words (the finaliser of SplitMix64)."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (words ^ (words >> np.uint64(31))) >> np.uint64(1)


@lru_cache(maxsize=16)
def _swaps_at_epoch_start(order: Order, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of an epoch that differ from its permutation, and their records, so that its first batch repeats nothing.

    The batch began in the epoch before: its records there are the tail, its places here the head. Records of the tail
    found in the head change places with later ones, but not with those in this epoch's own tail, so epochs do not
    depend on each other in a chain.
    """
    nothing = np.empty(0, np.int64), np.empty(0, np.int64)
    tail_size = epoch * order.size % order.batch_size
    if tail_size == 0:
        return nothing
    tail_size = min(tail_size, order.size)
    head_size = min(order.batch_size - tail_size, order.size)
    tail = order._permuted(epoch - 1, np.arange(order.size - tail_size, order.size))
    head = order._permuted(epoch, np.arange(head_size))
    repeated = np.flatnonzero(np.isin(head, tail))
    own_tail_size = (epoch + 1) * order.size % order.batch_size
    end = min(order.size - own_tail_size, head_size + tail_size + len(repeated))
    if not len(repeated) or end <= head_size:
        return nothing
    later = np.arange(head_size, end)
    later_records = order._permuted(epoch, later)
    free = np.flatnonzero(~np.isin(later_records, tail))[: len(repeated)]
    repeated = repeated[: len(free)]
    places = np.concatenate([repeated, later[free]])
    records = np.concatenate([later_records[free], head[repeated]])
    return places, records
