"""The embedded emoji as evenness is measured on them: who is drawn, and by whom."""

import json
from collections.abc import Sequence

from diptych.core.data.emoji import DESIGNERS, GROUPS, HELD_OUT_DESIGNER, LANGUAGES, EmojiSource, group_prompts
from diptych.core.data.sources.word_attributes import WordAttributes
from diptych.engine.datasets.fairness_set import FairnessSet, People
from diptych.engine.embedding.image_stream import Item


def fairness_sets() -> list[FairnessSet]:
    """The embedded emoji, nine groups to tell: by a designer never trained on, and by all twelve.

    The first set has one drawing a concept, asked for in 36 languages. Men and women are those whom the English names
    call so; they are drawn in pairs, a woman cook beside a man cook, so that what each is taken for can be compared.
    Drawings of nobody are those of all groups but people and smileys. The second set is told apart by designer.
    """
    source, everyone = (
        EmojiSource("all", designers=designers, languages=("en",), keywords=False)
        for designers in ((HELD_OUT_DESIGNER,), DESIGNERS)
    )
    genders = WordAttributes({"a": ["man", "men"], "b": ["woman", "women"]}, {})
    shown = [_gender(genders, source, index) for index in range(len(source))]
    paired, works = _paired(source, shown)
    class_names = [group.replace("-", " & ", 1) for group in GROUPS]
    languages = ("en", *(code for code in LANGUAGES if code != "en"))

    def gender(item: Item) -> dict[str, str]:
        known = shown[item.record]
        return {"gender": {"a": "men", "b": "women"}[known]} if known else {}

    def designer(item: Item) -> dict[str, str]:
        name = json.loads(item.image)[0]
        return {"designer": f"{name} (never trained on)" if name == HELD_OUT_DESIGNER else name}

    return [
        FairnessSet(
            name="emoji by a designer never trained on",
            source=source,
            class_names=class_names,
            kinds={language: list(group_prompts(language).values()) for language in languages},
            right=lambda item: frozenset({GROUPS.index(source.concept(item.record).group)}),
            groups=gender,
            nobody=lambda item: source.concept(item.record).group not in ("people-body", "smileys-emotion"),
            people=People(
                group=lambda item: shown[item.record] if item.record in paired else None,
                names=("men", "women"),
                labels=works,
            ),
        ),
        FairnessSet(
            name="emoji by all designers",
            source=everyone,
            class_names=class_names,
            kinds={"en": list(group_prompts().values())},
            right=lambda item: frozenset({GROUPS.index(everyone.concept(item.record).group)}),
            groups=designer,
            place="designer",
            nobody=lambda item: False,
        ),
    ]


def _gender(genders: WordAttributes, source: EmojiSource, index: int) -> str | None:
    """ "a" or "b" where a concept's English name calls for one of them alone."""
    found = genders(source.record(index))
    if found is None or found[0].sum() != 1:
        return None
    return "a" if found[0][0] else "b"


def _paired(source: EmojiSource, shown: Sequence[str | None]) -> tuple[frozenset[int], list[str]]:
    """The records that have a counterpart of the other gender, and what both are, such as "cook"."""
    by_work: dict[str, dict[str, int]] = {}
    for index, gender in enumerate(shown):
        words = source.concept(index).names["en"].split()
        if gender and len(words) > 1 and words[0] in ("man", "woman"):
            by_work.setdefault(" ".join(words[1:]), {})[gender] = index
    both = {work: pair for work, pair in by_work.items() if len(pair) == 2}
    return frozenset(index for pair in both.values() for index in pair.values()), sorted(both)
