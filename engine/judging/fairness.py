"""Measurements of evenness: accuracy by group, whom a model sees in pictures of nobody, what it takes groups for."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from diptych.core.evaluation.fairness import AssociationBias, association_bias, representation_bias
from diptych.core.evaluation.fairness_results import FairnessResult, PairBias
from diptych.core.evaluation.few_shot import FewShotResult, few_shot
from diptych.core.evaluation.grouped import grouped_accuracy
from diptych.core.evaluation.intervals import hit_rate_interval
from diptych.core.evaluation.prompts import prompted_scores
from diptych.core.report.language_names import language_name
from diptych.engine.datasets.fairness_set import FairnessSet, People
from diptych.engine.embedding.stored_embeddings import Embedded, StoredEmbeddings

FEW_SHOT_SEEDS = 3
PAIRS = (("a photo of a man", "a photo of a woman"), ("a man", "a woman"), ("men", "women"), ("he", "she"))
"""Texts whose first is held against the second. What the published numbers were measured with is not known."""


def measure(
    store: StoredEmbeddings,
    tested: FairnessSet,
    *,
    pairs: Sequence[tuple[str, str]] = PAIRS,
    shots: int = 10,
    fewest: int,
    canonicalize: bool,
    seed: int = 0,
) -> FairnessResult:
    """All measurements of a set.

    Args:
        store: of the model's embeddings.
        tested: the set.
        pairs: of texts, for representation bias.
        shots: pictures a place.
        fewest: pictures of a group that is looked at.
        canonicalize: prompts in lower case without punctuation.
        seed: of the drawing of shots and of resampling.

    Raises:
        Stopped: a signal came.
    """
    images = store.images(tested.source, tested.name)
    groups = [tested.groups(item) for item in images.items]
    attributes = list(dict.fromkeys(attribute for some in groups for attribute in some))
    right = [tested.right(item) for item in images.items]
    hits = {
        language: np.array([best in wanted for best, wanted in zip(answers, right, strict=True)])
        for language, answers in _answers(store, tested, images, canonicalize=canonicalize).items()
    }
    first = next(iter(hits.values()))
    low, high = hit_rate_interval(first, groups=images.records, seed=seed)
    of_groups = [
        grouped_accuracy(name, first, [some.get(name) for some in groups], fewest=fewest, seed=seed)
        for name in attributes
    ]
    result: FairnessResult = {
        "set": tested.name,
        "data": {
            "fingerprint": tested.source.fingerprint(),
            "records": len(tested.source),
            "images": len(images.items),
            "skipped_images": images.skipped,
            "classes": len(tested.class_names),
        },
        "zero_shot": {
            "accuracy": float(first.mean()),
            "interval": [float(low), float(high)],
            "classes": len(tested.class_names),
        },
        "by_group": [one for one in of_groups if one is not None],
        "representation": _representation(store, tested, images, pairs, seed),
    }
    if len(hits) > 1:
        spoken = [language_name(code) for code, some in hits.items() for _ in some]
        of_languages = grouped_accuracy(
            "language of the prompts", np.concatenate(list(hits.values())), spoken, fewest=fewest, seed=seed
        )
        if of_languages is not None:
            result["by_language"] = of_languages
    if tested.place is not None:
        from_places = _place_told(images, [some.get(tested.place or "") for some in groups], shots, seed)
        if from_places is not None:
            result["few_shot"], result["place"] = from_places, tested.place
    if tested.people is not None:
        found = _association(store, tested.people, tested.name, images)
        if found is not None:
            result["association"], result["people"] = found, list(tested.people.names)
    return result


def _answers(
    store: StoredEmbeddings, tested: FairnessSet, images: Embedded, *, canonicalize: bool
) -> dict[str, np.ndarray]:
    """The class of the largest score of each picture, by language of the prompts; English first."""
    asked: Mapping[str, Sequence[Sequence[str]] | None] = tested.kinds or {"en": None}
    return {
        language: prompted_scores(
            images.unit_vectors,
            tested.class_names,
            partial(store.texts, name=f"prompts of {tested.name}, {language}"),
            logit_scale=store.encoder.logit_scale,
            canonicalize=canonicalize,
            templates=tested.templates,
            kinds=kinds,
        ).argmax(axis=1)
        for language, kinds in asked.items()
    }


def _representation(
    store: StoredEmbeddings, tested: FairnessSet, images: Embedded, pairs: Sequence[tuple[str, str]], seed: int
) -> list[PairBias]:
    asked = [tested.nobody is None or tested.nobody(item) for item in images.items]
    if not pairs or not any(asked):
        return []
    vectors = store.texts([text for pair in pairs for text in pair], f"pairs of texts, {tested.name}")
    return [
        {
            **representation_bias(images.unit_vectors[asked], vectors[2 * place], vectors[2 * place + 1], seed=seed),
            "texts": list(pair),
        }
        for place, pair in enumerate(pairs)
    ]


def _place_told(images: Embedded, places: Sequence[str | None], shots: int, seed: int) -> FewShotResult | None:
    """Few-shot classification by place; None where fewer than two have a picture left to be told."""
    names = sorted({place for place in places if place})
    counts = {name: places.count(name) for name in names}
    told = [name for name in names if counts[name] > shots]
    if len(told) < 2:
        return None
    known = np.array([place in told for place in places])
    labels = np.array([told.index(place) for place in places if place in told])
    seeds = range(seed, seed + FEW_SHOT_SEEDS)
    return few_shot(images.vectors[known], labels, None, None, told, shots=shots, seeds=seeds)


def _association(store: StoredEmbeddings, people: People, name: str, images: Embedded) -> AssociationBias | None:
    of_items = [people.group(item) for item in images.items]
    shown = np.array([group is not None for group in of_items])
    in_a = np.array([group == "a" for group in of_items if group is not None], bool)
    if not in_a.any() or in_a.all():
        return None
    labels = store.texts(list(people.labels), f"labels of people, {name}")
    return association_bias(images.unit_vectors[shown], in_a, labels, label_names=people.labels)
