"""The page of an evaluation, with galleries of what was found, and results fit to be stored."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.data.image import decode
from diptych.core.evaluation.judged import Evaluated
from diptych.core.report.charts.sheet import square, write_page
from diptych.core.report.evaluation_page import evaluation_page
from diptych.core.report.run.contents import Samples
from diptych.engine.embedding.stored_embeddings import StoredEmbeddings
from diptych.engine.judging.sets import Dataset, EvaluationSet

MOST_PICTURES = 2_000  # in the galleries; of more images, so many are drawn at random
PICTURE_SIDE = 64
LARGEST_TABLE = 100  # classes; larger tables of confusion are left out of the stored results


def write_evaluation_page(
    path: Path, evaluation: Evaluated, datasets: Sequence[Dataset], store: StoredEmbeddings
) -> Path:
    """Writes the page; returns its path.

    Args:
        path: of the HTML file.
        evaluation: the whole results.
        datasets: what they are of.
        store: holds the embeddings of all of them.
    """
    retrieved = {result["set"] for result in evaluation["results"] if result["task"] == "zeroshot_retrieval"}
    sets = [each for dataset in datasets for each in dataset.sets if each.name in retrieved]
    samples = _samples(sets[0], store) if sets else None
    names = ", ".join(dict.fromkeys(dataset.name for dataset in datasets))
    title = f"{Path(evaluation['model']['name']).name} on {names}"
    return write_page(path, evaluation_page(title, evaluation, samples))


def without_large_tables(evaluation: Evaluated) -> dict[str, Any]:
    """The results without tables of confusion of more than `LARGEST_TABLE` classes; their most frequent entries
    stay.
    """
    return {
        **evaluation,
        "results": [{**result, "details": without_large_table(result["details"])} for result in evaluation["results"]],
    }


def without_large_table(details: Mapping[str, Any]) -> dict[str, Any]:
    """One result, fit to be stored in the same way."""
    kept = dict(details)
    if len(kept.get("class_names", ())) > LARGEST_TABLE:
        del kept["confusion"]
    if "first_seed" in kept:
        kept["first_seed"] = without_large_table(kept["first_seed"])
    return kept


def _samples(shown: EvaluationSet, store: StoredEmbeddings) -> Samples:
    """Images, with their captions, for the galleries."""
    images, texts = store.images(shown.source, shown.name), store.captions(shown.source, shown.name)
    places = np.flatnonzero(np.isin(images.records, texts.records))
    name = shown.name
    if len(places) > MOST_PICTURES:
        places = np.sort(np.random.default_rng(0).choice(places, MOST_PICTURES, replace=False))
        name = f"{name}, {MOST_PICTURES:,} of {len(images.items):,} images"
    described = np.flatnonzero(np.isin(texts.records, images.records[places]))
    pictures = []
    for place in places.tolist():
        item = images.items[place]
        reference = shown.source.record(item.record).images[item.number]
        pictures.append(square(decode(shown.source.read(reference)), PICTURE_SIDE))
    return Samples(
        image_embeddings=images.unit_vectors[places],
        text_embeddings=texts.unit_vectors[described],
        image_labels=images.records[places],
        text_labels=texts.records[described],
        captions=tuple(texts.items[place].caption for place in described.tolist()),
        languages=tuple(texts.items[place].language for place in described.tolist()),
        thumbnails=np.stack(pictures),
        logit_scale=store.encoder.logit_scale,
        logit_bias=store.encoder.logit_bias,
        name=name,
    )
