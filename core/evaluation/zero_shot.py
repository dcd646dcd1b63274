"""Zero-shot classification: the class whose prompts lie nearest to the image."""

import re
import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from diptych.core.evaluation.intervals import hit_rate_interval

# No class: the scores were not finite, or two classes tied for the first place.
NO_ANSWER = -1


def canonicalize(text: str, *, keep: str | None = None) -> str:
    """Text as the published evaluator gives it to the text tower: lower case, no punctuation, single spaces.

    Args:
        text: a class name or a prompt template.
        keep: one string that is left as it is, such as "{}" in templates or "," in lists of aliases.

    Returns:
        The cleaned text; underscores are spaces.

    Reference: big_vision, evaluators/proj/image_text/prompt_engineering.py. Only ASCII punctuation is removed, as there.
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
            f"{len(prompt_embeddings)} prompt embeddings cannot be shared evenly by {classes} classes. Give every class the "
            "same templates."
        )
    prompts = prompt_embeddings.reshape(classes, -1, prompt_embeddings.shape[-1])
    return _normalise(_normalise(prompts).mean(axis=1))


def zero_shot(
    image_embeddings: np.ndarray,
    class_embeddings: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Zero-shot accuracy over a labelled set, as a JSON-ready result.

    An image without a single best class, because classes tie or scores are not numbers, has no answer and is wrong.

    Args:
        image_embeddings: [images, width].
        class_embeddings: [classes, width], of `class_embeddings`.
        labels: int [images], 0 to classes - 1.
        class_names: [classes], for display.
        seed: of the bootstrap.

    Returns:
        {"images", "accuracy", "interval" (95%), "mean_class_accuracy" over the classes that occur, "chance" (the share of the
        largest class: what answering it always would reach), "class_names", "per_class" (None for a class without images),
        "confusion" [classes][classes] counts (rows: truth, columns: answer), "no_answer" [classes] counts}.

    Raises:
        ValueError: shapes that do not agree, or labels outside the classes.
    """
    labels, classes = np.asarray(labels), len(class_names)
    if len(class_embeddings) != classes or labels.shape != (len(image_embeddings),) or not len(labels):
        raise ValueError(
            f"zero_shot needs one label an image and one name a class, got {np.shape(image_embeddings)} images with labels "
            f"{labels.shape}, and {np.shape(class_embeddings)} class embeddings with {classes} names."
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must be 0 to {classes - 1}, got {labels.min()} to {labels.max()}.")
    answers = classify(image_embeddings, class_embeddings)
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


def classify(image_embeddings: np.ndarray, class_embeddings: np.ndarray) -> np.ndarray:
    """The class of largest inner product, `NO_ANSWER` where there is no single one: int64 [images].

    Args:
        image_embeddings: [images, width].
        class_embeddings: [classes, width].
    """
    with np.errstate(invalid="ignore", over="ignore"):
        scores = image_embeddings @ class_embeddings.T
    best = scores.max(axis=1)
    single = np.isfinite(scores).all(axis=1) & (np.count_nonzero(scores == best[:, None], axis=1) == 1)
    return np.where(single, scores.argmax(axis=1), NO_ANSWER)


def _normalise(array: np.ndarray) -> np.ndarray:
    return array / (1e-8 + np.linalg.norm(array, axis=-1, keepdims=True))
