"""Emoji in a text, put in words for models whose vocabulary spells them byte by byte."""

import re
from functools import cache
from typing import Any

from diptych.core.data.emoji import concepts

_VARIATION = re.compile("[\ufe0e\ufe0f]")


def spells_emoji(tokenizer: Any) -> bool:
    """Whether a tokenizer has no token for an emoji that everybody uses, so that its bytes are tokens: what a model
    has read no emoji with.
    """
    return tokenizer.length("🍎🍎") - tokenizer.length("🍎") >= len("🍎".encode())


def in_words(text: str, language: str = "en") -> str:
    """The text with each emoji replaced by its short name; the longest sequence that has one counts, so that a woman, a
    joiner and a rocket are an astronaut. What has no name stays.

    Example: "a 🍎 on a table" -> "a red apple on a table"
    """
    names, pattern = _names(language)
    plain = _VARIATION.sub("", text)
    named = pattern.sub(lambda match: f" {names[match[0]]} ", plain)
    return text if named == plain else " ".join(named.split())


@cache
def _names(language: str) -> tuple[dict[str, str], re.Pattern[str]]:
    """Emoji without variation selectors -> name, and what finds them; digits and letters are no emoji by themselves."""
    names = {_VARIATION.sub("", each.emoji): each.names[language] for each in concepts()}
    names = {emoji: name for emoji, name in names.items() if not emoji.isascii()}
    longest_first = sorted(names, key=len, reverse=True)
    return names, re.compile("|".join(map(re.escape, longest_first)))
