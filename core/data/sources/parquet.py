"""Parquet and Arrow files as a source with random access, Hugging Face data sets in either form among them."""

import contextlib
import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from diptych.core.data.records import BadExample
from diptych.core.data.sources.files import evenly, file_size, sampled_part
from diptych.core.data.sources.reading import AS_USUAL, Reading
from diptych.core.data.sources.table_source import SAMPLED_GROUPS, Group, TableSource, blocks, has_paths
from diptych.core.data.sources.tables import pyarrow_module
from diptych.core.files.random_access import Place, RandomAccess, Stream
from diptych.core.files.remote.file import RemoteFile

MAX_ROWS = 1_000_000_000  # of a group
ROWS_AT_ONCE = 65_536
MOST_DICTIONARY_BYTES = 1 << 30  # Arrow's dictionaries end at 2 GiB; what is larger than this is no small file
MAX_EXPANSION = 20  # encoded pictures do not shrink, texts to a fifth
MIN_UNPACKED_BYTES = 64_000_000  # which are harmless at any ratio


class ParquetSource(TableSource):
    """Parquet files, such as the ones data sets on the Hugging Face hub consist of.

    A row group may have millions of rows that a few kilobytes describe: it is read in pieces of `ROWS_AT_ONCE`, and
    values that the file holds once are held once. A file with row groups that would unpack to far more than its size is
    of no use.
    """

    kind = "Parquet"

    def _schema(self, path: Place) -> Any:
        return _parquet_metadata(path).schema.to_arrow_schema()

    def _describe(self, path: Place) -> tuple[dict[Group, int], list[str]]:
        with _parquet_file(path) as file:
            metadata = file.metadata
            groups: dict[Group, int] = {}
            allowed = max(MIN_UNPACKED_BYTES, MAX_EXPANSION * file_size(path))
            for number in range(metadata.num_row_groups):
                group = metadata.row_group(number)
                if group.num_rows > MAX_ROWS:
                    raise BadExample(
                        "table_too_large",
                        f"{path}: row group {number} has {group.num_rows:,} rows, at most {MAX_ROWS:,}",
                    )
                if group.total_byte_size > allowed:
                    raise BadExample(
                        "table_too_large",
                        f"{path}: row group {number} would unpack to {group.total_byte_size:,} bytes, at most "
                        f"{allowed:,} are plausible for the file's size",
                    )
                for start in range(0, group.num_rows, ROWS_AT_ONCE):
                    groups[number, start] = min(ROWS_AT_ONCE, group.num_rows - start)
            return groups, file.schema_arrow.names

    def _pieces_of_keys(self, path: Place) -> Iterator[tuple[int, Any]]:
        metadata = _parquet_metadata(path)
        images = metadata.schema.to_arrow_schema().field(self.image_column).type
        wanted = [*self._key_columns, *([f"{self.image_column}.path"] if has_paths(images) else [])]
        begin = 0
        for number in range(metadata.num_row_groups) if wanted else ():
            row = begin
            # A damaged group has no keys: its rows are bad when they are asked for.
            with contextlib.suppress(OSError, pyarrow_module().ArrowException):
                for batch in self._rows(path, metadata, number, wanted):
                    yield row, batch
                    row += batch.num_rows
            begin += metadata.row_group(number).num_rows

    def _text_samples(self, path: Place, file: RandomAccess) -> Iterator[bytes]:
        metadata = _parquet_metadata(path)
        for group in evenly(range(metadata.num_row_groups), SAMPLED_GROUPS):
            for number in range(metadata.num_columns):
                column = metadata.row_group(group).column(number)
                if column.path_in_schema.partition(".")[0] in self._text_columns:
                    start = column.dictionary_page_offset or column.data_page_offset
                    for offset, length in blocks(column.total_compressed_size):
                        yield sampled_part(file, start + offset, length)

    def _load(self, path: Place, group: Group) -> Any:
        number, start = group
        pieces, place = [], 0
        metadata, columns = _parquet_metadata(path), self._columns
        with contextlib.closing(self._rows(path, metadata, number, columns)) as batches:
            for batch in batches:
                first, stop = max(start - place, 0), min(start + ROWS_AT_ONCE - place, batch.num_rows)
                if first < stop:
                    pieces.append(batch.slice(first, stop - first))
                place += batch.num_rows
                if place >= start + ROWS_AT_ONCE:
                    break
        return pyarrow_module().Table.from_batches(pieces)

    def _rows(self, path: Place, metadata: Any, number: int, columns: list[str]) -> Generator[Any, None, None]:
        """The rows of a row group, `ROWS_AT_ONCE` at a time, in which equal texts and pictures are held once."""
        chunks = [metadata.row_group(number).column(column) for column in range(metadata.num_columns)]
        repeated = [
            chunk.path_in_schema
            for chunk in chunks
            if chunk.physical_type == "BYTE_ARRAY" and chunk.total_uncompressed_size < MOST_DICTIONARY_BYTES
        ]
        with _parquet_file(path, metadata=metadata, read_dictionary=repeated) as file:
            yield from file.iter_batches(ROWS_AT_ONCE, row_groups=[number], columns=columns, use_threads=False)


