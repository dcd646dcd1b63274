"""Boxes for the words of captions, found in their pictures: what the decoder of `recipes.siglip2` learns from.

Command:   python -m recipes.label
Own data:  python -m recipes.label --data photos/ --output boxes.jsonl --detector owl:google/owlv2-base-patch16-ensemble
Train:     python -m recipes.siglip2 --train-data labelled:boxes.jsonl:photos/

SigLIP 2 labels its pictures so (Tschannen et al. 2025, arXiv 2502.14786, section 2.2): an open-vocabulary detector
looks for the n-grams of the alt-text and for fixed categories. "owl:" and the name of a checkpoint is such a detector
(`pip install transformers torch`). "segments", the default, is for drawings on plain grounds: what differs from the
ground, named by a model of two towers. With no flags it looks at scenes of emoji by a designer whose drawings that
model never saw, and tells how many of the things in them it found.

Writes the boxes, a line for each record, and a page of the first pictures beside it, as .html. Stop it whenever you
like: the same command goes on where it stopped. Several processes share the work by --num-processes and --process-id.
"""

import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from diptych.core.data.ledger import ledger_of, visit
from diptych.core.data.records import Box, Record, Region, Source
from diptych.core.data.regions import box_iou
from diptych.core.data.sources.cache import pixels_of
from diptych.core.data.sources.open import LABELLED, open_source
from diptych.core.data.sources.phrases import CATEGORIES, LONGEST_NGRAM
from diptych.core.data.sources.reading import AS_USUAL, Reading
from diptych.core.data.sources.region_labelling import (
    MOST_REGIONS,
    THRESHOLD,
    Detector,
    Search,
    label_part,
    label_regions,
)
from diptych.core.data.sources.region_labels import LabelledSource
from diptych.core.data.sources.region_parts import Part
from diptych.core.evaluation.localization import THRESHOLD as SAME_BOX
from diptych.core.placement import launched
from diptych.core.report.box_gallery import PAGE_SIDE, Located, with_boxes
from diptych.core.report.charts.markup import Markup, caption_text, element
from diptych.core.report.charts.numbers import percent, shown
from diptych.core.report.charts.sheet import sheet, square, write_page
from diptych.core.report.charts.thumbnails import Thumbnails
from diptych.core.report.ledger_text import tell_left_out
from diptych.core.training.signals import Stopped, StopSignals
from diptych.engine.command_line import parse
from diptych.engine.datasets.open import known_data_set
from diptych.engine.datasets.scenes import evaluation_scenes
from diptych.engine.embedding.progress import EmbeddingProgress
from diptych.engine.failures import exit_status, stoppable
from diptych.engine.flags import check_least
from diptych.engine.labelling.crop_scorer import CropScorer
from diptych.engine.labelling.detectors import OwlDetector, SegmentDetector

OWL, SEGMENTS = "owl:", "segments"
COMMON = "common"
MOST_JUDGED = 2_000
SHOWN = 48


@dataclass(frozen=True, kw_only=True)
class Label:
    """Which pictures, what to look for in them, and by what."""

    data: str = "scenes"
    """A folder of images with captions, WebDataset shards, Parquet files, "emoji", or "scenes", whose boxes are
    known.
    """
    output: Path = Path("runs/label/regions.jsonl")
    """The boxes; the same command again goes on where it stopped. The page is written beside it, as .html."""
    detector: str = SEGMENTS
    """"segments", or owl: and a folder or a checkpoint's name, such as owl:google/owlv2-base-patch16-ensemble."""
    model: str = "emoji_36_languages"
    """What names the segments: a folder (of a checkpoint, or of a run), hf://owner/name, or emoji_36_languages."""
    device: str = "cpu"
    """Where OWL runs, in torch's words: cpu, cuda, mps."""
    categories: tuple[str, ...] = ()
    """Things to look for in every picture, in English, or "common" for some 180 that many pictures show."""
    max_ngram: int = LONGEST_NGRAM
    """Words of the captions' n-grams; 0 looks for categories alone."""
    threshold: float = THRESHOLD
    """The least score of a box."""
    max_regions: int = MOST_REGIONS
    """Boxes of a picture, the surest ones."""
    batch_size: int = 8
    """Pictures that the detector gets at once."""
    num_processes: int | None = None
    """How many processes share the work, each with a part of the records, on any machines that see the same files.
    When all have ended, the command without this flag and process_id puts their parts together.
    """
    process_id: int | None = None
    """Which of them this is, from 0."""
    scenes: int = 200
    """How many, where they are the data."""
    reading: Reading = AS_USUAL

    def __post_init__(self):
        check_least(self, max_regions=1, scenes=1, batch_size=1)
        count, number = self.num_processes, self.process_id
        if (count, number) != (None, None) and (count is None or number is None or not 0 <= number < count):
            raise ValueError(
                f"--num-processes says how many share the work, and --process-id which of them this is, from 0; got "
                f"{count} and {number}."
            )
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"--threshold must lie in [0, 1], got {self.threshold}.")
        if self.max_ngram < 0 or not (self.max_ngram or self.categories):
            raise ValueError(
                f"--max-ngram must be at least 1, or 0 with --categories, got {self.max_ngram}: there would be "
                "nothing to look for."
            )
        if self.detector != SEGMENTS and (not self.detector.startswith(OWL) or self.detector == OWL):
            raise ValueError(
                f"--detector is {SEGMENTS}, or {OWL} and the name of a checkpoint, such as "
                f"{OWL}google/owlv2-base-patch16-ensemble; got {self.detector!r}."
            )


