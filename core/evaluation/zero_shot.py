"""Zero-shot classification: images are scored against the prompts of each class, and the best class is the answer.

Prompts that are ways of saying one thing ("a photo of a hen") are averaged first:
`image_embeddings @ class_embeddings(...).T`. Prompts that are different things of one kind (the foods among the emoji)
have no meaningful average: `kind_scores`.
"""

import re
import string
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from diptych.core.evaluation.intervals import hit_rate_interval

# No class: the scores were not finite, or two classes tied for the first place.
NO_ANSWER = -1


class Confusion(TypedDict):
    """Which classes were taken for which."""

    class_names: list[str]  # for display
    confusion: list[list[int]]  # images; rows the truth, columns the answers
    no_answer: list[int]  # images of each class


class ZeroShotResult(Confusion):
    """Accuracy over a labelled set, JSON-ready."""

    images: int
    accuracy: float
    interval: list[float]  # 95%, of the accuracy
    mean_class_accuracy: float  # over the classes that occur
    chance: float  # the share of the largest class: what answering it always would reach
    per_class: list[float | None]  # accuracy of each class; None for one without images


def canonicalize(text: str, *, keep: str | None = None) -> str:
    """Text as the published evaluator gives it to the text tower: lower case, no punctuation, single spaces.

    Args:
        text: a class name or a prompt template.
        keep: one string that is left as it is, such as "{}" in templates or "," in lists of aliases.

    Returns:
        The cleaned text; underscores are spaces.

    Reference: big_vision, evaluators/proj/image_text/prompt_engineering.py. Only ASCII punctuation is removed, as
    there.
    """
    text = text.replace("_", " ")
    without_punctuation = str.maketrans("", "", string.punctuation)
    parts = text.split(keep) if keep else [text]
    text = (keep or "").join(part.translate(without_punctuation) for part in parts)
    return re.sub(r"\s+", " ", text.lower()).strip()


def class_prompts(class_names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every template filled with every class name, canonicalised.

    Args:
        class_names: one a class; of comma-separated aliases the first is used.
        templates: each with one "{}".

    Returns:
        classes × templates prompts, the templates of a class side by side, ready for `class_embeddings`.

    Raises:
        ValueError: a template without exactly one "{}".
    """
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f'a template needs exactly one "{{}}" for the class name, got {template!r}.')
    names = [canonicalize(canonicalize(name, keep=",").split(",")[0]) for name in class_names]
    templates = [canonicalize(template, keep="{}") for template in templates]
    return [template.format(name) for name in names for template in templates]


def class_embeddings(prompt_embeddings: np.ndarray, classes: int) -> np.ndarray:
    """One embedding a class: the mean of its L2-normalised prompt embeddings, normalised again.

    Args:
        prompt_embeddings: [classes × prompts, width] in the order of `class_prompts`, or [classes, prompts, width].
        classes: number of classes.

    Returns:
        [classes, width], each of length 1 (0 where the prompts cancel out).

    Raises:
        ValueError: the number of prompts is not a multiple of the number of classes.
    """
    if prompt_embeddings.ndim == 2 and len(prompt_embeddings) % classes:
        raise ValueError(
            f"{len(prompt_embeddings)} prompt embeddings cannot be shared evenly by {classes} classes. Give every "
            "class the same templates."
        )
    prompts = prompt_embeddings.reshape(classes, -1, prompt_embeddings.shape[-1])
    return _normalise(_normalise(prompts).mean(axis=1))


def kind_scores(
    image_embeddings: np.ndarray, prompt_embeddings: Sequence[np.ndarray], *, logit_scale: float
) -> np.ndarray:
    """Log of the mean over a class's prompts of exp(logit_scale * similarity): the softmax over all prompts, gathered
    by class.

    Being a mean, it favours no class for having many prompts.

    Args:
        image_embeddings: [images, width], L2-normalised.
        prompt_embeddings: for each class [prompts, width], L2-normalised; the number of prompts may differ.
        logit_scale: the model's temperature t.

    Returns:
        [images, classes], for `zero_shot`.
    """
    columns = []
    for prompts in prompt_embeddings:
        logits = logit_scale * (image_embeddings @ prompts.T)
        largest = logits.max(axis=1, keepdims=True)
        columns.append(largest[:, 0] + np.log(np.exp(logits - largest).mean(axis=1)))
    return np.stack(columns, axis=1)


def zero_shot(
    scores: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    seed: int = 0,
) -> ZeroShotResult:
    """Zero-shot accuracy over a labelled set.

    An image without a single best class, because classes tie or scores are not numbers, has no answer and is wrong.

    Args:
        scores: [images, classes], the larger the better.
        labels: int [images], 0 to classes - 1.
        class_names: [classes], for display.
        seed: of the bootstrap.

    Raises:
        ValueError: shapes that do not agree, or labels outside the classes.
    """
    labels, classes = np.asarray(labels), len(class_names)
    if scores.shape != (len(labels), classes) or labels.ndim != 1 or not len(labels):
        raise ValueError(
            f"zero_shot needs one label an image and one name a class, got scores {scores.shape} with labels "
            f"{labels.shape} and {classes} names."
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must be 0 to {classes - 1}, got {labels.min()} to {labels.max()}.")
    answers = classify(scores)
    answered = answers != NO_ANSWER
    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (labels[answered], answers[answered]), 1)
    images_per_class = np.bincount(labels, minlength=classes)
    hits = np.diagonal(confusion)
    per_class = [float(hit / images) if images else None for hit, images in zip(hits, images_per_class, strict=True)]
    return {
        "images": len(labels),
        "accuracy": float(hits.sum() / len(labels)),
        "interval": [float(bound) for bound in hit_rate_interval(answers == labels, seed=seed)],
        "mean_class_accuracy": float(np.mean([share for share in per_class if share is not None])),
        "chance": float(images_per_class.max() / len(labels)),
        "class_names": list(class_names),
        "per_class": per_class,
        "confusion": confusion.tolist(),
        "no_answer": np.bincount(labels[~answered], minlength=classes).tolist(),
    }


def classify(scores: np.ndarray) -> np.ndarray:
    """The class of largest score [images, classes], `NO_ANSWER` where there is no single one: int64 [images]."""
    best = scores.max(axis=1)
    single = np.isfinite(scores).all(axis=1) & (np.count_nonzero(scores == best[:, None], axis=1) == 1)
    return np.where(single, scores.argmax(axis=1), NO_ANSWER)


def _normalise(array: np.ndarray) -> np.ndarray:
    return array / (1e-8 + np.linalg.norm(array, axis=-1, keepdims=True))
