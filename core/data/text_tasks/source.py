"""Labelled texts as a source: the rows of a task's files, each an example or the reason why it is none."""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from diptych.core.data.ledger import Ledger
from diptych.core.data.records import BadExample
from diptych.core.data.sources.captions import MAX_CAPTION_FILE_BYTES
from diptych.core.data.sources.files import lines_of, read_regular_file, told_apart
from diptych.core.data.text_tasks.formats import Format
from diptych.core.data.text_tasks.task import TextExample, TextTask
from diptych.core.files.regular import open_regular

RACE_LETTERS = "ABCD"


@dataclass(frozen=True)
class Row:
    """What one example is made of: what it is called, and its fields, or the `BadExample` that reading it raised."""

    name: str
    fields: Any


class TextSource:
    """Examples of a task in a fixed order.

    Args:
        name: of the data, for people.
        task: what the examples are of.
        rows: what they are made of.
        example: makes one; raises `BadExample`.
        fingerprint: a hash of what the rows hold.
        max_skipped: see `Ledger`.
    """

    def __init__(
        self,
        name: str,
        task: TextTask,
        rows: Sequence[Row],
        example: Callable[[Row], TextExample],
        *,
        fingerprint: str,
        max_skipped: float = 1.0,
    ):
        self.name, self.task, self._rows, self._example = name, task, rows, example
        self._fingerprint = fingerprint
        self.ledger = Ledger(name, len(rows), max_skipped)

    def __len__(self) -> int:
        return len(self._rows)

    def record(self, index: int) -> TextExample:
        """The example of a row; raises `BadExample` for one that the task cannot use."""
        row = self._rows[index]
        if isinstance(row.fields, BadExample):
            raise row.fields
        example = self._example(row)
        example.check(self.task)
        return example

    def record_name(self, index: int) -> str:
        """The file, and the line or question in it."""
        return self._rows[index].name

    def fingerprint(self) -> str:
        """A hash of the rows and the task."""
        return hashlib.sha256(f"{self._fingerprint} {self.task}".encode()).hexdigest()


def read_texts(form: Format, paths: Sequence[Path], *, max_skipped: float = 1.0) -> TextSource:
    """The examples in files of a format, in the order of the files.

    Raises:
        ValueError: for a file that cannot be read, has none of the columns, or no row.
    """
    rows: list[Row] = []
    digest = hashlib.sha256()
    names = told_apart(paths)
    reader = {"tsv": _tsv_rows, "csv": _csv_rows, "jsonl": _json_rows, "race": _race_rows}[form.kind]
    for path, name in zip(paths, names, strict=True):
        try:
            rows += reader(form, path, name)
            with open_regular(path) as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except (OSError, BadExample) as error:
            raise ValueError(f"{path} cannot be read as {form.kind} of the task {form.task.name}: {error}") from None
    if not rows:
        raise ValueError(
            f"{paths[0]}{' and the files beside it hold' if len(paths) > 1 else ' holds'} no example of the task "
            f"{form.task.name}: expected a row for each, of {form.kind}."
        )
    made = _of_race if form.kind == "race" else partial(_of_fields, form)
    name = names[0] if len(paths) == 1 else str(Path(paths[0]).parent)
    return TextSource(name, form.task, rows, made, fingerprint=digest.hexdigest(), max_skipped=max_skipped)


def _lines(path: Path) -> Iterator[tuple[int, str | BadExample]]:
    """Number from 1 and text of each line that is not blank, without its end; or why it has none."""
    with open_regular(path) as file:
        for number, (_, length, data) in enumerate(lines_of(file, MAX_CAPTION_FILE_BYTES + 1), 1):
            if length > MAX_CAPTION_FILE_BYTES:
                yield number, BadExample("row_too_long", f"{length:,} bytes, at most {MAX_CAPTION_FILE_BYTES:,}")
                continue
            try:
                text = data.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                yield number, BadExample("row_not_utf8", str(error))
                continue
            if text.strip():
                yield number, text


def _tsv_rows(form: Format, path: Path, name: str) -> Iterator[Row]:
    yield from _table_rows(form, path, name, ((number, line) for number, line in _lines(path)))


