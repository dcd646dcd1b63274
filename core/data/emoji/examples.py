"""A dozen of the embedded drawings that everybody knows, for first looks at a model."""

from diptych.core.data.emoji.concepts import Concept
from diptych.core.data.emoji.source import evaluation_set
from diptych.core.data.sources.small import ChosenRecords

EXAMPLES = "🐶🐱🍎🍕🚗🚀🌈⚽🎸🏠😀🌵"


def example_drawings() -> tuple[ChosenRecords, list[Concept]]:
    """The held-out designer's drawings of `EXAMPLES`, and what each of them shows."""
    source = evaluation_set()
    by_hexcode = {source.concept(index).hexcode: index for index in range(len(source))}
    chosen = [by_hexcode[f"{ord(emoji):x}"] for emoji in EXAMPLES]
    return ChosenRecords(source, chosen), [source.concept(index) for index in chosen]
