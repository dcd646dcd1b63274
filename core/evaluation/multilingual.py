"""Retrieval by language: one result for each language of the captions, and their mean."""

from collections.abc import Sequence

import numpy as np

from diptych.core.evaluation.intervals import hit_rate_interval
from diptych.core.evaluation.retrieval import Recalls, first_relevant_ranks, relevant_by_label, summarise_ranks

# The entry of `recall_by_language` that weighs every language alike.
MEAN = "mean"

RecallByLanguage = dict[str, Recalls]
"""Recalls from text to image by language, and their `MEAN`, which has "languages", their number, in place of a median
rank. A language may have those of the other direction as "image_to_text"."""


def recall_by_language(
    image_embeddings: np.ndarray,
    text_embeddings: np.ndarray,
    image_labels: np.ndarray,
    text_labels: np.ndarray,
    languages: Sequence[str],
    ks: Sequence[int] = (1, 5),
    *,
    image_to_text: bool = False,
    seed: int = 0,
) -> RecallByLanguage:
    """Text-to-image retrieval in each language, from captions of one language at a time into all images.

    Args:
        image_embeddings: [images, width].
        text_embeddings: [texts, width].
        image_labels: int [images]; a text describes every image of its label.
        text_labels: int [texts]; a label without an image is an error, see `retrieval.recall_at_k`.
        languages: [texts], code of each text.
        ks: positive.
        image_to_text: also the other direction, under "image_to_text" of each language: from the images that have a
            caption in that language into the captions of that language.
        seed: of the bootstrap.

    Returns:
        Languages in alphabetical order, then the mean: recalls averaged over the languages, its interval resampled by
        label with all translations of a caption together.

    Raises:
        ValueError: as `retrieval.recall_at_k`.
    """
    codes, text_labels, image_labels = np.asarray(languages), np.asarray(text_labels), np.asarray(image_labels)
    results: RecallByLanguage = {}
    ranks_of_all = np.zeros(len(codes), dtype=np.int64)
    for language in sorted(set(codes.tolist())):
        chosen = np.flatnonzero(codes == language)
        texts, labels = text_embeddings[chosen], text_labels[chosen]
        ranks = first_relevant_ranks(texts, image_embeddings, relevant_by_label(labels, image_labels))
        ranks_of_all[chosen] = ranks
        results[language] = summarise_ranks(ranks, len(image_embeddings), ks, groups=labels, seed=seed)
        if image_to_text:
            described = np.flatnonzero(np.isin(image_labels, labels))
            relevant = relevant_by_label(image_labels[described], labels)
            ranks = first_relevant_ranks(image_embeddings[described], texts, relevant)
            results[language]["image_to_text"] = summarise_ranks(
                ranks, len(texts), ks, groups=image_labels[described], seed=seed
            )
    results[MEAN] = _mean_over_languages(results, ranks_of_all, text_labels, codes, ks, seed)
    return results


def _mean_over_languages(
    results: RecallByLanguage,
    ranks: np.ndarray,
    labels: np.ndarray,
    languages: np.ndarray,
    ks: Sequence[int],
    seed: int,
) -> Recalls:
    codes, place, counts = np.unique(languages, return_inverse=True, return_counts=True)
    hits = ranks[:, None] <= np.asarray(ks)
    intervals = hit_rate_interval(hits, groups=labels, weights=1 / counts[place], seed=seed)
    gallery = next(iter(results.values()))["gallery"]
    return {
        "languages": len(codes),
        "queries": len(languages),
        "gallery": gallery,
        **{f"recall@{k}": float(np.mean([result[f"recall@{k}"] for result in results.values()])) for k in ks},
        "intervals": {f"recall@{k}": [float(low), float(high)] for k, (low, high) in zip(ks, intervals, strict=True)},
    }
