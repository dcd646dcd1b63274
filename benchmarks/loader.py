"""Pictures per CPU second that the loader makes, beside bare decoding and other loaders, on the same files in one run.

    python -m benchmarks.loader
    python -m benchmarks.loader --photographs FOLDER --cases 256 500 1024 2048

Everything is timed in one process by its CPU time, in turn, the fastest of three; the loader's way is a whole one, from
the source to the batch, that of others begins with the files' bytes. A way is left out, and that is said, where its
packages are not installed: simplejpeg and OpenCV, torchvision, tensorflow. With --whole, whole loaders by the clock as
well, with a thread and with processes, and what each part of an example takes.

Photographs are the middles of those in a folder, or made up. Nothing is timed unless bare decoding and the loader's see
the same pixels.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from benchmarks.device import RESULTS, device_name, write_results
from benchmarks.loader_peers import AUGMENTED, BARE, FASTEST, OPEN_CLIP, TF_DATA, Way, bare, peers
from benchmarks.photographs import SIZES, PhotoSource
from diptych.core.data.decoder import Decoder
from diptych.core.data.emoji import TOKENIZER_PATH, EmojiSource
from diptych.core.data.examples.augmentation import Augmentation
from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.data.image import decode
from diptych.core.data.loading.loader import Loader
from diptych.core.data.pixels import FixedSize
from diptych.core.data.records import Source
from diptych.core.data.sampling import Order, draw, example_rng

WORKERS = (0, 1, 2)
OURS, FAST = "ours", ", fast"
_REPETITIONS = 3

WAYS: dict[str, dict[str, Any]] = {
    OURS: {},
    OURS + AUGMENTED: {"augmentation": Augmentation()},
    OURS + FAST: {"decode": "fast"},
    OURS + FAST + ", bilinear": {"decode": "fast", "resize_method": "bilinear"},
    OURS + FAST + AUGMENTED: {"decode": "fast", "augmentation": Augmentation()},
}
"""Our ways; big_vision's "bilinear" is not antialiased, as is none of tf.data's pictures."""

CASES: dict[str, tuple[Callable[[Path | None], Source], int]] = {
    "emoji": (lambda folder: EmojiSource(), 64),
    **{str(size[0]): (lambda folder, size=size: PhotoSource(size, folder), 224) for size in SIZES},
}
"""Name -> the source, of a folder of photographs, and the side of the model's pictures."""


def measure(source: Source, image_size: int, *, batch_size: int, batches: int) -> dict[str, dict[str, float]]:
    """CPU microseconds a picture of each way, and pictures a CPU second; the fastest of three times of each batch.

    A first round is not counted: records are built and captions tokenized once, as in a run of many epochs.
    """
    others = {} if isinstance(source, EmojiSource) else peers(image_size)
    loaders = _loaders(source, image_size, batch_size, with_fast=FASTEST in others)
    order = loaders[OURS].examples.order
    files = [_files_of(source, order, number) for number in range(batches)]
    ways: dict[str, Callable[[int], object]] = {BARE: lambda number: [bare(data) for data in files[number]]}
    ways |= {name: loader.batch for name, loader in loaders.items()}
    ways |= {name: _of_files(way, files) for name, way in others.items()}
    fastest = {name: [float("inf")] * batches for name in ways}
    for repetition in range(_REPETITIONS + 1):
        for number in range(batches):
            for name, way in ways.items():
                start = time.process_time()
                way(number)
                if repetition:
                    fastest[name][number] = min(fastest[name][number], time.process_time() - start)
    seconds = {name: statistics.mean(times) / batch_size for name, times in fastest.items()}
    return {
        name: {"microseconds": 1e6 * taken, "pictures_per_cpu_second": 1 / taken} for name, taken in seconds.items()
    }


def grey_levels(source: Source, image_size: int, count: int = 32) -> dict[str, float]:
    """How far fast pixels are from exact ones: their mean, their 99th percentile and their largest difference."""
    whole = FixedSize(height=image_size, width=image_size)
    files = {source.read(source.record(index).images[0]) for index in range(min(count, len(source)))}
    pairs = [(Decoder(whole=whole)(data), Decoder(whole=whole, fast=True)(data)) for data in files]
    apart = np.abs(np.stack([exact.astype(int) - fast for exact, fast in pairs]))
    return {"mean": float(apart.mean()), "99%": float(np.percentile(apart, 99)), "largest": float(apart.max())}


def _of_files(way: Way, files: list[list[bytes]]) -> Callable[[int], object]:
    return lambda number: way(files[number])


def _loaders(source: Source, image_size: int, batch_size: int, *, with_fast: bool) -> dict[str, Loader]:
    """A loader for each way that can be had, without a cache, and for the emoji one with."""
    loaders = {}
    for name, settings in WAYS.items():
        if with_fast or FAST not in name:
            make = Preprocess(image_size=image_size, context_length=16, tokenizer_path=TOKENIZER_PATH, **settings)
            loaders[name] = Loader(source, make, batch_size=batch_size, seed=0, cache_megabytes=None)
    if isinstance(source, EmojiSource):
        cached = Loader(source, loaders[OURS + AUGMENTED].examples.preprocess, batch_size=batch_size, seed=0)
        _fill(cached)
        loaders[OURS + AUGMENTED + ", cached"] = cached
    return loaders


