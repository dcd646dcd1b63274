"""The tasks a model is judged by, each from a set and stored embeddings to a JSON-ready result."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from diptych.core.data.sources.labels import NO_LABEL
from diptych.core.evaluation.classification import classification
from diptych.core.evaluation.few_shot import few_shot
from diptych.core.evaluation.judged import (
    JudgedData,
    LinearProbeResult,
    PromptedResult,
    RetrievalResult,
    TaskResult,
    ZeroShotTaskResult,
)
from diptych.core.evaluation.multilingual import MEAN, RecallByLanguage, recall_by_language
from diptych.core.evaluation.prompts import prompted_scores
from diptych.engine.embedding.stored_embeddings import Embedded, StoredEmbeddings
from diptych.engine.judging.sets import Dataset, EvaluationSet, Labels

FEW_SHOT_SEEDS = 3
HEADLINES = {
    "zeroshot_retrieval": ("image_retrieval_recall@1", "recall@1"),
    "zeroshot_classification": ("acc1", "zero-shot accuracy"),
    "linear_probe": ("lp_acc1", "few-shot accuracy"),
}
"""The metric of each task that stands for it where there is place for one, and what it is called there."""


def judge(
    store: StoredEmbeddings,
    dataset: Dataset,
    *,
    task: str = "auto",
    recall_k: Sequence[int] = (1, 5, 10),
    fewshot_k: int = 10,
    canonicalize: bool | None = None,
    seed: int = 0,
) -> list[TaskResult]:
    """The results of one data set: of each task it is made for, or of the one that is asked for.

    Raises:
        Stopped: a signal came.
        ValueError: for a task that the data set has no captions or classes for.
    """
    canonicalize = store.encoder.logit_bias is not None if canonicalize is None else canonicalize
    results: list[TaskResult] = []
    for asked in dataset.tasks if task == "auto" else (task,):
        # What shots are drawn from is not tested; where it is all there is, the images not drawn are.
        tested = [each for each in dataset.sets if asked != "linear_probe" or each is not dataset.shots]
        for each in tested:
            if asked == "zeroshot_retrieval":
                results.append(zeroshot_retrieval(store, each, dataset=dataset.name, recall_k=recall_k, seed=seed))
            elif asked == "zeroshot_classification":
                results.append(
                    zeroshot_classification(store, each, dataset=dataset.name, canonicalize=canonicalize, seed=seed)
                )
            else:
                results.append(
                    linear_probe(store, each, dataset.shots, dataset=dataset.name, fewshot_k=fewshot_k, seed=seed)
                )
    return results


def headlines(results: Sequence[TaskResult]) -> dict[str, float]:
    """The metric of each result that stands for it, by set and metric: {"New drawings, recall@1": 0.61}."""
    found = {}
    for result in results:
        metric, name = HEADLINES[result["task"]]
        found[f"{result['set']}, {name}"] = result["metrics"][metric]
    return found


def zeroshot_retrieval(
    store: StoredEmbeddings, tested: EvaluationSet, *, dataset: str, recall_k: Sequence[int], seed: int
) -> RetrievalResult:
    """Text to image and image to text, in each language; with several captions an image any of them counts as right.

    The metrics are those of the one language, or the mean over the languages. Images without a usable caption and
    captions without a usable image are left out.
    """
    images, texts = store.images(tested.source, tested.name), store.captions(tested.source, tested.name)
    with_caption, with_image = np.isin(images.records, texts.records), np.isin(texts.records, images.records)
    if not with_image.any():
        raise ValueError(f"{tested.name}: no image that can be used has a caption that can.")
    languages = [item.language for item, used in zip(texts.items, with_image, strict=True) if used]
    results = recall_by_language(
        images.unit_vectors[with_caption],
        texts.unit_vectors[with_image],
        images.records[with_caption],
        texts.records[with_image],
        languages,
        recall_k,
        image_to_text=True,
        seed=seed,
    )
    if len(set(languages)) == 1:
        del results[MEAN]
    metrics, intervals = _headline(results, recall_k)
    data: JudgedData = {
        **_data(tested, images, judged=int(with_caption.sum())),
        "texts": int(with_image.sum()),
        "skipped_texts": texts.skipped,
    }
    return {
        "dataset": dataset,
        "set": tested.name,
        "task": "zeroshot_retrieval",
        "data": data,
        "metrics": metrics,
        "intervals": intervals,
        "details": {"by_language": results},
    }


def zeroshot_classification(
    store: StoredEmbeddings, tested: EvaluationSet, *, dataset: str, canonicalize: bool, seed: int
) -> ZeroShotTaskResult:
    """The class whose prompts fit the image best."""
    labels = _labels_of(tested)
    images = store.images(tested.source, tested.name)
    of_images, labelled = _labelled(labels, images)
    scale, bias = store.encoder.logit_scale, store.encoder.logit_bias
    embed_prompts = partial(store.texts, name=f"prompts of {tested.name}")
    scores = prompted_scores(
        images.unit_vectors[labelled],
        labels.names,
        embed_prompts,
        logit_scale=scale,
        canonicalize=canonicalize,
        templates=labels.templates,
        kinds=labels.kinds,
    )
    if labels.kinds is not None:
        bias = None  # the mean over different things is no probability of one pair
    details: PromptedResult = {**classification(scores, of_images[labelled], labels.names, logit_bias=bias, seed=seed)}
    if labels.kinds is None:
        details["templates"], details["canonicalize"] = list(labels.templates), canonicalize
    metrics = {f"acc{name.partition('@')[2]}": share["accuracy"] for name, share in details["top_k"].items()}
    intervals = {f"acc{name.partition('@')[2]}": share["interval"] for name, share in details["top_k"].items()}
    metrics["mean_per_class_recall"] = details["mean_class_accuracy"]
    return {
        "dataset": dataset,
        "set": tested.name,
        "task": "zeroshot_classification",
        "data": _labelled_data(tested, images, labels, judged=details["images"]),
        "metrics": metrics,
        "intervals": intervals,
        "details": details,
    }


def linear_probe(
    store: StoredEmbeddings,
    tested: EvaluationSet,
    shots_from: EvaluationSet | None,
    *,
    dataset: str,
    fewshot_k: int,
    seed: int,
) -> LinearProbeResult:
    """Least squares on the image tower's features, `fewshot_k` images a class; see `core.evaluation.few_shot`."""
    labels = _labels_of(tested)
    images = store.images(tested.source, tested.name)
    of_images, labelled = _labelled(labels, images)
    features, seeds = images.vectors[labelled], range(seed, seed + FEW_SHOT_SEEDS)
    if shots_from is None:
        details = few_shot(features, of_images[labelled], None, None, labels.names, shots=fewshot_k, seeds=seeds)
    else:
        drawn_from = store.images(shots_from.source, shots_from.name)
        of_drawn, usable = _labelled(_labels_of(shots_from), drawn_from)
        details = few_shot(
            drawn_from.vectors[usable],
            of_drawn[usable],
            features,
            of_images[labelled],
            labels.names,
            shots=fewshot_k,
            seeds=seeds,
        )
    data = _labelled_data(tested, images, labels, judged=details["images"])
    if shots_from is not None:
        data["shots_from"], data["shots_fingerprint"] = shots_from.name, shots_from.source.fingerprint()
    metrics = {
        "lp_acc1": details["accuracy"],
        "lp_acc1_l2_1024": details["big_vision_accuracy"],
        "lp_mean_per_class_recall": details["mean_class_accuracy"],
    }
    return {
        "dataset": dataset,
        "set": tested.name,
        "task": "linear_probe",
        "data": data,
        "metrics": metrics,
        "intervals": {"lp_acc1": details["interval"]},
        "details": details,
    }


