"""The base of sources that show another's records in their own way: pictures are passed on unchanged."""

from collections.abc import Sequence

import numpy as np

from diptych.core.data.image import decode
from diptych.core.data.ledger import Ledger, ledger_of, name_of, place_of
from diptych.core.data.records import Source
from diptych.core.data.sources.cache import ToPixels, has_cheap_pixels, pixels_of
from diptych.core.data.sources.fetching import fetch


class SourceView:
    """The pictures of `source`; records, length and fingerprint are the view's own."""

    takes_decoder = True

    def __init__(self, source: Source):
        self.source = source

    def origin(self, index: int) -> int:
        """The place in the source of the record that is shown at `index`."""
        return index

    def record_name(self, index: int) -> str | None:
        """What the source calls the record."""
        return name_of(self.source, self.origin(index))

    def record_place(self, index: int) -> int:
        """Where the record lies in the source that keeps the ledger."""
        return place_of(self.source, self.origin(index))

    @property
    def ledger(self) -> Ledger:
        """The source's own: what one view counts, none counts again."""
        return ledger_of(self.source)

    def fetch(self, indices: Sequence[int]) -> None:
        """As the source's own, see `fetching.fetch`."""
        fetch(self.source, [self.origin(index) for index in indices])

    def read(self, reference: object) -> bytes:
        """As the source's own `read`."""
        return self.source.read(reference)

    def pixels(self, reference: object, decoder: ToPixels = decode) -> np.ndarray:
        """The decoded picture, by the source itself where it can."""
        return pixels_of(self.source, reference, decoder)

    @property
    def cheap_pixels(self) -> bool:
        """As the source's own."""
        return has_cheap_pixels(self.source)
