"""Base class of tokenizers: cleaning, truncation and padding as SigLIP 2 has them."""

import hashlib
import string

import numpy as np

_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Tokenizer:
    """Cleans as its vocabulary wants it, tokenizes, keeps the end-of-text token last when it truncates, and pads on the
    right.

    lower_case: SigLIP 2's Gemma vocabulary, and our own. `str.lower` as it is in Python, so "É" becomes "é";
        big_vision's `tf.strings.lower` without an encoding lowers a-z alone, while every port of its models lowers all
        scripts.
    strip_punctuation: SigLIP's T5 vocabularies, as transformers' SiglipTokenizer does: ASCII punctuation is dropped
        ("red_fox" is "redfox"; big_vision's own canonicalisation would make it "red fox") and white space collapses to
        single spaces.
    bos_id: a token before the text, None for none (big_vision's SigLIP 2: `lower`, `tok(bos="no", eos="sticky")`).

    `open_tokenizer` opens a vocabulary's file; a subclass supplies `_ids`, from a cleaned string to a list of ids.
    """

    file_name: str  # under which a preset's folder keeps the vocabulary

    def __init__(
        self,
        *,
        vocab_size: int,
        pad_id: int,
        eos_id: int,
        data: bytes,
        bos_id: int | None = None,
    ):
        if not 0 <= pad_id < vocab_size:
            raise ValueError(f"pad_id must be an id of the vocabulary, 0 to {vocab_size - 1}, got {pad_id}")
        self.vocab_size = vocab_size
        self.pad_id = pad_id
        self.eos_id = eos_id
        self.bos_id = bos_id
        self.lower_case = True
        self.strip_punctuation = False
        self.data = data

    def encode(self, text: str, context_length: int) -> np.ndarray:
        """Token ids, int32 [context_length]: the text, one end-of-text, then padding."""
        opening = [] if self.bos_id is None else [self.bos_id]
        if context_length < len(opening) + 1:
            raise ValueError(f"context_length must be at least {len(opening) + 1}, got {context_length}")
        ids = (opening + self._ids(self.clean(text)))[: context_length - 1]
        tokens = np.full(context_length, self.pad_id, np.int32)
        tokens[: len(ids)] = ids
        tokens[len(ids)] = self.eos_id
        return tokens

    def length(self, text: str) -> int:
        """Tokens of the whole text with its end-of-text: what `encode` cuts where it exceeds the context length."""
        return len(self._ids(self.clean(text))) + (1 if self.bos_id is None else 2)

    def clean(self, text: str) -> str:
        """The text as the vocabulary wants it; it may come to nothing."""
        if self.lower_case:
            text = text.lower()
        return " ".join(text.translate(_PUNCTUATION).split()) if self.strip_punctuation else text

    def fingerprint(self) -> str:
        """A hash of the vocabulary file and of how it is used: equal hashes give equal ids."""
        used = f"{hashlib.sha256(self.data).hexdigest()} {self.pad_id} {self.eos_id} {self.lower_case}"
        if self.strip_punctuation:
            used += " without punctuation"
        return hashlib.sha256(used.encode()).hexdigest()

    def token_id(self, token: str) -> int | None:
        """The id of a token as it stands in the vocabulary, None where it does not."""
        raise NotImplementedError

    def token(self, token_id: int) -> str:
        """The token of an id, as it stands in the vocabulary."""
        raise NotImplementedError

    def _ids(self, text: str) -> list[int]:
        raise NotImplementedError
