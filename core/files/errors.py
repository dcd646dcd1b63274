"""Errors that the person in front of the screen can mend, those of weights and of the files they are in among them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Failure(RuntimeError):
    """Something that did not work and that the person can mend; the message is a sentence that says how."""


class WeightFileError(ValueError):
    """A file that is not of its format, is damaged, could run code, or asks for more than its format's limits."""


class HubError(Failure):
    """A model that could not be fetched from the hub or brought there; the message says why and what to do."""


class RemoteError(Failure):
    """A file far away that cannot be read, or has changed; the message says what was asked, what came, and what to do.

    It ends a run, which can go on later: a server's bad hour must not decide which examples are learned from.
    """


@contextmanager
def as_settings(path: Path) -> Iterator[None]:
    """Turns what a file's settings lack, or have of another kind, into a sentence that names the file.

    Raises:
        WeightFileError: where the block raises one of the errors by which Python finds that out.
    """
    try:
        yield
    except KeyError as error:
        raise WeightFileError(f"{path} has no field {error}, which a model needs. Fetch the file again.") from error
    except (TypeError, AttributeError, IndexError, OverflowError, ZeroDivisionError) as error:
        raise WeightFileError(
            f"{path} does not describe a model: a field is missing, unknown or of another kind than expected "
            f"({error}). Fetch the file again."
        ) from error
