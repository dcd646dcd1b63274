"""Documents: texts of any length with a key each, from files of plain text, JSON lines or tables."""

import contextlib
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterator, Sequence
from glob import has_magic, iglob
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from diptych.core.data.ledger import Ledger, Skipped
from diptych.core.data.records import BadExample
from diptych.core.data.sources.files import HIDDEN, lines_of, told_apart
from diptych.core.data.sources.reading import TO_TRAIN, Reading
from diptych.core.data.sources.tables import pyarrow_module
from diptych.core.files.random_access import Place, Stream, opened
from diptych.core.files.remote.find import find_remote, is_remote

EMBEDDED = "austen"
EMBEDDED_PATH = Path(__file__).with_name("austen.jsonl.xz")
EMBEDDED_VOCABULARY = Path(__file__).with_name("austen_vocabulary")
"""Learned from all embedded novels but Persuasion: 2,000 merges, words cut as transformers does."""
TEXTS, LINES, TABLES = (".txt",), (".jsonl", ".ndjson"), (".parquet",)
PACKED: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open}
TEXT_FIELDS, KEY_FIELDS = ("text", "content"), ("key", "id")
MAX_BYTES = 1 << 31
"""Of a document, unpacked."""
ROWS_AT_ONCE, PART_BYTES = 1_024, 1 << 20
ADVICE = (
    f'give "{EMBEDDED}" for the novels that come along, a folder of texts or one such file: plain text (.txt, a '
    "document each), JSON lines with a field text (.jsonl), both also as .gz or .xz, or Parquet with a column text; "
    "also as https:// or hf://datasets/owner/name"
)


class Document(NamedTuple):
    """A text, and what it is called: by its field key or id, else by its file, and its line or row there."""

    key: str
    text: str


class Documents:
    """The documents of files, in order, read anew by each walk.

    Args:
        spec: what a person types, see `ADVICE`; a file, a folder, or a pattern with `*`, of this machine or far away.
        reading: the field that holds texts (`caption_field`), and how many documents may be bad.

    Attributes:
        ledger: counts documents that cannot be used, once however often they are met; its size is the number of
            documents, known after the first walk.

    Raises:
        FileNotFoundError, ValueError: for what is not there, and for files of other kinds.
    """

    def __init__(self, spec: str, reading: Reading = TO_TRAIN):
        self.spec, self.reading = spec, reading
        self.ledger = Ledger(spec, max_skipped=reading.max_skipped)
        self._files = _files(spec, self.ledger)

    def __iter__(self) -> Iterator[Document]:
        """Raises `TooManySkipped` at the end, where more are bad than may be."""
        place = 0
        for name, file in zip(told_apart(self._files), self._files, strict=True):
            for found in _documents(name, file, self.reading):
                if isinstance(found, Skipped):
                    self.ledger.skip(found._replace(place=place))
                else:
                    yield found
                place += 1
        self.ledger.size = place
        self.ledger.check()


def _files(spec: str, ledger: Ledger) -> list[Place]:
    if spec == EMBEDDED:
        return [EMBEDDED_PATH]
    if is_remote(spec):
        files: Sequence[Place] = find_remote(spec)
    elif Path(spec).is_dir():
        files = sorted(path for path in Path(spec).rglob("*") if path.is_file())
        hidden = [path for path in files if any(part.startswith(".") for part in path.relative_to(spec).parts)]
        others = [path for path in files if path not in hidden and not _kind(path.name)]
        for rule, passed in ((HIDDEN, hidden), ("names of other kinds of files", others)):
            for path in passed:
                ledger.pass_over(rule, path.relative_to(spec).as_posix())
        files = [path for path in files if path not in hidden and path not in others]
    else:
        files = sorted(map(Path, iglob(spec, recursive=True))) if has_magic(spec) else [Path(spec)]
        if not all(isinstance(path, Path) and path.exists() for path in files):
            raise FileNotFoundError(f"no file or folder {spec}: {ADVICE}")
    if unknown := [file.name for file in files if not _kind(file.name)]:
        raise ValueError(f"{spec} names {', '.join(unknown[:3])}, which is no text that is read: {ADVICE}")
    if not files:
        raise ValueError(f"{spec} holds no text: {ADVICE}.{ledger.what_was_seen()}")
    return list(files)


