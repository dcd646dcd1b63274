"""The base of sources whose records are rows of tables, which are described once and read by groups of rows."""

import hashlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, ClassVar

from diptych.core.data.ledger import Ledger, Skipped, tried
from diptych.core.data.records import BadExample, Record
from diptych.core.data.sources.captions import TEXT_FIELDS, captions_from_fields
from diptych.core.data.sources.files import (
    SAMPLED_BYTES,
    SAMPLED_IMAGES,
    evenly,
    place_of_file,
    sampled_part,
    told_of_file,
)
from diptych.core.data.sources.keys import UniqueKeys, hashed
from diptych.core.data.sources.labels import LABEL_FIELDS, labels_from_fields
from diptych.core.data.sources.reading import AS_USUAL, Reading
from diptych.core.data.sources.tables import (
    KEY_COLUMNS,
    caption_columns,
    distinct_keys,
    image_bytes,
    key_of_row,
    label_columns,
    label_names,
    pyarrow_module,
)
from diptych.core.files.beginnings import refuse_mistaken
from diptych.core.files.errors import WeightFileError
from diptych.core.files.random_access import Place, RandomAccess, opened
from diptych.core.files.remote.file import RemoteFile

SAMPLED_GROUPS = 32
_MEGABYTE = 1_000_000
_SAMPLED_FILES = 64

Group = tuple[int, int]
"""A row group or record batch by its number, and the first of its rows."""


