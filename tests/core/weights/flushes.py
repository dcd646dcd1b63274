"""Record of what has been flushed to the disk, for tests of a loss of power."""

import os
import stat
from pathlib import Path

Flushed = dict[tuple[int, int], bytes | set[str]]
"""(device, inode) -> the bytes of a file, or the names in a folder, at its last flush."""


def record_flushes(monkeypatch) -> Flushed:
    """From now on every flush is written down, in the dictionary that is returned."""
    flushed: Flushed = {}
    flush = os.fsync

    def recording(descriptor: int) -> None:
        flush(descriptor)
        status = os.fstat(descriptor)
        folder = stat.S_ISDIR(status.st_mode)
        # A file that is open for writing alone is read by a second opening.
        content = set(os.listdir(descriptor)) if folder else Path(f"/dev/fd/{descriptor}").read_bytes()
        flushed[status.st_dev, status.st_ino] = content

    monkeypatch.setattr(os, "fsync", recording)
    return flushed


def lost(folder: Path, flushed: Flushed) -> list[str]:
    """Names of the files and folders, the folder itself included, that are not on the disk as they are now."""
    paths = [folder, *sorted(folder.rglob("*"))]
    return [str(path.relative_to(folder)) for path in paths if flushed.get(_identity(path)) != _content(path)]


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _content(path: Path) -> bytes | set[str]:
    return {entry.name for entry in path.iterdir()} if path.is_dir() else path.read_bytes()
