"""Embeds the images of a folder, of tar shards or of Parquet files into an index that `recipes.search` looks through.

Command:   python -m recipes.embed
Own data:  python -m recipes.embed --data photos/ --model runs/siglip --index runs/photos

The index is a folder: vectors.npy [images, dim], which NumPy maps into memory, a table of rows beside it (rows.parquet, or
rows.jsonl without pyarrow), and index.json, which says what of and by which model (`engine.embedding.index_folder`). Stop it whenever
you like, or let the power fail: the same command goes on where it stopped. An image that cannot be read is a row of zeros
whose status says why. With --texts the captions are embedded, too.
"""

import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from diptych.core.data.loading.examples import listed
from diptych.core.data.records import Source
from diptych.core.data.sources.open import open_source
from diptych.core.training.signals import StopSignals
from diptych.engine.command_line import parse
from diptych.engine.embedding.image_stream import GOOD, Item, captions, embed_prepared, prepared_images
from diptych.engine.embedding.index_folder import Part
from diptych.engine.embedding.index_writer import IndexWriter
from diptych.engine.embedding.progress import EmbeddingProgress
from diptych.engine.failures import exit_status

Runs = Generator[tuple[list[Item], np.ndarray], None, None]
PARTS: tuple[Part, ...] = ("images", "texts")
COMMIT_SECONDS = 10.0
TEXT_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Embed:
    """What to embed, and where to keep it."""

    data: Annotated[str, tyro.conf.arg(aliases=["--input-dataset"])] = "emoji"
    """A folder of images, WebDataset shards ("shards/{000..010}.tar"), Parquet files, or "emoji" for the embedded data."""
    model: str = "emoji_36_languages"
    """A trained model: a folder (of a checkpoint, or of a run), hf://owner/name, or emoji_36_languages."""
    index: Annotated[Path, tyro.conf.arg(aliases=["--output-folder"])] = Path("runs/index")
    """The folder that is written; the same command again goes on where it stopped."""
    texts: bool = False
    """Embed all captions, too."""
    dtype: Literal["float16", "float32"] = "float16"
    """Of the stored vectors; float16 moves a cosine by 0.0005 at most. float32 takes twice the space and is searched faster."""
    batch_size: int = 64
    """Images that the model takes at a time."""
    workers: int | None = None
    """Threads that decode; by default as many as there are processors."""

    def __post_init__(self):
        for flag, given in (("--batch-size", self.batch_size), ("--workers", self.workers)):
            if given is not None and given < 1:
                raise ValueError(f"{flag} must be at least 1, got {given}.")


def main(arguments: list[str] | None = None) -> int:
    """Embeds, or goes on embedding; returns the exit status."""
    options = parse(Embed(), arguments, program="python -m recipes.embed", description=__doc__)
    from diptych.engine.embedding.encoder import Encoder

    return exit_status(lambda: embed(options, Encoder.open))


def embed(options: Embed, open_encoder: Callable[[str], Any]) -> int:
    """Everything after the command line. `open_encoder` makes an encoder of the model's name: `Encoder.open`."""
    source = open_source(options.data, index_folder=options.index / "shards")
    encoder = open_encoder(options.model)
    card = {
        "model": _absolute(options.model),
        "model_fingerprint": encoder.fingerprint(),
        "logit_scale": encoder.logit_scale,
        "logit_bias": encoder.logit_bias,
        "data": _absolute(options.data),
        "data_fingerprint": source.fingerprint(),
        "records": len(source),
        "dim": encoder.dim,
        "dtype": options.dtype,
    }
    with IndexWriter(options.index, card) as writer, StopSignals() as stop:
        for part in PARTS if options.texts else PARTS[:1]:
            if not _embed_part(part, source, encoder, writer, stop, options):
                print(f"\nStopped by {stop.received}. The same command goes on from there.")
                return stop.exit_status
    again = "" if options.index == Embed.index else f" --index {options.index}"
    print(f'Look through it:  python -m recipes.search{again} --query "what you look for"', flush=True)
    return 0


def _embed_part(
    part: Part, source: Source, encoder: Any, writer: IndexWriter, stop: StopSignals, options: Embed
) -> bool:
    """Images or captions, from where the index ends; False where a signal stopped it before the end."""
    if writer.finished(part):
        print(f"{options.index} holds {_described(writer.card, part)}; it is finished.", flush=True)
        return True
    start = writer.begin(part)
    if start != (0, 0):
        print(f"{options.index} holds {_described(writer.card, part)}; going on from there.", flush=True)
    runs = _image_runs(source, encoder, start, options) if part == "images" else _text_runs(source, encoder, start)
    committed = time.monotonic()
    with closing(runs), EmbeddingProgress(part, records=len(source), start=start[0]) as progress:
        for items, vectors in runs:
            writer.append(items, vectors)
            progress.update(items[-1].record, len(items))
            if stop.stop_requested:
                writer.commit()
                return False
            if time.monotonic() - committed > COMMIT_SECONDS:
                writer.commit()
                committed = time.monotonic()
        progress.update(len(source), 0)
        speed, seconds = progress.speed, progress.seconds
    writer.finish()
    print(
        f"{options.index} holds {_described(writer.card, part)}; {speed:,.0f} {part}/s over {seconds:,.1f} s.",
        flush=True,
    )
    return True


def _image_runs(source: Source, encoder: Any, start: tuple[int, int], options: Embed) -> Runs:
    prepared = prepared_images(
        source, encoder.processor, batch_size=options.batch_size, start=start, workers=options.workers
    )
    with closing(prepared):
        for run in prepared:
            yield run.items, embed_prepared(encoder, run, options.batch_size)


def _text_runs(source: Source, encoder: Any, start: tuple[int, int]) -> Runs:
    stream = captions(source, start)
    while items := list(islice(stream, TEXT_BATCH)):
        good = [item.status == GOOD for item in items]
        vectors = np.zeros((len(items), encoder.dim), np.float32)
        if any(good):
            texts = [item.caption for item in items if item.status == GOOD]
            vectors[good] = encoder.embed_texts(texts, batch_size=TEXT_BATCH)
        yield items, vectors


def _described(card: dict[str, Any], part: Part) -> str:
    progress = card[part]
    bad = sum(progress["skipped"].values())
    text = f"{progress['rows'] - bad:,} {part} [{card['dim']}] {card['dtype']}"
    return f"{text}, and {bad:,} that could not be used ({listed(progress['skipped'])})" if bad else text


def _absolute(name: str) -> str:
    """Names of files and folders as others find them, wherever they are; "emoji" and hf:// addresses as they are."""
    return os.path.abspath(name) if os.sep in name and "://" not in name or os.path.exists(name) else name


if __name__ == "__main__":
    sys.exit(main())
