"""Pickles of plain values: lists, dictionaries, texts and numbers, and nothing that could run."""

import io
import pickle
from typing import Any

from diptych.core.files.errors import WeightFileError

SUFFIXES = (".p", ".pkl", ".pickle")


class _Plain(pickle.Unpickler):
    """Reads values that a pickle spells out; a name of anything to import is refused before it is looked for."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module[:80]}.{name[:80]}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside of it")


def plain_pickle(data: bytes, what: str) -> Any:
    """The values of a pickle that holds no objects; `what` names it in the error.

    Texts of Python 2 are read as UTF-8, with U+FFFD for what is none.

    Raises:
        WeightFileError: for a pickle that names a class or a function, which could be made to run anything when it is
            opened, and for what is no whole pickle.
    """
    try:
        return _Plain(io.BytesIO(data), encoding="utf-8", errors="replace").load()
    except Exception as error:
        raise WeightFileError(
            f"{what} is not opened: {error or type(error).__name__}. A pickle of lists, dictionaries, texts and "
            "numbers is expected, as refs(unc).p is; another could run anything when it is opened. Convert it to JSON "
            "where you trust it."
        ) from error
