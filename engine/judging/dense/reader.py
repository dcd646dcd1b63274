"""Features of whole sets from one tower, with progress; those of patches lie in files, however many there are."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.data.image import resize
from diptych.core.data.ledger import Ledger, RecordParts, Skipped, name_of, reasons_with_names, tried
from diptych.core.data.record_parts import usable_pixels
from diptych.core.data.records import LeftOut
from diptych.core.data.sources.segmentation import PixelMaps, nearest_pixels
from diptych.engine.embedding.picture_features import BATCH, PictureFeatures
from diptych.engine.embedding.progress import EmbeddingProgress
from diptych.engine.judging.dense.probes import SHOWN, Patches
from diptych.engine.judging.dense.sets import ClassifiedPictures

Fetch = Callable[[int], tuple[np.ndarray, Any]]
"""The number of a picture -> uint8 [h, w, 3], and what is known of it; raises BadExample for a damaged one."""
Name = Callable[[int], str]
"""The number of a picture -> what it is called."""


@dataclass(frozen=True, kw_only=True)
class MapFeatures:
    """Pictures with maps, read.

    features: of the pictures.   maps: [pictures, side, side].   shown: the first pictures, uint8 [side, side, 3].
    """

    features: Patches
    maps: np.ndarray
    shown: Sequence[np.ndarray]


class FeatureReader:
    """Reads sets of pictures; damaged ones are left out, and said to be.

    Args:
        features: the tower.
        folder: for the files; whoever made it removes it.
        seed: of the choice where a set is not read whole.
        max_skipped: share of a set's pictures that may be damaged.

    Attributes:
        ledgers: what each set left out, in the order of reading.
    """

    def __init__(self, features: PictureFeatures, folder: Path, *, seed: int = 0, max_skipped: float = 1.0):
        self._features, self._folder, self._seed = features, folder, seed
        self._max_skipped = max_skipped
        self.ledgers: list[Ledger] = []
        self._files = 0

    def pictures(self, pictures: Sequence[np.ndarray], *, name: str) -> Patches:
        """Features of pictures uint8 [h, w, 3] each; `name` is for people."""
        return self._patches(lambda number: (pictures[number], None), str, len(pictures), name)[0]

    def maps(self, maps: PixelMaps, *, side: int, name: str, most: int | None = None) -> MapFeatures:
        """Features of pictures, and their maps.

        Args:
            maps: of classes or depths.
            side: pixels that maps are brought to.
            name: for people.
            most: of more pictures, so many random ones are read; None for all.

        Raises:
            ValueError: nothing can be read.
        """
        chosen = np.arange(len(maps))
        shown: list[np.ndarray] = []
        if most is not None and len(maps) > most:
            chosen = np.sort(np.random.default_rng(self._seed).choice(len(maps), most, replace=False))
            print(f"{name}: {most:,} of {len(maps):,} pictures, chosen at random", flush=True)

        def fetch(number: int) -> tuple[np.ndarray, np.ndarray]:
            picture, pixels = maps.pair(int(chosen[number]))
            if len(shown) < SHOWN:
                shown.append(resize(picture, side))
            return picture, nearest_pixels(pixels, (side, side))

        features, found = self._patches(fetch, lambda number: maps.name(int(chosen[number])), len(chosen), name)
        return MapFeatures(features=features, maps=np.stack(found), shown=shown)

    def classified(self, pictures: ClassifiedPictures) -> tuple[np.ndarray, np.ndarray]:
        """Pooled features of pictures, float32 [pictures, width], and their classes, int64.

        Raises:
            ValueError: nothing can be read.
        """

        def fetch(number: int) -> tuple[np.ndarray, int]:
            record, bad = pictures.source.record(int(pictures.records[number])), list[LeftOut]()
            pixels = usable_pixels(pictures.source, record, left_out=bad)
            self.ledgers[-1].leave_out_parts(RecordParts(number, picture_name(number), tuple(bad)))
            return pixels, int(pictures.classes[number])

        def picture_name(number: int) -> str:
            record = int(pictures.records[number])
            return name_of(pictures.source, record) or f"record {record}"

        pooled, labels = [], []
        for some, known in self._batches(fetch, picture_name, len(pictures.records), pictures.name):
            pooled.append(self._features(some)["pooled"])
            labels += known
        return np.concatenate(pooled), np.array(labels, np.int64)

    def _patches(self, fetch: Fetch, named: Name, count: int, name: str) -> tuple[Patches, list]:
        done, pooled, known = 0, [], []
        for pictures, those in self._batches(fetch, named, count, name):
            patches, vectors = self._features.patches(pictures)
            if not done:
                stored = self._file((count, *patches.shape[1:]))
            stored[done : done + len(patches)] = patches
            done += len(patches)
            pooled.append(vectors)
            known += those
        return Patches(patches=stored[:done], pooled=np.concatenate(pooled)), known

    def _file(self, shape: tuple[int, ...]) -> np.ndarray:
        self._files += 1
        path = self._folder / f"{self._files}.npy"
        return np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)

    def _batches(self, fetch: Fetch, named: Name, count: int, name: str) -> Iterator[tuple[list[np.ndarray], list]]:
        """Lists of pictures, and what is known of them."""
        ledger = Ledger(name, count, self._max_skipped)
        self.ledgers.append(ledger)
        print(f"{name}: {count:,} pictures", flush=True)
        with EmbeddingProgress("pictures", records=count, start=0) as progress:
            for start in range(0, count, BATCH):
                numbers = range(start, min(start + BATCH, count))
                pictures, known = [], []
                for number in numbers:
                    found = tried(named(number), fetch, number)
                    if isinstance(found, Skipped):
                        ledger.skip(found._replace(place=number))
                        continue
                    pictures.append(found[0])
                    known.append(found[1])
                if pictures:
                    yield pictures, known
                progress.update(numbers.stop, len(numbers))
        skipped = ledger.skipped.values()
        if len(skipped) == count:
            raise ValueError(f"none of the {count:,} pictures of {name} could be used: {reasons_with_names(skipped)}.")
        ledger.check()
