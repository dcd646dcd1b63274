"""The folder that embeddings are kept in: what its files are, and reading them.

    index.json        the card: model, data, their fingerprints, how many rows, whether it is finished
    vectors.npy       [images, dim], L2-normalised, float16 or float32; zeros for an image that could not be used
    rows.parquet      one row an image, in the same order: key, caption, image, language, status, ...
    text_vectors.npy, text_rows.parquet   the same for captions

Without pyarrow, and while embedding goes on, the rows are in rows.jsonl. An unfinished folder can be read too: it holds
what the card says.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, NotRequired, TypedDict, cast

import numpy as np

from diptych.core.data.sources.reading import Reading
from diptych.core.data.sources.tables import pyarrow_module
from diptych.core.files.errors import Failure
from diptych.engine.embedding.image_stream import GOOD, Item

FORMAT = 1
CARD = "index.json"
DTYPES = ("float16", "float32")
ROWS_A_GROUP = 10_000

Part = Literal["images", "texts"]
VECTORS: dict[Part, str] = {"images": "vectors.npy", "texts": "text_vectors.npy"}
ROWS: dict[Part, str] = {"images": "rows", "texts": "text_rows"}


class IndexedData(TypedDict):
    """What an index is of."""

    model: str
    model_fingerprint: str
    data: str  # what was opened, or a name for people
    data_fingerprint: str
    dim: int
    dtype: str
    records: NotRequired[int]
    logit_scale: NotRequired[float]
    logit_bias: NotRequired[float | None]
    reading: NotRequired[Any]  # how the data were read: the fields of `Reading`, by name
    normalised: NotRequired[bool]


class PartProgress(TypedDict):
    """How far a part is embedded."""

    rows: int
    rows_bytes: int  # of the file of lines
    next: list[int]  # record and number of the item to go on with
    skipped: dict[str, int]  # rows without an embedding, by reason
    finished: bool
    rows_file: str


class IndexCard(IndexedData):
    """The card of an index folder."""

    format: int
    count: int  # rows of images
    finished: bool  # whether all parts are
    images: NotRequired[PartProgress]
    texts: NotRequired[PartProgress]


class IndexFolderError(Failure):
    """The folder cannot be used; the message says why, and what to do."""


class IndexFolder:
    """Reads an index folder. Raises `IndexFolderError` where there is none, or not one that can be read."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        card = read_card(self.path)
        if card is None:
            raise IndexFolderError(
                f"{self.path} holds no {CARD}: make an index first, python -m recipes.embed --index {self.path}"
            )
        self.card = card

    @property
    def reading(self) -> Reading:
        """How the data were read."""
        return Reading(**self.card.get("reading", {}))

    def has(self, part: Part) -> bool:
        """Whether the part was embedded, at least to some extent."""
        return part in self.card

    def vectors(self, part: Part = "images") -> np.ndarray:
        """[rows, dim], memory-mapped; a float16 or float32 array that cannot be written to."""
        path, count = self.path / VECTORS[part], self.count(part)
        if not count:
            return np.zeros((0, self.card["dim"]), self.card["dtype"])
        try:
            vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise IndexFolderError(f"{path} cannot be read: {error}. Delete {self.path} and embed anew.") from None
        expected = (self.card["dim"], np.dtype(self.card["dtype"]))
        if vectors.ndim != 2 or (vectors.shape[1], vectors.dtype) != expected or len(vectors) < count:
            raise IndexFolderError(
                f"{path} is {vectors.dtype}{list(vectors.shape)}, and {CARD} speaks of {self.card['dtype']}"
                f"{[count, self.card['dim']]}: the folder is damaged. Delete {self.path} and embed anew."
            )
        return vectors[:count]

    def count(self, part: Part = "images") -> int:
        """Rows of the part, those that could not be used included."""
        return self.card[part]["rows"]

    def usable(self, part: Part = "images") -> np.ndarray | None:
        """bool [rows], False for rows without an embedding; None where all have one."""
        if not self.card[part]["skipped"]:
            return None
        return np.array([status == GOOD for status in self.column("status", part)], bool)

    def undecided(self, part: Part = "images") -> list[Item]:
        """The rows that decide what a ledger says of the data, in their order: all of each record of which some cannot
        be used, and of the last record, which may go on.
        """
        count, (_, numbers) = self.count(part), self.card[part]["next"]
        wanted = set(range(count - numbers, count))
        if (usable := self.usable(part)) is not None:
            records = np.array(self.column("record", part), np.int64)
            wanted.update(np.flatnonzero(np.isin(records, records[~usable])).tolist())
        return self.rows(sorted(wanted), part)

    def rows(self, indices: Sequence[int], part: Part = "images") -> list[Item]:
        """What the rows at `indices` are, in that order."""
        wanted = sorted(set(indices))
        path = self._rows_path(part)
        found = dict(_rows_of_parquet(path, wanted) if path.suffix == ".parquet" else _rows_of_lines(path, wanted))
        if len(found) < len(wanted):
            raise IndexFolderError(f"{path} ends before row {wanted[-1]}. Delete {self.path} and embed anew.")
        return [found[index] for index in indices]

    def column(self, name: str, part: Part = "images") -> list[Any]:
        """One field of all rows, such as "status" or "record"."""
        path, count = self._rows_path(part), self.count(part)
        if path.suffix == ".parquet":
            return pyarrow_module().parquet.read_table(path, columns=[name]).column(name).to_pylist()[:count]
        with path.open("rb") as file:
            return [json.loads(line)[name] for line in islice(file, count)]

    def _rows_path(self, part: Part) -> Path:
        return self.path / self.card[part]["rows_file"]