def measure_parts(source: Source, image_size: int, count: int) -> dict[str, float]:
    """CPU microseconds an example that each step of making one takes by itself."""
    make = Preprocess(
        image_size=image_size, context_length=16, tokenizer_path=TOKENIZER_PATH, augmentation=Augmentation()
    )
    records = [source.record(index % len(source)) for index in range(count)]
    drawn = [draw(record, example_rng(0, index)) for index, record in enumerate(records)]
    files = [source.read(reference) for reference, _ in drawn]
    pictures = [decode(data) for data in files]
    rng = example_rng(0, 0)
    steps: dict[str, Callable[[int], object]] = {
        "random numbers": lambda index: example_rng(0, index),
        "draw": lambda index: draw(records[index], rng),
        "read": lambda index: source.read(drawn[index][0]),
        "decode": lambda index: decode(files[index]),
        "augment": lambda index: make.image(pictures[index], rng),
        "resize only": lambda index: make.image(pictures[index]),
        "tokens": lambda index: make.tokenizer.encode(drawn[index][1].text, 16),
        "tokens, remembered": lambda index: make.tokens(drawn[index][1].text),
    }
    result = {}
    for name, step in steps.items():
        times = []
        for _ in range(3):
            start = time.process_time()
            for index in range(count):
                step(index)
            times.append(time.process_time() - start)
        result[name] = 1e6 * min(times) / count
    return result


def measure_whole(source: Source, image_size: int, batch_size: int, batches: int) -> dict[str, dict[str, float]]:
    """Pictures a second by the clock, and seconds to the first batch, for each number of workers; nobody uses the
    batches.
    """
    make = Preprocess(
        image_size=image_size, context_length=16, tokenizer_path=TOKENIZER_PATH, augmentation=Augmentation()
    )
    result = {}
    for workers in WORKERS:
        start = time.perf_counter()
        made = Loader(source, make, batch_size=batch_size, seed=0, workers=workers).batches(0)
        next(made)
        first = time.perf_counter() - start
        start = time.perf_counter()
        count = sum(map(len, islice(made, batches)))
        result[f"{workers} workers"] = {
            "pictures_per_second": count / (time.perf_counter() - start),
            "seconds_to_first_batch": first,
        }
        made.close()
    return result


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write results/<device>/loader.json."""
    parser = argparse.ArgumentParser(description="Pictures per CPU second of the loader and of others.")
    parser.add_argument("--cases", nargs="*", choices=list(CASES), default=list(CASES), help="emoji, or a width")
    parser.add_argument("--photographs", type=Path, help="a folder of photographs; by default they are made up")
    parser.add_argument("--batch-size", type=int, default=32, help="pictures in a batch")
    parser.add_argument("--batches", type=int, default=2, help="batches of each way")
    parser.add_argument("--whole", action="store_true", help="whole loaders by the clock, and the parts, as well")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    chosen = parser.parse_args(arguments)
    results = {}
    for name in chosen.cases:
        make_source, image_size = CASES[name]
        source = make_source(chosen.photographs)
        _check_same_pixels(source)
        ways = measure(source, image_size, batch_size=chosen.batch_size, batches=chosen.batches)
        result = results[name] = {"image_size": image_size, "ways": ways}
        print(f"\n{name} -> {image_size} px", flush=True)
        _print_ways(ways)
        if FASTEST in ways:
            result["fast_pixels_in_grey_levels"] = grey_levels(source, image_size)
            print(f"  fast pixels in grey levels from exact ones: {result['fast_pixels_in_grey_levels']}")
        if chosen.whole:
            result["parts_in_microseconds"] = measure_parts(source, image_size, chosen.batch_size)
            result["whole"] = measure_whole(source, image_size, chosen.batch_size, chosen.batches)
            print(
                "  parts in us: " + ", ".join(f"{key} {us:.0f}" for key, us in result["parts_in_microseconds"].items())
            )
            for workers, numbers in result["whole"].items():
                print(
                    f"  {workers}: {numbers['pictures_per_second']:.0f} pictures/s by the clock, "
                    f"first batch after {numbers['seconds_to_first_batch']:.2f} s"
                )
    print(f"\nThe machine's load was {os.getloadavg()[1]:.1f} on {os.cpu_count()} CPUs.")
    versions = {
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "photographs": chosen.photographs.name if chosen.photographs else "made up",
    }
    path = write_results("loader", versions | {"batch_size": chosen.batch_size, "cases": results}, chosen.out)
    print(f"\n{device_name()}: {path}")


def _print_ways(ways: dict[str, dict[str, float]]) -> None:
    """Each way's rate, and what it is of the fastest, of open_clip's and of tf.data's that does the same."""
    rates = {name: numbers["pictures_per_cpu_second"] for name, numbers in ways.items()}
    for name, rate in rates.items():
        change = AUGMENTED if AUGMENTED in name else ""
        others = {BARE: BARE, "the fastest": FASTEST, OPEN_CLIP: OPEN_CLIP + change, TF_DATA: TF_DATA + change}
        of = [f"{rate / rates[other]:6.2f} of {words}" for words, other in others.items() if other in rates]
        print(f"  {name:34} {rate:7.0f} /s  {', '.join(of)}")


def _fill(loader: Loader) -> None:
    """Bring all pictures of the source into the loader's cache."""
    source = loader.examples.source
    for index in range(len(source)):
        for reference in source.record(index).images:
            source.pixels(reference)


def _files_of(source: Source, order: Order, number: int) -> list[bytes]:
    """The files that a batch shows."""
    records = [source.record(int(index)) for index in order.records(number)]
    indices = order.indices(number).tolist()
    references = [draw(record, example_rng(0, index))[0] for record, index in zip(records, indices, strict=True)]
    return [source.read(reference) for reference in references]


def _check_same_pixels(source: Source) -> None:
    for index in range(0, len(source), 40):
        data = source.read(source.record(index).images[0])
        if not np.array_equal(bare(data), decode(data)):
            raise SystemExit(f"bare decoding and decode() differ on record {index}: no time is reported.")


if __name__ == "__main__":
    main()
