"""A part of a source, chosen by the records' keys, so that it stays the same when records are added."""

import hashlib
from collections.abc import Iterator

import numpy as np

from diptych.core.data.ledger import ledger_of, visit
from diptych.core.data.records import Record, Source
from diptych.core.data.sources.keys import HASH_BITS, Hashed, hashed
from diptych.core.data.sources.languages import Languages, read_languages
from diptych.core.data.sources.place_set import PlaceSet
from diptych.core.data.sources.source_view import SourceView


class Subset(SourceView):
    """The records whose key hashes below `fraction` (`held_out=True`), or the others.

    The two parts of one source share no record, and a record whose key cannot be read is in neither. Keys are read
    once, when the subset is made; a source that has their hashes (`hashed_keys`) is not asked for its records.

    Raises:
        TooManySkipped: more records cannot be read than the ledger allows.
    """

    def __init__(self, source: Source, *, fraction: float, held_out: bool):
        super().__init__(source)
        self.fraction, self.held_out = fraction, held_out
        parts = _hashed_keys(source)
        self._places = PlaceSet(len(source), (places[(_shares(own) < fraction) == held_out] for places, own in parts))

    def __len__(self) -> int:
        return len(self._places)

    def origin(self, index: int) -> int:
        """The record's place in the source."""
        return self._places.place(index)

    def record(self, index: int) -> Record:
        """As the source's own `record`."""
        return self.source.record(self.origin(index))

    def caption_languages(self) -> Iterator[Languages]:
        """As `languages.languages_in`, of the subset's own places; what is of no use may also be beyond it."""
        known = getattr(self.source, "caption_languages", None)
        if known is None:
            yield read_languages(self, range(len(self)))
            return
        for part in known():
            mine = self._places.holds(part.places)
            yield part._replace(places=self._places.numbers(part.places[mine]), codes=part.codes[mine])

    def fingerprint(self) -> str:
        """Of the source, the choice, and the records that it comes to."""
        digest = hashlib.sha256(f"{self.source.fingerprint()} {self.fraction} {self.held_out} ".encode())
        for places in self._places.parts():
            digest.update(places.astype("<i8").tobytes())
        return digest.hexdigest()


def _hashed_keys(source: Source) -> Iterator[Hashed]:
    """Places and hashes of the keys of all records that can be read; the others are counted."""
    own = getattr(source, "hashed_keys", None)
    if own is not None:
        yield from own()
        ledger_of(source).check()
    else:
        yield from hashed((key, index) for index, key in visit(source, lambda record: record.key))


def _shares(hashes: np.ndarray) -> np.ndarray:
    """The places of keys in [0, 1), float64."""
    return hashes / 2**HASH_BITS
