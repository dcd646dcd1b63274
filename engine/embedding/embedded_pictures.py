"""A source whose pictures are embedded already: its records, with rows of an index folder in place of their images."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.data.records import BadExample, Record, Source
from diptych.core.data.sources.mixture import LanguageMixture
from diptych.core.data.sources.source_view import SourceView
from diptych.engine.embedding.index_folder import IndexFolder


class EmbeddedPictures(SourceView):
    """The records of `source`; a reference to one of their images is the number of its row in an index folder.

    Vectors are read from the disk as they are asked for, so there may be more of them than memory holds. Pickled, it
    takes the folder's name alone, and opens it again.

    Attributes:
        pictures: what is embedded: by default the source, or behind a mixture of languages the one in which no picture
            repeats. It may show each image in several views, of which an example then has one.
        index: the finished index folder of the images of `pictures`; None until there is one.
    """

    def __init__(self, source: Source, pictures: Source | None = None, *, index: Path | None = None):
        super().__init__(source)
        self.pictures, self.index = each_once(source) if pictures is None else pictures, index

    def __len__(self) -> int:
        return len(self.source)

    def record(self, index: int) -> Record:
        """As the source's own, with the rows of its images."""
        record, place = self.source.record(index), self._place(index)
        first, end = (int(row) for row in self._rows.first[place : place + 2])
        return replace(record, images=tuple(range(first, end)) if record.images else ())

    def features(self, reference: int) -> np.ndarray:
        """What the image tower made of an image, float32 [width]; raises `BadExample` for one that it was not given."""
        if reference in self._rows.unusable:
            raise BadExample(self._rows.unusable[reference], "found when the pictures were embedded")
        return np.array(self._rows.vectors[reference])

    def fingerprint(self) -> str:
        """The source's own where it shows the same pictures, else of both."""
        if self.pictures is each_once(self.source):
            return self.source.fingerprint()
        return hashlib.sha256(f"{self.source.fingerprint()} {self.pictures.fingerprint()}".encode()).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_rows"}

    def _place(self, index: int) -> int:
        """The place of a record in `pictures`."""
        source = self.source
        while isinstance(source, LanguageMixture):
            index, source = source.origin(index), source.source
        return index

    @cached_property
    def _rows(self) -> "_Rows":
        if self.index is None:
            raise RuntimeError("The pictures are not embedded yet: name the index folder first.")
        folder = IndexFolder(self.index)
        usable = folder.usable()
        bad = [] if usable is None else folder.rows(np.flatnonzero(~usable).tolist())
        records = np.array(folder.column("record"), np.int64)
        first = np.searchsorted(records, np.arange(len(self.pictures) + 1))
        return _Rows(folder.vectors(), first, {int(first[item.record]) + item.number: item.status for item in bad})


def each_once(source: Source) -> Source:
    """The source in which no picture repeats: what a mixture of languages is made from, else the source itself."""
    while isinstance(source, LanguageMixture):
        source = source.source
    return source


@dataclass(frozen=True)
class _Rows:
    """Of an index folder: vectors [rows, width], each record's first row and the end int64 [records + 1], and why a row
    has no vector.
    """

    vectors: np.ndarray
    first: np.ndarray
    unusable: dict[int, str]
