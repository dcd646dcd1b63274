"""A set of places in a source, a bit each, from which the one at any number is found at once."""

from collections.abc import Iterable, Iterator

import numpy as np

_BLOCK_BYTES = 512
_BLOCKS_AT_ONCE = 256


class PlaceSet:
    """Whole numbers in [0, size), ascending; an eighth of a byte for each that there could be.

    Args:
        parts: int64 [some] each, which together ascend.
    """

    def __init__(self, size: int, parts: Iterable[np.ndarray]):
        self._bits = np.zeros(-(-size // (8 * _BLOCK_BYTES)) * _BLOCK_BYTES, np.uint8)
        for places in parts:
            if len(places):
                begin, end = places[0] // 8, places[-1] // 8 + 1
                here = np.zeros(8 * int(end - begin), bool)
                here[places - 8 * begin] = True
                self._bits[begin:end] |= np.packbits(here)
        counts = [np.unpackbits(blocks, axis=1).sum(1, dtype=np.int64) for _, blocks in self._blocks()]
        self._ends = np.cumsum(np.concatenate([np.zeros(0, np.int64), *counts]))  # how many are in a block or before it

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def place(self, number: int) -> int:
        """The place at `number` in [0, len).

        Raises:
            IndexError: for another number.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"number {number} of {len(self)}")
        block = int(np.searchsorted(self._ends, number, "right"))
        before = int(self._ends[block - 1]) if block else 0
        bits = np.unpackbits(self._bits[block * _BLOCK_BYTES : (block + 1) * _BLOCK_BYTES])
        return 8 * _BLOCK_BYTES * block + int(np.flatnonzero(bits)[number - before])

    def holds(self, places: np.ndarray) -> np.ndarray:
        """Whether each of some places in [0, size) is one of them, bool [some]."""
        return (self._bits[places // 8] >> (7 - places % 8).astype(np.uint8) & 1).astype(bool)

    def numbers(self, places: np.ndarray) -> np.ndarray:
        """At which number each of some of its places stands, which ascend, int64 [some]."""
        if not len(places):
            return np.zeros(0, np.int64)
        block = int(places[0]) // (8 * _BLOCK_BYTES)
        bits = np.unpackbits(self._bits[block * _BLOCK_BYTES : int(places[-1]) // 8 + 1])
        before = int(self._ends[block - 1]) if block else 0
        return before - 1 + np.cumsum(bits, dtype=np.int64)[places - 8 * _BLOCK_BYTES * block]

    def parts(self) -> Iterator[np.ndarray]:
        """All of them, int64 [some] each."""
        for first, blocks in self._blocks():
            yield np.flatnonzero(np.unpackbits(blocks)) + 8 * _BLOCK_BYTES * first

    def _blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """(number of the first, bits [blocks, bytes]) of some blocks at a time."""
        blocks = self._bits.reshape(-1, _BLOCK_BYTES)
        for first in range(0, len(blocks), _BLOCKS_AT_ONCE):
            yield first, blocks[first : first + _BLOCKS_AT_ONCE]