def read_card(folder: Path) -> IndexCard | None:
    """The card of a folder, None where there is none; raises `IndexFolderError` for what is not such a card."""
    path = folder / CARD
    try:
        card = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise IndexFolderError(f"{path} cannot be read as JSON: {error}. Give another --index.") from None
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        stored = card.get("format") if isinstance(card, dict) else None
        raise IndexFolderError(f"{path} has format {stored!r}, expected {FORMAT}. Embed anew into another --index.")
    return cast(IndexCard, card)


def write_parquet(lines: Path, table: BinaryIO) -> None:
    """The rows of a .jsonl file as Parquet, some thousands at a time; raises ImportError without pyarrow."""
    pyarrow = pyarrow_module()
    whole = ("record", "number")
    schema = pyarrow.schema(
        [(field.name, pyarrow.int64() if field.name in whole else pyarrow.string()) for field in fields(Item)]
    )
    with lines.open("rb") as file, pyarrow.parquet.ParquetWriter(table, schema, compression="zstd") as writer:
        while rows := [json.loads(line) for line in islice(file, ROWS_A_GROUP)]:
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema), row_group_size=ROWS_A_GROUP)


def line_of(item: Item) -> bytes:
    """An item as a line of a .jsonl file."""
    return json.dumps(asdict(item)).encode() + b"\n"


def _rows_of_lines(path: Path, wanted: Sequence[int]) -> Iterable[tuple[int, Item]]:
    left = set(wanted)
    with path.open("rb") as file:
        for number, line in enumerate(file):
            if number in left:
                yield number, Item(**json.loads(line))
                left.remove(number)
            if not left:
                return


def _rows_of_parquet(path: Path, wanted: Sequence[int]) -> Iterable[tuple[int, Item]]:
    """Only the groups that hold a wanted row are read."""
    with pyarrow_module().parquet.ParquetFile(path) as file:
        first = 0
        for group in range(file.metadata.num_row_groups):
            last = first + file.metadata.row_group(group).num_rows
            here = [index for index in wanted if first <= index < last]
            if here:
                table = file.read_row_group(group)
                for index in here:
                    yield (
                        index,
                        Item(**{name: table.column(name)[index - first].as_py() for name in table.column_names}),
                    )
            first = last
