"""Reading files that others wrote: only regular ones, only up to a size, never beyond what was asked for."""

import os
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

from diptych.core.data.records import BadExample
from diptych.core.files.random_access import LocalFile, Place, RandomAccess, opened
from diptych.core.files.remote.file import RemoteFile

Thing = TypeVar("Thing")

MAX_IMAGE_FILE_BYTES = 100_000_000
SAMPLED_BYTES = 4_096
SAMPLED_CAPTIONS, SAMPLED_IMAGES = 2_048, 256
HIDDEN = "names that begin with a dot"
"""The rule by which such files, folders and members are passed over."""
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")


def read_regular_file(path: str | Path, *, kind: str, max_bytes: int) -> bytes:
    """All bytes of a file; raises `BadExample` with reason `<kind>_missing`, `_unreadable` or `_file_too_large`."""
    try:
        file = LocalFile(path)
    except FileNotFoundError:
        raise BadExample(f"{kind}_missing", f"no file {path}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise BadExample(f"{kind}_unreadable", str(error)) from None
    try:
        return read_at(file, 0, file.size, kind=kind, max_bytes=max_bytes)
    except OSError as error:
        raise BadExample(f"{kind}_unreadable", str(error)) from None


def read_at(file: RandomAccess, offset: int, size: int, *, kind: str, max_bytes: int) -> bytes:
    """Exactly `size` bytes from `offset`; raises `BadExample` where the file ends before or the size is beyond
    reason.
    """
    if size > max_bytes:
        raise BadExample(f"{kind}_file_too_large", f"{size} bytes, at most {max_bytes}")
    data = file.pread(size, offset)
    if len(data) < size:
        raise BadExample(f"{kind}_truncated", f"the file ends {size - len(data)} bytes early")
    return data


def place_of_file(name: str | Place) -> Place:
    """A file's place, which stays the same when the working directory changes."""
    return name if isinstance(name, RemoteFile) else Path(name).absolute()


def told_apart(places: Sequence[Place]) -> list[str]:
    """What files are called for people: their names or, where some share one, their paths below the folder that holds
    all of them.
    """
    names = [place.name for place in places]
    if len(set(names)) == len(names):
        return names
    paths = [place.path if isinstance(place, RemoteFile) else place for place in places]
    together = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(together).as_posix() for path in paths]


def evenly(things: Sequence[Thing], most: int) -> list[Thing]:
    """At most `most` of the things, evenly chosen, the first and the last among them."""
    if len(things) <= most:
        return list(things)
    return [things[number * (len(things) - 1) // (most - 1)] for number in range(most)]


def file_size(path: str | Place) -> int:
    """The bytes of a file, -1 where they cannot be told."""
    try:
        return path.size if isinstance(path, RemoteFile) else os.stat(path).st_size
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return -1


def told_of_file(place: Place) -> tuple[str | int, ...]:
    """Name and size of a file, for a fingerprint; of one far away also its identity, which its server knows: there no
    sample of the content has to be fetched.
    """
    return place.name, file_size(place), *((place.identity,) if isinstance(place, RemoteFile) else ())


def sampled_file(path: Place) -> bytes:
    """What a fingerprint takes of a file's content: `SAMPLED_BYTES` from its middle; nothing where it cannot be read.

    Sizes alone do not tell that a file was changed in place, and times would refuse a copy.
    """
    try:
        file = opened(path)
        return sampled_part(file, 0, file.size)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return b""


def sampled_part(file: RandomAccess, offset: int, size: int) -> bytes:
    """As `sampled_file`, of `size` bytes from `offset` of an open file."""
    return file.pread(min(size, SAMPLED_BYTES), offset + max(size - SAMPLED_BYTES, 0) // 2)


def lines_of(file: BinaryIO, max_bytes: int) -> Iterator[tuple[int, int, bytes]]:
    """(offset, length, bytes) of each line of a file, its end included; of a line longer than `max_bytes` no more than
    that is held in memory. A byte order mark at the beginning belongs to no line.
    """
    offset = len(BOM_UTF8) if file.read(len(BOM_UTF8)) == BOM_UTF8 else 0
    file.seek(offset)
    while beginning := file.readline(max_bytes):
        length, part = len(beginning), beginning
        while not part.endswith(b"\n") and (part := file.readline(max_bytes)):
            length += len(part)
        yield offset, length, beginning
        offset += length