@contextlib.contextmanager
def _parquet_file(path: Place, **options: Any) -> Iterator[Any]:
    """A Parquet file as pyarrow has it, which encodes names as UTF-8 itself where they are not bytes already."""
    with (
        _arrow_file(path) as file,
        pyarrow_module().parquet.ParquetFile(file, **options) as read,
    ):
        yield read


def _arrow_file(path: Place) -> Any:
    """A file as pyarrow reads it; of this machine by itself, since it needs no Python for that."""
    pyarrow = pyarrow_module()
    return pyarrow.PythonFile(Stream(path)) if isinstance(path, RemoteFile) else pyarrow.OSFile(os.fsencode(path))


def _parquet_metadata(path: Place) -> Any:
    with _parquet_file(path) as file:
        return file.metadata


class ArrowSource(TableSource):
    """Arrow files as `datasets.Dataset.save_to_disk` writes them; mapped into memory, so that all groups can be
    kept.
    """

    kind = "Arrow"

    def __init__(self, paths: Sequence[str | Path], *, reading: Reading = AS_USUAL):
        self._mapped: dict[Place, tuple[list[Any], Any]] = {}
        super().__init__(paths, reading=reading)

    def __getstate__(self) -> dict:
        return super().__getstate__() | {"_mapped": {}}

    def _describe(self, path: Place) -> tuple[dict[Group, int], list[str]]:
        batches, schema = self._batches(path)
        return {(number, 0): batch.num_rows for number, batch in enumerate(batches)}, schema.names

    def _load(self, path: Place, group: Group) -> Any:
        batches, _ = self._batches(path)
        return pyarrow_module().Table.from_batches([batches[group[0]]])

    def _pieces_of_keys(self, path: Place) -> Iterator[tuple[int, Any]]:
        row = 0
        for batch in self._batches(path)[0]:
            yield row, batch
            row += batch.num_rows

    def _text_samples(self, path: Place, file: RandomAccess) -> Iterator[bytes]:
        for batch in evenly(self._batches(path)[0], SAMPLED_GROUPS):
            columns = [batch.column(name) for name in self._other_columns if name in self._text_columns]
            for buffer in (buffer for column in columns for buffer in column.buffers() if buffer is not None):
                for offset, length in blocks(buffer.size):
                    yield memoryview(buffer)[offset : offset + length].tobytes()

    def _held_bytes(self) -> int:
        return 0

    def _schema(self, path: Place) -> Any:
        return self._batches(path)[1]

    def _batches(self, path: Place) -> tuple[list[Any], Any]:
        if path not in self._mapped:
            pyarrow = pyarrow_module()
            file = pyarrow.memory_map(os.fsencode(str(path)))
            try:
                reader = pyarrow.ipc.open_stream(file)
                batches = list(reader)
            except pyarrow.ArrowInvalid:
                file.seek(0)
                reader = pyarrow.ipc.open_file(file)
                batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
            self._mapped[path] = batches, reader.schema
        return self._mapped[path]
