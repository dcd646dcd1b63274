"""Examples of tasks made of the embedded novels by Jane Austen: what comes next, and which novel it is."""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache

import numpy as np

from diptych.core.data.sources.keys import HASH_BITS, key_hash
from diptych.core.data.text_tasks.task import TextExample
from diptych.core.data.texts.documents import EMBEDDED, Documents

NOVELS = (
    "emma", "mansfield_park", "northanger_abbey", "persuasion", "pride_and_prejudice", "sense_and_sensibility"
)  # fmt: skip
HELD_OUT_NOVEL = "persuasion"
CONTEXT_SENTENCES = 4
SAME_LENGTH = 0.2
"""By what share of its characters a wrong continuation may be shorter or longer than the right one."""
HELD_OUT_SHARE = 0.1
FEWEST_WORDS, MOST_WORDS = 20, 50
SOMEONE = "someone"

_END = re.compile(r"""(?<=[.!?])(?<!Mr\.)(?<!Mrs\.)(?<!Dr\.)(?<!St\.)["']?\s+(?=["'A-Z])""")
_INSIDE = re.compile(r"(?<=[a-z,;:] )[A-Z]\w+")
_CAPITALISED = re.compile(r"\b[A-Z]\w+\b")


def story(*, held_out: bool) -> Iterator[TextExample]:
    """Which of two sentences comes behind four of a novel's paragraph; the other is what comes behind another four of
    the same novel, and about as long. One novel is held out.
    """
    for novel in NOVELS:
        if (novel == HELD_OUT_NOVEL) != held_out:
            continue
        found = list(_stories(novel))
        lengths = np.array([len(right) for _, right in found])
        for number, (context, right) in enumerate(found):
            key = f"{novel} {number}"
            rng = np.random.default_rng(key_hash(key))
            alike = np.flatnonzero(np.abs(lengths - len(right)) <= SAME_LENGTH * len(right))
            others = [place for place in alike.tolist() if found[place][1] != right]
            if not others:
                continue
            wrong = found[others[int(rng.integers(len(others)))]][1]
            label = int(rng.integers(2))
            yield TextExample(key, (context,), (wrong, right) if label else (right, wrong), str(label))


def which_novel(*, held_out: bool) -> Iterator[TextExample]:
    """Which novel a paragraph is from, its names being replaced; a tenth of all paragraphs is held out."""
    for novel in NOVELS:
        names = _names(novel)
        for number, paragraph in enumerate(_paragraphs(novel)):
            key, words = f"{novel} {number}", paragraph.split()
            if len(words) < FEWEST_WORDS or (key_hash(key) / 2**HASH_BITS < HELD_OUT_SHARE) != held_out:
                continue
            shown = " ".join(words[:MOST_WORDS])
            yield TextExample(key, (_without(names, shown),), (), novel)


@cache
def _names(novel: str) -> frozenset[str]:
    """Words that are capitalised inside sentences, and more often so than not."""
    text = _texts()[novel]
    small = Counter(re.findall(r"\b[a-z]\w+\b", text))
    return frozenset(word for word, count in Counter(_INSIDE.findall(text)).items() if count > small[word.lower()])


def _without(names: frozenset[str], text: str) -> str:
    return _CAPITALISED.sub(lambda found: SOMEONE if found[0] in names else found[0], text)


def _stories(novel: str) -> Iterator[tuple[str, str]]:
    """(four sentences, the next) of each paragraph, one behind the other without overlap."""
    for paragraph in _paragraphs(novel):
        sentences = [one for one in _END.split(paragraph) if one]
        size = CONTEXT_SENTENCES + 1
        for start in range(0, len(sentences) - size + 1, size):
            yield " ".join(sentences[start : start + size - 1]), sentences[start + size - 1]


def _paragraphs(novel: str) -> list[str]:
    return [" ".join(part.split()) for part in _texts()[novel].split("\n\n") if part.strip()]


@cache
def _texts() -> dict[str, str]:
    return {document.key: document.text.replace("_", "") for document in Documents(EMBEDDED)}
