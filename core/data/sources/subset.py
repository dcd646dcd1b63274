"""A part of a source, chosen by the records' keys, so that it stays the same when records are added."""

import hashlib

import numpy as np

from diptych.core.data.ledger import visit
from diptych.core.data.records import Record, Source
from diptych.core.data.sources.keys import name_bytes
from diptych.core.data.sources.source_view import SourceView


class Subset(SourceView):
    """The records whose key hashes below `fraction` (`held_out=True`), or the others.

    The two parts of one source share no record, and a record that cannot be read is in neither. Keys are read once,
    when the subset is made.
    """

    def __init__(self, source: Source, *, fraction: float, held_out: bool):
        super().__init__(source)
        self.fraction, self.held_out = fraction, held_out
        shares = visit(source, lambda record: _share(record.key))
        self._indices = [index for index, share in shares if (share < fraction) == held_out]

    def __len__(self) -> int:
        return len(self._indices)

    def origin(self, index: int) -> int:
        """The record's place in the source."""
        return self._indices[index]

    def record(self, index: int) -> Record:
        """As the source's own `record`."""
        return self.source.record(self.origin(index))

    def fingerprint(self) -> str:
        """Of the source, the choice, and the records that it comes to."""
        digest = hashlib.sha256(f"{self.source.fingerprint()} {self.fraction} {self.held_out} ".encode())
        digest.update(np.array(self._indices, "<i8").tobytes())
        return digest.hexdigest()


def _share(key: str) -> float:
    """The key's place in [0, 1)."""
    return int.from_bytes(hashlib.sha256(name_bytes(key)).digest()[:8], "big") / 2**64
