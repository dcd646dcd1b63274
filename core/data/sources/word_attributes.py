"""Attributes and labels of a record from the words of its captions, in the language of each caption."""

import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from diptych.core.data.records import Record

ALL_LANGUAGES = "*"

# Written without spaces between words: a word counts wherever its letters stand.
UNSPACED = frozenset({"bo", "ja", "km", "lo", "my", "th", "yue", "zh"})

NO_WORD = "  "

Words = Sequence[str] | Mapping[str, Sequence[str]]


class WordAttributes:
    """record -> (s [groups], y [labels]): 1 where one of the words is in a caption, or None where no group is named.

    Words are found whole ("man" is not in "manager"), in any case, and may be several words long. A name of people in a
    caption says what its writer saw or assumed, no more.

    Args:
        groups: {name: words}, the words as a list for captions of any language, or as {language: list} with "*" for
            any.
        labels: the same for what else a picture may show.

    Raises:
        ValueError: no group, or a name without words.

    Example:
        WordAttributes(
            {"women": {"en": ["woman", "women", "she"], "de": ["Frau", "Frauen"]}, "men": {"en": ["man", "men", "he"]}},
            {"nurse": ["nurse"], "engineer": {"en": ["engineer", "engineers"], "de": ["Ingenieur", "Ingenieurin"]}},
        )
    """

    def __init__(self, groups: Mapping[str, Words], labels: Mapping[str, Words]):
        if not groups:
            raise ValueError("WordAttributes needs at least one group, got none.")
        self.groups, self.labels = tuple(groups), tuple(labels)
        self._words = [_by_language(name, words) for name, words in (*groups.items(), *labels.items())]

    def __call__(self, record: Record) -> tuple[np.ndarray, np.ndarray] | None:
        found = np.zeros(len(self._words))
        for caption in record.caption_parts.usable:
            language = caption.language.replace("_", "-").partition("-")[0].lower()
            text = _separated(caption.text) if isinstance(caption.text, str) else ""
            letters = text.replace(" ", "") if language in UNSPACED else ""
            for number, words in enumerate(self._words):
                if not found[number]:
                    spoken = (*words.get(language, ()), *words.get(ALL_LANGUAGES, ()))
                    found[number] = any(
                        word in text or (letters and not word.isascii() and word.replace(" ", "") in letters)
                        for word in spoken
                    )
        s, y = np.split(found, [len(self.groups)])
        return (s, y) if s.any() else None


def _by_language(name: str, words: Words) -> dict[str, tuple[str, ...]]:
    by_language = words if isinstance(words, Mapping) else {ALL_LANGUAGES: words}
    separated = {language: tuple(map(_separated, some)) for language, some in by_language.items()}
    every = [word for some in separated.values() for word in some]
    if any(isinstance(some, str) for some in (words, *by_language.values())) or not every or NO_WORD in every:
        raise ValueError(f"{name!r} needs a list of words, or lists of words by language, got {words!r}.")
    return separated


def _separated(text: str) -> str:
    """ "It's a Man!" -> " it s a man ": letters, marks and digits of any script, lower case, words between single
    spaces.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = "".join(character if unicodedata.category(character)[0] in "LMN" else " " for character in folded)
    return f" {' '.join(words.split())} "
