"""Lists of images and their captions: files of JSON lines, or CSV with a header, as they are read line by line."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.core.data.records import BadExample
from diptych.core.data.sources.captions import MAX_CAPTION_FILE_BYTES, object_from_json
from diptych.core.data.sources.files import lines_with_offsets
from diptych.core.files.beginnings import BEGINNING_BYTES, mistaken
from diptych.core.files.regular import open_regular

LISTS = ("captions.jsonl", "metadata.jsonl", "captions.csv", "metadata.csv", "captions.tsv", "metadata.tsv")
SUFFIXES = (".jsonl", ".csv", ".tsv")
_DELIMITERS = (",", "\t", ";")


@dataclass(frozen=True)
class ImageList:
    """A list, of which a line is read at a time.

    columns, delimiter: of CSV, as its first line has them; no columns for JSON lines.
    """

    path: Path
    columns: tuple[str, ...] = ()
    delimiter: str = ","

    @classmethod
    def of(cls, path: Path) -> "ImageList":
        """The list in a file; of CSV the delimiter is the one of comma, tab and semicolon that the header has most of.

        Raises:
            BadExample: list_unreadable; list_mistaken, for what is well known to be something else (see
                `beginnings.mistaken`); list_not_utf8, for CSV whose header is not text.
        """
        is_lines = path.suffix == ".jsonl"
        try:
            with open_regular(path) as file:
                beginning = file.read(BEGINNING_BYTES)
                file.seek(0)
                first = b"" if is_lines else file.readline(MAX_CAPTION_FILE_BYTES)
        except OSError as error:
            raise BadExample("list_unreadable", str(error)) from None
        what = mistaken(beginning, "JSON" if is_lines else "CSV")
        if what and (beginning or not is_lines):  # an empty file is the beginning of one of lines
            raise BadExample("list_mistaken", f"{path} {what}")
        if is_lines:
            return cls(path)
        try:
            header = first.decode("utf-8-sig").strip("\r\n")
        except UnicodeDecodeError as error:
            raise BadExample("list_not_utf8", f"the first line of {path}, which names its columns: {error}") from None
        delimiter = max(_DELIMITERS, key=header.count)
        return cls(path, tuple(next(csv.reader([header], delimiter=delimiter), [])), delimiter)

    def places(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of each entry; one of CSV goes on to the line on which its quotes close."""
        lines = lines_with_offsets(self.path, MAX_CAPTION_FILE_BYTES)
        if not self.columns:
            yield from lines
            return
        next(lines, None)
        with open_regular(self.path) as file:
            begin, quotes = None, 0
            for offset, length in lines:
                file.seek(offset)
                begin = offset if begin is None else begin
                quotes += file.read(min(length, MAX_CAPTION_FILE_BYTES)).count(b'"')
                if quotes % 2 == 0 or offset + length - begin > MAX_CAPTION_FILE_BYTES:
                    yield begin, offset + length - begin
                    begin, quotes = None, 0
            if begin is not None:
                yield begin, offset + length - begin

    def entries(self) -> Iterator[tuple[int, int, bytes]]:
        """(offset, length, bytes) of each entry; of one that is too long to be used no more than shows it."""
        with open_regular(self.path) as file:
            for offset, length in self.places():
                file.seek(offset)
                yield offset, length, file.read(min(length, MAX_CAPTION_FILE_BYTES + 1))

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
        if not self.columns:
            return object_from_json(line)
        if len(line) > MAX_CAPTION_FILE_BYTES:
            raise BadExample("caption_too_long", f"{len(line)} bytes in a row, at most {MAX_CAPTION_FILE_BYTES}")
        try:
            text = io.StringIO(line.decode("utf-8"), newline="")
            cells = next(csv.reader(text, delimiter=self.delimiter, strict=True), [])
        except UnicodeDecodeError as error:
            raise BadExample("caption_not_utf8", str(error)) from None
        except csv.Error as error:
            raise BadExample("caption_not_csv", str(error)) from None
        if len(cells) != len(self.columns):
            raise BadExample("caption_not_csv", f"{len(cells)} cells in a row, and {len(self.columns)} in the header")
        return {name: cell for name, cell in zip(self.columns, cells, strict=True) if cell}
