"""A file far away, read at any place by blocks that are kept."""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from diptych.core.files.remote import retries
from diptych.core.files.remote.block_cache import BLOCK_BYTES, block_cache
from diptych.core.files.remote.filesystem import FilesystemStore
from diptych.core.files.remote.http import HttpStore
from diptych.core.files.remote.store import Described, Store

MOST_BLOCKS_AHEAD = 16
MOST_BLOCKS_A_REQUEST = 64

_HTTP, _FILESYSTEM = HttpStore(), FilesystemStore()


class RemoteFile:
    """A file by its address: its size and identity, found when they are first asked for, and its bytes.

    It holds no connection, so it can be pickled, and a copy in another process refuses a file that has changed since.
    Whoever reads on where the last request ended gets more with each one: 1, 2, 4, ... blocks ahead.

    Args:
        described: what is known of it already.
        checksum: of its content, where the address will never have another.

    Attributes:
        path: the part of the address that names the file: what the address has after the server or the bucket.
    """

    def __init__(self, url: str, described: Described | None = None, *, checksum: str = ""):
        self.url, self.checksum = url, checksum
        path = unquote(urlsplit(url).path) if _is_http(url) else url.partition("://")[2]
        self.path = PurePosixPath(path)
        self._known = described
        self._key = ""  # under which its blocks are kept
        self._next = -1  # the block after the last one that was fetched
        self._ahead = 0

    @property
    def name(self) -> str:
        """The file's own name, without the folders."""
        return self.path.name

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return self.path.stem

    @property
    def suffix(self) -> str:
        """Such as ".tar"."""
        return self.path.suffix

    @property
    def size(self) -> int:
        """Bytes; raises as `pread` does."""
        return self.described.size

    @property
    def identity(self) -> str:
        """What tells that the content is another; the address where nothing else does."""
        return self.checksum or self.described.identity or self.url

    @property
    def described(self) -> Described:
        """Size and identity; asked of the store once."""
        if self._known is None:
            self._known = retries.USUAL.answer(self.url, lambda: self._store.describe(self.url))
        return self._known

    def pread(self, size: int, offset: int) -> bytes:
        """`size` bytes from `offset`, fewer at the end of the file.

        Raises:
            RemoteError: for a file that cannot be had after several attempts, or has changed.
            ImportError: where a package is missing for this kind of address.
        """
        size = min(size, self.size - offset)
        if size <= 0:
            return b""
        first = offset // BLOCK_BYTES
        data = b"".join(self._blocks(first, (offset + size - 1) // BLOCK_BYTES, reads_on=True))
        begin = offset - first * BLOCK_BYTES
        return data[begin : begin + size]

    def fetch(self, number: int) -> None:
        """Have a block in the cache, and no other; raises as `pread`."""
        if number * BLOCK_BYTES < self.size:
            self._blocks(number, number, reads_on=False)

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"RemoteFile({self.url!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteFile) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)

    @property
    def _store(self) -> Store:
        return _HTTP if _is_http(self.url) else _FILESYSTEM

    def _blocks(self, first: int, last: int, *, reads_on: bool) -> list[bytes]:
        """Blocks first..last; `reads_on` says whether the reader may want the next ones soon."""
        if not self._key:
            self._key = hashlib.sha256(repr(self.checksum or (self.url, self.described)).encode()).hexdigest()[:32]
        cache = block_cache()
        found = {number: cache.get(self._key, number) for number in range(first, last + 1)}
        for begin, stop in _runs([number for number, block in found.items() if block is None]):
            end = self._with_those_ahead(begin, stop) if reads_on and stop > last else stop
            for number, block in self._fetched(begin, end):
                cache.put(self._key, number, block)
                found[number] = block
        return [found[number] or b"" for number in range(first, last + 1)]

    def _with_those_ahead(self, begin: int, stop: int) -> int:
        """Where to end a request for blocks begin..stop-1: further each time that it begins where the last ended."""
        self._ahead = min(max(1, 2 * self._ahead), MOST_BLOCKS_AHEAD) if begin == self._next else 0
        self._next = min(stop + self._ahead, -(-self.size // BLOCK_BYTES))
        return self._next

    def _fetched(self, begin: int, stop: int) -> Iterator[tuple[int, bytes]]:
        """Blocks begin..stop-1 by one request."""
        offset = begin * BLOCK_BYTES
        size = min(stop * BLOCK_BYTES, self.size) - offset
        data = retries.USUAL.answer(self.url, lambda: self._store.fetch(self.url, offset, size, self.described))
        for number in range(begin, stop):
            place = (number - begin) * BLOCK_BYTES
            yield number, data[place : place + BLOCK_BYTES]


def _is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, one behind the last) of numbers that follow each other, as many as one request may ask for."""
    for _, run in groupby(enumerate(numbers), lambda one: one[1] - one[0]):
        found = [number for _, number in run]
        for begin in range(0, len(found), MOST_BLOCKS_A_REQUEST):
            yield found[begin], found[begin : begin + MOST_BLOCKS_A_REQUEST][-1] + 1
