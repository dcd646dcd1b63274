"""A source that shows each picture in several augmented views, drawn once and for all, so that they can be embedded."""

import hashlib
import io
from dataclasses import replace

import numpy as np
from PIL import Image

from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.data.ledger import Ledger, ledger_of
from diptych.core.data.records import Record, Source
from diptych.core.data.sources.cache import pixels_of
from diptych.core.data.sources.source_view import SourceView

Reference = tuple[object, int, int, int]
"""The source's own reference to an image, the record's place, the image's number in it, and the view's."""


class AugmentedViews(SourceView):
    """The records of `source` with `views` pictures for each of theirs, those of an image one after the other.

    A view depends on the seed and on its place alone.

    Args:
        preprocess: with the augmentation and the size of the views.
    """

    def __init__(self, source: Source, preprocess: Preprocess, *, views: int, seed: int):
        super().__init__(source)
        self.preprocess, self.views, self.seed = preprocess, views, seed
        pictures = ledger_of(source)
        self._ledger = Ledger(pictures.name, max_skipped=pictures.max_skipped)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def ledger(self) -> Ledger:
        """Its own: a picture that cannot be used is one, however many views it would have."""
        return self._ledger

    def record(self, index: int) -> Record:
        """As the source's own, with the references of its views."""
        record = self.source.record(index)
        views = range(self.views)
        shown = ((image, index, number, view) for number, image in enumerate(record.images) for view in views)
        return replace(record, images=tuple(shown))

    takes_decoder = False

    def pixels(self, reference: Reference) -> np.ndarray:  # type: ignore[override]
        """A view, uint8 [size, size, 3]."""
        image, *place = reference
        return self.preprocess.image(pixels_of(self.source, image), np.random.default_rng([self.seed, *place]))

    def read(self, reference: Reference) -> bytes:  # type: ignore[override]
        """A view as a PNG file."""
        file = io.BytesIO()
        Image.fromarray(self.pixels(reference)).save(file, "PNG", compress_level=1)
        return file.getvalue()

    def fingerprint(self) -> str:
        """Of the source, and of all that decides the views."""
        made = self.preprocess
        settings = (made.augmentation, made.image_size, made.resize_method, self.views, self.seed)
        return hashlib.sha256(f"views {self.source.fingerprint()} {settings}".encode()).hexdigest()
