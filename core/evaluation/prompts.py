"""Prompts of classes: templates and class names from files, filled in, embedded, and averaged to one vector a class.

    "a photo of a {}.", "heron"  ->  "a photo of a heron"  ->  mean of the templates' unit vectors, normalised again

Reference: Radford et al. 2021, "Learning Transferable Visual Models", section 3.1.4; big_vision, prompt_engineering.py.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.evaluation.zero_shot import class_embeddings, class_prompts, kind_scores
from diptych.core.files.beginnings import OTHERS_TEXT, kind_of, mistaken

# For pictures of any kind. What is known about a data set makes better ones: "a satellite picture of {}."
GENERAL_TEMPLATES = (
    "{}",
    "a photo of a {}.",
    "a picture showing {}.",
    "this is a {}.",
    "a close-up of the {}.",
    "a small {} in the distance.",
    "a drawing of a {}.",
)

TRAINED_ON_NAMES = "emoji_36_languages"
"""A model that diptych ships, whose captions are bare names: sentences around them are longer than those."""

_LISTS = (".txt", ".json")


def read_templates(path: str | Path, *, dataset: str | None = None) -> tuple[str, ...]:
    """Templates of a file: a line each, or JSON: a list, or lists by name of the data set, from which `dataset`
    chooses.

    "{}" stands for the class; "{c}", as clip-benchmark writes it, means the same.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a template without exactly one place for the class, or none at all.
    """
    templates = tuple(text.replace("{c}", "{}") for text in _texts(Path(path), "templates", dataset))
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f'{path}: a template needs exactly one "{{}}" for the class name, got {template!r}.')
    return templates


def read_class_names(path: str | Path, *, dataset: str | None = None) -> tuple[str, ...]:
    """Names of the classes in the order of their numbers, from a file as in `read_templates`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no name at all.
    """
    return _texts(Path(path), "class names", dataset)


def typed_templates(given: Sequence[str], *, dataset: str | None = None) -> tuple[str, ...]:
    """The templates that a person types: each a sentence with "{}" in it, or a file as in `read_templates`."""
    return tuple(
        template
        for each in given
        for template in ([each.replace("{c}", "{}")] if "{" in each else read_templates(each, dataset=dataset))
    )


def typed_class_names(given: Sequence[str], *, dataset: str | None = None) -> tuple[str, ...]:
    """The names of classes that a person types: "cat,dog,polar bear", or files as in `read_class_names`."""
    names: list[str] = []
    for each in given:
        if Path(each).is_file() or ("," not in each and Path(each).suffix in _LISTS):
            names += read_class_names(each, dataset=dataset)
        else:
            names += filter(None, map(str.strip, each.split(",")))
    return tuple(names)


def filled_prompts(class_names: Sequence[str], templates: Sequence[str], *, canonicalize: bool) -> list[str]:
    """Every template filled with every class name: classes × templates prompts, the templates of a class side by side.

    Args:
        class_names: one a class.
        templates: each with one "{}".
        canonicalize: lower case without punctuation, of comma-separated aliases the first, as big_vision evaluates
            SigLIP; otherwise names and templates as they are, as CLIP was evaluated.
    """
    if canonicalize:
        return class_prompts(class_names, templates)
    return [template.replace("{}", name) for name in class_names for template in templates]


def usual_templates(model: str | Path) -> tuple[str, ...]:
    """The templates for a model by its name, where no others are given."""
    return ("{}",) if str(model) == TRAINED_ON_NAMES else GENERAL_TEMPLATES


def embed_classes(
    class_names: Sequence[str],
    templates: Sequence[str],
    embed_texts: Callable[[list[str]], np.ndarray],
    *,
    canonicalize: bool,
) -> np.ndarray:
    """One embedding a class: the normalised mean over the templates of its prompts' embeddings.

    Args:
        class_names, templates, canonicalize: as in `filled_prompts`.
        embed_texts: texts -> [texts, width].

    Returns:
        float [classes, width], each of length 1.
    """
    prompts = filled_prompts(class_names, templates, canonicalize=canonicalize)
    return class_embeddings(embed_texts(prompts), len(class_names))


def prompted_scores(
    images: np.ndarray,
    class_names: Sequence[str],
    embed_texts: Callable[[list[str]], np.ndarray],
    *,
    logit_scale: float,
    canonicalize: bool,
    templates: Sequence[str] = GENERAL_TEMPLATES,
    kinds: Sequence[Sequence[str]] | None = None,
) -> np.ndarray:
    """How well each image fits the prompts of each class, float [images, classes], times `logit_scale`.

    Args:
        images: unit vectors [images, width].
        class_names, templates, embed_texts, canonicalize: as in `embed_classes`.
        kinds: instead of names and templates, for each class prompts that are different things of its kind
            (`zero_shot.kind_scores`).
    """
    if kinds is None:
        classes = embed_classes(class_names, templates, embed_texts, canonicalize=canonicalize)
        return logit_scale * (images @ classes.T)
    embedded = embed_texts([prompt for prompts in kinds for prompt in prompts])
    ends = np.cumsum([len(prompts) for prompts in kinds])
    return kind_scores(images, np.split(embedded, ends[:-1]), logit_scale=logit_scale)


def _texts(path: Path, what: str, dataset: str | None) -> tuple[str, ...]:
    text = path.read_text(encoding="utf-8-sig")
    if kind_of(text.encode()) in OTHERS_TEXT:
        raise ValueError(f"{path} {mistaken(text.encode(), what)}")
    found = _of_json(path, text, what, dataset) if path.suffix == ".json" else text.splitlines()
    texts = tuple(line.strip() for line in found if line.strip())
    if not texts:
        raise ValueError(f"{path} holds no {what}: write one a line.")
    return texts


def _of_json(path: Path, text: str, what: str, dataset: str | None) -> list[str]:
    try:
        value: Any = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if isinstance(value, dict):
        if dataset not in value:
            raise ValueError(f"{path} holds {what} of {', '.join(map(str, value))}; there are none of {dataset!r}.")
        value = value[dataset]
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise ValueError(f"{path}: {what} must be a list of texts, got {type(value).__name__}.")
    return value
