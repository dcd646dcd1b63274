"""The parts of an encoded picture, counted before it is decoded: a small file of many is valid, and takes minutes.

A progressive JPEG is decoded scan by scan, each over the whole picture: 84 kB hold a thousand of 3,200 x 3,200 pixels.
Pillow reads the segments of a JPEG, the chunks of a PNG and the blocks of a GIF one by one.
"""

import re
from collections.abc import Iterator
from itertools import islice

from diptych.core.data.records import BadExample

MAX_PARTS = 100_000
"""Segments, chunks or blocks. A picture of 100 MB in chunks of 4 kB, smaller than writers make them, has 25,000."""
MAX_SCANS = 100
"""Of a JPEG. libjpeg's own scripts for progressive files have ten, mozjpeg's at most a dozen."""
MAX_SCANNED_PIXELS = 1_000_000_000
"""Pixels times scans, about a second's work: twenty scans of the largest picture that `decode` takes."""

_SCAN, _END = 0xDA, 0xD9
_WITHOUT_LENGTH = (0x01, 0xD8, _END)
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)  # not what stands inside a scan: stuffing and restarts
_GIF_EXTENSION, _GIF_IMAGE, _GIF_END = b"!,;"


def count_scans(data: bytes) -> int:
    """The scans of a JPEG, 0 for other formats.

    Raises:
        BadExample: image_too_slow, for more than `MAX_SCANS` of them, or a picture of more than `MAX_PARTS` parts.
    """
    walk = next((walk for start, walk in _WALKS.items() if data.startswith(start)), None)
    if walk is None:
        return 0
    parts = scans = 0
    for kind in islice(walk(data), MAX_PARTS + 1):
        parts, scans = parts + 1, scans + (kind == _SCAN and walk is _jpeg_markers)
    if parts > MAX_PARTS:
        raise BadExample("image_too_slow", f"more than {MAX_PARTS} parts")
    if scans > MAX_SCANS:
        raise BadExample("image_too_slow", f"{scans} scans, at most {MAX_SCANS}")
    return scans


def _jpeg_markers(data: bytes) -> Iterator[int]:
    place = 2
    while found := _MARKER.search(data, place):
        marker, place = found[1][0], found.end()
        yield marker
        if marker == _END:
            return
        if marker not in _WITHOUT_LENGTH:
            place += max(2, int.from_bytes(data[place : place + 2], "big"))


def _png_chunks(data: bytes) -> Iterator[int]:
    place = 8
    while place < len(data):
        yield data[place]
        if data[place + 4 : place + 8] == b"IEND":
            return
        place += 12 + int.from_bytes(data[place : place + 4], "big")


def _gif_blocks(data: bytes) -> Iterator[int]:
    """Up to the first image, the only one that is decoded."""
    flags = data[10] if len(data) > 10 else 0
    place = 13 + (3 * 2 ** (1 + (flags & 7)) if flags & 0x80 else 0)
    while place < len(data) and data[place] not in (_GIF_IMAGE, _GIF_END):
        yield data[place]
        if data[place] != _GIF_EXTENSION:
            place += 1
            continue
        place += 2
        while place < len(data) and data[place]:
            yield data[place]
            place += 1 + data[place]
        place += 1


_WALKS = {b"\xff\xd8": _jpeg_markers, b"\x89PNG\r\n\x1a\n": _png_chunks, b"GIF8": _gif_blocks}
