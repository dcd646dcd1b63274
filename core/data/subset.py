"""A part of a source, chosen by the records' keys, so that it stays the same when records are added."""

import hashlib

import numpy as np

from diptych.core.data.cache import has_cheap_pixels, pixels_of
from diptych.core.data.records import Record, Source


class Subset:
    """The records whose key hashes below `fraction` (`held_out=True`), or the others.

    The two parts of one source share no record. Keys are read once, when the subset is made.
    """

    def __init__(self, source: Source, *, fraction: float, held_out: bool):
        self.source, self.fraction, self.held_out = source, fraction, held_out
        self._indices = [
            index for index in range(len(source)) if (_share(source.record(index).key) < fraction) == held_out
        ]

    def __len__(self) -> int:
        return len(self._indices)

    def record(self, index: int) -> Record:
        """As the source's own `record`."""
        return self.source.record(self._indices[index])

    def read(self, reference: object) -> bytes:
        """As the source's own `read`."""
        return self.source.read(reference)

    def pixels(self, reference: object) -> np.ndarray:
        """The decoded picture, by the source itself where it can."""
        return pixels_of(self.source, reference)

    @property
    def cheap_pixels(self) -> bool:
        """As the source's own."""
        return has_cheap_pixels(self.source)

    def fingerprint(self) -> str:
        """Of the source and the choice."""
        choice = f"{self.source.fingerprint()} {self.fraction} {self.held_out}"
        return hashlib.sha256(choice.encode()).hexdigest()


def _share(key: str) -> float:
    """The key's place in [0, 1)."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
