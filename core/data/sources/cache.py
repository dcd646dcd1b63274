"""Records and decoded pictures kept in memory, for sources small enough that every epoch meets the same ones."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from diptych.core.data.image import decode
from diptych.core.data.ledger import Ledger, ledger_of, name_of, place_of
from diptych.core.data.records import Record, Source
from diptych.core.data.sources.fetching import fetch

ToPixels = Callable[[bytes], np.ndarray]
"""From an encoded picture to its pixels, uint8 [height, width, 3]: `image.decode`, or a `decoder.Decoder`."""

_BYTES_PER_RECORD = 16_384  # a generous guess for a record with captions in dozens of languages
_BYTES_PER_MEGABYTE = 1_000_000


class PixelSource(Source, Protocol):
    """A source that hands out pictures as pixels itself, because it draws them or keeps them so."""

    @property
    def cheap_pixels(self) -> bool:
        """Whether pixels are as quickly made as kept, so that a cache leaves them alone."""
        ...

    def pixels(self, reference: Any) -> np.ndarray:
        """One of a record's images, uint8 [height, width, 3]; raises `BadExample` if it cannot be had."""
        ...


def pixels_of(source: Source | PixelSource, reference: Any, decoder: ToPixels = decode) -> np.ndarray:
    """An image's pixels, uint8 [height, width, 3]: from the source itself where it offers `pixels`, else decoded.

    Args:
        decoder: from the image's file to its pixels; a source that passes on another's pictures (`takes_decoder`) hands
            it on, one that draws its own has no use for it.
    """
    pixels = getattr(source, "pixels", None)
    if pixels is None:
        return decoder(source.read(reference))
    return pixels(reference, decoder) if getattr(source, "takes_decoder", False) else pixels(reference)


class FeatureSource(Source, Protocol):
    """A source of pictures that are embedded already."""

    def features(self, reference: Any) -> np.ndarray:
        """What the image tower made of one of a record's images, float32 [width]; raises `BadExample` for one that
        could not be embedded.
        """
        ...


def features_of(source: Source | FeatureSource, reference: Any) -> np.ndarray:
    """An image's features, float32 [width]; raises TypeError for a source that has none."""
    features = getattr(source, "features", None)
    if features is None:
        raise TypeError(f"{type(source).__name__} has no features of its pictures: they are not embedded.")
    return features(reference)


def has_cheap_pixels(source: Source | PixelSource) -> bool:
    """Whether the source says so; one that says nothing has not."""
    return getattr(source, "cheap_pixels", False)


class CachedSource:
    """A source that remembers what it has read, up to `megabytes` of memory; it is pickled empty.

    Nothing is ever dropped: visits are even over an epoch, so whatever came first is as good to keep as anything else.
    Bad examples are not remembered, and are met each time anew. Pixels that the source calls cheap are not
    kept.
    """

    takes_decoder = True

    def __init__(self, source: Source, megabytes: float):
        self.source = source
        self.megabytes = megabytes
        self._records: dict[int, Record] = {}
        self._pixels: dict[Any, np.ndarray] = {}
        self._free_bytes = megabytes * _BYTES_PER_MEGABYTE

    def __len__(self) -> int:
        return len(self.source)

    def record_name(self, index: int) -> str | None:
        """What the source calls the record."""
        return name_of(self.source, index)

    def record_place(self, index: int) -> int:
        """Where the record lies in the source that keeps the ledger."""
        return place_of(self.source, index)

    @property
    def ledger(self) -> Ledger:
        """The source's own."""
        return ledger_of(self.source)

    @property
    def cheap_pixels(self) -> bool:
        """As the source's own."""
        return has_cheap_pixels(self.source)

    def fetch(self, indices: Sequence[int]) -> None:
        """As the source's own, of what is not remembered; see `fetching.fetch`."""
        fetch(self.source, [index for index in indices if index not in self._records])

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

    def pixels(self, reference: Any, decoder: ToPixels = decode) -> np.ndarray:
        """The picture as a decoder makes it, uint8 [height, width, 3], read-only."""
        pixels = self._pixels.get((reference, decoder))
        if pixels is None:
            pixels = pixels_of(self.source, reference, decoder)
            if not self.cheap_pixels and self._has_room_for(pixels.nbytes):
                self._pixels[reference, decoder] = pixels
        return pixels

    def features(self, reference: Any) -> np.ndarray:
        """As the source's own `features`, which are as quickly read as kept."""
        return features_of(self.source, reference)

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
