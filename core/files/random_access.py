"""Files that are read at any place, on this machine or far away."""

import io
import os
from pathlib import Path
from typing import Protocol

from diptych.core.files.regular import regular_descriptor
from diptych.core.files.remote.file import RemoteFile

Place = Path | RemoteFile
"""Where a file is: a path of this machine, or a file far away."""


class RandomAccess(Protocol):
    """What readers ask of a file; several threads may ask at once."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    @property
    def identity(self) -> str:
        """What is another where the content is: a time of change, an ETag, a checksum."""
        ...

    def pread(self, size: int, offset: int) -> bytes:
        """`size` bytes from `offset`, fewer at the end of the file."""
        ...


class LocalFile:
    """A regular file of this machine, open for reading; it is closed when nobody holds it any more, so another thread
    may still be reading.

    Raises:
        OSError: for a path that cannot be opened, and for what is no regular file.
    """

    def __init__(self, path: str | Path):
        self._descriptor = regular_descriptor(path)

    @property
    def size(self) -> int:
        """Bytes, now."""
        return os.fstat(self._descriptor).st_size

    @property
    def identity(self) -> str:
        """The time of its last change, in nanoseconds."""
        return str(os.fstat(self._descriptor).st_mtime_ns)

    def pread(self, size: int, offset: int) -> bytes:
        """`size` bytes from `offset`, fewer at the end of the file."""
        data = os.pread(self._descriptor, size, offset)
        while 0 < len(data) < size:  # the system may give fewer than there are
            more = os.pread(self._descriptor, size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


def opened(place: str | Place) -> RandomAccess:
    """The file at a place; raises OSError for one of this machine that cannot be opened."""
    return place if isinstance(place, RemoteFile) else LocalFile(place)


class Stream(io.RawIOBase):
    """A file as a stream that can be moved about in, for libraries that want one."""

    def __init__(self, file: RandomAccess):
        self._file, self._position = file, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The place of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, counted from the beginning, from here or from the end."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """As many bytes as the buffer takes, fewer at the end."""
        data = self._file.pread(len(buffer), self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