def main(arguments: list[str] | None = None) -> int:
    """Labels, or goes on labelling; returns the exit status."""
    options = parse(Label(), arguments, program="python -m recipes.label", description=__doc__)
    from diptych.engine.embedding.encoder import Encoder

    return exit_status(lambda: label(options, Encoder.open), options)


def label(options: Label, open_encoder: Callable[[str], Any]) -> int:
    """Everything after the command line. `open_encoder` makes an encoder of the model's name: `Encoder.open`."""
    known = known_data_set(options.data)
    drawn = known is not None and known.shows_scenes
    if known is not None and known.shows_scenes:
        source: Source = evaluation_scenes(length=options.scenes, aspects=known.aspects)
    else:
        source = open_source(options.data, reading=options.reading)
    part = part_of(options, os.environ)
    detector = open_detector(options, open_encoder)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    categories = [name for given in options.categories for name in (CATEGORIES if given == COMMON else (given,))]
    search = Search(
        threshold=options.threshold,
        most=options.max_regions,
        longest=options.max_ngram,
        categories=tuple(dict.fromkeys(categories)),
    )

    def work(stop: StopSignals) -> int:
        with ExitStack() as stack:
            ways: dict[str, Any] = {"batch_size": options.batch_size, "progress": _progress(stack, stop)}
            if part:
                made = label_part(source, detector, options.output, part, search, **ways)
                told = (
                    f"{made}: done. When all {part.of} are, the command without --process-id and --num-processes puts "
                    "them together."
                )
            else:
                told = _told(options, label_regions(source, detector, options.output, search, **ways), trains=not drawn)
        ledger = ledger_of(source)
        tell_left_out([ledger])
        ledger.check()
        print(told, flush=True)
        return 0

    return stoppable(work)


def _told(options: Label, labelled: LabelledSource, *, trains: bool) -> str:
    """What was found, in a sentence; a page shows it."""
    summary = f"{options.output}: {sentences(counted(labelled))}"
    page = write_page(options.output.with_suffix(".html"), _page(summary, labelled))
    lines = [summary, f"Page: {page.resolve().as_uri()}"]
    if trains:
        spec = f"{LABELLED}{options.output}:{options.data}"
        lines.append(f'Train on it:  python -m recipes.siglip2 --train-data "{spec}"')
    return "\n".join(lines)


def part_of(options: Label, environment: Mapping[str, str]) -> Part | None:
    """The part of the records that this process labels, where several share the work.

    Raises:
        ValueError: it was started as one of several, and nothing says that each has a part of its own.
    """
    if options.process_id is not None and options.num_processes is not None:
        return Part(options.process_id, options.num_processes)
    if many := launched(environment):
        said = ", ".join(f"{variable}={value}" for variable, value in many.items())
        raise ValueError(
            f"This process was started as one of several ({said}), which would all write the same file. Give each "
            "--num-processes, and --process-id from 0: `srun sh -c 'diptych label --num-processes $SLURM_NTASKS "
            "--process-id $SLURM_PROCID'`, say."
        )
    return None


def open_detector(options: Label, open_encoder: Callable[[str], Any]) -> Detector:
    """The detector that the options name."""
    if options.detector != SEGMENTS:
        name = options.detector.removeprefix(OWL)
        return OwlDetector(name, least_score=options.threshold, device=options.device)
    scorer = CropScorer(open_encoder(options.model))
    return SegmentDetector(scorer, scorer.name)


