"""The places of a tar file's members, read from its headers alone; damage and refused members are reported."""

from collections.abc import Iterator
from dataclasses import dataclass

from diptych.core.files.beginnings import BEGINNING_BYTES, mistaken
from diptych.core.files.random_access import Place, RandomAccess, opened

BLOCK = 512
UNREADABLE = "tar_unreadable"
_SEARCH_BYTES = 1 << 20
_LARGEST_EXTENSION = 1 << 20
_MOST_DIGITS = 19  # of a file's largest size, 2**63 - 1
_ZEROS = bytes(BLOCK)
_REGULAR = (b"0", b"\0", b"7")
_REFUSED = {
    b"1": "tar_link_refused",
    b"2": "tar_link_refused",
    b"3": "tar_device_refused",
    b"4": "tar_device_refused",
    b"6": "tar_device_refused",
    b"S": "tar_sparse_refused",
}


@dataclass(frozen=True)
class Member:
    """A regular file in a tar: its bytes are `size` bytes from `offset` of the tar. The name is a name only, never a
    path.
    """

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Damage:
    """Something in a tar that is not as it should be, from byte `offset` on."""

    reason: str
    detail: str
    offset: int


class _BadHeader(ValueError):
    pass


def scan_file(place: Place) -> Iterator[Member | Damage]:
    """As `scan`, of a file that may not be readable, which is a damage, too."""
    try:
        yield from scan(opened(place))
    except OSError as error:
        yield Damage(UNREADABLE, error.strerror or str(error), 0)


def scan(file: RandomAccess) -> Iterator[Member | Damage]:
    """All regular members of a tar file (ustar, GNU and pax headers) in their order, and each damage met.

    After a damaged header the scan goes on at the next block that is a valid one, so that a single bad block does not
    hide the rest (Python's tarfile takes a zeroed header for the end of the archive and says nothing).
    """
    end = file.size
    if what := mistaken(file.pread(BEGINNING_BYTES, 0), "a tar archive"):
        yield Damage("tar_mistaken" if end else "tar_empty", what, 0)
        return
    offset, long_name, long_size = 0, None, None
    while True:
        block = file.pread(BLOCK, offset)
        if len(block) < BLOCK:
            yield Damage("tar_truncated", f"the file ends after {end} bytes without an end-of-archive mark", offset)
            return
        if block == _ZEROS:
            following = _next_header(file, offset + BLOCK, end)
            stop = end if following is None else following
            # Zeros up to the end, or two blocks of them between archives joined end to end, are as they should be.
            if _has_content(file, offset, stop) or (following is not None and stop - offset < 2 * BLOCK):
                yield Damage("tar_header_damaged", f"zeros instead of a header at byte {offset}", offset)
            if following is None:
                return
            offset = following
            continue
        try:
            name, size, kind = _parse(block)
            if kind in b"xL" and size > _LARGEST_EXTENSION:
                raise _BadHeader(f"a name of {size} bytes")
            data = offset + BLOCK
            if kind in b"xLgK" and data + size > end:
                raise EOFError(f"a header should have {size} bytes, {end - data} are there")
            if kind == b"x":
                long_name, long_size = _pax(file.pread(size, data), long_name, long_size)
            elif kind == b"L":
                long_name = file.pread(size, data).rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif kind not in (b"g", b"K"):
                name, size = long_name or name, size if long_size is None else long_size
                long_name = long_size = None
                if data + size > end:
                    raise EOFError(f"{name[:200]} should have {size} bytes, {end - data} are there")
                if kind in _REGULAR and not name.endswith("/"):
                    yield Member(name, data, size)
                elif kind in _REFUSED:
                    yield Damage(_REFUSED[kind], name[:200], offset)
            offset = data + -(-size // BLOCK) * BLOCK
        except (_BadHeader, EOFError) as error:
            reason = "tar_truncated" if isinstance(error, EOFError) else "tar_header_damaged"
            yield Damage(reason, f"{error} at byte {offset}", offset)
            long_name = long_size = None
            following = _next_header(file, offset + BLOCK, end)
            if following is None:
                return
            offset = following


def _parse(block: bytes) -> tuple[str, int, bytes]:
    """Name, size and type of a header block."""
    if _number(block[148:156]) != sum(block) - sum(block[148:156]) + 8 * ord(" "):
        raise _BadHeader("wrong checksum of a header")
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:
        name = f"{_text(block[345:500])}/{name}"
    return name, _number(block[124:136]), block[156:157]


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        number = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        if field[0] & 0x40:
            raise _BadHeader("a negative number in a header")
        return number
    try:
        return int(field.split(b"\0", 1)[0].strip() or b"0", 8)
    except ValueError:
        raise _BadHeader("a number in a header is not octal") from None


def _pax(data: bytes, name: str | None, size: int | None) -> tuple[str | None, int | None]:
    """Name and size from the "length key=value" records of a pax header."""
    while data:
        length, _, rest = data.partition(b" ")
        if not _is_count(length) or not len(length) < int(length) <= len(data):
            raise _BadHeader("a pax header that does not add up")
        key, _, value = rest[: int(length) - len(length) - 1].rstrip(b"\n").partition(b"=")
        if key == b"path":
            name = value.decode("utf-8", "surrogateescape")
        elif key == b"size":
            if not _is_count(value):
                raise _BadHeader("a pax size that is no number of bytes")
            size = int(value)
        data = data[int(length) :]
    return name, size


def _is_count(digits: bytes) -> bool:
    """Whether this can be a number of bytes: `int` takes time in the square of the digits, and refuses thousands."""
    return digits.isdigit() and len(digits) <= _MOST_DIGITS


def _next_header(file: RandomAccess, offset: int, end: int) -> int | None:
    """Offset of the first valid header block at or after `offset`."""
    while offset < end:
        chunk = file.pread(_SEARCH_BYTES, offset)
        for start in range(0, len(chunk) - BLOCK + 1, BLOCK):
            if chunk[start + 257 : start + 262] == b"ustar":
                try:
                    _parse(chunk[start : start + BLOCK])
                except _BadHeader:
                    continue
                return offset + start
        offset += _SEARCH_BYTES
    return None


def _has_content(file: RandomAccess, start: int, end: int) -> bool:
    """Whether any byte from `start` to `end` is not zero."""
    places = range(start, end, _SEARCH_BYTES)
    return any(any(file.pread(min(_SEARCH_BYTES, end - place), place)) for place in places)
