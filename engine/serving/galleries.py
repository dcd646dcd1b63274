"""Galleries that the page searches: drawings of a designer never trained on, or an index by `recipes.embed`."""

import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from PIL import Image

from diptych.core.data.emoji import HELD_OUT_DESIGNER, evaluation_set
from diptych.core.data.emoji.examples import example_drawings
from diptych.core.data.image import decode
from diptych.core.data.records import BadExample, Source
from diptych.core.data.sources.open import open_source
from diptych.core.evaluation.heat_map import png
from diptych.core.report.charts.sheet import square
from diptych.engine.embedding.image_stream import GOOD, Item, embed_prepared, prepared_images
from diptych.engine.embedding.index_folder import IndexFolder, IndexFolderError
from diptych.engine.embedding.progress import EmbeddingProgress

THUMBNAIL_SIDE = 160
LARGEST_SIDE = 1024
EMBEDDING_BATCH = 64


@dataclass
class Gallery:
    """Images that can be found, with their embeddings.

    vectors: [rows, dim], L2-normalised; may be a memory-mapped file.
    usable: bool [rows], False for rows without an embedding; None where all have one.
    items: what rows are, by their places.
    source: where their images are read from; None where the data are not there any more.
    """

    name: str
    vectors: np.ndarray
    usable: np.ndarray | None
    items: Callable[[Sequence[int]], list[Item]]
    source: Source | None
    _reading: threading.Lock = field(default_factory=threading.Lock)

    def __len__(self) -> int:
        return len(self.vectors)

    def thumbnail(self, row: int) -> bytes:
        """The row's image as a small square PNG; raises `BadExample` where there is none."""
        return png(square(self._pixels(row), THUMBNAIL_SIDE))

    def picture(self, row: int) -> bytes:
        """The row's image as a PNG of no more than `LARGEST_SIDE` pixels a side; raises `BadExample` where there is
        none.
        """
        pixels = self._pixels(row)
        if max(pixels.shape) > LARGEST_SIDE:
            small = Image.fromarray(pixels)
            small.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
            pixels = np.asarray(small)
        return png(pixels)

    def _pixels(self, row: int) -> np.ndarray:
        if not 0 <= row < len(self) or self.source is None:
            raise BadExample("image_missing", f"row {row}")
        with self._reading:  # a source is for one thread at a time
            (item,) = self.items([row])
            try:
                record = self.source.record(item.record)
                reference = record.images[item.number]
            except IndexError:
                raise BadExample("image_missing", f"row {row}") from None
            if record.key.encode("utf-8", "backslashreplace").decode() != item.key:
                raise BadExample("image_missing", f"row {row} is of {item.key}, and the data hold {record.key} there")
            data = self.source.read(reference)
        return decode(data)


def embedded_gallery(encoder: Any) -> Gallery:
    """The drawings of the designer that is held out, embedded now."""
    source = evaluation_set()
    items: list[Item] = []
    vectors = []
    runs = prepared_images(source, encoder.processor, batch_size=EMBEDDING_BATCH)
    with closing(runs), EmbeddingProgress("drawings", records=len(source), start=0) as progress:
        for run in runs:
            items += run.items
            vectors.append(embed_prepared(encoder, run, EMBEDDING_BATCH))
            progress.update(len(items), len(run.items))
    return Gallery(
        name=f"emoji as {HELD_OUT_DESIGNER.title()} draws them",
        vectors=np.concatenate(vectors),
        usable=np.array([item.status == GOOD for item in items]),
        items=lambda rows: [items[row] for row in rows],
        source=source,
    )


def index_gallery(path: Path, encoder: Any, model: str) -> Gallery:
    """The images of an index folder, which this model must have embedded. Raises `IndexFolderError` where it has
    not.
    """
    folder = IndexFolder(path)
    if encoder.fingerprint() != folder.card["model_fingerprint"]:
        raise IndexFolderError(
            f"{path} holds embeddings by another model than {model} is now (it was made by {folder.card['model']}). "
            f"Leave --model away, or embed anew: python -m recipes.embed --model {model} --index another/folder."
        )
    return Gallery(
        name=f"{Path(folder.card['data']).name}, embedded in {path.name}",
        vectors=folder.vectors(),
        usable=folder.usable(),
        items=folder.rows,
        source=_opened(folder),
    )


def _opened(folder: IndexFolder) -> Source | None:
    try:
        return open_source(folder.card["data"], index_folder=folder.path / "shards", reading=folder.reading)
    except (OSError, ValueError) as error:
        print(f"The images are not where they were, so the page finds them without showing them: {error}", flush=True)
        return None


class Example(TypedDict):
    """A drawing to begin with."""

    emoji: str
    names: dict[str, str]  # by language


class Examples:
    """Some embedded drawings to begin with, and their names in all languages."""

    def __init__(self) -> None:
        self._drawings, self.concepts = example_drawings()
        self._reading = threading.Lock()

    def picture(self, place: int) -> bytes:
        """The drawing as a PNG; raises `BadExample` for a place that there is not."""
        if not 0 <= place < len(self.concepts):
            raise BadExample("image_missing", f"example {place}")
        with self._reading:
            data = self._drawings.read(self._drawings.record(place).images[0])
        return png(decode(data))

    def described(self) -> list[Example]:
        """What they are, ready for JSON."""
        return [{"emoji": concept.emoji, "names": concept.names} for concept in self.concepts]