class TableSource:
    """One record a row: an image column (encoded bytes, or {"bytes", "path"}), captions (see
    `captions.captions_from_fields`) and labels (see `labels.labels_from_fields`).

    Rows are read by group: rows of a row group of Parquet, a record batch of Arrow. Subclasses say which groups a file
    has, how many rows each, and how it is read. An order at random visits the groups at random, so those last used are
    kept, up to `megabytes`.

    A file that cannot be read, is another than its name says, or is too large is one record that raises `BadExample`
    (table_unreadable, table_mistaken, table_too_large).

    Raises:
        ValueError: no file is of use, or they differ in their columns, or have no rows.
    """

    kind: ClassVar[str]
    """The name of the format, as `beginnings` has it."""

    def __init__(self, paths: Sequence[str | Place], *, megabytes: float = 512, reading: Reading = AS_USUAL):
        self.paths = [place_of_file(path) for path in paths]
        if not self.paths:
            raise ValueError(f"{type(self).__name__} needs at least one file")
        self.megabytes = megabytes
        self._groups: list[tuple[int, Group]] = []  # file, group within the file
        self._refused: dict[int, Skipped] = {}  # files of no use, each of which counts as one row
        lengths: list[int] = []
        rows_of_files: list[int] = []
        columns: set[tuple[str, ...]] = set()
        for number, path in enumerate(self.paths):
            described = tried(path.name, self._described, path)
            if isinstance(described, Skipped):
                self._refused[number] = described
                groups = {(0, 0): 1}
            else:
                groups, names = described
                columns.add(tuple(names))
            self._groups += [(number, group) for group in groups]
            lengths += groups.values()
            rows_of_files.append(sum(groups.values()))
        if not columns:
            raise ValueError(self._refused[0].detail)
        self.image_column, self._other_columns = caption_columns(sorted(columns)[0], self.paths[0].name, reading)
        self._text_columns, self._label_fields = reading.captions_in(TEXT_FIELDS), reading.labels_in(LABEL_FIELDS)
        self._label_columns = label_columns(sorted(columns)[0], reading)
        readable = next(path for number, path in enumerate(self.paths) if number not in self._refused)
        self.class_names = label_names(self._schema(readable).metadata, self._label_columns)
        for other in columns:
            if caption_columns(other, "another file of the data set", reading) != (
                self.image_column,
                self._other_columns,
            ):
                raise ValueError(
                    f"the files of one data set differ in their columns: {' and '.join(map(str, columns))}"
                )
        self._ends, self._ends_of_files = list(accumulate(lengths)), list(accumulate(rows_of_files))
        if sum(lengths) == len(self._refused):
            raise ValueError(f"{self.paths[0]} and the files beside it hold no rows")
        self._tables: OrderedDict[int, Any] = OrderedDict()
        self.ledger = Ledger(self.paths[0].name, len(self), reading.max_skipped)
        self._unique = UniqueKeys(lambda: hashed(self._all_keys()))

    def __len__(self) -> int:
        return self._ends[-1]

    def record(self, index: int) -> Record:
        """The record's key is the row's key or id, else the image's path, else "<file>:<row>"; the row is added where
        an earlier one has the same.
        """
        group = bisect_right(self._ends, index)
        row = index - (self._ends[group - 1] if group else 0)
        table = self._table(group, row)
        fields = {name: table.column(name)[row].as_py() for name in (*self._other_columns, *self._label_columns)}
        key = key_of_row(fields, self._image_path(table, row))
        key = self.record_name(index) if key is None else self._unique.key(key, index)
        labels = labels_from_fields(fields, self._label_fields, self.class_names)
        return Record(key, ((group, row),), captions_from_fields(fields, self._text_columns), labels=labels)

    def record_name(self, index: int) -> str:
        """The file, and the row in all of them."""
        file, _ = self._groups[bisect_right(self._ends, index)]
        return f"{self.paths[file].name}:{index}"

    def read(self, reference: tuple[int, int]) -> bytes:
        """The bytes of an image, given (number of the group, row in it)."""
        group, row = reference
        return image_bytes(self._table(group, row).column(self.image_column)[row].as_py())

    def fingerprint(self) -> str:
        """Hash of the columns that are read, of the files' names, sizes and numbers of rows, and of what some evenly
        chosen parts of them hold.
        """
        sizes = [told_of_file(path) for path in self.paths]
        digest = hashlib.sha256(repr((self.image_column, self._other_columns, sizes, self._ends_of_files)).encode())
        for number, path in evenly(list(enumerate(self.paths)), _SAMPLED_FILES):
            if number in self._refused or isinstance(path, RemoteFile):
                continue
            file = opened(path)
            for offset, length in blocks(file.size):
                digest.update(sampled_part(file, offset, length))
            for part in self._text_samples(path, file):
                digest.update(part)
        return digest.hexdigest()

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_tables": OrderedDict()}

    @property
    def _columns(self) -> list[str]:
        """All that are read."""
        return [self.image_column, *self._other_columns, *self._label_columns]

    def _schema(self, path: Place) -> Any:
        """The Arrow schema of a file."""
        raise NotImplementedError

    def _described(self, path: Place) -> tuple[dict[Group, int], list[str]]:
        """As `_describe`; raises `BadExample` (table_mistaken, table_unreadable) for a file of no use."""
        try:
            refuse_mistaken(path, self.kind)
            return self._describe(path)
        except WeightFileError as error:
            raise BadExample("table_mistaken", str(error)) from None
        except (OSError, pyarrow_module().ArrowException) as error:
            raise BadExample("table_unreadable", f"{path} cannot be read as a table: {error}") from None

    def _describe(self, path: Place) -> tuple[dict[Group, int], list[str]]:
        """The groups in their order with the rows of each, and the names of the columns; raises `BadExample`
        (table_too_large) for a file whose groups are beyond reason.
        """
        raise NotImplementedError

    def _load(self, path: Place, group: Group) -> Any:
        """One group as an Arrow table with the image column and the others."""
        raise NotImplementedError

    def _pieces_of_keys(self, path: Place) -> Iterator[tuple[int, Any]]:
        """Parts of a file as (number of its first row, record batch of the columns of keys and, where images are
        {"bytes", "path"}, of at least these paths).
        """
        raise NotImplementedError

    def _text_samples(self, path: Place, file: RandomAccess) -> Iterator[bytes]:
        """What some evenly chosen parts of a file's captions hold, among images that are far larger."""
        raise NotImplementedError

    def _all_keys(self) -> Iterator[tuple[str, int]]:
        pyarrow = pyarrow_module()
        for number, (begin, path) in enumerate(zip([0, *self._ends_of_files], self.paths, strict=False)):
            for row, batch in self._pieces_of_keys(path) if number not in self._refused else ():
                columns = {name: batch.column(name) for name in self._key_columns}
                paths = None
                if self.image_column in batch.schema.names and has_paths(batch.schema.field(self.image_column).type):
                    paths = pyarrow.compute.struct_field(batch.column(self.image_column), "path")
                yield from distinct_keys(columns, paths, begin + row)

    def _table(self, group: int, row: int) -> Any:
        """A group as a table that has the row."""
        file, part = self._groups[group]
        if file in self._refused:
            raise BadExample(self._refused[file].reason, self._refused[file].detail)
        table = self._tables.get(group)
        if table is None:
            try:
                table = self._load(self.paths[file], part)
            except (OSError, ValueError, pyarrow_module().ArrowException) as error:
                raise BadExample("table_damaged", f"{self.paths[file].name}, group {part[0]}: {error}") from None
            self._tables[group] = table
            while len(self._tables) > 1 and self._held_bytes() > self.megabytes * _MEGABYTE:
                self._tables.popitem(last=False)
        else:
            self._tables.move_to_end(group)
        if row >= table.num_rows:
            raise BadExample(
                "table_damaged", f"{self.paths[file].name}, group {part[0]}: it has fewer rows than the file says"
            )
        return table

    def _held_bytes(self) -> int:
        return sum(table.nbytes for table in self._tables.values())

    def _image_path(self, table: Any, row: int) -> str | None:
        cell = table.column(self.image_column)[row]
        if not pyarrow_module().types.is_struct(cell.type) or not cell.is_valid or "path" not in list(cell):
            return None
        return cell["path"].as_py()  # of the path alone: the image bytes beside it would be copied for nothing

    @property
    def _key_columns(self) -> list[str]:
        return [name for name in self._other_columns if name in KEY_COLUMNS]


def has_paths(images: Any) -> bool:
    """Whether the values of an Arrow type have a path."""
    return pyarrow_module().types.is_struct(images) and images.get_field_index("path") >= 0


def blocks(size: int) -> list[tuple[int, int]]:
    """(offset, length) of parts of a file of so many bytes, evenly chosen."""
    return [(offset, SAMPLED_BYTES) for offset in evenly(range(0, size, SAMPLED_BYTES), SAMPLED_IMAGES)]
