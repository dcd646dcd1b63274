"""GPT-1's two ways to cut a text into words, by which ids differ: as it was trained, and as transformers does today.

"paper" is what the released model was trained on (OpenAI's `text_utils.py`): ftfy mends the text, some characters are
replaced, runs of some marks stand alone, and spaCy's rules for English cut the rest ("don't" is "do" and "n't",
"U.S.A." stays whole). "transformers" is what version 5 of that library has alone: BERT's rules, by which every mark
stands alone, accents are lost and so are the ends of lines. It is written here by Python's Unicode tables: characters
that are younger than the tables of the tokenizers package may be cut otherwise than there.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

Way = Literal["paper", "transformers"]
NEWLINE = "\n"

_REPLACED = str.maketrans(
    {"\u2014": "-", "\u2013": "-", "\u2015": "-", "\u2026": "...", "\u00b4": "'"}  # dashes, ellipsis, acute accent
)
_RUN_OF_A_MARK = re.compile(r"""([-~!";?+,()\\/*\[\]{}|_])\1*""")
_END_OF_LINE = re.compile(r"\s*\n\s*")
_OTHER_SPACE = re.compile(r"[^\S\n]+")


def words_of(text: str, way: Way) -> list[str]:
    """The words of a text in lower case; in the paper's way the end of a line is one, `NEWLINE`.

    Raises:
        ImportError: in the paper's way without ftfy or spaCy.
    """
    return WAYS[way](text)


def paper_words(text: str) -> list[str]:
    """See `words_of`."""
    fix_text, cut = _ftfy_and_spacy()
    words = [str(token).lower() for token in cut(paper_clean(fix_text(text)))]
    return [NEWLINE if word.strip(" ") == NEWLINE else word for word in words]


def paper_clean(text: str) -> str:
    """What is done between ftfy and spaCy."""
    text = _RUN_OF_A_MARK.sub(r" \g<0> ", text.translate(_REPLACED))
    text = _END_OF_LINE.sub(f" {NEWLINE} ", text)
    return _OTHER_SPACE.sub(" ", text).strip()


@cache
def _ftfy_and_spacy() -> tuple[Callable[[str], str], Callable[[str], Any]]:
    try:
        from ftfy import fix_text
        from spacy.lang.en import English
    except ImportError as error:
        raise ImportError(
            f"GPT-1's own way of cutting texts needs ftfy and spaCy, and {error.name} is not installed: pip install "
            "'diptych[gpt1]'. Without them there is way='transformers', which gives other ids than the released model "
            "was trained on."
        ) from error
    return fix_text, English().tokenizer


def transformers_words(text: str) -> list[str]:
    """See `words_of`."""
    return [word for line in text.split(NEWLINE) for word in _words_of_line(line)]


def _words_of_line(text: str) -> list[str]:
    if text.isascii():  # the same, character by character, at once
        return text.translate(_of_ascii()).split()
    characters = "".join(map(_cleaned, text))
    bare = (one for one in unicodedata.normalize("NFD", characters) if unicodedata.category(one) != "Mn")
    return "".join(map(_apart, "".join(map(str.lower, bare)))).split()


@cache
def _of_ascii() -> dict[int, str]:
    return {code: _apart(_cleaned(chr(code)).lower()) if _cleaned(chr(code)) else "" for code in range(128)}


@cache
def _cleaned(character: str) -> str:
    if character in "\t\n\r" or character in _SPACES:
        return " "
    if character in "\0\ufffd" or unicodedata.category(character) in ("Cc", "Cf", "Co"):
        return ""
    return f" {character} " if any(first <= ord(character) <= last for first, last in _CHINESE) else character


@cache
def _apart(character: str) -> str:
    """Marks stand alone: ASCII's, and Unicode's punctuation."""
    ascii_mark = "!" <= character <= "~" and not character.isalnum()
    return f" {character} " if ascii_mark or unicodedata.category(character)[0] == "P" else character


WAYS: dict[str, Callable[[str], list[str]]] = {"paper": paper_words, "transformers": transformers_words}

_SPACES = frozenset("\x0b\x0c \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B))))
_CHINESE = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
"""Blocks whose characters are words, with the gap at U+2B820 that the tokenizers package has."""
