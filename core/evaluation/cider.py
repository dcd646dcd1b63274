"""CIDEr of captions against several references each: weighted n-grams that both have (Vedantam et al. 2015).

    CIDEr-D = 10/4 Σ_n mean over references r of exp(-(l_c - l_r)² / 2σ²) · min(g(c), g(r)) · g(r) / (|g(c)| |g(r)|)

with g the counts of n-grams times log(captioned pictures / pictures whose references have them), σ = 6, n = 1 to 4, and
lengths l. It is what pycocoevalcap calls CIDEr and tables multiply by 100. Document frequencies are those of the
references that are given, so that a part of a data set scores otherwise than the whole.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

LONGEST = 4
SIGMA = 6.0

_MARKS = "' '' ` `` . ? ! , : - -- ... ; \" \u201c \u201d \u2018 \u2019"
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_WORDS = re.compile(
    r"\.\.\.|--|``|''"
    r"|(?:[a-z]\.){2,}|\b(?:st|mr|mrs|ms|dr|jr|sr|vs|mt|ave)\."  # a.m., St. Louis
    r"|\d+(?:[.,:/]\d+)*(?![\w-])"
    r"|\b(?:gon|wan)(?=na\b)|\bgot(?=ta\b)|\b(?:gim|lem)(?=me\b)|\bcan(?=not\b)"
    r"|[^\W\d_]+?(?=n't\b)|n't\b|'(?:s|re|ve|ll|d|m)\b"
    r"|\w+(?:[-/.&\u2019]\w+)*"
    r"|[^\w\s]"
)


def caption_words(text: str) -> list[str]:
    """The words of a caption in lower case, cut as the Penn Treebank cuts ("it 's", "do n't", "red-haired"), without
    punctuation marks.

    pycocoevalcap asks Stanford's tokenizer, a Java program; on ordinary captions it cuts alike. Rare abbreviations with
    a full stop, addresses and emoticons may be cut otherwise. Round brackets stay, as words: what it means to leave out
    is in capitals by name, and the words are in small letters.
    """
    words = _WORDS.findall(" ".join(text.lower().split()))
    return [_BRACKETS.get(word, word) for word in words if word not in _MARKS.split()]


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Of each caption, float64 [captions], 0 to 10; their mean is the score.

    Args:
        captions: one of each picture.
        references: for each picture one or more.

    Raises:
        ValueError: for other numbers of references than of captions, and for a picture without one.
    """
    if len(captions) != len(references) or not captions:
        raise ValueError(f"{len(references)} lists of references for {len(captions)} captions, expected one each.")
    if any(isinstance(given, str) or not len(given) for given in references):
        place = next(n for n, given in enumerate(references) if isinstance(given, str) or not len(given))
        raise ValueError(f"the references of caption {place} are {references[place]!r:.60}, expected a list of texts.")
    counts = [_counts(caption) for caption in captions]
    reference_counts = [[_counts(text) for text in given] for given in references]
    frequencies = Counter(gram for given in reference_counts for gram in set().union(*given))
    log_pictures = math.log(len(captions))

    def weighted(grams: Counter) -> list[dict[tuple[str, ...], float]]:
        found: list[dict[tuple[str, ...], float]] = [{} for _ in range(LONGEST)]
        for gram, count in grams.items():
            found[len(gram) - 1][gram] = count * (log_pictures - math.log(max(1, frequencies[gram])))
        return found

    scores = []
    for grams, given in zip(counts, reference_counts, strict=True):
        vectors = weighted(grams)
        likenesses = [_likeness(vectors, weighted(other), _bigrams(grams) - _bigrams(other)) for other in given]
        scores.append(10 * float(np.mean(likenesses)))
    return np.array(scores)


def _counts(text: str) -> Counter:
    words = caption_words(text)
    return Counter(
        tuple(words[place : place + length])
        for length in range(1, LONGEST + 1)
        for place in range(len(words) - length + 1)
    )


def _bigrams(grams: Counter) -> int:
    """What the reference's code takes for the length of a caption."""
    return sum(count for gram, count in grams.items() if len(gram) == 2)


def _likeness(caption: list[dict], reference: list[dict], longer: int) -> float:
    """The mean over the lengths of n-grams."""
    found = 0.0
    for ours, theirs in zip(caption, reference, strict=True):
        product = sum(min(weight, theirs.get(gram, 0.0)) * theirs.get(gram, 0.0) for gram, weight in ours.items())
        norms = math.hypot(*ours.values()) * math.hypot(*theirs.values())
        found += product / norms if norms else product
    return found / LONGEST * math.exp(-(longer**2) / (2 * SIGMA**2))
