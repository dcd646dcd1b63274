"""Blocks of remote files, kept on disk up to a size, and the last ones used in memory."""

import contextlib
import os
import threading
import time
import warnings
import zlib
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path

from diptych.core.files.cache_folder import cache_folder, cache_gigabytes

BLOCK_BYTES = 1 << 20
IN_MEMORY = 128
"""Blocks that each process holds, too."""

_GIGABYTE = 1_000_000_000
_CHECKSUM_BYTES = 4
_LEFT_BEHIND_SECONDS = 3_600
_PARTS_OF_BOUND = 64  # a process looks at the folder after it has written one of them
_FULLEST = 15 / 16  # of the bound, after what is oldest was removed


class BlockCache:
    """Any number of processes may share a folder: a block appears whole, and one that another process removes is
    fetched again. Each has a checksum.

    The bound holds to within a sixty-fourth for each process that writes. A disk that cannot be written to costs
    no more than a warning and time.

    Args:
        folder: made when it is needed.
        gigabytes: how much may be kept in it; what was written first is removed first. 0 for nothing.
    """

    def __init__(self, folder: Path, gigabytes: float):
        self.folder, self.bound = folder, int(gigabytes * _GIGABYTE)
        self._memory: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._unchecked = self.bound  # bytes written since the folder was last looked at; a new process looks at once

    def get(self, key: str, number: int) -> bytes | None:
        """A block of the file that `key` stands for, None where it is not here."""
        with self._lock:
            block = self._memory.get((key, number))
            if block is not None:
                self._memory.move_to_end((key, number))
                return block
        block = self._read(self._path(key, number)) if self.bound else None
        if block is not None:
            self._remember(key, number, block)
        return block

    def put(self, key: str, number: int, block: bytes) -> None:
        """Keep a block."""
        self._remember(key, number, block)
        if not self.bound:
            return
        path = self._path(key, number)
        temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(block + zlib.crc32(block).to_bytes(_CHECKSUM_BYTES, "little"))
            temporary.replace(path)
            self._unchecked += len(block)
            if self._unchecked >= self.bound / _PARTS_OF_BOUND:
                self._unchecked = 0
                self.make_room()
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            self.bound = 0
            warnings.warn(
                f"parts of remote files are no longer kept in {self.folder}: {error}. Make room there, or choose "
                "another folder by DIPTYCH_CACHE.",
                stacklevel=2,
            )

    def make_room(self) -> None:
        """Remove the oldest blocks of a folder that holds more than its bound, and what killed processes left."""
        found: list[tuple[float, int, str]] = []
        for folder in self.folder.iterdir():
            for entry in os.scandir(folder):
                with contextlib.suppress(FileNotFoundError):  # another process makes room, too
                    status = entry.stat()
                    if not entry.name.endswith(".tmp"):
                        found.append((status.st_mtime, status.st_size, entry.path))
                    elif status.st_mtime < time.time() - _LEFT_BEHIND_SECONDS:
                        os.unlink(entry.path)
        size = sum(size for _, size, _ in found)
        if size <= self.bound:
            return
        for _, length, path in sorted(found):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            size -= length
            if size <= self.bound * _FULLEST:
                return

    def _path(self, key: str, number: int) -> Path:
        return self.folder / key[:2] / f"{key}.{number}"

    def _read(self, path: Path) -> bytes | None:
        try:
            stored = path.read_bytes()
        except OSError:
            return None
        block, checksum = stored[:-_CHECKSUM_BYTES], stored[-_CHECKSUM_BYTES:]
        return block if zlib.crc32(block).to_bytes(_CHECKSUM_BYTES, "little") == checksum else None

    def _remember(self, key: str, number: int, block: bytes) -> None:
        with self._lock:
            self._memory[key, number] = block
            while len(self._memory) > IN_MEMORY:
                self._memory.popitem(last=False)


@lru_cache(maxsize=1)
def block_cache() -> BlockCache:
    """The cache of this process, where and as large as the environment says when it is first needed."""
    return BlockCache(cache_folder() / "blocks", cache_gigabytes())
