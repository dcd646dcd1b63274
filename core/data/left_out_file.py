"""The file that names everything of the data that was not used: a JSON object a line (`core.data.ledger.Ledger.lines`).

    {"data": "photos/", "what": "skipped", "reason": "image_truncated", "name": "a.jpg", "record": 7, "detail": "..."}
    {"data": "photos/", "what": "left out", "reason": "caption_empty", "name": "b.jpg, caption 2", "record": 8}
    {"data": "photos/", "what": "passed over", "reason": "the suffix .bmp ...", "name": "c.bmp"}

"record" is the place of the record in the data, counted from 0; what is left out of no record has none. Where a reason
has more names than are kept, its last line has "more", their number, in place of "name".
"""

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from diptych.core.data.ledger import Ledger, LedgerLine
from diptych.core.files.atomic import replacing

LEFT_OUT = "left_out.jsonl"


class LeftOutFile:
    """The file of some ledgers of a run.

    Entering it changes nothing, so that a command that is refused leaves the file as it was. From `begin` on what is
    skipped is in it at once, so that no kill loses a name. Without anything to name there is no file. A disk that is
    full stops no run: whatever is missing is written at the end, or told.

    Attributes:
        is_of_the_run: whether it was begun or restored, and so speaks of these ledgers.
    """

    def __init__(self, path: Path, ledgers: Iterable[Ledger]):
        self.path, self.ledgers = path, list(ledgers)
        self.is_of_the_run = self._begun = False

    def restore(self) -> None:
        """Give the ledgers what earlier processes of the same run met."""
        self.is_of_the_run = True
        stored = list(_stored(self.path))
        for ledger in self.ledgers:
            ledger.restore(stored)

    def begin(self, *, anew: bool = False) -> None:
        """Keep the file from now on. What stands in it is restored, unless the run begins `anew`, maybe with data that
        have changed since.
        """
        if self._begun:
            return
        self.is_of_the_run = self._begun = True
        if not anew:
            self.restore()
        for ledger in self.ledgers:
            ledger.heard = self._append
        self._write()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._begun:
            for ledger in self.ledgers:
                ledger.heard = None
            self._write()

    def _append(self, line: LedgerLine) -> None:
        with contextlib.suppress(OSError), self.path.open("ab") as file:
            file.write(_line(line))

    def _write(self) -> None:
        try:
            if any(self.ledgers):
                write_left_out(self.path, self.ledgers)
            else:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            print(f"{self.path} cannot be written: {error}", flush=True)


def write_left_out(path: Path, ledgers: Iterable[Ledger]) -> None:
    """Replace the file by what the ledgers hold."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        for ledger in ledgers:
            for line in ledger.lines():
                file.write(_line(line))


def _line(line: LedgerLine) -> bytes:
    return json.dumps(line).encode() + b"\n"  # names of files that are no UTF-8 are written as escapes


def _stored(path: Path) -> Iterable[dict[str, Any]]:
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):  # cut off by a kill
            found = json.loads(line)
            if isinstance(found, dict):
                yield found
