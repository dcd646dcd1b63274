"""Examples a second and core that the loader makes, against bare decoding of the same files with Pillow.

    python -m benchmarks.loader

Bare decoding opens each file, decodes it to RGB and makes an array of it: what no loader can do without. Everything is
timed in one process by its CPU time, in turn, the fastest of three; then whole loaders by the clock, with a thread and
with processes.
"""

import argparse
import io
import os
import statistics
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from benchmarks.device import RESULTS, device_name, write_results
from diptych.core.data.emoji import TOKENIZER_PATH, EmojiSource
from diptych.core.data.examples.augmentation import Augmentation
from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.data.image import decode
from diptych.core.data.loading.loader import Loader
from diptych.core.data.records import Caption, Record, Source
from diptych.core.data.sampling import Order, draw, example_rng

BATCH_SIZE = 128
WORKERS = (0, 1, 2)
_REPETITIONS = 3


class PhotoSource:
    """JPEG files of the size and weight of web photographs (400 x 300, about 30 kB), made of smooth noise."""

    def __init__(self, count: int = 256):
        self.count = count
        rng = np.random.default_rng(0)
        self._files = []
        for _ in range(32):
            layers = [rng.integers(0, 256, (side * 3, side * 4, 3), dtype=np.uint8) for side in (3, 12, 50)]
            pictures = [Image.fromarray(layer).resize((400, 300), Image.Resampling.BICUBIC) for layer in layers]
            picture = Image.blend(Image.blend(pictures[0], pictures[1], 0.4), pictures[2], 0.25)
            file = io.BytesIO()
            picture.save(file, "JPEG", quality=85)
            self._files.append(file.getvalue())

    def __len__(self) -> int:
        return self.count

    def record(self, index: int) -> Record:
        """A record with one picture and one caption."""
        return Record(str(index), (index,), (Caption(f"photograph number {index} of nothing in particular"),))

    def read(self, reference: int) -> bytes:
        """The JPEG file."""
        return self._files[reference % len(self._files)]

    def fingerprint(self) -> str:
        """The same for all."""
        return "photographs of noise"


CASES: dict[str, tuple[Callable[[], Source], int]] = {
    "emoji, 64 px WebP": (EmojiSource, 64),
    "photographs, 400 x 300 JPEG": (PhotoSource, 224),
}


def measure(source: Source, image_size: int, batches: int) -> dict[str, dict[str, float]]:
    """CPU microseconds an example of each way, and examples a second and core; the fastest of three times of each
    batch.

    A first round is not counted: records are built and captions tokenized once, as in a run of many epochs.
    """
    plain = Preprocess(image_size=image_size, context_length=16, tokenizer_path=TOKENIZER_PATH)
    changed = Preprocess(
        image_size=image_size, context_length=16, tokenizer_path=TOKENIZER_PATH, augmentation=Augmentation()
    )
    settings = {"batch_size": BATCH_SIZE, "seed": 0}
    loaders = {
        "loader": Loader(source, plain, cache_megabytes=None, **settings),
        "loader, augmented": Loader(source, changed, cache_megabytes=None, **settings),
        "loader, augmented, cached": Loader(source, changed, **settings),
    }
    order = loaders["loader"].examples.order
    files = [_files_of(source, order, number) for number in range(batches)]
    ways: dict[str, Callable[[int], object]] = {
        "bare decoding": lambda number: [_bare(data) for data in files[number]],
        "decode": lambda number: [decode(data) for data in files[number]],
    }
    ways |= {name: loader.batch for name, loader in loaders.items()}
    _fill(loaders["loader, augmented, cached"])
    fastest = {name: [float("inf")] * batches for name in ways}
    for repetition in range(_REPETITIONS + 1):
        for number in range(batches):
            for name, way in ways.items():
                start = time.process_time()
                way(number)
                if repetition:
                    fastest[name][number] = min(fastest[name][number], time.process_time() - start)
    seconds = {name: statistics.mean(times) / BATCH_SIZE for name, times in fastest.items()}
    return {
        name: {
            "microseconds": 1e6 * time_taken,
            "examples_per_second_and_core": 1 / time_taken,
            "against_bare_decoding": seconds["bare decoding"] / time_taken,
        }
        for name, time_taken in seconds.items()
    }


def measure_parts(source: Source, image_size: int, count: int = 512) -> dict[str, float]:
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


def measure_whole(source: Source, image_size: int, batches: int) -> dict[str, dict[str, float]]:
    """Examples a second by the clock, and seconds to the first batch, for each number of workers; nobody uses the
    batches.
    """
    make = Preprocess(
        image_size=image_size, context_length=16, tokenizer_path=TOKENIZER_PATH, augmentation=Augmentation()
    )
    result = {}
    for workers in WORKERS:
        start = time.perf_counter()
        made = Loader(source, make, batch_size=BATCH_SIZE, seed=0, workers=workers).batches(0)
        next(made)
        first = time.perf_counter() - start
        start = time.perf_counter()
        count = sum(map(len, islice(made, batches)))
        result[f"{workers} workers"] = {
            "examples_per_second": count / (time.perf_counter() - start),
            "seconds_to_first_batch": first,
        }
        made.close()
    return result


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write results/<device>/loader.json."""
    parser = argparse.ArgumentParser(description="Examples a second and core of the loader against bare decoding.")
    parser.add_argument("--batches", type=int, default=8, help=f"of {BATCH_SIZE} examples, of each way")
    parser.add_argument("--cases", nargs="*", choices=list(CASES), default=list(CASES), help="of the named cases")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    chosen = parser.parse_args(arguments)
    results = {}
    for name in chosen.cases:
        make_source, image_size = CASES[name]
        source = make_source()
        _check_same_pixels(source)
        result = results[name] = {
            "image_size": image_size,
            "ways": measure(source, image_size, chosen.batches),
            "parts_in_microseconds": measure_parts(source, image_size),
            "whole": measure_whole(source, image_size, chosen.batches),
        }
        print(f"\n{name} -> {image_size} px")
        for way, numbers in result["ways"].items():
            print(
                f"  {way:26} {numbers['microseconds']:8.0f} us  {numbers['examples_per_second_and_core']:8.0f} /s and "
                f"core  {numbers['against_bare_decoding']:6.2f} of bare decoding"
            )
        print(
            "  parts: "
            + ", ".join(f"{part} {time:.0f}" for part, time in result["parts_in_microseconds"].items())
            + " us"
        )
        for workers, numbers in result["whole"].items():
            print(
                f"  {workers}: {numbers['examples_per_second']:.0f} examples/s by the clock, "
                f"first batch after {numbers['seconds_to_first_batch']:.2f} s"
            )
    print(
        f"\nThe machine's load was {os.getloadavg()[1]:.1f} on {os.cpu_count()} CPUs; times by the clock suffer above "
        "that."
    )
    versions = {"numpy": np.__version__, "pillow": PIL.__version__}
    path = write_results("loader", versions | {"batch_size": BATCH_SIZE, "cases": results}, chosen.out)
    print(f"\n{device_name()}: {path}")


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


def _bare(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _check_same_pixels(source: Source) -> None:
    for index in range(0, len(source), 40):
        data = source.read(source.record(index).images[0])
        if not np.array_equal(_bare(data), decode(data)):
            raise SystemExit(f"bare decoding and decode() differ on record {index}: no time is reported.")


if __name__ == "__main__":
    main()
