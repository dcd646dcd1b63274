"""Parquet and Arrow files as a source with random access, Hugging Face data sets in either form among them."""

import contextlib
import hashlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from diptych.core.data.ledger import Ledger
from diptych.core.data.records import BadExample, Record
from diptych.core.data.sources.captions import TEXT_FIELDS, captions_from_fields
from diptych.core.data.sources.files import SAMPLED_BYTES, SAMPLED_IMAGES, OpenFile, evenly, sampled_part
from diptych.core.data.sources.keys import UniqueKeys
from diptych.core.data.sources.reading import AS_USUAL, Reading
from diptych.core.data.sources.tables import KEY_COLUMNS, caption_columns, image_bytes, key_of_row, pyarrow_module

_MEGABYTE = 1_000_000
_SAMPLED_FILES, _SAMPLED_GROUPS = 64, 32


class TableSource:
    """One record a row: an image column (encoded bytes, or {"bytes", "path"}) and captions (see
    `captions.captions_from_fields`).

    Rows are read by group: a row group of Parquet, a record batch of Arrow. Subclasses say how many rows each group has
    and how it is read. An order at random visits the groups at random, so those last used are kept, up to `megabytes`.
    """

    def __init__(self, paths: Sequence[str | Path], *, megabytes: float = 512, reading: Reading = AS_USUAL):
        self.paths = [Path(path).absolute() for path in paths]
        if not self.paths:
            raise ValueError(f"{type(self).__name__} needs at least one file")
        self.megabytes = megabytes
        self._groups: list[tuple[int, int]] = []  # file, group within the file
        lengths: list[int] = []
        columns: set[tuple[str, ...]] = set()
        for number, path in enumerate(self.paths):
            try:
                group_lengths, names = self._describe(path)
            except (OSError, pyarrow_module().ArrowException) as error:
                raise ValueError(f"{path} cannot be read as a table: {error}") from None
            self._groups += [(number, group) for group in range(len(group_lengths))]
            lengths += group_lengths
            columns.add(tuple(names))
        self.image_column, self._other_columns = caption_columns(sorted(columns)[0], self.paths[0].name, reading)
        self._text_columns = reading.captions_in(TEXT_FIELDS)
        for other in columns:
            if caption_columns(other, "another file of the data set", reading) != (
                self.image_column,
                self._other_columns,
            ):
                raise ValueError(
                    f"the files of one data set differ in their columns: {' and '.join(map(str, columns))}"
                )
        self._ends = list(accumulate(lengths))
        if not self._ends or self._ends[-1] == 0:
            raise ValueError(f"{self.paths[0]} and the files beside it hold no rows")
        self._tables: OrderedDict[int, Any] = OrderedDict()
        self.ledger = Ledger(self.paths[0].name, len(self), reading.max_skipped)
        self._unique = UniqueKeys(self._all_keys)

    def __len__(self) -> int:
        return self._ends[-1]

    def record(self, index: int) -> Record:
        """The record's key is the row's key or id, else the image's path, else "<file>:<row>"; the row is added where
        an earlier one has the same.
        """
        group = bisect_right(self._ends, index)
        row = index - (self._ends[group - 1] if group else 0)
        table = self._table(group)
        fields = {name: table.column(name)[row].as_py() for name in self._other_columns}
        key = key_of_row(fields, self._image_path(table, row))
        key = self.record_name(index) if key is None else self._unique.key(key, index)
        return Record(key, ((group, row),), captions_from_fields(fields, self._text_columns))

    def record_name(self, index: int) -> str:
        """The file, and the row in all of them."""
        file, _ = self._groups[bisect_right(self._ends, index)]
        return f"{self.paths[file].name}:{index}"

    def read(self, reference: tuple[int, int]) -> bytes:
        """The bytes of an image, given (number of the group, row in it)."""
        group, row = reference
        return image_bytes(self._table(group).column(self.image_column)[row].as_py())

    def fingerprint(self) -> str:
        """Hash of the columns that are read, of the files' names, sizes and numbers of rows, and of what some evenly
        chosen parts of them hold.
        """
        sizes = [(path.name, path.stat().st_size) for path in self.paths]
        digest = hashlib.sha256(repr((self.image_column, self._other_columns, sizes, self._ends)).encode())
        for (_, size), path in evenly(list(zip(sizes, self.paths, strict=True)), _SAMPLED_FILES):
            file = OpenFile(path)
            for offset, length in _blocks(size):
                digest.update(sampled_part(file.descriptor, offset, length))
            for part in self._text_samples(path, file.descriptor):
                digest.update(part)
        return digest.hexdigest()

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_tables": OrderedDict()}

    def _describe(self, path: Path) -> tuple[list[int], list[str]]:
        """Rows of each group, and the names of the columns."""
        raise NotImplementedError

    def _load(self, path: Path, group: int) -> Any:
        """One group as an Arrow table with the image column and the others."""
        raise NotImplementedError

    def _keys_of(self, path: Path) -> Iterator[tuple[Mapping[str, Any], str | None]]:
        """The key columns and the image's path of each row of a file, without the images."""
        raise NotImplementedError

    def _text_samples(self, path: Path, descriptor: int) -> Iterator[bytes]:
        """What some evenly chosen parts of a file's captions hold, among images that are far larger."""
        raise NotImplementedError

    def _all_keys(self) -> Iterator[str]:
        rows = (row for path in self.paths for row in self._keys_of(path))
        for number, (row, image_path) in enumerate(rows):
            key = key_of_row(row, image_path)
            yield self.record_name(number) if key is None else key

    def _table(self, group: int) -> Any:
        table = self._tables.get(group)
        if table is None:
            file, part = self._groups[group]
            try:
                table = self._load(self.paths[file], part)
            except (OSError, pyarrow_module().ArrowException) as error:
                raise BadExample("table_damaged", f"{self.paths[file].name}, group {part}: {error}") from None
            self._tables[group] = table
            while len(self._tables) > 1 and self._held_bytes() > self.megabytes * _MEGABYTE:
                self._tables.popitem(last=False)
        else:
            self._tables.move_to_end(group)
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


