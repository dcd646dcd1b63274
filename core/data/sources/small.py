"""Sources that a person puts together: single files, and chosen records of another source."""

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diptych.core.data.records import BadExample, Record, Source
from diptych.core.data.sources.files import MAX_IMAGE_FILE_BYTES, read_regular_file


class FileSource:
    """Single image files as a source: one record each, without captions, its key the path as it was given."""

    def __init__(self, paths: Sequence[str | Path]):
        self.paths = [str(path) for path in paths]

    def __len__(self) -> int:
        return len(self.paths)

    def record(self, index: int) -> Record:
        """A record of one image, which need not be there."""
        return Record(self.paths[index], (self.paths[index],), ())

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


class ChosenRecords:
    """Some records of a source, by their places in it, as a source."""

    def __init__(self, source: Source, indices: Sequence[int]):
        self.source, self.indices = source, list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def record(self, index: int) -> Record:
        """As the source's own `record`."""
        return self.source.record(self.indices[index])

    def read(self, reference: Any) -> bytes:
        """As the source's own `read`."""
        return self.source.read(reference)

    def fingerprint(self) -> str:
        """Of the source and the choice."""
        return hashlib.sha256(f"{self.source.fingerprint()} {self.indices}".encode()).hexdigest()
