"""Keys that are unique in a source, also where those in the data repeat."""

from collections.abc import Callable, Iterable

import numpy as np


def name_bytes(name: str) -> bytes:
    """The bytes of a key or of a file's name, to be hashed: UTF-8, also where the name is none, as names of files may
    be.
    """
    return name.encode("utf-8", "surrogatepass")


class UniqueKeys:
    """Keys as the data have them, but that a record whose key an earlier one has gets its place in the source added:
    "image", "image#1", "image#2". So does a record whose own key looks as if one of these had been made for it: beside
    them "image#1" at place 7 is "image#1#7".

    Args:
        keys: gives (key, place) of each record; of records with the same key the first and one other are enough. Called
            once, or twice where some repeat.
    """

    def __init__(self, keys: Callable[[], Iterable[tuple[str, int]]]):
        self._first: dict[str, int] = {}
        hashes, counts = np.unique(np.fromiter((hash(key) for key, _ in keys()), np.int64), return_counts=True)
        repeated = set(hashes[counts > 1].tolist())
        for key, place in keys() if repeated else ():
            if hash(key) in repeated:
                self._first[key] = min(place, self._first.get(key, place))

    def key(self, key: str, place: int) -> str:
        """The unique key of the record at a place, whose own is `key`."""
        own = self._first.get(key, place) == place and not self._looks_made(key)
        return key if own else f"{key}#{place}"

    def _looks_made(self, key: str) -> bool:
        """Whether the key is one that repeats, and places added to it."""
        base, sign, place = key.rpartition("#")
        while sign and place.isdecimal():
            if base in self._first:
                return True
            base, sign, place = base.rpartition("#")
        return False
