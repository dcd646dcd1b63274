"""Embedding of a source into an index: images or captions run by run, committed every few seconds."""

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from diptych.core.data.records import Source
from diptych.core.training.signals import Stopped, StopSignals
from diptych.engine.embedding.image_stream import GOOD, Item, captions, embed_prepared, prepared_images
from diptych.engine.embedding.index_folder import IndexFolder, Part
from diptych.engine.embedding.index_writer import IndexWriter
from diptych.engine.embedding.progress import EmbeddingProgress
from diptych.engine.embedding.tally import Tally

COMMIT_SECONDS = 10.0
TEXT_BATCH = 256

Run = TypeVar("Run")
Runs = Generator[tuple[list[Item], np.ndarray], None, None]
"""Items, and what the model makes of them, float32 [items, dim]."""


def image_runs(
    source: Source,
    processor: Any,
    encoder: Any,
    start: tuple[int, int],
    *,
    batch_size: int,
    workers: int | None,
    stop: StopSignals,
) -> Runs:
    """The images of a source from (record, image) on, prepared by a processor; `encoder` is as for `embed_prepared`."""
    prepared = prepared_images(source, processor, batch_size=batch_size, start=start, workers=workers)
    with closing(prepared):
        while run := _waited_for(prepared, stop):
            yield run.items, embed_prepared(encoder, run, batch_size)


def text_runs(source: Source, encoder: Any, start: tuple[int, int], *, stop: StopSignals) -> Runs:
    """The captions of a source from (record, caption) on; those that cannot be used have vectors of zeros."""
    stream = captions(source, start)
    runs = iter(lambda: list(islice(stream, TEXT_BATCH)), [])
    while items := _waited_for(runs, stop):
        good = [item.status == GOOD for item in items]
        vectors = np.zeros((len(items), encoder.dim), np.float32)
        if any(good):
            texts = [item.caption for item in items if item.status == GOOD]
            vectors[good] = encoder.embed_texts(texts, batch_size=TEXT_BATCH)
        yield items, vectors


def _waited_for(runs: Iterator[Run], stop: StopSignals) -> Run | None:
    """The next run, None after the last; a signal ends the wait for it."""
    with stop.leaving_at_once():
        return next(runs, None)


def held_by(writer: IndexWriter, part: Part, source: Source) -> Tally:
    """The tally of a part, with what the index holds of it; closed where the part is finished."""
    index = IndexFolder(writer.path) if part in writer.card else None
    tally = Tally(source, part, index.undecided(part) if index else ())
    if writer.finished(part):
        tally.close()
    return tally


def fill(
    writer: IndexWriter,
    part: Part,
    runs: Runs,
    tally: Tally,
    *,
    records: int,
    start: tuple[int, int],
    stop: StopSignals,
) -> EmbeddingProgress:
    """Writes a part of an index to its end, and counts what cannot be used; returns the progress, which knows the
    speed.

    Raises:
        Stopped: a signal came; what was embedded is committed.
    """
    committed = time.monotonic()
    with (
        stop.finishing_first(),
        closing(runs),
        EmbeddingProgress(part, records=records, start=start[0]) as progress,
    ):
        try:
            for items, vectors in runs:
                writer.append(items, vectors)
                tally.add(items)
                progress.update(items[-1].record, len(items))  # of that record more may follow
                if stop.stop_requested:
                    raise Stopped
                if time.monotonic() - committed > COMMIT_SECONDS:
                    writer.commit()
                    committed = time.monotonic()
        except Stopped:
            writer.commit()
            raise
        progress.update(records, 0)
        tally.close()
        writer.finish()
    return progress
