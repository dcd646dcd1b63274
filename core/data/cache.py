"""Records and decoded pictures kept in memory, for sources small enough that every epoch meets the same ones."""

from typing import Any

import numpy as np

from diptych.core.data.image import decode
from diptych.core.data.records import Record, Source

_BYTES_PER_RECORD = 16_384  # a generous guess for a record with captions in dozens of languages
_BYTES_PER_MEGABYTE = 1_000_000


class CachedSource:
    """A source that remembers what it has read, up to `megabytes` of memory; it is pickled empty.

    Nothing is ever dropped: visits are even over an epoch, so whatever came first is as good to keep as anything else.
    Bad examples are not remembered, and are met and counted each time anew.
    """

    def __init__(self, source: Source, megabytes: float):
        self.source = source
        self.megabytes = megabytes
        self._records: dict[int, Record] = {}
        self._pixels: dict[Any, np.ndarray] = {}
        self._free_bytes = megabytes * _BYTES_PER_MEGABYTE

    def __len__(self) -> int:
        return len(self.source)

    def record(self, index: int) -> Record:
        """As the source's own `record`."""
        record = self._records.get(index)
        if record is None:
            record = self.source.record(index)
            if self._has_room_for(_BYTES_PER_RECORD):
                self._records[index] = record
        return record

    def read(self, reference: Any) -> bytes:
        """As the source's own `read`."""
        return self.source.read(reference)

    def pixels(self, reference: Any) -> np.ndarray:
        """The decoded picture, uint8 [height, width, 3], read-only."""
        pixels = self._pixels.get(reference)
        if pixels is None:
            pixels = decode(self.source.read(reference))
            if self._has_room_for(pixels.nbytes):
                self._pixels[reference] = pixels
        return pixels

    def fingerprint(self) -> str:
        """As the source's own `fingerprint`."""
        return self.source.fingerprint()

    def __reduce__(self) -> tuple:
        return type(self), (self.source, self.megabytes)

    def _has_room_for(self, size: int) -> bool:
        if size > self._free_bytes:
            return False
        self._free_bytes -= size
        return True
