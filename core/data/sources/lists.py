"""Lists of images and their captions: files of JSON lines, or CSV with a header, as they are read line by line."""

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from diptych.core.data.records import BadExample
from diptych.core.data.sources.captions import MAX_CAPTION_FILE_BYTES, object_from_json
from diptych.core.data.sources.files import lines_of
from diptych.core.files.beginnings import BEGINNING_BYTES, mistaken
from diptych.core.files.regular import open_regular

LISTS = ("captions.jsonl", "metadata.jsonl", "captions.csv", "metadata.csv", "captions.tsv", "metadata.tsv")
PARQUET_LISTS = ("captions.parquet", "metadata.parquet")  # which imagefolder has, too; they are not read
SUFFIXES = (".jsonl", ".csv", ".tsv")
_DELIMITERS = (",", "\t", ";")

Lines = tuple[int, int, bytes]
"""One or several lines of a file: offset, length, and the bytes, of more than `MAX_CAPTION_FILE_BYTES` no more than
show it."""


@dataclass(frozen=True)
class ImageList:
    """A list, of which an entry is read at a time: a line of JSON, or a row of CSV.

    is_json_lines: whether it is of JSON lines.   columns, delimiter: of CSV, as its header has them.
    """

    path: Path
    is_json_lines: bool
    columns: tuple[str, ...] = ()
    delimiter: str = ","

    @classmethod
    def of(cls, path: Path) -> "ImageList":
        """The list in a file; of CSV the header is the first row that is not blank, and the delimiter the one of comma,
        tab and semicolon that it has most of.

        Raises:
            BadExample: list_unreadable; list_mistaken, for what is well known to be something else (see
                `beginnings.mistaken`); list_not_utf8 and list_not_csv, for CSV whose header is not text, or no row.
        """
        is_json_lines, header, delimiter = path.suffix == ".jsonl", b"", ","
        try:
            with open_regular(path) as file:
                beginning = file.read(BEGINNING_BYTES)
                if not is_json_lines:
                    file.seek(0)
                    _, _, first = next(filter(_has_content, lines_of(file, MAX_CAPTION_FILE_BYTES)), (0, 0, b""))
                    delimiter = max(_DELIMITERS, key=first.decode("latin-1").count)
                    file.seek(0)
                    _, _, header = next(_rows(lines_of(file, MAX_CAPTION_FILE_BYTES + 1), delimiter), (0, 0, b""))
        except OSError as error:
            raise BadExample("list_unreadable", str(error)) from None
        what = mistaken(beginning, "JSON" if is_json_lines else "CSV")
        if what and (beginning or not is_json_lines):  # an empty file is the beginning of one of lines
            raise BadExample("list_mistaken", f"{path} {what}")
        if is_json_lines:
            return cls(path, is_json_lines)
        try:
            return cls(path, is_json_lines, tuple(_cells(header, delimiter)), delimiter)
        except UnicodeDecodeError as error:
            raise BadExample("list_not_utf8", f"the first line of {path}, which names its columns: {error}") from None
        except csv.Error as error:
            raise BadExample("list_not_csv", f"the first line of {path}, which names its columns: {error}") from None

    def entries(self) -> Iterator[Lines]:
        """The lines of each entry, in their order; blank ones between them are none."""
        with open_regular(self.path) as file:
            lines = lines_of(file, MAX_CAPTION_FILE_BYTES + 1)
            if self.is_json_lines:
                yield from filter(_has_content, lines)
            else:
                yield from islice(_rows(lines, self.delimiter), 1, None)  # the first is the header

    def entry(self, offset: int, length: int) -> dict[str, Any]:
        """The fields of the entry at a place; raises as `fields`, also where the list cannot be read any more."""
        try:
            with open_regular(self.path) as file:
                file.seek(offset)
                return self.fields(file.read(length))
        except OSError as error:
            raise BadExample("caption_unreadable", str(error)) from None

    def fields(self, line: bytes) -> dict[str, Any]:
        """The fields in the bytes of an entry; raises `BadExample` where they are none."""
        if self.is_json_lines:
            return object_from_json(line)
        if len(line) > MAX_CAPTION_FILE_BYTES:
            raise BadExample("caption_too_long", f"{len(line)} bytes in a row, at most {MAX_CAPTION_FILE_BYTES}")
        try:
            cells = _cells(line, self.delimiter)
        except UnicodeDecodeError as error:
            raise BadExample("caption_not_utf8", str(error)) from None
        except csv.Error as error:
            raise BadExample("caption_not_csv", str(error)) from None
        if len(cells) != len(self.columns):
            raise BadExample("caption_not_csv", f"{len(cells)} cells in a row, and {len(self.columns)} in the header")
        return {name: cell for name, cell in zip(self.columns, cells, strict=True) if cell}


def _rows(lines: Iterator[Lines], delimiter: str) -> Iterator[Lines]:
    """The lines of each row of CSV, which goes on to the line on which its quotes close. A line whose quotes never do,
    or close inside a cell, is a row by itself, and so are the lines after it.
    """
    again: list[Lines] = []
    while True:
        taken: list[Lines] = []
        try:
            next(csv.reader(_texts(chain(again, lines), taken), delimiter=delimiter, strict=True))
        except StopIteration:
            return
        except csv.Error:
            # Where an open quote closes does not depend on where it was opened: one of a line between would have met
            # the last line as this one did. Trying each again would take time in the square of the lines.
            *alone, last = taken
            again = [last] if alone else []
            yield from filter(_has_content, alone or taken)
        else:
            again = []
            row = taken[0][0], sum(length for _, length, _ in taken), b"".join(data for _, _, data in taken)
            if _has_content(row):
                yield row


def _texts(lines: Iterable[Lines], taken: list[Lines]) -> Iterator[str]:
    """Lines as texts for a reader that needs no letters, until a row of them is too long to be used; those that it took
    are added to `taken`.
    """
    size = 0
    for line in lines:
        taken.append(line)
        yield line[2].decode("latin-1")
        size += line[1]
        if size > MAX_CAPTION_FILE_BYTES:
            return


def _cells(row: bytes, delimiter: str) -> list[str]:
    """The cells of one row of CSV; raises csv.Error where it is none, or more than one."""
    reader = csv.reader(io.StringIO(row.decode("utf-8"), newline=""), delimiter=delimiter, strict=True)
    cells = next(reader, None)
    if cells is None:
        raise csv.Error("there is none")
    if next(reader, None) is not None:
        raise csv.Error("another row follows a carriage return alone, expected line feeds between rows: write it so")
    return cells


def _has_content(lines: Lines) -> bool:
    _, length, data = lines
    return length > len(data) or bool(data.strip())
