"""The images of a source in order, prepared by threads while the model computes; bad ones are marked."""

import json
import os
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from diptych.core.data.captions import clean_caption
from diptych.core.data.ledger import Skipped, examined, tried
from diptych.core.data.loading.threads import DaemonThreads
from diptych.core.data.records import UNKNOWN_LANGUAGE, BadExample, LeftOut, Record, Source, part_name

GOOD = "ok"
CAPTION_LANGUAGE = "en"  # of the one caption that stands for an image, where the record has it
PREFETCH = 3


@dataclass(frozen=True, kw_only=True)
class Item:
    """One image, or one caption, of a record; `status` is "ok" or the reason why it cannot be used."""

    record: int  # place in the source
    number: int  # of the image or caption in the record
    key: str
    image: str  # the source's reference to the image: a path, or JSON
    caption: str
    language: str
    status: str = GOOD
    detail: str = ""  # about the status


@dataclass(frozen=True)
class Prepared:
    """A run of images: all items, and what the model takes of the good ones, in order."""

    items: list[Item]
    inputs: dict[str, np.ndarray]  # [good, ...]
    good: np.ndarray  # bool [items]


def images(source: Source, start: tuple[int, int] = (0, 0)) -> Iterator[tuple[Item, bytes | None]]:
    """Every image from (record, number) `start` on, with its encoded bytes, None where there are none to be had.

    A record that cannot be read, or has no image, is one item all the same, so that it is counted.
    """
    for index in range(start[0], len(source)):
        record = examined(source, index, _with_images)
        if isinstance(record, Skipped):
            if index > start[0] or start[1] == 0:
                yield _unusable(index, record), None
            continue
        caption, language = chosen_caption(record)
        for number in range(start[1] if index == start[0] else 0, len(record.images)):
            reference = record.images[number]
            item = Item(
                record=index,
                number=number,
                key=_storable(record.key),
                image=_storable(reference) if isinstance(reference, str) else json.dumps(reference),
                caption=caption,
                language=language,
            )
            data = tried(item.key, source.read, reference)
            yield (_bad(item, data), None) if isinstance(data, Skipped) else (item, data)


def captions(source: Source, start: tuple[int, int] = (0, 0)) -> Iterator[Item]:
    """Every caption from (record, number) `start` on; a record that cannot be read is one item."""
    for index in range(start[0], len(source)):
        record = examined(source, index, lambda record: record)
        if isinstance(record, Skipped):
            if index > start[0] or start[1] == 0:
                yield _unusable(index, record)
            continue
        left_out = {bad.part: bad for bad in record.caption_parts.left_out}
        for number in range(start[1] if index == start[0] else 0, len(record.captions)):
            caption, bad = record.captions[number], left_out.get(part_name("caption", number))
            item = Item(
                record=index,
                number=number,
                key=_storable(record.key),
                image="",
                caption="" if bad else clean_caption(caption.text),
                language=_storable(caption.language),
            )
            yield _bad(item, bad) if bad else item


def prepared_images(
    source: Source,
    processor: Any,
    *,
    batch_size: int,
    start: tuple[int, int] = (0, 0),
    workers: int | None = None,
) -> Generator[Prepared, None, None]:
    """Runs of `batch_size` images, a few of them ahead of who asks: one thread reads, `workers` threads decode and
    resize.

    Threads do for this, because Pillow decodes and resizes outside Python's lock. Which images make a run depends on
    `start` and `batch_size` alone.

    Args:
        source: where images come from; only one thread at a time uses it.
        processor: a `diptych.core.data.processor.processor.Processor`.
        batch_size: images a run.
        start: (record, number) of the first image.
        workers: threads; None for as many as there are processors to use.
    """
    stream = images(source, start)
    reader = DaemonThreads(1, "diptych-reader")
    decoders = DaemonThreads(workers or usable_processors(), "diptych-decoder")

    def read() -> list[tuple[Item, Future | None]]:
        return [
            (item, None if data is None else decoders.submit(_prepare, processor, data, item.key))
            for item, data in islice(stream, batch_size)
        ]

    ahead = deque(reader.submit(read) for _ in range(PREFETCH))
    try:
        while run := ahead.popleft().result():
            ahead.append(reader.submit(read))
            yield _gathered(run)
    finally:
        reader.close()
        decoders.close()


def embed_prepared(encoder: Any, run: Prepared, batch_size: int) -> np.ndarray:
    """float32 [items, dim]: L2-normalised, zeros for what is not good.

    The model always sees `batch_size` images, the last of them repeated where a run has fewer, so that it is compiled
    once.
    """
    vectors = np.zeros((len(run.items), encoder.dim), np.float32)
    good = int(np.count_nonzero(run.good))
    if good:
        full = {
            name: np.concatenate([array, np.repeat(array[-1:], batch_size - good, axis=0)])
            for name, array in run.inputs.items()
        }
        embedder = encoder.image_embedder
        embedded = embedder.predict_on_batch(full if len(embedder.inputs) > 1 else next(iter(full.values())))
        vectors[run.good] = np.asarray(embedded)[:good]
    return vectors


def usable_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _prepare(processor: Any, data: bytes, key: str) -> dict[str, np.ndarray] | Skipped:
    return tried(key, processor.images, [data])


def _gathered(run: list[tuple[Item, Future | None]]) -> Prepared:
    items, arrays = [], []
    for item, future in run:
        prepared = None if future is None else future.result()
        if isinstance(prepared, Skipped):
            item = _bad(item, prepared)
        elif prepared is not None:
            arrays.append(prepared)
        items.append(item)
    inputs = {name: np.concatenate([each[name] for each in arrays]) for name in arrays[0]} if arrays else {}
    return Prepared(items, inputs, np.array([item.status == GOOD for item in items], bool))


def _with_images(record: Record) -> Record:
    if not record.images:
        raise BadExample("image_missing", "the record has no image")
    return record


def _bad(item: Item, why: Skipped | LeftOut) -> Item:
    return replace(item, status=why.reason, detail=_storable(why.detail))


def _unusable(index: int, skipped: Skipped) -> Item:
    return Item(
        record=index,
        number=0,
        key=_storable(skipped.name),
        image="",
        caption="",
        language=UNKNOWN_LANGUAGE,
        status=skipped.reason,
        detail=_storable(skipped.detail),
    )


def chosen_caption(record: Record) -> tuple[str, str]:
    """Text and language of the first caption that can be used, one in `CAPTION_LANGUAGE` where there is one."""
    preferred = record.captions_by_language.get(CAPTION_LANGUAGE, ())
    for caption in (*preferred, *record.caption_parts.usable)[:1]:
        return clean_caption(caption.text), _storable(caption.language)
    return "", UNKNOWN_LANGUAGE


def _storable(text: str) -> str:
    """Names of files may hold bytes that are no UTF-8, which tables cannot store: they are written out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
