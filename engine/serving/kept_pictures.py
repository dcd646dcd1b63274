"""Pictures that were sent: read under a bound of memory, and the last of them remembered by name."""

import base64
import binascii
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

import numpy as np

from diptych.core.data.image import decode
from diptych.engine.serving.refusals import Refused, in_sentences

MOST_PIXELS_HELD = 64_000_000

Kept = TypeVar("Kept")


class Remembered(Generic[Kept]):
    """The last pictures by name, the oldest of many being forgotten."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._lock = threading.Lock()

    @staticmethod
    def name_of(data: bytes) -> str:
        """The name of an encoded picture."""
        return hashlib.sha256(data).hexdigest()[:32]

    def find(self, name: str) -> Kept | None:
        """What is remembered by this name; None where it is not."""
        with self._lock:
            kept = self._kept.get(name)
            if kept is not None:
                self._kept.move_to_end(name)
            return kept

    def get(self, name: str) -> Kept:
        """What is remembered by this name; `Refused` where it is not."""
        kept = self.find(name)
        if kept is None:
            raise Refused(404, "This picture is not held any more: send it again.")
        return kept

    def put(self, name: str, kept: Kept, *, most: int) -> None:
        """Remembers a picture, and forgets the oldest where there are more than `most`."""
        with self._lock:
            self._kept[name] = kept
            self._kept.move_to_end(name)
            while len(self._kept) > most:
                self._kept.popitem(last=False)


class PictureReader:
    """Decodes pictures of many threads and has the model look at them, with few large ones in memory at a time.

    One picture is decoded at a time: a large one takes hundreds of megabytes. Those that wait for the model have no
    more than `MOST_PIXELS_HELD` together; one beyond that is looked at before the next is decoded.
    """

    def __init__(self) -> None:
        self._decoding, self._counting = threading.Lock(), threading.Lock()
        self._held = 0

    def look(self, files: Sequence[bytes], see: Callable[[list[np.ndarray]], Iterable]) -> list:
        """What `see` says of each picture, in order; raises `Refused` for one that cannot be read."""
        said: list = [None] * len(files)
        waiting: list[tuple[int, np.ndarray]] = []
        with self._holding() as hold:
            for place, data in enumerate(files):
                with self._decoding:
                    with in_sentences():
                        pixels = decode(data)
                    if hold(pixels.shape[0] * pixels.shape[1]):
                        waiting.append((place, pixels))
                    else:
                        (said[place],) = see([pixels])
            if waiting:
                for (place, _), each in zip(waiting, see([pixels for _, pixels in waiting]), strict=True):
                    said[place] = each
        return said

    @contextmanager
    def _holding(self) -> Iterator[Callable[[int], bool]]:
        """Says of a number of pixels whether they may wait, and frees them at the end."""
        mine = 0

        def hold(pixels: int) -> bool:
            nonlocal mine
            with self._counting:
                if self._held + pixels > MOST_PIXELS_HELD:
                    return False
                self._held += pixels
            mine += pixels
            return True

        try:
            yield hold
        finally:
            with self._counting:
                self._held -= mine


def from_base64(text: str, where: str) -> bytes:
    """The bytes that a text of JSON stands for, plain base64 or a data address; `Refused` for what is neither."""
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(400, f"{where}: got {text[:20]!r}, expected the bytes of a picture in base64.") from None
