"""Embeddings that are computed once: kept in index folders beside the results, so that a stopped evaluation goes on.

Each source has its folder, named by model, data and backend; what is in it is as `engine.embedding.index_folder` says,
except that images are kept before normalisation, as few-shot classification takes them. Their unit vectors are the
model's embeddings.
"""

import hashlib
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np

from diptych import backends
from diptych.core.data.ledger import ledger_of, reasons_with_names
from diptych.core.data.records import Caption, Record, Source
from diptych.core.training.signals import StopSignals
from diptych.engine.embedding.embedding_runs import Runs, fill, held_by, image_runs, text_runs
from diptych.engine.embedding.image_stream import GOOD, Item
from diptych.engine.embedding.index_folder import IndexedData, IndexFolder, Part
from diptych.engine.embedding.index_writer import IndexWriter
from diptych.engine.embedding.tally import Tally, named


@dataclass(frozen=True)
class Embedded:
    """What could be embedded of a source.

    vectors: float32 [items, width].   items: what each is.   skipped: how many could not be used, by reason.
    """

    vectors: np.ndarray
    items: Sequence[Item]
    skipped: dict[str, int]

    @cached_property
    def records(self) -> np.ndarray:
        """The record that each item is of, int64 [items]."""
        return np.array([item.record for item in self.items], np.int64)

    @cached_property
    def unit_vectors(self) -> np.ndarray:
        """The vectors at length 1, float32."""
        norms = np.linalg.norm(self.vectors, axis=1, keepdims=True)
        return self.vectors / np.maximum(norms, np.finfo(np.float32).tiny)


class TextSource:
    """Texts, such as prompts, as a source of records without images."""

    def __init__(self, texts: Sequence[str]):
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def record(self, index: int) -> Record:
        return Record(f"text {index}", (), (Caption(self.texts[index]),))

    def read(self, reference: Any) -> bytes:
        raise AssertionError("these records have no images")

    def fingerprint(self) -> str:
        """Hash of the texts in their order."""
        return hashlib.sha256(repr(list(self.texts)).encode()).hexdigest()


class StoredEmbeddings:
    """Embeds sources with one model, each at most once.

    Args:
        folder: where the index folders are kept.
        encoder: a `engine.embedding.encoder.Encoder`.
        model: its name, for the cards.
        batch_size: images that the model takes at a time.
        workers: threads that decode; None for as many as there are processors.
        stop: asked after each batch.
    """

    def __init__(
        self,
        folder: Path,
        encoder: Any,
        *,
        model: str,
        batch_size: int,
        workers: int | None = None,
        stop: StopSignals,
    ):
        self.folder, self.encoder, self.model = folder, encoder, model
        self.batch_size, self.workers, self.stop = batch_size, workers, stop

    @classmethod
    def beside(cls, output: Path, encoder: Any, **settings: Any) -> Self:
        """Kept in the folder "embeddings" beside what a command writes; the settings are the constructor's."""
        return cls(output.parent / "embeddings", encoder, **settings)

    def renewed(self) -> "StoredEmbeddings":
        """The same for the weights that the encoder's model has now; what it compiled is used again."""
        again = copy(self)
        again.__dict__.pop("fingerprint", None)
        return again

    def images(self, source: Source, name: str) -> Embedded:
        """The image tower's pooled features of every image, not normalised.

        Raises:
            Stopped: a signal came.
            ValueError: none of the images can be used.
        """
        return self._embedded("images", source, f"images of {name}", self._image_runs)

    def image_index(self, source: Source, name: str) -> IndexFolder:
        """The folder that `images` reads, for more of them than memory holds. Raises as `images`."""
        return self._index("images", source, f"images of {name}", self._image_runs)

    def captions(self, source: Source, name: str) -> Embedded:
        """The embeddings of every caption. Raises as `images`."""
        return self._embedded("texts", source, f"captions of {name}", self._text_runs)

    def texts(self, texts: Sequence[str], name: str) -> np.ndarray:
        """The embeddings of texts, float32 [texts, width], each of length 1.

        Raises:
            Stopped: a signal came.
            ValueError: a text that cannot be used.
        """
        embedded = self._embedded("texts", TextSource(texts), name, self._text_runs)
        if embedded.skipped:
            there = set(embedded.records.tolist())
            first = next(index for index in range(len(texts)) if index not in there)
            raise ValueError(f"{name}: {sum(embedded.skipped.values())} cannot be used, such as {texts[first]!r}.")
        return embedded.unit_vectors

    @cached_property
    def fingerprint(self) -> str:
        """The encoder's."""
        return self.encoder.fingerprint()

    @cached_property
    def _featurizer(self) -> "Featurizer":
        tower = self.encoder.model.image_encoder
        return Featurizer(self.encoder.dim, keras.Model(tower.input, tower.output["pooled"]))

    def _embedded(
        self, part: Part, source: Source, name: str, runs: Callable[[Source, tuple[int, int]], Runs]
    ) -> Embedded:
        index = self._index(part, source, name, runs)
        usable = index.usable(part)
        kept = np.arange(index.count(part)) if usable is None else np.flatnonzero(usable)
        reasons = dict(index.card[part]["skipped"])
        return Embedded(np.array(index.vectors(part)[kept], np.float32), index.rows(kept.tolist(), part), reasons)

    def _index(
        self, part: Part, source: Source, name: str, runs: Callable[[Source, tuple[int, int]], Runs]
    ) -> IndexFolder:
        """The finished folder of a source."""
        data = source.fingerprint()
        identity = f"{self.fingerprint} {data} {backends.name()} {part}"
        folder = self.folder / hashlib.sha256(identity.encode()).hexdigest()[:24]
        card: IndexedData = {
            "model": self.model,
            "model_fingerprint": self.fingerprint,
            "data": name,
            "data_fingerprint": data,
            "records": len(source),
            "dim": self.encoder.dim,
            "dtype": "float32",
            "normalised": part == "texts",
        }
        with IndexWriter(folder, card) as writer:
            tally = held_by(writer, part, source)
            if not writer.finished(part):
                self._embed(part, source, name, runs, writer, tally)
        index = IndexFolder(folder)
        usable = index.usable(part)
        if not (index.count(part) if usable is None else usable.any()):
            bad = [named(source, item, part) for item in index.undecided(part) if item.status != GOOD]
            raise ValueError(f"{name}: none can be used: {reasons_with_names(bad) or 'there are none'}.")
        ledger_of(source).check()
        return index

    def _embed(
        self,
        part: Part,
        source: Source,
        name: str,
        runs: Callable[[Source, tuple[int, int]], Runs],
        writer: IndexWriter,
        tally: Tally,
    ) -> None:
        start = writer.begin(part)
        going_on = f", going on at record {start[0]:,}" if start != (0, 0) else ""
        print(f"Embedding {name}: {len(source):,} records{going_on}", flush=True)
        fill(writer, part, runs(source, start), tally, records=len(source), start=start, stop=self.stop)

    def _image_runs(self, source: Source, start: tuple[int, int]) -> Runs:
        processor, size, workers = self.encoder.processor, self.batch_size, self.workers
        featurizer = self._featurizer
        return image_runs(source, processor, featurizer, start, batch_size=size, workers=workers, stop=self.stop)

    def _text_runs(self, source: Source, start: tuple[int, int]) -> Runs:
        return text_runs(source, self.encoder, start, stop=self.stop)


@dataclass(frozen=True)
class Featurizer:
    """Stands where `embed_prepared` takes an encoder, for the pooled features before normalisation."""

    dim: int
    image_embedder: keras.Model
