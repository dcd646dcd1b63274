"""Probes of frozen patches and of a decoder: results and pictures of sets that are already read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diptych.core.data.emoji import GROUPS
from diptych.core.evaluation.depth_probe import DepthProbeResult, depth_probe
from diptych.core.evaluation.localization import LocalizationResult, accuracy_at_iou
from diptych.core.evaluation.neighbours import neighbours
from diptych.core.evaluation.segmentation_probe import SegmentationProbeResult, segmentation_probe
from diptych.core.report.box_gallery import Located
from diptych.core.report.charts.sheet import write_page
from diptych.core.report.dense_page import DensePictures, DenseResults, dense_page, of_all_kinds
from diptych.core.report.patch_pictures import PatchPicture, principal_colours
from diptych.core.report.segmentation_pictures import SegmentationPicture
from diptych.engine.datasets.scenes import evaluation_scenes, training_scenes
from diptych.engine.embedding.picture_features import Writer
from diptych.engine.judging.dense.scenes import CLASS_NAMES, Phrase, Scenes, read_scenes

SCENES = "new scenes"
FITTED, JUDGED = 600, 300  # scenes
ASKED = 300  # phrases of scenes that a decoder is asked for
FITTED_SEED = 1
SHOWN = 12
HEADLINES = {"segmentation": "mean_iou", "depth": "rmse", "neighbours": "accuracy", "localization": "accuracy"}


@dataclass(frozen=True)
class Patches:
    """Features of pictures: of their patches, float32 [pictures, rows, columns, width], and pooled, [pictures,
    width].
    """

    patches: np.ndarray
    pooled: np.ndarray


def fitted_scenes() -> Scenes:
    """Scenes that probes are fitted to: by the training designers, of the concepts that training scenes show."""
    return read_scenes(training_scenes(length=FITTED, seed=FITTED_SEED), FITTED)


def judged_scenes() -> Scenes:
    """Scenes that they are judged on, by the held-out designer."""
    return read_scenes(evaluation_scenes(), JUDGED)


def probe_segmentation(
    known: Patches,
    known_labels: np.ndarray,
    found: Patches,
    labels: np.ndarray,
    class_names: Sequence[str],
    pictures: Sequence[np.ndarray],
    *,
    pooled: bool = False,
    seed: int = 0,
) -> tuple[SegmentationProbeResult, list[SegmentationPicture]]:
    """The scores of a linear probe, fitted to known labels, on others, and its answers for the first pictures.

    Args:
        known, found: features of both sets.
        known_labels, labels: integer [pictures, height, width].
        class_names: one for each class.
        pictures: uint8 [h, w, 3] each, the first of those found; they are shown at the labels' size.
        pooled: whether each patch's features are followed by its picture's.
        seed: of the choice of patches and of the resampling.
    """
    result, answers = segmentation_probe(
        known.patches,
        known_labels,
        found.patches,
        labels,
        class_names,
        train_pooled=known.pooled if pooled else None,
        pooled=found.pooled if pooled else None,
        seed=seed,
    )
    shown = [
        SegmentationPicture(picture=picture, truth=truth, predicted=answer)
        for picture, truth, answer in zip(pictures[:SHOWN], labels, answers, strict=False)
    ]
    return result, shown


def probe_depth(
    known: Patches,
    known_depths: np.ndarray,
    found: Patches,
    depths: np.ndarray,
    *,
    pooled: bool = False,
    seed: int = 0,
) -> DepthProbeResult:
    """The errors of a linear probe of depth; arguments as for `probe_segmentation`, depths in metres."""
    return depth_probe(
        known.patches,
        known_depths,
        found.patches,
        depths,
        train_pooled=known.pooled if pooled else None,
        pooled=found.pooled if pooled else None,
        seed=seed,
    )


def patch_pictures(found: Patches, pictures: Sequence[np.ndarray]) -> list[PatchPicture]:
    """The principal components of the first pictures' patches."""
    shown = pictures[:SHOWN]
    colours = principal_colours(np.asarray(found.patches[: len(shown)]))
    return [PatchPicture(picture=picture, colours=each) for picture, each in zip(shown, colours, strict=True)]


