"""Gemma's vocabulary with PaliGemma's tokens behind it: 1,024 places along a side of a picture, 128 codes of masks.

Beyer et al. 2024, arXiv 2407.07726; big_vision `models/proj/paligemma`. With Gemma's 256,000 pieces `<loc0000>` is
256000 and `<seg000>` 257024.
"""

import re

from diptych.core.data.tokenizers.base import Tokenizer

PLACES, CODES = 1_024, 128
EXTRAS = (*(f"<loc{place:04}>" for place in range(PLACES)), *(f"<seg{code:03}>" for code in range(CODES)))
"""The tokens in the order of their ids."""
IMAGE = "<image>"
"""transformers' placeholder for a part of a picture. Its id has no weights, and no text contains it."""

_EXTRA = re.compile(r"(<loc[0-9]{4}>|<seg[0-9]{3}>)")


class PaliGemmaTokenizer(Tokenizer):
    """A vocabulary in which places and codes are found before anything else is: Gemma's own would spell each of them.

    >>> PaliGemmaTokenizer(open_tokenizer("tokenizer.model")).ids("detect cat")
    [39208, 4401]

    Upper and lower case and all white space are kept.

    Attributes:
        ends: the ids of `<bos>` and `<eos>`.

    Args:
        vocabulary: Gemma's, of a SentencePiece model or a tokenizer.json, with all of the extra tokens or none; they
            then have the ids behind its last.

    Raises:
        ValueError: for a vocabulary with a part of the extra tokens, or without `<bos>`.
    """

    def __init__(self, vocabulary: Tokenizer):
        own = {token: vocabulary.token_id(token) for token in EXTRAS}
        missing = [token for token, token_id in own.items() if token_id is None]
        if 0 < len(missing) < len(EXTRAS):
            raise ValueError(
                f"{vocabulary.file_name} has {len(EXTRAS) - len(missing):,} of PaliGemma's {len(EXTRAS):,} tokens for "
                f"places and codes and lacks {missing[0]}; expected all of them, or none. Take the checkpoint's own."
            )
        bos_id = vocabulary.token_id("<bos>")
        if bos_id is None:
            raise ValueError(
                f"{vocabulary.file_name} has no <bos>, with which PaliGemma's texts begin. Take Gemma's vocabulary."
            )
        begin = vocabulary.vocab_size
        self._extra_ids = {token: own[token] or begin + place for place, token in enumerate(EXTRAS)}
        self._extra_tokens = {token_id: token for token, token_id in self._extra_ids.items()}
        super().__init__(
            vocab_size=max(self._extra_ids.values()) + 1,
            pad_id=vocabulary.pad_id,
            eos_id=vocabulary.eos_id,
            bos_id=bos_id,
            data=vocabulary.data,
        )
        self.lower_case = False
        self.vocabulary, self.file_name = vocabulary, vocabulary.file_name
        self.ends = bos_id, vocabulary.eos_id

    def ids(self, text: str) -> list[int]:
        """The ids of a text alone, without marks."""
        return self._ids(text)

    def token_id(self, token: str) -> int | None:
        found = self._extra_ids.get(token)
        return self.vocabulary.token_id(token) if found is None else found

    def token(self, token_id: int) -> str:
        found = self._extra_tokens.get(token_id)
        return self.vocabulary.token(token_id) if found is None else found

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in _EXTRA.split(text):
            known = self._extra_ids.get(part)  # <loc1024> looks like one, and is none
            ids += ([known] if known is not None else self.vocabulary._ids(part)) if part else []
        return ids
