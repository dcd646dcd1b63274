"""Captions to token ids: cleaning what people write, and tokenizers that pad and truncate as SigLIP 2 does."""

import hashlib
import re
import string
from functools import lru_cache
from pathlib import Path

import numpy as np

from diptych.core.data.fields import MAX_TOKENIZER_BYTES, read_limited
from diptych.core.data.records import BadExample

MAX_CAPTION_CHARACTERS = 10_000
MAX_COMBINING_MARKS_IN_A_ROW = 12

_JOINERS = "\u200c\u200d\ufe0e\ufe0f"  # meaningful between letters (Persian, Hindi) and in emoji, nothing alone
_INVISIBLE = "\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb"
_COMBINING = "\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u0610-\u061a\u064b-\u065f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
_UNUSUAL = re.compile(f"[\x00-\x1f\x7f-\x9f{_INVISIBLE}\ud800-\udfff{_JOINERS}{_COMBINING}]|\\s\\s|^\\s|\\s$")
_DROPPED = re.compile(f"[{_INVISIBLE}]")
_CONTROLS = re.compile("[\x01-\x1f\x7f-\x9f]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_STACKED_MARKS = re.compile(f"([{_COMBINING}]{{{MAX_COMBINING_MARKS_IN_A_ROW}}})[{_COMBINING}]+")
_CLIP_MARK = re.compile(rb'"end_of_word_suffix"\s*:\s*"</w>"')  # only CLIP's tokenizer.json has it
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_VISIBLE = re.compile(f"[^\\s{_JOINERS}{_COMBINING}]")


def clean_caption(text: str | bytes) -> str:
    """The caption on one line, without invisible characters; raises `BadExample` for what is not a caption.

    Runs in time proportional to the text. Nothing is normalised: tokenizers bring their own Unicode normalisation.
    """
    if isinstance(text, bytes):
        if len(text) > 4 * MAX_CAPTION_CHARACTERS:
            raise BadExample("caption_too_long", f"{len(text)} bytes")
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadExample("caption_not_utf8", str(error)) from None
    if not isinstance(text, str):
        raise BadExample("caption_not_text", type(text).__name__)
    if len(text) > MAX_CAPTION_CHARACTERS:
        raise BadExample("caption_too_long", f"{len(text)} characters, at most {MAX_CAPTION_CHARACTERS}")
    if text and not _UNUSUAL.search(text):
        return text
    if "\0" in text:
        raise BadExample("caption_nul", "a NUL character: binary data rather than text")
    if _SURROGATES.search(text):
        raise BadExample("caption_surrogate", "half of a surrogate pair, which no encoding can store")
    text = _CONTROLS.sub(" ", _DROPPED.sub("", text))
    text = " ".join(_STACKED_MARKS.sub(r"\1", text).split())
    if not _VISIBLE.search(text):
        raise BadExample("caption_empty")
    return text


class Tokenizer:
    """Cleans as its vocabulary wants it, tokenizes, keeps the end-of-text token last when it truncates, and pads on the right.

    lower_case: SigLIP 2's Gemma vocabulary, and our own. `str.lower` as it is in Python, so "É" becomes "é"; big_vision's
        `tf.strings.lower` without an encoding lowers a-z alone, while every port of its models lowers all scripts.
    strip_punctuation: SigLIP's T5 vocabularies, as transformers' SiglipTokenizer does: ASCII punctuation is dropped ("red_fox" is
        "redfox"; big_vision's own canonicalisation would make it "red fox") and white space collapses to single spaces.
    bos_id: a token before the text, None for none (big_vision's SigLIP 2: `lower`, `tok(bos="no", eos="sticky")`).

    Use `Tokenizer.from_file`; a subclass supplies `_ids` from a cleaned string to a list of ids.
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

    @staticmethod
    def from_file(
        path: str | Path,
        *,
        pad_id: int | None = None,
        lower_case: bool = True,
        strip_punctuation: bool = False,
    ) -> "Tokenizer":
        """Open a SentencePiece `.model`, a Hugging Face `tokenizer.json` (which needs `pip install tokenizers`), or CLIP's vocabulary.

        CLIP's comes as a tokenizer.json, as a vocab.json beside a merges.txt, or as bpe_simple_vocab_16e6.txt.gz.
        `pad_id` overrides the file's own (SigLIP 1 pads with the end-of-text id 1); a file without one pads with end-of-text.
        CLIP's has its own cleaning, whatever `lower_case` and `strip_punctuation` say; what a checkpoint wants for others is
        `vocabularies.open_vocabulary`'s to find out.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no tokenizer file at {path}: give a SentencePiece .model or a tokenizer.json")
        data = read_limited(path, MAX_TOKENIZER_BYTES)
        if (
            path.name == "vocab.json"
            or path.suffix in (".txt", ".gz")
            or (path.suffix == ".json" and _CLIP_MARK.search(data))
        ):
            from diptych.core.data.clip_bpe import ClipTokenizer

            return ClipTokenizer.open(path, pad_id=pad_id)
        kind = _HuggingFaceTokenizer if path.suffix == ".json" else _SentencePieceTokenizer
        tokenizer: Tokenizer = kind(data, pad_id=pad_id)
        tokenizer.lower_case, tokenizer.strip_punctuation = lower_case, strip_punctuation
        return tokenizer

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


@lru_cache(maxsize=8)
def open_tokenizer(path: str) -> Tokenizer:
    """`Tokenizer.from_file`, once a process."""
    return Tokenizer.from_file(path)


class _SentencePieceTokenizer(Tokenizer):
    file_name = "tokenizer.model"

    def __init__(self, data: bytes, *, pad_id: int | None):
        from sentencepiece import SentencePieceProcessor

        try:
            self._processor = SentencePieceProcessor()
            self._processor.LoadFromSerializedProto(data)
        except RuntimeError as error:
            raise ValueError(
                f"this is no SentencePiece model ({error}); give the .model file that its trainer wrote"
            ) from None
        eos_id = self._processor.eos_id()
        if eos_id < 0:
            raise ValueError("this SentencePiece model has no end-of-text piece; train it with eos_id set")
        own_pad_id = self._processor.pad_id()
        super().__init__(
            vocab_size=self._processor.vocab_size(),
            pad_id=pad_id if pad_id is not None else own_pad_id if own_pad_id >= 0 else eos_id,
            eos_id=eos_id,
            data=data,
        )

    def token_id(self, token: str) -> int | None:
        token_id = self._processor.piece_to_id(token)
        return token_id if self._processor.id_to_piece(token_id) == token else None

    def token(self, token_id: int) -> str:
        return self._processor.id_to_piece(token_id)

    def _ids(self, text: str) -> list[int]:
        return self._processor.encode_as_ids(text)


class _HuggingFaceTokenizer(Tokenizer):
    file_name = "tokenizer.json"

    def __init__(self, data: bytes, *, pad_id: int | None):
        try:
            from tokenizers import Tokenizer as Definition
        except ImportError:
            raise ImportError("reading a tokenizer.json needs the tokenizers package: pip install tokenizers") from None
        try:
            self._definition = Definition.from_buffer(data)
        except Exception as error:  # the package raises nothing more specific
            raise ValueError(
                f"this is no tokenizer.json ({error}); give the file that the tokenizers package wrote"
            ) from None
        self._definition.no_truncation()
        self._definition.no_padding()
        eos_id = self._first_id("<eos>", "</s>", "<|endoftext|>", "[SEP]")
        if eos_id is None:
            raise ValueError("this tokenizer.json has none of the end-of-text tokens <eos>, </s>, <|endoftext|>, [SEP]")
        own_pad_id = self._first_id("<pad>", "[PAD]")
        super().__init__(
            vocab_size=self._definition.get_vocab_size(),
            pad_id=pad_id if pad_id is not None else own_pad_id if own_pad_id is not None else eos_id,
            eos_id=eos_id,
            data=data,
        )

    def token_id(self, token: str) -> int | None:
        return self._definition.token_to_id(token)

    def token(self, token_id: int) -> str:
        return self._definition.id_to_token(token_id) or ""

    def _first_id(self, *tokens: str) -> int | None:
        return next((found for token in tokens if (found := self.token_id(token)) is not None), None)

    def _ids(self, text: str) -> list[int]:
        return self._definition.encode(text, add_special_tokens=False).ids
