"""Zero-shot classification: how well "a photo of a cat" fits each picture, without training a classifier.

Command:   python -m recipes.zero_shot
Own data:  python -m recipes.zero_shot --images photos/ --classes "cat,dog,polar bear" --model
           hf://google/siglip2-base-patch16-224

With no flags it looks at a dozen emoji as a designer drew them whose drawings were never trained on. Each label is put
into several sentences, whose embeddings are averaged (Radford et al. 2021, section 3.1.4), and gets two numbers: the
sigmoid, the probability that picture and label belong together, whatever else is asked; and the softmax, its share
among all labels. Prints a table, and writes results.json and a sheet of the pictures with their bars, results.html.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.data.decoder import Decode
from diptych.core.data.emoji.examples import example_drawings
from diptych.core.data.ledger import ledger_of, reasons_with_names
from diptych.core.data.records import Source
from diptych.core.data.sources.files import IMAGE_SUFFIXES
from diptych.core.data.sources.open import open_source
from diptych.core.data.sources.reading import AS_USUAL, Reading
from diptych.core.data.sources.small import FileSource
from diptych.core.evaluation.prompts import TRAINED_ON_NAMES, typed_class_names, typed_templates, usual_templates
from diptych.core.files.json_objects import write_json
from diptych.core.report.ledger_text import tell_left_out
from diptych.engine.command_line import parse
from diptych.engine.embedding.image_stream import GOOD, Item, embed_prepared, prepared_images
from diptych.engine.embedding.progress import EmbeddingProgress
from diptych.engine.embedding.tally import Tally
from diptych.engine.embedding.zero_shot_classifier import ZeroShotClassifier
from diptych.engine.failures import exit_status
from diptych.engine.flags import check_least
from diptych.engine.judging.zero_shot_results import ClassifiedImage, ZeroShotFound, best_labels, page, print_table

MOST_SHOWN = 300


@dataclass(frozen=True, kw_only=True)
class ZeroShot:
    """Which pictures, and what they might be."""

    images: tuple[str, ...] = ()
    """Files, folders, tar shards or Parquet files; by default a dozen emoji."""
    classes: tuple[str, ...] = ()
    """Names of the classes: "cat,dog,polar bear", or a file with one a line (or a JSON list)."""
    templates: tuple[str, ...] = ()
    """"a photo of a {}", or files with one a line; by default seven general ones, and "{}" for the model of the
    emoji.
    """
    model: str = TRAINED_ON_NAMES
    """A trained model: a folder (of a checkpoint, or of a run), hf://owner/name, or emoji_36_languages."""
    output: Path = Path("runs/zero_shot/results.json")
    """Results; the sheet is written beside it, as .html."""
    top_k: int = 5
    """Labels to show for each picture."""
    batch_size: int = 64
    """Images that the model takes at a time."""
    workers: int | None = None
    """Threads that decode; by default as many as there are processors."""
    decode: Decode = "exact"
    """fast decodes JPEGs at a reduced scale and resizes by OpenCV (pip install 'diptych[fast]'), some grey levels off
    (docs/data.md); exact is Pillow."""
    reading: Reading = AS_USUAL

    def __post_init__(self):
        check_least(self, top_k=1, batch_size=1, workers=1)


def main(arguments: list[str] | None = None) -> int:
    """Classifies; returns the exit status."""
    options = parse(ZeroShot(), arguments, program="python -m recipes.zero_shot", description=__doc__)
    from diptych.engine.embedding.encoder import Encoder

    return exit_status(lambda: classify(options, Encoder.open), options)


def classify(options: ZeroShot, open_encoder: Callable[[str], Any]) -> int:
    """Everything after the command line. `open_encoder` makes an encoder of the model's name: `Encoder.open`."""
    sources, labels, truths = _asked(options)
    templates = typed_templates(options.templates) or usual_templates(options.model)
    encoder = open_encoder(options.model)
    if options.decode != "exact":
        encoder = encoder.decoding(options.decode)
    classes = ZeroShotClassifier(encoder, labels, templates).class_embeddings
    images: list[ClassifiedImage] = []
    pictures: list[tuple[Source, Item, ClassifiedImage]] = []
    for source, item, embedding in _embedded(sources, encoder, options):
        image: ClassifiedImage = {"key": item.key, "image": item.image, "status": item.status}
        if embedding is not None:
            if item.key in truths:
                image["truth"] = truths[item.key]
            image["best"] = best_labels(embedding @ classes.T, labels, encoder, top_k=options.top_k)
            pictures.append((source, item, image))
        images.append(image)
    if not pictures:
        skipped = [one for source in sources for one in ledger_of(source).skipped.values()]
        raise ValueError(f"none of {len(images):,} images could be used: {reasons_with_names(skipped)}.")
    found: ZeroShotFound = {
        "model": options.model,
        "templates": list(templates),
        "labels": list(labels),
        "skipped": Counter(image["status"] for image in images if image["status"] != GOOD),
        "images": images,
    }
    print_table(found)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output, found)
    sheet = page(options.output.with_suffix(".html"), found, pictures[:MOST_SHOWN])
    print(f"Sheet: {sheet.resolve().as_uri()}", flush=True)
    ledgers = [ledger_of(source) for source in sources]
    tell_left_out(ledgers)
    for ledger in ledgers:
        ledger.check()
    return 0


def _asked(options: ZeroShot) -> tuple[list[Source], tuple[str, ...], dict[str, str]]:
    """The sources of the images, the labels, and the right label by key where it is known."""
    labels = _labels(options)
    if not options.images:
        drawings, concepts = example_drawings()
        names = {concept.hexcode: concept.names["en"] for concept in concepts}
        labels = labels or tuple(names.values())
        return [drawings], labels, {key: name for key, name in names.items() if name in labels}
    if not labels:
        raise ValueError('no labels for these images: give --classes "cat,dog,polar bear", or a file with one a line.')
    files = [name for name in options.images if Path(name).suffix.lower() in IMAGE_SUFFIXES and not Path(name).is_dir()]
    sources: list[Source] = [open_source(name, reading=options.reading) for name in options.images if name not in files]
    if files:
        sources.insert(0, FileSource(files))
        ledger_of(sources[0]).max_skipped = options.reading.max_skipped
    return sources, labels, {}


def _labels(options: ZeroShot) -> tuple[str, ...]:
    labels = typed_class_names(options.classes)
    repeated = [label for label, count in Counter(labels).items() if count > 1]
    if repeated:
        raise ValueError(f"labels must differ, got {', '.join(repeated)} more than once.")
    if len(labels) == 1:
        raise ValueError(f"one label ({labels[0]}) leaves nothing to choose from: give two or more.")
    return labels


def _embedded(
    sources: Sequence[Source], encoder: Any, options: ZeroShot
) -> Iterator[tuple[Source, Item, np.ndarray | None]]:
    """(source, item, embedding [dim] or None) of every image."""
    for source in sources:
        tally = Tally(source, "images")
        runs = prepared_images(source, encoder.processor, batch_size=options.batch_size, workers=options.workers)
        with closing(runs), EmbeddingProgress("images", records=len(source), start=0) as progress:
            for run in runs:
                vectors: np.ndarray = embed_prepared(encoder, run, options.batch_size)
                tally.add(run.items)
                progress.update(run.items[-1].record, len(run.items))
                for item, vector, good in zip(run.items, vectors, run.good, strict=True):
                    yield source, item, vector if good else None
            tally.close()
            progress.update(len(source), 0)


if __name__ == "__main__":
    sys.exit(main())