class Counted(TypedDict):
    """What was found in pictures, and how much of what was known before."""

    pictures: int
    regions: int
    bad: int  # records of no use
    known: int  # true boxes
    found: int  # of those, covered by a region at an IoU of at least 0.5
    named: int  # of those, by one whose text is the box's, whatever its case


def counted(labelled: LabelledSource, most: int = MOST_JUDGED) -> Counted:
    """What the first records hold, and how many of the boxes that were known before are among them."""
    totals: Counted = {"pictures": 0, "regions": 0, "bad": 0, "known": 0, "found": 0, "named": 0}
    looked_at = range(min(len(labelled), most))
    for index, record in visit(labelled, lambda record: record, looked_at):
        known = known_boxes(labelled.source.record(index))
        totals["pictures"] += 1
        totals["regions"] += len(record.regions)
        totals["known"] += len(known)
        if not record.regions:
            continue
        boxes = np.array([region.box for region in record.regions])
        for box, names in known.items():
            met = np.flatnonzero(box_iou(boxes, np.array(box)) >= SAME_BOX)
            totals["found"] += bool(len(met))
            totals["named"] += any(record.regions[place].text.lower() in names for place in met)
    totals["bad"] = len(looked_at) - totals["pictures"]
    return totals


def known_boxes(record: Record) -> dict[tuple, set[str]]:
    """The boxes that a record has by itself, each with its names, in lower case."""
    known: dict[tuple, set[str]] = {}
    for region in record.regions:
        known.setdefault(region.box, set()).add(region.text.lower())
    return known


def sentences(found: Counted) -> str:
    """What `counted` counted, for people."""
    text = f"{found['regions']:,} boxes in {found['pictures']:,} pictures"
    if found["bad"]:
        text += f", {found['bad']:,} more could not be used"
    if not found["known"]:
        return f"{text}."
    shares = [f"{count:,} ({percent(count / found['known'])})" for count in (found["found"], found["named"])]
    return (
        f"{text}. Of {found['known']:,} boxes that were known before, {shares[0]} were found at an IoU of 0.5, "
        f"{shares[1]} under their own names."
    )


def _progress(stack: ExitStack, stop: StopSignals) -> Callable[[int, int], None]:
    """Shows how far it is, and raises `Stopped` once a signal came."""
    shown_progress: list[EmbeddingProgress] = []
    before = 0

    def update(done: int, total: int) -> None:
        nonlocal before
        if not shown_progress:
            shown_progress.append(stack.enter_context(EmbeddingProgress("pictures", records=total, start=done)))
        else:
            shown_progress[0].update(done, done - before)
        before = done
        if stop.stop_requested:
            raise Stopped

    return update


def _page(summary: str, labelled: LabelledSource) -> str:
    """The first boxes, each on its picture."""
    cards: list[Markup] = []

    def shown_boxes(record: Record) -> tuple[Sequence[Region], np.ndarray | None]:
        return record.regions, pixels_of(labelled, record.images[0]) if record.regions else None

    for index, (regions, picture) in visit(labelled, shown_boxes):
        if picture is None:
            continue
        known = known_boxes(labelled.source.record(index))
        cards += [_card(picture, region, known) for region in regions[: SHOWN - len(cards)]]
        if len(cards) == SHOWN:
            break
    section = element("ul", cards, class_="hits") if cards else element("p", "No box was found.")
    return sheet("Boxes for the words of captions", [summary], [section])


def _card(picture: np.ndarray, region: Region, known: Collection[Box]) -> Markup:
    """The picture with the box, its phrase and score, and how well it agrees with the nearest of the boxes known
    before.
    """
    boxed = with_boxes(Located(picture=picture, phrase=region.text, true=region.box, predicted=None))
    overlap = max((float(box_iou(np.array(box), np.array(region.box))) for box in known), default=None)
    return element(
        "li",
        Thumbnails(square(boxed, PAGE_SIDE)[None], largest=PAGE_SIDE).picture(0, region.text),
        element("p", caption_text(region.text, limit=120)),
        element(
            "div",
            element("span", "score ", shown(region.score, f"{region.score:.2f}")),
            None if overlap is None else element("span", "IoU ", shown(overlap, f"{overlap:.2f}")),
            class_="figures",
        ),
        class_="hit",
    )


if __name__ == "__main__":
    sys.exit(main())