def _kind(name: str) -> tuple[str, ...] | None:
    """The suffixes of a file's kind, None for another."""
    lower = name.lower()
    bare = next((lower.removesuffix(packed) for packed in PACKED if lower.endswith(packed)), lower)
    kinds = (TEXTS, LINES) if bare != lower else (TEXTS, LINES, TABLES)
    return next((kind for kind in kinds if bare.endswith(kind)), None)


def _documents(name: str, file: Place, reading: Reading) -> Iterator[Document | Skipped]:
    """Those of one file; what breaks off in it is one that is skipped."""
    try:
        if _kind(file.name) == TABLES:
            yield from _of_table(name, file, reading)
            return
        with _unpacked(file) as stream:
            if _kind(file.name) == TEXTS:
                data = _whole(stream)
                yield _made(name, lambda: _text(data))
            else:
                yield from _of_lines(name, stream, reading)
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        yield Skipped(name, "file_damaged", f"it breaks off or is damaged: {error}")
    except (BadExample, OSError) as error:
        found = error if isinstance(error, BadExample) else BadExample("file_unreadable", str(error))
        yield Skipped(name, found.reason, found.detail)


@contextlib.contextmanager
def _unpacked(file: Place) -> Iterator[BinaryIO]:
    with io.BufferedReader(Stream(opened(file)), PART_BYTES) as stream:
        suffix = Path(file.name).suffix.lower()
        if suffix not in PACKED:
            yield stream
            return
        with PACKED[suffix](stream) as unpacked:
            yield unpacked


def _of_lines(name: str, stream: BinaryIO, reading: Reading) -> Iterator[Document | Skipped]:
    for number, (_, length, line) in enumerate(lines_of(stream, MAX_BYTES), 1):
        if line.strip():
            yield _of_line(f"{name}, line {number}", line, length, reading)


def _of_line(name: str, line: bytes, length: int, reading: Reading) -> Document | Skipped:
    if length > MAX_BYTES:
        return Skipped(name, "text_too_large", f"{length:,} bytes, at most {MAX_BYTES:,}")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Skipped(name, "json_damaged", str(error))
    if not isinstance(row, dict):
        return Skipped(name, "json_damaged", f"a {type(row).__name__} stands where an object was expected")
    return _of_row(name, row, reading)


def _of_row(name: str, row: dict[str, Any], reading: Reading) -> Document | Skipped:
    fields = reading.captions_in(TEXT_FIELDS)
    text = next((row[field] for field in fields if row.get(field) is not None), None)
    key = next((str(row[field]) for field in KEY_FIELDS if isinstance(row.get(field), str | int)), name)

    def checked() -> str:
        if not isinstance(text, str):
            raise BadExample("text_missing", f"no text in {' or '.join(fields)}, and there are {', '.join(row)}"[:300])
        return text

    return _made(key, checked)


def _of_table(name: str, file: Place, reading: Reading) -> Iterator[Document | Skipped]:
    pyarrow, number = pyarrow_module(), 0
    try:
        table = pyarrow.parquet.ParquetFile(pyarrow.PythonFile(Stream(opened(file))))
        wanted = {*reading.captions_in(TEXT_FIELDS), *KEY_FIELDS}
        columns = [column for column in table.schema_arrow.names if column in wanted]
        for batch in table.iter_batches(ROWS_AT_ONCE, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield _of_row(f"{name}, row {number}", row, reading)
    except pyarrow.ArrowException as error:
        yield Skipped(name, "file_damaged", str(error).partition("\n")[0])


def _whole(stream: BinaryIO) -> bytes:
    """All that a file unpacks to, but no more than is too much; read to its end, as what is cut short says so there."""
    parts, size = [], 0
    while size <= MAX_BYTES and (part := stream.read(PART_BYTES)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _text(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise BadExample("text_too_large", f"more than {MAX_BYTES:,} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadExample("text_not_utf8", f"{error}. Save it as UTF-8.") from None


def _made(key: str, text: Any) -> Document | Skipped:
    try:
        document = Document(key, text())
    except BadExample as error:
        return Skipped(key, error.reason, error.detail)
    return document if document.text.strip() else Skipped(key, "text_empty", "nothing but white space")
