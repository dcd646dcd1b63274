"""Tasks made of the embedded emoji's English names and keywords: real words, synthetic questions.

They are small, and say how a model learns from few examples, not how well it knows English. A tenth of the concepts is
held out, with all examples about them (`core.data.emoji.concepts.split_of`).
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from diptych.core.data.emoji.concepts import GROUPS, Concept, concepts
from diptych.core.data.text_tasks.source import Row, TextSource
from diptych.core.data.text_tasks.task import TextExample, TextTask

CHOICES = 4
EMBEDDED_TASKS: Mapping[str, TextTask] = {
    "emoji_gloss": TextTask(name="emoji_gloss", layout="multiple_choice", choices=CHOICES),
    "emoji_kind": TextTask(name="emoji_kind", layout="entailment", labels=("not_entailment", "entailment")),
    "emoji_group": TextTask(name="emoji_group", layout="classification", labels=GROUPS),
    "emoji_same": TextTask(
        name="emoji_same", layout="similarity", labels=("another", "the same"), metrics=("f1", "accuracy")
    ),
}
"""Which keywords are an emoji's; whether it is of a kind; which of the nine groups it is in; whether two texts, an
emoji's keywords in two halves, are of the same one."""


def embedded_task(name: str, *, max_skipped: float = 1.0) -> tuple[TextSource, TextSource]:
    """(what is trained on, what is held out) of one of `EMBEDDED_TASKS`; the same at every call."""
    make = _MAKERS[name]
    return tuple(  # type: ignore[return-value]
        _source(name, split, make([one for one in _with_keywords() if one.split == split]), max_skipped)
        for split in ("train", "held_out")
    )


def _source(name: str, split: str, examples: Iterator[TextExample], max_skipped: float) -> TextSource:
    rows = [Row(example.key, example) for example in examples]
    digest = hashlib.sha256(repr([row.fields for row in rows]).encode()).hexdigest()
    called = f"{name}, {'to train on' if split == 'train' else 'held out'}"
    return TextSource(
        called, EMBEDDED_TASKS[name], rows, lambda row: row.fields, fingerprint=digest, max_skipped=max_skipped
    )


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


def _gloss(chosen: Sequence[Concept]) -> Iterator[TextExample]:
    for one in chosen:
        rng = _rng("emoji_gloss", one.hexcode)
        answers = [", ".join(_keywords(each)) for each in (one, *_others(one, chosen, CHOICES - 1, rng))]
        order = rng.permutation(CHOICES)
        right = str(int(np.flatnonzero(order == 0)[0]))
        yield TextExample(one.hexcode, (one.names["en"],), tuple(answers[place] for place in order), right)


def _kind(chosen: Sequence[Concept]) -> Iterator[TextExample]:
    """Each concept with its subgroup, and with that of another of its group: subgroups alone say nothing."""
    for one in chosen:
        premise = f"{one.names['en']}: {', '.join(_keywords(one))}"
        others = [each for each in chosen if each.group == one.group and each.subgroup != one.subgroup]
        if not others:
            continue
        other = others[int(_rng("emoji_kind", one.hexcode).integers(len(others)))]
        for label, of in (("entailment", one), ("not_entailment", other)):
            hypothesis = f"It is of the kind {of.subgroup.replace('-', ' ')}."
            yield TextExample(f"{one.hexcode} {label}", (premise, hypothesis), (), label)


def _group(chosen: Sequence[Concept]) -> Iterator[TextExample]:
    for one in chosen:
        yield TextExample(one.hexcode, (f"{one.names['en']}: {', '.join(_keywords(one))}",), (), one.group)


def _same(chosen: Sequence[Concept]) -> Iterator[TextExample]:
    for one in chosen:
        rng = _rng("emoji_same", one.hexcode)
        first, second = _halves(one)
        (other,) = _others(one, chosen, 1, rng)
        yield TextExample(f"{one.hexcode} same", (first, second), (), "the same")
        yield TextExample(f"{one.hexcode} other", (first, _halves(other)[1]), (), "another")


def _halves(concept: Concept) -> tuple[str, str]:
    words = _keywords(concept)
    return ", ".join([concept.names["en"], *words[: len(words) // 2]]), ", ".join(words[len(words) // 2 :])


_MAKERS: Mapping[str, Callable[[Sequence[Concept]], Iterator[TextExample]]] = {
    "emoji_gloss": _gloss,
    "emoji_kind": _kind,
    "emoji_group": _group,
    "emoji_same": _same,
}
