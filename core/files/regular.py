"""Opening of regular files alone: a named pipe would be waited for without end, a device be read without end."""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

_NAMES = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


def regular_descriptor(path: str | Path) -> int:
    """A descriptor of a regular file, to read from.

    Raises:
        OSError: for a path that cannot be opened, and for what is no regular file, naming both.
    """
    # Without O_NONBLOCK, opening a named pipe would itself wait.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        what = _NAMES.get(stat.S_IFMT(mode), "a special file")
        raise OSError(errno.EINVAL, f"this is {what}, expected a regular file", str(path))
    return descriptor


def open_regular(path: str | Path) -> BufferedReader:
    """A regular file, open for reading bytes; errors as for `regular_descriptor`."""
    return os.fdopen(regular_descriptor(path), "rb")
