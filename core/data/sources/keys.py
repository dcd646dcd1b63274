"""Keys that are unique in a source, also where those in the data repeat."""

from collections.abc import Callable, Iterable

import numpy as np


class UniqueKeys:
    """Keys as the data have them, but that a record whose key an earlier one has gets its place in the source added:
    "image", "image#1", "image#2".

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
        return key if self._first.get(key, place) == place else f"{key}#{place}"
