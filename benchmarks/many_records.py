"""Seconds and memory until a run over very many records begins: tar shards whose indices are kept, without pictures.

    python -m benchmarks.many_records --records 100_000_000 --folder /big/disk/many

makes shards of 10,000 samples that have places and no content, and the indices that an earlier start would have left
(72 bytes a record), once; then a process of its own opens them as `recipes.siglip --train-data` does, holds 5% out by
their keys, makes the order and its fingerprint, and looks a thousand records up.
"""

import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from diptych.core.data.sampling import Order
from diptych.core.data.sources.languages import Languages
from diptych.core.data.sources.reading import AS_USUAL
from diptych.core.data.sources.shard_index import IMAGE, TEXT, ShardIndex, keep_index, kept_for
from diptych.core.data.sources.shard_languages import kept_languages
from diptych.core.data.sources.webdataset import WebDatasetSource
from diptych.core.files.cache_folder import FOLDER, index_folder

SAMPLES_A_SHARD = 10_000
_IMAGE_BYTES, _TEXT_BYTES, _BLOCK = 20_000, 60, 512
_KEY_DIGITS = 10


@dataclass(frozen=True, kw_only=True)
class ManyRecords:
    """What is made, and where."""

    records: int = 1_000_000
    """How many records there are; of the last shard's samples none is left out."""
    folder: Path = Path("runs/many_records")
    """Where shards and indices are made, unless they are there."""
    english_share: float | None = None
    """With it, half of the captions are English and half German, and a run asks for this share of the former."""
    repeated: bool = False
    """Let every shard number its samples from 0 on, so that every key comes in all of them."""


def make(options: ManyRecords) -> list[Path]:
    """The shards, which are holes, and their indices in the cache folder."""
    options.folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for number in range(-(-options.records // SAMPLES_A_SHARD)):
        shard = (options.folder / f"{number:06d}.tar").absolute()
        shards.append(shard)
        if not shard.exists():
            shard.touch()
            os.truncate(shard, SAMPLES_A_SHARD * (_IMAGE_BYTES + _TEXT_BYTES + 4 * _BLOCK))
        kept = kept_for(shard, index_folder())
        if not kept.file("index").exists():
            keep_index(kept, made_up_index(0 if options.repeated else number))
        if options.english_share is not None:
            kept_languages(kept, WebDatasetSource.fields_read(AS_USUAL), 0, str, made_up_languages)
    return shards


def made_up_languages() -> Languages:
    """English in the even places of a shard, German in the odd ones."""
    places = np.arange(SAMPLES_A_SHARD, dtype=np.int64)
    return Languages(places, (places % 2).astype(np.uint16), [("en",), ("de",)], [], [])


def made_up_index(number: int) -> ShardIndex:
    """The index of a shard of samples of a picture and a caption."""
    samples = np.arange(SAMPLES_A_SHARD, dtype=np.int64)
    begins = samples * (_IMAGE_BYTES + _TEXT_BYTES + 4 * _BLOCK)
    images = np.stack([begins + _BLOCK, np.full_like(samples, _IMAGE_BYTES)], 1)
    texts = np.stack([begins + _IMAGE_BYTES, np.full_like(samples, _TEXT_BYTES)], 1)
    digits = (samples + number * SAMPLES_A_SHARD)[:, None] // 10 ** np.arange(_KEY_DIGITS)[::-1] % 10
    arrays = {
        "kinds": np.tile(np.array([IMAGE, TEXT], np.uint8), SAMPLES_A_SHARD),
        "extents": np.stack([images, texts], 1).reshape(-1, 2),
        "starts": np.arange(SAMPLES_A_SHARD + 1, dtype=np.int64) * 2,
        "keys": (digits + ord("0")).astype(np.uint8).reshape(-1),
        "key_ends": (samples + 1) * _KEY_DIGITS,
        "hashes": np.random.default_rng(number).integers(0, 2**64, SAMPLES_A_SHARD, dtype=np.uint64),
        "numbered": np.zeros(0, np.int64),
    }
    return ShardIndex(SAMPLES_A_SHARD, arrays, [], hashlib.sha256(str(number).encode()).hexdigest())


def start(folder: str, english_share: float | None) -> None:
    """What a run does before its first batch; prints a JSON object of seconds and gigabytes."""
    from diptych.core.data.ledger import place_of
    from diptych.core.training.recipe import Data
    from diptych.engine.datasets.own import own

    begun, cpu_begun = time.perf_counter(), time.process_time()
    last = begun
    taken: dict[str, float] = {}

    def lap(name: str) -> None:
        nonlocal last
        taken[name], last = time.perf_counter() - last, time.perf_counter()

    sources = own(Data(train_data=folder, english_share=english_share)).sources(0)
    lap("open and hold out")
    order = Order(len(sources.train), 1_024, seed=0)
    sources.train.fingerprint()
    lap("fingerprint")
    for index in order.records(0)[:1_000]:
        place_of(sources.train, int(index))
    lap("a thousand places")
    held_out = sum(map(len, sources.held_out.values()))
    counts = {"train": len(sources.train), "held out": held_out}
    used = resource.getrusage(resource.RUSAGE_SELF)
    taken |= {"seconds": time.perf_counter() - begun, "CPU seconds": time.process_time() - cpu_begun}
    print(json.dumps({**counts, **taken, "gigabytes": used.ru_maxrss * 1024 / 1e9}))


def main(arguments: list[str] | None = None) -> int:
    """Makes the records and measures a start over them."""
    options = tyro.cli(ManyRecords, args=arguments, description=__doc__)
    os.environ[FOLDER] = str((options.folder / "cache").absolute())
    make(options)
    program = f"from benchmarks.many_records import start; start({str(options.folder)!r}, {options.english_share})"
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    for name, value in json.loads(done.stdout.splitlines()[-1]).items() if done.returncode == 0 else ():
        print(f"{name:20}{value:>16,.3f}" if isinstance(value, float) else f"{name:20}{value:>16,}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
