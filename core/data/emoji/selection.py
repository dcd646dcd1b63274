"""The concepts that scenes are made of, and the designers who may draw each."""

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import cast

from diptych.core.data.emoji.concepts import DESIGNERS, GROUPS, HELD_OUT_DESIGNER, Concept
from diptych.core.data.emoji.source import EmojiSource
from diptych.core.data.records import Record

FLAG_DESIGNERS = (
    "twemoji",
    "circle_flags",
    "flag_icons",
    "flagpack",
)  # in others' flags white runs into the surrounding
RECTANGULAR_DESIGNERS = ("flag_icons", "flagpack")  # their whole pictures are flags
_SHORT_NAME = 2  # words of English


@dataclass(frozen=True)
class Drawable:
    """A concept, and the designers who draw it so that it can be told from what is around it."""

    concept: Concept
    designers: tuple[str, ...]


def drawables(source: EmojiSource, count: int | None = None) -> tuple[Drawable, ...]:
    """Concepts of a source that have a name in each of its languages, the easiest first, the groups taking turns.

    Within a group short names come before long ones, then what more designers draw, then by hash: neither the source's
    designers nor a seed have a say, so that the held-out designer's scenes show what the others' scenes showed. What
    only the held-out designer draws, or all others, is left out.

    Args:
        count: of concepts, before those that the source's designers do not draw are left out; None for all.

    Raises:
        ValueError: there are less than `count`.
    """
    ranks = _difficulty()
    found: dict[str, list[tuple[tuple, Drawable]]] = {group: [] for group in GROUPS}
    for index in range(len(source)):
        concept = source.concept(index)
        if concept.hexcode in ranks and all(language in concept.names for language in source.languages):
            by = _separable(concept, source.record(index))
            found[concept.group].append((ranks[concept.hexcode], Drawable(concept, by)))
    turns = []
    for place, group in enumerate(GROUPS):
        ranked = sorted(found[group], key=lambda entry: entry[0])
        turns += [(turn, place, drawable) for turn, (_, drawable) in enumerate(ranked)]
    ordered = [drawable for _, _, drawable in sorted(turns, key=lambda entry: entry[:2])]
    if count is not None and not 1 <= count <= len(ordered):
        raise ValueError(f"concepts must lie in 1..{len(ordered)}, as many as can be drawn, got {count}")
    return tuple(drawable for drawable in ordered[:count] if drawable.designers)


def _separable(concept: Concept, record: Record) -> tuple[str, ...]:
    designers = [cast(tuple[str, str], reference)[0] for reference in record.images]
    return tuple(designer for designer in designers if concept.group != "flags" or designer in FLAG_DESIGNERS)


@cache
def _difficulty() -> dict[str, tuple[bool, int, str]]:
    """Hexcode -> a key that sorts the easy concepts first, of those drawn by the held-out designer and by another."""
    everything = EmojiSource("all", DESIGNERS, ("en",), keywords=False)
    keys = {}
    for index, record in enumerate(everything):
        by = _separable(everything.concept(index), record)
        if HELD_OUT_DESIGNER in by and len(by) > 1:
            long = len(record.captions[0].text.split()) > _SHORT_NAME
            keys[record.key] = (long, -len(by), hashlib.sha1(record.key.encode()).hexdigest())
    return keys
