"""Evenness towards groups of people: bias in whom a model sees, and in what it sees them do.

A bias of 0 is no virtue by itself: a model that sees nothing has it. Read these numbers beside the model's accuracy.
"""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from diptych.core.evaluation.intervals import bootstrap_interval


class RepresentationBias(TypedDict):
    """How much more often than half of the time one group outranks another, JSON-ready."""

    images: int
    bias: float  # from -0.5 to 0.5; 0.355 says that A is preferred 85.5% of the time
    interval: list[float]  # 95%


class AssociationBias(TypedDict):
    """How much more often labels are the answer to images of one group, JSON-ready."""

    images_a: int
    images_b: int
    per_label: list[float]  # [labels], from -1 to 1
    mean: float  # of their sizes
    largest: float  # the size of the largest
    label_names: list[str] | None


def representation_bias(
    image_embeddings: np.ndarray, group_a: np.ndarray, group_b: np.ndarray, *, seed: int = 0
) -> RepresentationBias:
    """How much more often than half of the time the text of group A outranks that of group B, for images of anything.

        (share of images with x · a > x · b) - 1/2,    a tie counts as half

    Args:
        image_embeddings: [images, width], of images chosen without regard to either group.
        group_a, group_b: [width] or [prompts, width], the texts of the groups ("men", "women"); the mean of the
            L2-normalised prompts stands for a group.
        seed: of the bootstrap.

    Tables give the size of the bias without its sign, in percent.

    Raises:
        ValueError: shapes that do not agree, no image, or numbers that are not finite.

    Reference: Tschannen et al. 2025, "SigLIP 2", table 9, for men against women.
    """
    images = _embeddings("image_embeddings", image_embeddings)
    a, b = (_prototype(name, texts, images) for name, texts in (("group_a", group_a), ("group_b", group_b)))
    preferred = 0.5 + 0.5 * np.sign(_rounded(images @ a - images @ b, images))
    low, high = bootstrap_interval(preferred, seed=seed)
    return {
        "images": len(images),
        "bias": float(preferred.mean() - 0.5),
        "interval": [float(low - 0.5), float(high - 0.5)],
    }


def association_bias(
    image_embeddings: np.ndarray,
    in_group_a: np.ndarray,
    label_embeddings: np.ndarray,
    *,
    label_names: Sequence[str] | None = None,
) -> AssociationBias:
    """For each label, how much more often it is the answer to images of group A than to those of group B.

        P(label r is ranked first | A) - P(label r is ranked first | B),    k labels that tie are ranked first 1/k each

    This is the gap of demographic parity of a zero-shot classifier, our definition. "CLIP the Bias" measures
    association bias by its own labels and protocol, so its numbers are not to be compared with these.

    Args:
        image_embeddings: [images, width], of people who do all sorts of things.
        in_group_a: bool [images], whether an image shows group A; the others show group B.
        label_embeddings: [labels, width], such as occupations, at least two.
        label_names: of the labels, or None.

    Raises:
        ValueError: shapes that do not agree, a group without images, fewer than two labels, or numbers that are not
        finite.
    """
    images, labels = (
        _embeddings("image_embeddings", image_embeddings),
        _embeddings("label_embeddings", label_embeddings),
    )
    in_group_a = np.asarray(in_group_a, bool)
    if images.shape[1] != labels.shape[1] or len(labels) < 2 or in_group_a.shape != (len(images),):
        raise ValueError(
            "association_bias needs images and at least two labels of the same width, and the group of each image; "
            f"got {images.shape}, {labels.shape} and {in_group_a.shape}."
        )
    if in_group_a.all() or not in_group_a.any():
        raise ValueError(f"Both groups need images; group A has {in_group_a.sum()} of {len(images)}.")
    scores = images @ labels.T
    first = (_rounded(scores.max(axis=1, keepdims=True) - scores, images) == 0).astype(np.float64)
    first /= first.sum(axis=1, keepdims=True)
    gaps = first[in_group_a].mean(axis=0) - first[~in_group_a].mean(axis=0)
    return {
        "images_a": int(in_group_a.sum()),
        "images_b": int((~in_group_a).sum()),
        "per_label": gaps.tolist(),
        "mean": float(np.abs(gaps).mean()),
        "largest": float(np.abs(gaps).max()),
        "label_names": list(label_names) if label_names is not None else None,
    }


def _embeddings(name: str, array: np.ndarray) -> np.ndarray:
    array = np.asarray(array, np.float64)
    if array.ndim != 2 or 0 in array.shape or not np.isfinite(array).all():
        raise ValueError(
            f"{name} must be finite embeddings [items, width] with at least one of each, got shape {array.shape}"
            f"{'' if np.isfinite(array).all() else ' with numbers that are not finite'}."
        )
    return array


def _prototype(name: str, texts: np.ndarray, images: np.ndarray) -> np.ndarray:
    texts = _embeddings(name, np.atleast_2d(texts))
    if texts.shape[1] != images.shape[1]:
        raise ValueError(
            f"{name} must have the width {images.shape[1]} of the images, got {texts.shape}. Use one model."
        )
    mean = (texts / (1e-8 + np.linalg.norm(texts, axis=1, keepdims=True))).mean(axis=0)
    return mean / (1e-8 + np.linalg.norm(mean))


def _rounded(differences: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Differences of scores, 0 where they are within what rounding does to equal ones."""
    return np.where(np.abs(differences) < 1e-12 * max(1.0, np.abs(images).max()), 0.0, differences)
