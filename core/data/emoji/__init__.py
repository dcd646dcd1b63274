"""The data that diptych brings along: emoji by twelve designers, named in 36 languages. Terms: LICENSES.md."""

from diptych.core.data.emoji.concepts import (
    DESIGNERS,
    GROUPS,
    HELD_OUT_DESIGNER,
    LANGUAGES,
    LICENCE,
    LICENSES_PATH,
    TOKENIZER_PATH,
    Concept,
    concepts,
    designer_path,
    group_prompts,
    split_of,
)
from diptych.core.data.emoji.source import EmojiSource, evaluation_set

__all__ = [
    "DESIGNERS",
    "GROUPS",
    "HELD_OUT_DESIGNER",
    "LANGUAGES",
    "LICENCE",
    "LICENSES_PATH",
    "TOKENIZER_PATH",
    "Concept",
    "EmojiSource",
    "concepts",
    "designer_path",
    "evaluation_set",
    "group_prompts",
    "split_of",
]