def _csv_rows(form: Format, path: Path, name: str) -> Iterator[Row]:
    data = read_regular_file(path, kind="texts", max_bytes=1 << 30)
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        rows = [(reader.line_num, cells) for cells in reader if cells]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadExample("not_csv", str(error)) from None
    yield from _table_rows(form, path, name, iter(rows))


def _table_rows(form: Format, path: Path, name: str, rows: Iterator[tuple[int, Any]]) -> Iterator[Row]:
    columns: list[str] | None = None
    wanted = [*form.texts, *form.answers, form.label]
    for number, found in rows:
        called = f"{name}:{number}"
        if isinstance(found, BadExample):
            yield Row(called, found)
            continue
        cells = found.split("\t") if isinstance(found, str) else found
        if columns is None:
            columns = cells if form.has_header else [str(place) for place in range(len(cells))]
            if missing := [str(column) for column in wanted if str(column) not in columns]:
                raise BadExample(
                    "column_missing", f"there is no column {', '.join(missing)}; there are {', '.join(columns)[:300]}"
                )
            if form.has_header:
                continue
        if len(cells) != len(columns):
            yield Row(called, BadExample("row_columns", f"{len(cells)} cells, and {len(columns)} columns"))
            continue
        kept = dict(zip(columns, cells, strict=True))
        yield Row(called, {str(column): kept[str(column)] for column in wanted})


def _json_rows(form: Format, path: Path, name: str) -> Iterator[Row]:
    for number, line in _lines(path):
        fields: Any = line
        if isinstance(line, str):
            try:
                fields = json.loads(line)
            except (ValueError, RecursionError) as error:
                fields = BadExample("row_not_json", str(error))
            else:
                if not isinstance(fields, dict):
                    fields = BadExample("row_not_json", f"expected an object, got {type(fields).__name__}")
                else:
                    fields = {str(column): fields.get(column) for column in (*form.texts, form.label)}
        yield Row(f"{name}:{number}", fields)


def _race_rows(form: Format, path: Path, name: str) -> Iterator[Row]:
    try:
        fields = json.loads(read_regular_file(path, kind="article", max_bytes=MAX_CAPTION_FILE_BYTES))
        parts = [fields[part] for part in ("article", "questions", "options", "answers")]
        article, *lists = parts
        if not isinstance(article, str) or not all(isinstance(one, list) for one in lists):
            raise TypeError("article is a text, and questions, options and answers are lists")
        if len({len(one) for one in lists}) != 1:
            raise TypeError(f"{len(lists[0])} questions, {len(lists[1])} lists of options, {len(lists[2])} answers")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        yield Row(name, BadExample("article_unreadable", str(error)))
        return
    for number, (question, options, answer) in enumerate(zip(*lists, strict=True)):
        yield Row(f"{name}:{number}", {"article": article, "question": question, "options": options, "answer": answer})


def _of_race(row: Row) -> TextExample:
    fields = row.fields
    letter, options = fields["answer"], fields["options"]
    if not isinstance(options, list) or letter not in RACE_LETTERS[: len(options)] or len(str(letter)) != 1:
        raise BadExample("label_unknown", f"{str(letter)[:100]!r} is none of the letters of its options")
    texts = _as_text("article", fields["article"]), _as_text("question", fields["question"])
    answers = tuple(_as_text("option", option) for option in options)
    return TextExample(row.name, texts, answers, str(RACE_LETTERS.index(letter)))


def _of_fields(form: Format, row: Row) -> TextExample:
    fields = {name: _as_text(name, value) for name, value in row.fields.items()}
    label = fields[str(form.label)].strip()
    if label in form.unlabelled:
        raise BadExample("label_missing", f"{label!r} says that nobody agreed on one")
    if form.answers_from and label.isdigit():
        label = str(int(label) - form.answers_from)
    label = (form.names or {}).get(label, label)
    texts = tuple(fields[str(column)] for column in form.texts)
    texts = (" ".join(texts),) if form.joined else texts
    return TextExample(row.name, texts, tuple(fields[str(column)] for column in form.answers), label)


def _as_text(name: str, value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise BadExample("text_missing", f"{name} is {type(value).__name__}, and a text is needed")
    return value
