"""Keys that are unique in a source, also where those in the data repeat."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np

HASH_BITS = 64
MOST_HASHES = 1 << 25
"""Hashes that are compared at a time: a quarter of a gigabyte."""

_KEYS_A_PART = 1 << 16
_NUMBERED = re.compile(r"#\d+\Z")

Hashed = tuple[np.ndarray, np.ndarray]
"""Some records of a source: their places, int64 [records], and the hashes of their keys, uint64 [records]."""


def name_bytes(name: str) -> bytes:
    """The bytes of a key or of a file's name, to be hashed: UTF-8, also where the name is none, as names of files may
    be.
    """
    return name.encode("utf-8", "surrogatepass")


def key_hash(key: str) -> int:
    """A key's hash, evenly in [0, 2**64): it stands for the key, and decides what is held out."""
    return bytes_hash(name_bytes(key))


def bytes_hash(name: bytes) -> int:
    """As `key_hash`, of a key's `name_bytes`."""
    return int.from_bytes(hashlib.sha256(name).digest()[: HASH_BITS // 8], "big")


def hashed(keys: Iterable[tuple[str, int]]) -> Iterator[Hashed]:
    """(key, place) of records -> the same by hashes, in parts."""
    rest = iter(keys)
    while part := list(islice(rest, _KEYS_A_PART)):
        places = np.fromiter((place for _, place in part), np.int64, len(part))
        yield places, np.fromiter((key_hash(key) for key, _ in part), np.uint64, len(part))


def is_numbered(key: str) -> bool:
    """Whether a key looks as if a place had been added to another."""
    return _NUMBERED.search(key) is not None


class UniqueKeys:
    """Keys as the data have them, but that a record whose key an earlier one has gets its place in the source added:
    "image", "image#1", "image#2". So does a record whose own key looks as if one of these had been made for it: beside
    them "image#1" at place 7 is "image#1#7".

    Keys are compared by their hashes, of which only those that repeat are kept: 16 bytes each. That two of a billion
    different keys share one happens once in forty data sets, and then the second has its place added, too.

    Args:
        parts: gives the records' places and hashes part by part; of records with the same key the first and one other
            are enough. Called several times.
    """

    def __init__(self, parts: Callable[[], Iterable[Hashed]]):
        self._repeated = _repeated(parts)
        self._first = np.full(len(self._repeated), np.iinfo(np.int64).max)
        for places, hashes in parts() if len(self._repeated) else ():
            number, found = self._look_up(hashes)
            np.minimum.at(self._first, number[found], places[found])

    def key(self, key: str, place: int) -> str:
        """The unique key of the record at a place, whose own is `key`."""
        own = self._first_of(key, place) == place and not self._looks_made(key)
        return key if own else f"{key}#{place}"

    def comes_again(self, places: np.ndarray, hashes: np.ndarray) -> np.ndarray:
        """Whether an earlier record has the key of each of some records, bool [records]."""
        number, found = self._look_up(hashes)
        found[found] = self._first[number[found]] != places[found]
        return found

    def _look_up(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(number among those that repeat, whether it is one of them) of each hash."""
        if not len(self._repeated):
            return np.zeros(len(hashes), np.int64), np.zeros(len(hashes), bool)
        number = np.minimum(np.searchsorted(self._repeated, hashes), len(self._repeated) - 1)
        return number, self._repeated[number] == hashes

    def _first_of(self, key: str, place: int) -> int:
        """The first place of a key that repeats, else the record's own."""
        if not len(self._repeated):
            return place
        number, found = self._look_up(np.array([key_hash(key)], np.uint64))
        return int(self._first[number[0]]) if found[0] else place

    def _looks_made(self, key: str) -> bool:
        """Whether the key is one that repeats, and places added to it."""
        base, sign, place = key.rpartition("#")
        while sign and place.isdecimal():
            if self._first_of(base, -1) >= 0:
                return True
            base, sign, place = base.rpartition("#")
        return False


def _repeated(parts: Callable[[], Iterable[Hashed]]) -> np.ndarray:
    """The hashes that come more than once, ascending: looked for in one range of hashes after the other, so that no
    more than `MOST_HASHES` are in memory.
    """
    found, ranges = [], [(0, 1 << HASH_BITS)]
    while ranges:
        begin, end = ranges.pop()
        hashes = _in_range(parts(), begin, end)
        if hashes is None and end - begin > 1:
            middle = (begin + end) // 2
            ranges += [(middle, end), (begin, middle)]
            continue
        if hashes is None:  # more than that are one
            hashes = np.full(2, begin, np.uint64)
        hashes.sort()
        found.append(np.unique(hashes[1:][hashes[1:] == hashes[:-1]]))
    return np.concatenate(found)


def _in_range(parts: Iterable[Hashed], begin: int, end: int) -> np.ndarray | None:
    """The hashes in [begin, end), None where they are too many."""
    whole = end - begin == 1 << HASH_BITS
    some, count = [np.empty(0, np.uint64)], 0
    for _, hashes in parts:
        # The end may be 2**64, which is no uint64.
        inside = hashes if whole else hashes[hashes - np.uint64(begin) < np.uint64(end - begin)]
        some.append(inside)
        count += len(inside)
        if count > MOST_HASHES:
            return None
    return np.concatenate(some)
