"""GPT-1's tokenizer: words cut in one of two ways, and pair merges with an end-of-word mark (Sennrich et al. 2016).

The vocabulary has no end-of-text and no padding: texts are lists of ids of any length. OpenAI's own holds 40,478
entries: `<unk>`, 238 characters, the same as ends of words, 40,000 merges in order, and the end of a line.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from diptych.core.data.tokenizers.gpt_words import NEWLINE, WAYS, Way, words_of
from diptych.core.data.tokenizers.pair_merges import (
    END_OF_WORD,
    merged_pieces,
    read_ids,
    read_merges,
    read_pairs,
)
from diptych.core.files.atomic import replacing
from diptych.core.files.fields import MAX_TOKENIZER_BYTES, read_fields
from diptych.core.files.json_objects import json_bytes, write_config
from diptych.core.weights.hub import preset_folder

UNKNOWN = "<unk>"
END_OF_LINE = NEWLINE + END_OF_WORD
FILES = (("vocab.json", "merges.txt"), ("encoder_bpe_40000.json", "vocab_40000.bpe"))
"""Transformers' names of a vocabulary and its merges, and OpenAI's."""
SETTINGS_FILE, WAY = "tokenizer_config.json", "diptych_words"
_LANGUAGE_FILES = ("*.json", "*.txt", "*.bpe")


class GptTokenizer:
    """Texts to ids and back.

    >>> tokenizer = GptTokenizer.open("hf://openai-community/openai-gpt")
    >>> tokenizer.ids("the president is")
    [481, 4735, 544]

    Args:
        vocabulary: token -> id.
        merges: pairs, the first to be merged first.
        way: how texts are cut into words, see `diptych.core.data.tokenizers.gpt_words`: "paper", as the released model
            was trained, which needs ftfy and spaCy; or "transformers", as that library does from version 5 on.

    Attributes:
        vocab_size: rows that a table of tokens needs.

    Raises:
        ValueError: for a vocabulary that lacks what its merges make or the unknown token, and for another way.
    """

    def __init__(self, vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]], *, way: Way = "paper"):
        if way not in WAYS:
            raise ValueError(f"way must be {' or '.join(map(repr, WAYS))}, got {way!r:.100}.")
        self.vocabulary, self.merges, self.way = dict(vocabulary), list(merges), way
        needed = [UNKNOWN, *([END_OF_LINE] if way == "paper" else [])]
        needed += [token for pair in self.merges for token in (*pair, "".join(pair))]
        missing = [token for token in dict.fromkeys(needed) if token not in self.vocabulary]
        if missing:
            raise ValueError(
                f"This vocabulary of {len(self.vocabulary):,} lacks {len(missing)} tokens that it needs, such as "
                f"{missing[:3]}; do vocabulary and merges belong together?"
            )
        self.vocab_size = max(self.vocabulary.values()) + 1
        self.unknown_id = self.vocabulary[UNKNOWN]
        self._tokens = {token_id: token for token, token_id in self.vocabulary.items()}
        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        self._cached_ids = lru_cache(maxsize=1 << 16)(self._ids_of_word)

    @classmethod
    def open(cls, preset: str | Path, *, way: Way | None = None, revision: str | None = None) -> "GptTokenizer":
        """The tokenizer of a folder, or of a repository of the hub, "hf://owner/name".

        Args:
            preset: with vocab.json and merges.txt, with OpenAI's encoder_bpe_40000.json and vocab_40000.bpe, or with a
                tokenizer.json of this kind.
            way: None for what the folder says, which only `save` writes, or else "paper".
            revision: of the repository.

        Raises:
            FileNotFoundError, ValueError: for a folder without a vocabulary, and for files that do not fit together.
        """
        folder = preset_folder(preset, revision=revision, patterns=_LANGUAGE_FILES)
        chosen: Any = way
        if way is None:
            settings = folder / SETTINGS_FILE
            chosen = read_fields(settings).get(WAY, str, "paper") if settings.is_file() else "paper"
        for ids, merges in FILES:
            if (folder / ids).is_file() and (folder / merges).is_file():
                vocabulary = read_ids(read_fields(folder / ids, MAX_TOKENIZER_BYTES))
                return cls(vocabulary, read_merges(folder / merges), way=chosen)
        if (folder / "tokenizer.json").is_file():
            model = read_fields(folder / "tokenizer.json", MAX_TOKENIZER_BYTES).object("model")
            if model.get("end_of_word_suffix", str, "") != END_OF_WORD:
                raise model.wrong("end_of_word_suffix", f"{END_OF_WORD}, as GPT-1's has")
            return cls(
                read_ids(model.object("vocab")), read_pairs(model.get("merges", list, []), model.where), way=chosen
            )
        raise FileNotFoundError(
            f"{folder} holds no vocabulary of a GPT: expected "
            f"{' or '.join(' and '.join(pair) for pair in FILES)}, or tokenizer.json."
        )

    def save(self, folder: str | Path) -> None:
        """Writes vocab.json, merges.txt and tokenizer_config.json, which transformers reads; bit for bit again."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        by_id = dict(sorted(self.vocabulary.items(), key=lambda item: item[1]))
        lines = ["#version: 0.2", *map(" ".join, self.merges), ""]
        for name, text in (("vocab.json", json.dumps(by_id, ensure_ascii=False)), ("merges.txt", "\n".join(lines))):
            with replacing(folder / name) as file:
                file.write(json_bytes(text))
        settings: dict[str, Any] = {"tokenizer_class": "OpenAIGPTTokenizer", "unk_token": UNKNOWN, WAY: self.way}
        write_config(folder / SETTINGS_FILE, settings)

    def ids(self, text: str) -> list[int]:
        """The ids of a text; pieces that the vocabulary lacks are the unknown token."""
        return [token_id for word in words_of(text, self.way) for token_id in self._cached_ids(word)]

    def text(self, ids: Iterable[int]) -> str:
        """The text of ids, with a space between words, also before marks; upper case does not come back."""
        joined = "".join(self.token(int(token_id)) for token_id in ids)
        return joined.replace(END_OF_WORD, " ").strip()

    def token_id(self, token: str) -> int | None:
        """The id of a token as it stands in the vocabulary, None where it does not."""
        return self.vocabulary.get(token)

    def token(self, token_id: int) -> str:
        """The token of an id, as it stands in the vocabulary; raises ValueError for an id that it has not."""
        if token_id not in self._tokens:
            raise ValueError(f"The vocabulary has ids up to {self.vocab_size - 1}, got {token_id}.")
        return self._tokens[token_id]

    def fingerprint(self) -> str:
        """A hash of the vocabulary and of how texts are cut: equal hashes give equal ids."""
        used = json.dumps([self.way, sorted(self.vocabulary.items()), self.merges], ensure_ascii=True)
        return hashlib.sha256(used.encode()).hexdigest()

    def _ids_of_word(self, word: str) -> tuple[int, ...]:
        pieces = merged_pieces([*word[:-1], word[-1] + END_OF_WORD], self._ranks)
        return tuple(self.vocabulary.get(piece, self.unknown_id) for piece in pieces)
