"""A place far away that files are read from, by parts."""

from typing import NamedTuple, Protocol

from diptych.core.files.errors import RemoteError


class Described(NamedTuple):
    """What a store says of a file before it is read.

    size: bytes.   identity: of its content, such as an ETag; equal as long as the content is. "" where the store has
    none, or the address itself stands for one content.
    """

    size: int
    identity: str


class TryAgain(Exception):
    """A request failed in a way that may pass; `after` is how many seconds the server asks to be left alone."""

    def __init__(self, message: str, after: float | None = None):
        super().__init__(message)
        self.after = after


class Store(Protocol):
    """Each method asks once. Both raise `TryAgain` for what may pass and `RemoteError` for what will not."""

    def describe(self, url: str) -> Described:
        """The size and identity of a file now."""
        ...

    def fetch(self, url: str, offset: int, size: int, expected: Described) -> bytes:
        """Exactly `size` bytes from `offset` of a file that must still be the expected one; see `check_unchanged`."""
        ...


def check_unchanged(url: str, found: Described, expected: Described) -> None:
    """Raises RemoteError where a file is another than it was when it was opened."""
    same = found.size == expected.size and (not expected.identity or found.identity == expected.identity)
    if not same:
        raise RemoteError(
            f"{url} has changed while it was in use: it was {_told(expected)}, and now is {_told(found)}. Data must "
            "stay what they are during a run: put the file back, or begin a new run with the new one."
        )


def _told(described: Described) -> str:
    return f"{described.size:,} bytes" + (f" with the identity {described.identity}" if described.identity else "")