def _blocks(size: int) -> list[tuple[int, int]]:
    """(offset, length) of parts of a file of so many bytes, evenly chosen."""
    return [(offset, SAMPLED_BYTES) for offset in evenly(range(0, size, SAMPLED_BYTES), SAMPLED_IMAGES)]


class ParquetSource(TableSource):
    """Parquet files, such as the ones data sets on the Hugging Face hub consist of."""

    def _describe(self, path: Path) -> tuple[list[int], list[str]]:
        with pyarrow_module().parquet.ParquetFile(path) as file:
            metadata = file.metadata
            lengths = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            return lengths, file.schema_arrow.names

    def _keys_of(self, path: Path) -> Iterator[tuple[Mapping[str, Any], str | None]]:
        with pyarrow_module().parquet.ParquetFile(path) as file:
            column = file.schema_arrow.field(self.image_column)
            paths = pyarrow_module().types.is_struct(column.type) and column.type.get_field_index("path") >= 0
            wanted = [*self._key_columns, *([f"{self.image_column}.path"] if paths else [])]
            for group in range(file.metadata.num_row_groups):
                left = file.metadata.row_group(group).num_rows
                # A damaged group has no keys: its rows are bad when they are asked for.
                with contextlib.suppress(OSError, pyarrow_module().ArrowException):
                    for batch in file.iter_batches(row_groups=[group], columns=wanted, use_threads=False):
                        for row in batch.to_pylist() if wanted else ():
                            yield row, (row.get(self.image_column) or {}).get("path")
                            left -= 1
                yield from (({}, None) for _ in range(left))

    def _text_samples(self, path: Path, descriptor: int) -> Iterator[bytes]:
        with pyarrow_module().parquet.ParquetFile(path) as file:
            metadata = file.metadata
            for group in evenly(range(metadata.num_row_groups), _SAMPLED_GROUPS):
                for number in range(metadata.num_columns):
                    column = metadata.row_group(group).column(number)
                    if column.path_in_schema.partition(".")[0] in self._text_columns:
                        start = column.dictionary_page_offset or column.data_page_offset
                        for offset, length in _blocks(column.total_compressed_size):
                            yield sampled_part(descriptor, start + offset, length)

    def _load(self, path: Path, group: int) -> Any:
        with pyarrow_module().parquet.ParquetFile(path) as file:
            return file.read_row_group(group, columns=[self.image_column, *self._other_columns], use_threads=False)


class ArrowSource(TableSource):
    """Arrow files as `datasets.Dataset.save_to_disk` writes them; mapped into memory, so that all groups can be
    kept.
    """

    def __init__(self, paths: Sequence[str | Path], *, reading: Reading = AS_USUAL):
        self._mapped: dict[Path, tuple[list[Any], Any]] = {}
        super().__init__(paths, reading=reading)

    def __getstate__(self) -> dict:
        return super().__getstate__() | {"_mapped": {}}

    def _describe(self, path: Path) -> tuple[list[int], list[str]]:
        batches, schema = self._batches(path)
        return [batch.num_rows for batch in batches], schema.names

    def _load(self, path: Path, group: int) -> Any:
        batches, _ = self._batches(path)
        return pyarrow_module().Table.from_batches([batches[group]])

    def _keys_of(self, path: Path) -> Iterator[tuple[Mapping[str, Any], str | None]]:
        for batch in self._batches(path)[0]:
            keys = [batch.column(name).to_pylist() for name in self._key_columns]
            images = batch.column(self.image_column)
            place = images.type.get_field_index("path") if pyarrow_module().types.is_struct(images.type) else -1
            paths = images.flatten()[place].to_pylist() if place >= 0 else [None] * batch.num_rows
            for row, image_path in enumerate(paths):
                yield {name: column[row] for name, column in zip(self._key_columns, keys, strict=True)}, image_path

    def _text_samples(self, path: Path, descriptor: int) -> Iterator[bytes]:
        for batch in evenly(self._batches(path)[0], _SAMPLED_GROUPS):
            columns = [batch.column(name) for name in self._other_columns if name in self._text_columns]
            for buffer in (buffer for column in columns for buffer in column.buffers() if buffer is not None):
                for offset, length in _blocks(buffer.size):
                    yield memoryview(buffer)[offset : offset + length].tobytes()

    def _held_bytes(self) -> int:
        return 0

    def _batches(self, path: Path) -> tuple[list[Any], Any]:
        if path not in self._mapped:
            pyarrow = pyarrow_module()
            file = pyarrow.memory_map(str(path))
            try:
                reader = pyarrow.ipc.open_stream(file)
                batches = list(reader)
            except pyarrow.ArrowInvalid:
                file.seek(0)
                reader = pyarrow.ipc.open_file(file)
                batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
            self._mapped[path] = batches, reader.schema
        return self._mapped[path]