def probe_scenes(
    known: Patches, fitted: Scenes, found: Patches, scenes: Scenes, *, pooled: bool = False, seed: int = 0
) -> tuple[DenseResults, DensePictures]:
    """Classes of pixels, distances, and neighbours by the class of the nearest thing.

    Args:
        known, fitted: the scenes that probes are fitted to.
        found, scenes: those they are judged on.
        pooled, seed: as for `probe_segmentation`.
    """
    segmentation, answers = probe_segmentation(
        known,
        np.stack(fitted.labels),
        found,
        np.stack(scenes.labels),
        CLASS_NAMES,
        scenes.pixels,
        pooled=pooled,
        seed=seed,
    )
    depth = probe_depth(known, np.stack(fitted.depths), found, np.stack(scenes.depths), pooled=pooled, seed=seed)
    kinds = neighbours(known.pooled, fitted.kinds, found.pooled, scenes.kinds, GROUPS, seed=seed)
    pictures = DensePictures(
        patches=patch_pictures(found, scenes.pixels), segmentation=answers, class_names=CLASS_NAMES
    )
    return {
        "segmentation": {SCENES: segmentation},
        "depth": {SCENES: depth},
        "neighbours": {SCENES: kinds},
    }, pictures


def locate(
    writer: Writer,
    picture: Callable[[int], np.ndarray],
    phrases: Sequence[Phrase],
    *,
    at_once: int,
    told: Callable[[int, int], object] | None = None,
    seed: int = 0,
) -> tuple[LocalizationResult, list[Located]]:
    """Acc@0.5 of the boxes that a decoder writes for phrases, and pictures of the first.

    Args:
        writer: asks the decoder.
        picture: the number of a picture -> uint8 [h, w, 3].
        phrases: in the order of their pictures.
        at_once: pictures whose features are held at a time.
        told: is given the number of phrases answered so far, and how many of them are new.
        seed: of the bootstrap.
    """
    boxes: list = []
    located: list[Located] = []
    numbers = sorted({phrase.scene for phrase in phrases})
    for start in range(0, len(numbers), at_once):
        place = {number: place for place, number in enumerate(numbers[start : start + at_once])}
        some = [phrase for phrase in phrases if phrase.scene in place]
        pictures = [picture(number) for number in place]
        where = [place[phrase.scene] for phrase in some]
        answers = writer("find", pictures, [{"text": phrase.text} for phrase in some], where)
        boxes += answers
        located += [
            Located(picture=pictures[at], phrase=phrase.text, true=phrase.box, predicted=box)
            for at, phrase, box in zip(where, some, answers, strict=True)
        ][: SHOWN - len(located)]
        if told is not None:
            told(len(boxes), len(some))
    truth = np.array([phrase.box for phrase in phrases])
    return accuracy_at_iou(boxes, truth, groups=np.array([phrase.scene for phrase in phrases]), seed=seed), located


def locate_in_scenes(writer: Writer, scenes: Scenes, *, seed: int = 0) -> tuple[LocalizationResult, list[Located]]:
    """The same for the first things of scenes."""
    pixels = scenes.pixels
    return locate(writer, lambda scene: pixels[scene], scenes.phrases[:ASKED], at_once=len(scenes), seed=seed)


def dense_lines(results: DenseResults) -> list[str]:
    """A line for people about each result, with what answering the same everywhere would reach."""
    return [
        f"{kind}, {name}: {HEADLINES[kind]} {numbers[HEADLINES[kind]]:.3f}"
        + (f" ({numbers['chance']:.3f} without looking)" if "chance" in numbers else "")
        for kind, sets in of_all_kinds(results).items()
        for name, numbers in sets.items()
    ]


def write_dense_page(path: Path, results: DenseResults, pictures: DensePictures, **said: str) -> Path:
    """Writes the page; `said` is the title and summary of `dense_page`."""
    return write_page(path, dense_page(results, pictures, **said))
