"""Sets that frozen features are judged on: maps of classes or depths, classes for neighbours, phrases with boxes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from diptych.core.data.image import decode
from diptych.core.data.records import BadExample, Source
from diptych.core.data.sources.files import MAX_IMAGE_FILE_BYTES, read_regular_file
from diptych.core.data.sources.reading import AS_USUAL, Reading
from diptych.core.data.sources.refcoco import HELD_OUT_SPLITS, read_original, read_references
from diptych.core.data.sources.segmentation import (
    AdeSegmentation,
    DepthFolder,
    PixelMaps,
    VocSegmentation,
)
from diptych.engine.judging.dense.scenes import Phrase
from diptych.engine.judging.sets import EvaluationSet, open_dataset

KINDS: dict[str, tuple[type[VocSegmentation | AdeSegmentation], str, str]] = {
    "voc": (VocSegmentation, "train", "val"),
    "ade": (AdeSegmentation, "training", "validation"),
}
"""How maps of classes are stored -> the reader, the split that probes are fitted to, the one they are judged on."""
DEPTH_TESTED = ("test", "val", "validation")


@dataclass(frozen=True, kw_only=True)
class MapSets:
    """Pictures with maps: those that a probe is fitted to, and those it is judged on; names of the classes, none for
    depths.
    """

    name: str
    fitted: PixelMaps
    tested: PixelMaps
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ClassifiedPictures:
    """Pictures with a class: those records of a source that have one, int64 [pictures], and which, int64 [pictures]."""

    name: str
    source: Source
    records: np.ndarray
    classes: np.ndarray
    class_names: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class PhraseSet:
    """Phrases in the order of the pictures that they are about."""

    name: str
    pictures: Sequence[Path]
    phrases: Sequence[Phrase]

    def picture(self, number: int) -> np.ndarray:
        """uint8 [h, w, 3]; raises ValueError for a file that is damaged."""
        path = self.pictures[number]
        try:
            return decode(read_regular_file(path, kind="image", max_bytes=MAX_IMAGE_FILE_BYTES))
        except BadExample as error:
            raise ValueError(f"{path} cannot be read: {error}. Put it right; phrases are not left out.") from None


class Opened(TypedDict, total=False):
    """The sets of each kind of result; none at all for the embedded scenes."""

    segmentation: MapSets
    depth: MapSets
    neighbours: tuple[ClassifiedPictures, list[ClassifiedPictures]]
    localization: list[PhraseSet]


def open_segmentation(spec: str) -> MapSets:
    """What "voc:FOLDER" or "ade:FOLDER" means; raises ValueError for anything else, FileNotFoundError for what is
    missing.
    """
    kind, colon, folder = spec.partition(":")
    if not colon or kind not in KINDS or not folder:
        raise ValueError(f"--segmentation takes {' or '.join(f'{kind}:FOLDER' for kind in KINDS)}, got {spec!r}.")
    reader, fitted, tested = KINDS[kind]
    known, judged = reader(folder, fitted), reader(folder, tested)
    name = f"{Path(folder).absolute().name}, {tested}"
    return MapSets(name=name, fitted=known, tested=judged, class_names=tuple(judged.class_names))


def open_depth(folder: str | Path, *, scale: float) -> MapSets:
    """The folders images/train and depths/train, and beside them test, val or validation."""
    root = Path(folder)
    tested = next((split for split in DEPTH_TESTED if (root / "images" / split).is_dir()), DEPTH_TESTED[0])
    return MapSets(
        name=f"{root.absolute().name}, {tested}",
        fitted=DepthFolder(root, "train", scale=scale),
        tested=DepthFolder(root, tested, scale=scale),
    )


def open_neighbours(spec: str, reading: Reading = AS_USUAL) -> tuple[ClassifiedPictures, list[ClassifiedPictures]]:
    """The set whose classes vote, and those that are classified: a data set of `recipes.evaluate` with a training
    split.
    """
    dataset = open_dataset(spec, reading=reading)
    train = _classified(dataset.shots)
    tested = [found for each in dataset.sets if each is not dataset.shots and (found := _classified(each))]
    if train is None or not tested:
        raise ValueError(
            f"{spec} has no training split whose images could vote: expected FOLDER/train and FOLDER/test, each with a "
            "folder a class."
        )
    return train, tested


def _classified(pictures: EvaluationSet | None) -> ClassifiedPictures | None:
    if pictures is None or pictures.labels is None:
        return None
    chosen = np.flatnonzero(pictures.labels.of_records >= 0)
    return ClassifiedPictures(
        name=pictures.name,
        source=pictures.source,
        records=chosen,
        classes=pictures.labels.of_records[chosen],
        class_names=pictures.labels.names,
    )


def open_phrases(files: Sequence[str], images: Path | None) -> list[PhraseSet]:
    """The held-out splits of files of references; "INSTANCES:REFERENCES" for two files as they were published.

    Raises:
        ValueError, FileNotFoundError: no folder of images, a picture that is not in it, no held-out split, or as
        `refcoco`'s readers.
    """
    if images is None:
        raise ValueError("--refcoco needs the pictures that its phrases are about: give --refcoco-images.")
    if not images.is_dir():
        raise FileNotFoundError(f"no folder {images}, where --refcoco-images says that pictures are.")
    sets = []
    for file in files:
        instances, colon, references = file.partition(":")
        referrals = read_original(instances, references, images) if colon else read_references(file, images)
        held_out = {split: [each for each in referrals if each.split == split] for split in HELD_OUT_SPLITS}
        if not any(held_out.values()):
            raise ValueError(f"{file} has no phrase of {', '.join(HELD_OUT_SPLITS)}: nothing to be judged on.")
        stem = Path(references or file).stem
        for split, some in held_out.items():
            pictures = list(dict.fromkeys(each.image for each in some))
            missing = [path for path in pictures if not path.is_file()]
            if missing:
                raise FileNotFoundError(
                    f"{len(missing):,} of the {len(pictures):,} pictures of {file}, {split}, are not there, the first "
                    f"{missing[0]}. Is --refcoco-images right?"
                )
            number = {path: place for place, path in enumerate(pictures)}
            phrases = [Phrase(scene=number[each.image], text=each.phrase, box=each.box) for each in some]
            phrases.sort(key=lambda phrase: phrase.scene)
            if phrases:
                sets.append(PhraseSet(name=f"{stem}, {split}", pictures=pictures, phrases=phrases))
    return sets
