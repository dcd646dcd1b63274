"""CLIP's tokenizer: byte-level pair encoding with an end-of-word mark (Radford et al. 2021; Sennrich et al. 2016).

A text is brought to NFC, white space to single spaces, letters to lower case. It is then cut into contractions, runs of
letters, single digits and runs of anything else; each becomes its UTF-8 bytes, which are merged pair by pair, the
earliest merge first. OpenAI's and open_clip's tokenizers also repair text with ftfy and decode HTML entities first;
transformers 5 does not, nor do we.
"""

import gzip
import io
import json
import re
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from diptych.core.data.tokenizers.base import Tokenizer
from diptych.core.data.tokenizers.pair_merges import (
    END_OF_WORD,
    merged_pieces,
    read_ids,
    read_merges,
    read_pairs,
    read_text,
)
from diptych.core.files.fields import MAX_TOKENIZER_BYTES, read_fields, read_limited

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
RELEASED_MERGES = (
    48_894  # of bpe_simple_vocab_16e6.txt, which lists more: 49,408 entries less 2 * 256 bytes and two marks
)

_WORDS = re.compile(
    rf"{re.escape(BOS)}|{re.escape(EOS)}|'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+", re.IGNORECASE
)
_SPLIT_AT_MARKS = re.compile(f"({re.escape(BOS)}|{re.escape(EOS)})")


class ClipTokenizer(Tokenizer):
    """Beginning-of-text, the text, end-of-text, padding.

    Args:
        vocabulary: token -> id, with both marks.
        merges: pairs, the first to be merged first.
        pad_id: None for end-of-text, with which transformers pads; open_clip pads with 0. A causal tower that reads the
            end-of-text token sees no difference.
    """

    file_name = "tokenizer.json"

    def __init__(self, vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]], *, pad_id: int | None = None):
        self.vocabulary = dict(vocabulary)
        self.merges = list(merges)
        missing = [token for token in (BOS, EOS, *(symbol for one in _LETTERS for symbol in (one, one + END_OF_WORD)))
                   if token not in self.vocabulary]  # fmt: skip
        missing += [token for pair in self.merges for token in (*pair, "".join(pair)) if token not in self.vocabulary]
        if missing:
            raise ValueError(
                f"CLIP's vocabulary lacks {len(missing)} tokens that it needs, such as {missing[:3]}; do vocabulary "
                "and merges belong together?"
            )
        self._tokens = {token_id: token for token, token_id in self.vocabulary.items()}
        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        self._cached_pieces = lru_cache(maxsize=1 << 16)(self._pieces)
        eos_id = self.vocabulary[EOS]
        super().__init__(
            vocab_size=max(self.vocabulary.values()) + 1,
            pad_id=eos_id if pad_id is None else pad_id,
            eos_id=eos_id,
            bos_id=self.vocabulary[BOS],
            data=_definition(self.vocabulary, self.merges),
        )

    @classmethod
    def open(cls, path: Path, *, pad_id: int | None = None) -> "ClipTokenizer":
        """Open a tokenizer.json, a vocab.json beside its merges.txt, or bpe_simple_vocab_16e6.txt, gzipped or not."""
        if path.name == "vocab.json":
            vocabulary, beside = read_fields(path, MAX_TOKENIZER_BYTES), path.with_name("merges.txt")
            if not beside.is_file():
                raise FileNotFoundError(f"{path} needs its merges.txt beside it, which is not there.")
            return cls(read_ids(vocabulary), read_merges(beside), pad_id=pad_id)
        if path.suffix == ".json":
            model = read_fields(path, MAX_TOKENIZER_BYTES).object("model")
            merges = read_pairs(model.get("merges", list, []), model.where)
            return cls(read_ids(model.object("vocab")), merges, pad_id=pad_id)
        data = read_limited(path, MAX_TOKENIZER_BYTES, "gzip-compressed")
        lines = read_text(_unzipped(data, path) if data[:2] == b"\x1f\x8b" else data, path).split("\n")
        merges = read_pairs(lines[1 : 1 + RELEASED_MERGES], str(path))
        return cls(released_vocabulary(merges), merges, pad_id=pad_id)

    def clean(self, text: str) -> str:
        return " ".join(unicodedata.normalize("NFC", text).split()).lower()

    def token_id(self, token: str) -> int | None:
        return self.vocabulary.get(token)

    def token(self, token_id: int) -> str:
        return self._tokens[token_id]

    def encode_words(self, text: str) -> list[str]:
        """The pieces of a cleaned text before merging: words, digits, punctuation."""
        return [text[match.start() : match.end()] for match in _WORDS.finditer(text.translate(_STAND_INS))]

    def _ids(self, text: str) -> list[int]:
        return [self.vocabulary[piece] for word in self.encode_words(text) for piece in self._cached_pieces(word)]

    def _pieces(self, word: str) -> tuple[str, ...]:
        if word in (BOS, EOS):
            return (word,)
        pieces = [_LETTERS[byte] for byte in word.encode("utf-8")]
        pieces[-1] += END_OF_WORD
        return tuple(merged_pieces(pieces, self._ranks))


def released_vocabulary(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """The ids of OpenAI's file: bytes, bytes that end a word, merges in order, the two marks."""
    letters = sorted(_LETTERS, key=lambda letter: (ord(letter) >= 256, ord(letter)))
    tokens = [*letters, *(letter + END_OF_WORD for letter in letters), *map("".join, merges), BOS, EOS]
    return {token: index for index, token in enumerate(tokens)}


def _byte_letters() -> list[str]:
    """A printable character for each byte: itself where it is one in Latin-1, the others in order from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("\u00a1"), ord("\u00ac") + 1), *range(ord("\u00ae"), 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


class _StandIns(dict):
    """For each character one of its kind that `_WORDS` can tell: letter, number, white space or other; found when first
    met.

    The letter is one that no contraction and no mark contains.
    """

    def __missing__(self, code: int) -> int:
        character = chr(code)
        kind = unicodedata.category(character)[0]
        stand_in = "b" if kind == "L" else "0" if kind == "N" else " " if character.isspace() else "!"
        self[code] = ord(stand_in)
        return self[code]


_LETTERS = _byte_letters()
_STAND_INS = _StandIns({code: code for code in range(128)})


def _definition(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> bytes:
    """The tokenizer.json that the tokenizers package reads, with the same cleaning and cutting."""
    words = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    marks: list[dict[str, Any]] = [
        {"id": vocabulary[mark], "content": mark, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False,
         "special": True}
        for mark in (BOS, EOS)
    ]  # fmt: skip
    definition = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(marks, key=lambda mark: mark["id"]),
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "NFC"},
                {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                {"type": "Lowercase"},
            ],
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": words}, "behavior": "Removed", "invert": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            ],
        },
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": [EOS, vocabulary[EOS]],
            "cls": [BOS, vocabulary[BOS]],
            "trim_offsets": False,
            "add_prefix_space": False,
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": EOS,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": END_OF_WORD,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [" ".join(pair) for pair in merges],
        },
    }
    return json.dumps(definition, ensure_ascii=False).encode("utf-8")


def _unzipped(data: bytes, path: Path) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            text = file.read(MAX_TOKENIZER_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is a damaged gzip file ({error}); download it again.") from None
    if len(text) > MAX_TOKENIZER_BYTES:
        raise ValueError(
            f"{path} unpacks to more than {MAX_TOKENIZER_BYTES} bytes, far more than CLIP's list of merges."
        )
    return text
