"""Embeddings of a folder's images, of tar shards or of Parquet files, in an index that `recipes.search` looks through.

Command:   python -m recipes.embed
Own data:  python -m recipes.embed --data photos/ --model runs/siglip --index runs/photos

The index is a folder: vectors.npy [images, dim], which NumPy maps into memory, a table of rows beside it (rows.parquet,
or rows.jsonl without pyarrow), and index.json, which says what of and by which model (`engine.embedding.index_folder`).
Stop it whenever you like, or let the power fail: the same command goes on where it stopped. An image that cannot be
read is a row of zeros whose status says why. With --texts the captions are embedded, too.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diptych.core.data.decoder import Decode
from diptych.core.data.ledger import ledger_of
from diptych.core.data.left_out_file import LEFT_OUT, LeftOutFile
from diptych.core.data.reasons import listed
from diptych.core.data.records import Source
from diptych.core.data.sources.open import EMBEDDED, open_source
from diptych.core.data.sources.reading import AS_USUAL, Reading
from diptych.core.report.ledger_text import tell_left_out
from diptych.core.training.card import plain
from diptych.core.training.signals import StopSignals
from diptych.engine.command_line import parse
from diptych.engine.embedding.embedding_runs import fill, held_by, image_runs, text_runs
from diptych.engine.embedding.index_folder import IndexCard, IndexedData, Part
from diptych.engine.embedding.index_writer import IndexWriter
from diptych.engine.failures import exit_status, stoppable
from diptych.engine.flags import check_least

PARTS: tuple[Part, ...] = ("images", "texts")


@dataclass(frozen=True, kw_only=True)
class Embed:
    """What to embed, and where to keep it."""

    data: str = EMBEDDED
    """A folder of images, WebDataset shards ("shards/{000..010}.tar"), Parquet files, or "emoji" for the embedded
    data.
    """
    model: str = "emoji_36_languages"
    """A trained model: a folder (of a checkpoint, or of a run), hf://owner/name, or emoji_36_languages."""
    index: Path = Path("runs/index")
    """The folder that is written; the same command again goes on where it stopped."""
    texts: bool = False
    """Embed all captions, too."""
    dtype: Literal["float16", "float32"] = "float16"
    """Of the stored vectors; float16 moves a cosine by 0.0005 at most. float32 takes twice the space and is searched
    faster.
    """
    batch_size: int = 64
    """Images that the model takes at a time."""
    workers: int | None = None
    """Threads that decode; by default as many as there are processors."""
    decode: Decode = "exact"
    """fast decodes JPEGs at a reduced scale and resizes by OpenCV (pip install 'diptych[fast]'), some grey levels off
    (docs/data.md); exact is Pillow."""
    reading: Reading = AS_USUAL

    def __post_init__(self):
        check_least(self, batch_size=1, workers=1)


def main(arguments: list[str] | None = None) -> int:
    """Embeds, or goes on embedding; returns the exit status."""
    options = parse(Embed(), arguments, program="python -m recipes.embed", description=__doc__)
    from diptych.engine.embedding.encoder import Encoder

    return exit_status(lambda: embed(options, Encoder.open), options)


def embed(options: Embed, open_encoder: Callable[[str], Any]) -> int:
    """Everything after the command line. `open_encoder` makes an encoder of the model's name: `Encoder.open`."""
    source = open_source(options.data, index_folder=options.index / "shards", reading=options.reading)
    ledger, left_out = ledger_of(source), options.index / LEFT_OUT
    encoder = open_encoder(options.model)
    if options.decode != "exact":
        encoder = encoder.decoding(options.decode)
    card: IndexedData = {
        "model": _absolute(options.model),
        "model_fingerprint": encoder.fingerprint(),
        "logit_scale": encoder.logit_scale,
        "logit_bias": encoder.logit_bias,
        "data": _absolute(options.data),
        "data_fingerprint": source.fingerprint(),
        "records": len(source),
        "reading": plain(options.reading),
        "dim": encoder.dim,
        "dtype": options.dtype,
    }

    def work(stop: StopSignals) -> int:
        with IndexWriter(options.index, card) as writer, LeftOutFile(left_out, [ledger]) as named:
            named.begin(anew=True)  # the index itself holds what earlier processes met
            for part in PARTS:
                if part == "images" or options.texts:
                    _embed_part(part, source, encoder, writer, stop, options)
                else:
                    held_by(writer, part, source)
        tell_left_out([ledger], left_out)
        ledger.check()
        again = "" if options.index == Embed.index else f" --index {options.index}"
        print(f'Look through it:  python -m recipes.search{again} --query "what you look for"', flush=True)
        return 0

    return stoppable(work)


def _embed_part(
    part: Part, source: Source, encoder: Any, writer: IndexWriter, stop: StopSignals, options: Embed
) -> None:
    """Images or captions, from where the index ends; raises Stopped where a signal stopped it before the end."""
    tally = held_by(writer, part, source)
    if writer.finished(part):
        print(f"{options.index} holds {_described(writer.card, part)}; it is finished.", flush=True)
        return
    start = writer.begin(part)
    if start != (0, 0):
        print(f"{options.index} holds {_described(writer.card, part)}; going on from there.", flush=True)
    if part == "images":
        size, workers = options.batch_size, options.workers
        runs = image_runs(source, encoder.processor, encoder, start, batch_size=size, workers=workers, stop=stop)
    else:
        runs = text_runs(source, encoder, start, stop=stop)
    done = fill(writer, part, runs, tally, records=len(source), start=start, stop=stop)
    print(
        f"{options.index} holds {_described(writer.card, part)}; {done.speed:,.0f} {part}/s over {done.seconds:,.1f} "
        "s.",
        flush=True,
    )


def _described(card: IndexCard, part: Part) -> str:
    progress = card[part]
    bad = sum(progress["skipped"].values())
    text = f"{progress['rows'] - bad:,} {part} [{card['dim']}] {card['dtype']}"
    return f"{text}, and {bad:,} that could not be used ({listed(progress['skipped'])})" if bad else text


def _absolute(name: str) -> str:
    """Names of files and folders as others find them, wherever they are; "emoji" and hf:// addresses as they are."""
    return os.path.abspath(name) if os.sep in name and "://" not in name or os.path.exists(name) else name


if __name__ == "__main__":
    sys.exit(main())
