"""Tokens of documents, made once for a vocabulary and kept in files of the cache, which are mapped into memory."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from diptych.core.data.texts.documents import Document
from diptych.core.data.tokenizers.gpt_bpe import END_OF_LINE, GptTokenizer
from diptych.core.data.tokenizers.gpt_words import NEWLINE
from diptych.core.files.array_file import ArrayFile, write_arrays

GROUP_CHARACTERS = 1 << 24
"""Of the documents whose tokens share a file; what a stop costs is one such file."""
PIECE_CHARACTERS = 1 << 20
"""Of a document, that are cut into words at a time."""
VERSION = 1
_SECONDS = 5.0


@dataclass(frozen=True)
class TokenStore:
    """The tokens of documents, one behind the other. It is pickled as the paths of its files.

    Attributes:
        files: of groups of documents, in order: arrays "ids" and "ends", and about["keys"].
    """

    files: tuple[Path, ...]

    @cached_property
    def _groups(self) -> list[ArrayFile]:
        return [ArrayFile(path) for path in self.files]

    @cached_property
    def _starts(self) -> np.ndarray:
        """Where the tokens of each group begin, and where the last one ends, int64 [groups + 1]."""
        return np.cumsum([0, *(group.about["tokens"] for group in self._groups)], dtype=np.int64)

    def __len__(self) -> int:
        """The number of tokens."""
        return int(self._starts[-1])

    def ids(self, begin: int, end: int) -> np.ndarray:
        """Tokens begin..end-1 of all, int32 [end - begin]."""
        first = int(np.searchsorted(self._starts, begin, "right")) - 1
        parts = []
        while begin < end:
            start, stop = self._starts[first], self._starts[first + 1]
            parts.append(self._groups[first]["ids"][begin - start : min(end, stop) - start])
            begin, first = min(end, int(stop)), first + 1
        return np.concatenate(parts).astype(np.int32) if parts else np.empty(0, np.int32)

    def documents(self) -> Iterator[tuple[str, np.ndarray]]:
        """(key, tokens) of each document."""
        for group in self._groups:
            for key, begin, end in zip(group.about["keys"], [0, *group["ends"]], group["ends"], strict=False):
                yield key, group["ids"][begin:end].astype(np.int32)

    def counts(self, vocab_size: int) -> np.ndarray:
        """How often each token occurs, int64 [vocab_size]."""
        return sum(
            (np.bincount(group["ids"], minlength=vocab_size) for group in self._groups), np.zeros(vocab_size, np.int64)
        )

    def fingerprint(self) -> str:
        """A hash of all tokens."""
        return hashlib.sha256(" ".join(path.stem for path in self.files).encode()).hexdigest()

    def __reduce__(self) -> tuple:
        return TokenStore, (self.files,)


def store_tokens(
    documents: Iterable[Document],
    tokenizer: GptTokenizer,
    folder: Path,
    *,
    parts: Callable[[str], str],
    say: Callable[[str], None] = print,
) -> dict[str, TokenStore]:
    """The tokens of documents by the part that each belongs to, cut into tokens where no earlier run has done so.

    Behind each document stands the end of a line, where the vocabulary has one.

    Args:
        folder: where files of tokens are kept, by the hash of what they hold; it is made.
        parts: the part of a document, by its key.

    Raises:
        OSError: the folder takes no more.
    """
    files: dict[str, list[Path]] = {}
    waiting: dict[str, list[Document]] = {}
    told = _Told(say)

    def keep(part: str) -> None:
        files.setdefault(part, []).append(_stored(waiting.pop(part), tokenizer, folder, told))

    for document in documents:
        part = parts(document.key)
        waiting.setdefault(part, []).append(document)
        if sum(len(one.text) for one in waiting[part]) >= GROUP_CHARACTERS:
            keep(part)
    for part in list(waiting):
        keep(part)
    told.end()
    return {part: TokenStore(tuple(paths)) for part, paths in files.items()}


def _stored(group: list[Document], tokenizer: GptTokenizer, folder: Path, told: "_Told") -> Path:
    """The file of a group's tokens, written if it is not there or damaged."""
    used = [VERSION, tokenizer.fingerprint(), group]
    path = folder / f"{hashlib.sha256(json.dumps(used).encode('utf-8', 'surrogatepass')).hexdigest()}.tokens"
    try:
        ArrayFile(path)
    except (OSError, ValueError):
        small = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32
        texts = [np.fromiter(_ids(one.text, tokenizer, told), small) for one in group]
        ends = np.cumsum([len(ids) for ids in texts], dtype=np.int64)
        about = {"keys": [one.key for one in group], "tokens": int(ends[-1])}
        write_arrays(path, about, {"ids": np.concatenate(texts), "ends": ends})
    return path


def _ids(text: str, tokenizer: GptTokenizer, told: "_Told") -> Iterator[int]:
    """The tokens of a whole text, cut at ends of lines so that no more than a piece is held in words."""
    newline = tokenizer.token_id(END_OF_LINE)
    paper = tokenizer.way == "paper"
    for number, piece in enumerate(_pieces(text)):
        if number and paper and newline is not None:
            yield newline
        yield from tokenizer.ids(piece)
        told.more(len(piece))
    if newline is not None:
        yield newline


def _pieces(text: str) -> Iterator[str]:
    """Parts of a text that end where a line does, none of them empty, about `PIECE_CHARACTERS` long."""
    begin = 0
    while begin < len(text):
        end = text.find(NEWLINE, begin + PIECE_CHARACTERS) + 1 or len(text)
        if text[begin:end].strip():
            yield text[begin:end]
        begin = end


class _Told:
    """What is shown of a long walk."""

    def __init__(self, say: Callable[[str], None]):
        self._say, self._characters, self._shown = say, 0, time.monotonic()

    def more(self, characters: int) -> None:
        """So many more have been cut into tokens."""
        self._characters += characters
        if time.monotonic() - self._shown >= _SECONDS:
            self._shown = time.monotonic()
            self._say(f"Tokens: {self._characters:,} characters cut so far; what is done stays in the cache")

    def end(self) -> None:
        """All of them have been."""
        if self._characters:
            self._say(f"Tokens: {self._characters:,} characters cut")