def _headline(results: RecallByLanguage, recall_k: Sequence[int]) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Recalls both ways of the one language, or the means over all, and the intervals of those that have one.

    clip-benchmark calls text to image "image retrieval", by what is retrieved.
    """
    languages = {code: result for code, result in results.items() if code != MEAN}
    top = results.get(MEAN) or next(iter(languages.values()))
    backward = [result["image_to_text"] for result in languages.values()]
    metrics = {f"image_retrieval_recall@{k}": top[f"recall@{k}"] for k in recall_k}
    metrics |= {
        f"text_retrieval_recall@{k}": float(np.mean([each[f"recall@{k}"] for each in backward])) for k in recall_k
    }
    intervals = {f"image_retrieval_recall@{k}": top["intervals"][f"recall@{k}"] for k in recall_k}
    if len(backward) == 1:
        intervals |= {f"text_retrieval_recall@{k}": backward[0]["intervals"][f"recall@{k}"] for k in recall_k}
    return metrics, intervals


def _labels_of(each: EvaluationSet) -> Labels:
    if each.labels is None:
        raise ValueError(
            f"{each.name} has no classes, which classification needs: put the images of each class into a folder of "
            "its name, or give shards with .cls labels."
        )
    return each.labels


def _labelled(labels: Labels, images: Embedded) -> tuple[np.ndarray, np.ndarray]:
    """The label of each image, int64 [images], and which of them have one, bool [images]."""
    of_images = labels.of_records[images.records]
    labelled = of_images != NO_LABEL
    if not labelled.any():
        raise ValueError(f"none of {len(of_images):,} images has a label: {dict(labels.unlabelled)}.")
    return of_images, labelled


def _data(tested: EvaluationSet, images: Embedded, *, judged: int) -> JudgedData:
    return {
        "fingerprint": tested.source.fingerprint(),
        "records": len(tested.source),
        "images": judged,
        "skipped_images": images.skipped,
    }


def _labelled_data(tested: EvaluationSet, images: Embedded, labels: Labels, *, judged: int) -> JudgedData:
    return {
        **_data(tested, images, judged=judged),
        "skipped_images": images.skipped | dict(labels.unlabelled),
        "classes": len(labels.names),
    }
