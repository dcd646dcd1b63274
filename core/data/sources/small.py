"""Sources that a person puts together: single files, and chosen records of another source."""

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path

from diptych.core.data.ledger import Ledger
from diptych.core.data.records import BadExample, Record, Source
from diptych.core.data.sources.files import MAX_IMAGE_FILE_BYTES, read_regular_file
from diptych.core.data.sources.source_view import SourceView


class FileSource:
    """Single image files as a source: one record each, without captions, its key the path as it was given."""

    def __init__(self, paths: Sequence[str | Path]):
        self.paths = [str(path) for path in paths]
        self.ledger = Ledger("the files given", len(self.paths))

    def __len__(self) -> int:
        return len(self.paths)

    def record(self, index: int) -> Record:
        """A record of one image, which need not be there."""
        return Record(self.paths[index], (self.paths[index],), ())

    def record_name(self, index: int) -> str:
        """The path as it was given."""
        return self.paths[index]

    def read(self, reference: str) -> bytes:
        """The bytes of the file."""
        return read_regular_file(reference, kind="image", max_bytes=MAX_IMAGE_FILE_BYTES)

    def fingerprint(self) -> str:
        """Hash of the files' names and contents; a file that cannot be read counts by its name alone."""
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(repr(path).encode())
            with contextlib.suppress(BadExample):
                digest.update(hashlib.sha256(self.read(path)).digest())
        return digest.hexdigest()


class ChosenRecords(SourceView):
    """Some records of a source, by their places in it, as a source."""

    def __init__(self, source: Source, indices: Sequence[int]):
        super().__init__(source)
        self.indices = list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def origin(self, index: int) -> int:
        """The record's place in the source."""
        return self.indices[index]

    def record(self, index: int) -> Record:
        """As the source's own `record`."""
        return self.source.record(self.indices[index])

    def fingerprint(self) -> str:
        """Of the source and the choice."""
        return hashlib.sha256(f"{self.source.fingerprint()} {self.indices}".encode()).hexdigest()
