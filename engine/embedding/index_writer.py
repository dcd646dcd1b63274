"""The writer of an index folder, to be stopped at any moment: what its card counts is on the disk."""

import contextlib
import fcntl
import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Literal, Self

import numpy as np

from diptych.core.files.atomic import flush_to_disk, replacing
from diptych.core.files.json_objects import write_json
from diptych.engine.embedding.image_stream import GOOD, Item
from diptych.engine.embedding.index_folder import (
    CARD,
    FORMAT,
    ROWS,
    VECTORS,
    IndexCard,
    IndexedData,
    IndexFolderError,
    Part,
    line_of,
    read_card,
    write_parquet,
)

# What two runs that continue each other must agree on, and what to say where they do not.
IDENTITY: dict[Literal["model_fingerprint", "data_fingerprint", "dtype", "dim"], str] = {
    "model_fingerprint": "The folder holds embeddings of another model",
    "data_fingerprint": "The folder holds embeddings of other data, or the data has changed",
    "dtype": "The folder holds vectors of another --dtype",
    "dim": "The folder holds vectors of another width",
}


class IndexWriter:
    """Owns an index folder while entered: creates it, or goes on where its card says.

    Rows and vectors are appended to two files. `commit` flushes both to the disk and then replaces the card, which
    counts them; after a kill or a power cut everything beyond that count is cut off, so a row is neither lost nor
    written twice.

    Args:
        path: of the folder.
        card: what the embeddings are of. Entering raises `IndexFolderError` where the folder holds something else.
    """

    def __init__(self, path: str | Path, card: IndexedData):
        self.path = Path(path)
        self.card: IndexCard = {"format": FORMAT, **card, "count": 0, "finished": False}
        self._lock: BinaryIO | None = None
        self._part: Part | None = None
        self._vectors: BinaryIO | None = None
        self._rows: BinaryIO | None = None

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / "lock", "ab")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._close()
            raise IndexFolderError(
                f"{self.path} is being written by another process: wait for it, or give another --index."
            ) from None
        except OSError as error:
            self._close()
            raise IndexFolderError(f"cannot write to {self.path.absolute()}: {error}. Give another --index.") from error
        try:
            stored = read_card(self.path)
            if stored is not None:
                self._check(stored)
                self.card = stored
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def begin(self, part: Part) -> tuple[int, int]:
        """Open the files of a part; returns (record, number) of the item to go on with."""
        if part not in self.card:
            self.card[part] = {
                "rows": 0,
                "rows_bytes": 0,
                "next": [0, 0],
                "skipped": {},
                "finished": False,
                "rows_file": f"{ROWS[part]}.jsonl",
            }
        progress = self.card[part]
        self._part = part
        if progress["finished"]:
            return progress["next"][0], progress["next"][1]
        head = self._header(part)
        row_bytes = self.card["dim"] * np.dtype(self.card["dtype"]).itemsize
        self._vectors = _opened(
            self.path / VECTORS[part], len(head) + progress["rows"] * row_bytes, fresh=not progress["rows"]
        )
        self._rows = _opened(self.path / f"{ROWS[part]}.jsonl", progress["rows_bytes"], fresh=not progress["rows"])
        flush_to_disk(self.path)
        self.commit()
        return progress["next"][0], progress["next"][1]

    def finished(self, part: Part) -> bool:
        """Whether a part is complete."""
        return part in self.card and self.card[part]["finished"]

    def append(self, items: Sequence[Item], vectors: np.ndarray) -> None:
        """Add items and their vectors [items, dim], zeros for those that have none; they count from the next `commit`
        on.
        """
        assert self._part is not None
        assert self._vectors is not None
        assert self._rows is not None
        if vectors.shape != (len(items), self.card["dim"]) or not np.isfinite(vectors).all():
            damaged = (
                "" if np.isfinite(vectors).all() else " with NaN or infinity: the weights of the model are damaged"
            )
            raise IndexFolderError(
                f"{len(items)} items need finite vectors of shape {[len(items), self.card['dim']]}, got "
                f"{list(vectors.shape)}{damaged}."
            )
        progress = self.card[self._part]
        lines = b"".join(map(line_of, items))
        self._vectors.write(np.ascontiguousarray(vectors, self.card["dtype"]).tobytes())
        self._rows.write(lines)
        skipped = Counter(progress["skipped"]) + Counter(item.status for item in items if item.status != GOOD)
        progress |= {
            "rows": progress["rows"] + len(items),
            "rows_bytes": progress["rows_bytes"] + len(lines),
            "next": [items[-1].record, items[-1].number + 1],
            "skipped": dict(skipped),
        }

    def commit(self) -> None:
        """Make everything appended so far last."""
        assert self._part is not None
        assert self._vectors is not None
        assert self._rows is not None
        for file in (self._vectors, self._rows):
            file.flush()
        # After the rows, so that the header never speaks of more than there is.
        os.pwrite(self._vectors.fileno(), self._header(self._part), 0)
        for file in (self._vectors, self._rows):
            os.fsync(file.fileno())
        self._write_card()

    def finish(self) -> None:
        """Complete the part that was begun: its rows become a Parquet file where pyarrow is installed."""
        assert self._part is not None
        progress = self.card[self._part]
        lines = self.path / f"{ROWS[self._part]}.jsonl"
        if not progress["finished"]:
            self.commit()
            table = self.path / f"{ROWS[self._part]}.parquet"
            with contextlib.suppress(ImportError):
                with replacing(table) as file:
                    write_parquet(lines, file)
                progress["rows_file"] = table.name
            progress["finished"] = True
            self._write_card()
        if progress["rows_file"] != lines.name:
            lines.unlink(missing_ok=True)
        self._close_files()

    def _write_card(self) -> None:
        parts = [self.card[part] for part in VECTORS if part in self.card]
        self.card["count"] = self.card["images"]["rows"] if "images" in self.card else 0
        self.card["finished"] = all(part["finished"] for part in parts)
        write_json(self.path / CARD, self.card)

    def _header(self, part: Part) -> bytes:
        """The first bytes of the .npy file; NumPy leaves room in it for the number of rows to grow."""
        head = io.BytesIO()
        description = {
            "shape": (self.card[part]["rows"], self.card["dim"]),
            "fortran_order": False,
            "descr": np.lib.format.dtype_to_descr(np.dtype(self.card["dtype"])),
        }
        np.lib.format.write_array_header_1_0(head, description)
        return head.getvalue()

    def _check(self, stored: IndexCard) -> None:
        differing = [f"{sentence}." for name, sentence in IDENTITY.items() if stored.get(name) != self.card[name]]
        if differing:
            raise IndexFolderError(
                f"{self.path} cannot be continued. {' '.join(differing)}\n"
                f"  stored: model {stored.get('model')}, data {stored.get('data')}, {stored.get('dtype')}, dim "
                f"{stored.get('dim')}\n  given:  model {self.card['model']}, data {self.card['data']}, "
                f"{self.card['dtype']}, dim {self.card['dim']}\nGive another --index for new embeddings, or delete the "
                "folder to make these anew."
            )

    def _close_files(self) -> None:
        for file in (self._vectors, self._rows):
            if file is not None:
                # What was not committed is cut off by the next start: that it cannot be flushed to a full disk does no
                # harm.
                with contextlib.suppress(OSError):
                    file.close()
        self._vectors = self._rows = None

    def _close(self) -> None:
        self._close_files()
        if self._lock is not None:
            self._lock.close()  # the file stays: without it two processes could hold locks on two files of one name
            self._lock = None


def _opened(path: Path, size: int, *, fresh: bool) -> BinaryIO:
    """The file with exactly its first `size` bytes, open for more."""
    there = path.stat().st_size if path.exists() else 0
    if there < size and not fresh:
        raise IndexFolderError(
            f"{path} has {there} bytes, and the card counts {size}: it is damaged. Delete {path.parent} and embed anew."
        )
    file = open(path, "w+b" if fresh else "r+b")  # noqa: SIM115 - the writer closes it
    file.truncate(size)
    file.seek(size)
    return file
