"""Examples of tasks made of the embedded emoji's English names and keywords: real words, synthetic questions.

A tenth of the concepts is held out, with all examples about them (`core.data.emoji.concepts.split_of`).
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from diptych.core.data.emoji.concepts import Concept, concepts
from diptych.core.data.text_tasks.task import TextExample

CHOICES = 4
Concepts = Sequence[Concept]


def emoji_examples(make: Callable[[Concepts], Iterator[TextExample]], *, held_out: bool) -> Iterator[TextExample]:
    """The examples that one of this module's functions makes of a part of the concepts."""
    split = "held_out" if held_out else "train"
    return make([one for one in _with_keywords() if one.split == split])


def _with_keywords() -> list[Concept]:
    """The concepts whose keywords say something that their name does not."""
    return [one for one in concepts() if len(_keywords(one)) >= 2]


def _keywords(concept: Concept) -> tuple[str, ...]:
    """English keywords that share no word with the name, in CLDR's order."""
    return _all_keywords()[concept.hexcode]


@functools.cache
def _all_keywords() -> dict[str, tuple[str, ...]]:
    found = {}
    for concept in concepts():
        name = set(concept.names["en"].lower().split())
        words = concept.keywords.get("en", ())
        found[concept.hexcode] = tuple(word for word in words if not name & set(word.lower().split()))
    return found


def _rng(*parts: str) -> np.random.Generator:
    """Of one concept in one task, whatever else there is."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256("/".join(parts).encode()).digest()[:8], "little"))


def _others(concept: Concept, among: Sequence[Concept], count: int, rng: np.random.Generator) -> list[Concept]:
    """Other concepts with other keywords, drawn from its group, and from all where that has too few."""
    found: list[Concept] = []
    alike = [one for one in among if one.group == concept.group]
    for pool in (alike, among):
        for place in rng.permutation(len(pool)):
            if len(found) == count:
                return found
            other = pool[place]
            if other not in found and _keywords(other) != _keywords(concept):
                found.append(other)
    return found


def gloss(chosen: Concepts) -> Iterator[TextExample]:
    """Which keywords are an emoji's, among those of others of its group."""
    for one in chosen:
        rng = _rng("emoji_gloss", one.hexcode)
        answers = [", ".join(_keywords(each)) for each in (one, *_others(one, chosen, CHOICES - 1, rng))]
        order = rng.permutation(CHOICES)
        right = str(int(np.flatnonzero(order == 0)[0]))
        yield TextExample(one.hexcode, (one.names["en"],), tuple(answers[place] for place in order), right)


def kind(chosen: Concepts) -> Iterator[TextExample]:
    """Whether an emoji is of a kind: each with its subgroup, and with that of another of its group, so that subgroups
    alone say nothing.
    """
    for one in chosen:
        premise = f"{one.names['en']}: {', '.join(_keywords(one))}"
        others = [each for each in chosen if each.group == one.group and each.subgroup != one.subgroup]
        if not others:
            continue
        other = others[int(_rng("emoji_kind", one.hexcode).integers(len(others)))]
        for label, of in (("entailment", one), ("not_entailment", other)):
            hypothesis = f"It is of the kind {of.subgroup.replace('-', ' ')}."
            yield TextExample(f"{one.hexcode} {label}", (premise, hypothesis), (), label)


def group(chosen: Concepts) -> Iterator[TextExample]:
    """Which of the nine groups an emoji is in, by its name and keywords."""
    for one in chosen:
        yield TextExample(one.hexcode, (f"{one.names['en']}: {', '.join(_keywords(one))}",), (), one.group)


def same(chosen: Concepts) -> Iterator[TextExample]:
    """Whether two texts, each half of an emoji's keywords, are of the same one."""
    for one in chosen:
        rng = _rng("emoji_same", one.hexcode)
        first, second = _halves(one)
        (other,) = _others(one, chosen, 1, rng)
        yield TextExample(f"{one.hexcode} same", (first, second), (), "the same")
        yield TextExample(f"{one.hexcode} other", (first, _halves(other)[1]), (), "another")


def _halves(concept: Concept) -> tuple[str, str]:
    words = _keywords(concept)
    return ", ".join([concept.names["en"], *words[: len(words) // 2]]), ", ".join(words[len(words) // 2 :])
