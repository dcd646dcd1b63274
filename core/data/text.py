"""Captions to token ids: cleaning what people write, and tokenizers that pad and truncate as SigLIP 2 does."""

import hashlib
import re
from pathlib import Path

import numpy as np

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
    """Lower-cases, tokenizes, keeps the end-of-text token last when it truncates, and pads on the right.

    There is no beginning-of-text token (big_vision's SigLIP 2: `lower`, `tok(bos="no", eos="sticky")`).
    Use `Tokenizer.from_file`; a subclass supplies `_ids` from a string to a list of ids.
    """

    def __init__(self, *, vocab_size: int, pad_id: int, eos_id: int, lower_case: bool, file_hash: str):
        self.vocab_size = vocab_size
        self.pad_id = pad_id
        self.eos_id = eos_id
        self.lower_case = lower_case
        self._file_hash = file_hash

    @staticmethod
    def from_file(path: str | Path, *, pad_id: int | None = None, lower_case: bool = True) -> "Tokenizer":
        """Open a SentencePiece `.model` or a Hugging Face `tokenizer.json` (which needs `pip install tokenizers`).

        `pad_id` overrides the file's own (SigLIP 1 pads with the end-of-text id 1); a file without one pads with end-of-text.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no tokenizer file at {path}: give a SentencePiece .model or a tokenizer.json")
        kind = _HuggingFaceTokenizer if path.suffix == ".json" else _SentencePieceTokenizer
        return kind(path.read_bytes(), pad_id=pad_id, lower_case=lower_case)

    def encode(self, text: str, context_length: int) -> np.ndarray:
        """Token ids, int32 [context_length]: the text, one end-of-text, then padding."""
        if context_length < 1:
            raise ValueError(f"context_length must be at least 1, got {context_length}")
        ids = self._ids(text.lower() if self.lower_case else text)[: context_length - 1]
        tokens = np.full(context_length, self.pad_id, np.int32)
        tokens[: len(ids)] = ids
        tokens[len(ids)] = self.eos_id
        return tokens

    def length(self, text: str) -> int:
        """Tokens of the whole text with its end-of-text: what `encode` cuts where it exceeds the context length."""
        return len(self._ids(text.lower() if self.lower_case else text)) + 1

    def fingerprint(self) -> str:
        """A hash of the vocabulary file and of how it is used: equal hashes give equal ids."""
        used = f"{self._file_hash} {self.pad_id} {self.eos_id} {self.lower_case}"
        return hashlib.sha256(used.encode()).hexdigest()

    def _ids(self, text: str) -> list[int]:
        raise NotImplementedError


class _SentencePieceTokenizer(Tokenizer):
    def __init__(self, model: bytes, *, pad_id: int | None, lower_case: bool):
        from sentencepiece import SentencePieceProcessor

        self._processor = SentencePieceProcessor(model_proto=model)
        eos_id = self._processor.eos_id()
        if eos_id < 0:
            raise ValueError("this SentencePiece model has no end-of-text piece; train it with eos_id set")
        own_pad_id = self._processor.pad_id()
        super().__init__(
            vocab_size=self._processor.vocab_size(),
            pad_id=pad_id if pad_id is not None else own_pad_id if own_pad_id >= 0 else eos_id,
            eos_id=eos_id,
            lower_case=lower_case,
            file_hash=hashlib.sha256(model).hexdigest(),
        )

    def _ids(self, text: str) -> list[int]:
        return self._processor.encode_as_ids(text)


class _HuggingFaceTokenizer(Tokenizer):
    def __init__(self, definition: bytes, *, pad_id: int | None, lower_case: bool):
        try:
            from tokenizers import Tokenizer as Definition
        except ImportError:
            raise ImportError("reading a tokenizer.json needs the tokenizers package: pip install tokenizers") from None
        self._definition = Definition.from_buffer(definition)
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
            lower_case=lower_case,
            file_hash=hashlib.sha256(definition).hexdigest(),
        )

    def _first_id(self, *tokens: str) -> int | None:
        ids = (self._definition.token_to_id(token) for token in tokens)
        return next((token_id for token_id in ids if token_id is not None), None)

    def _ids(self, text: str) -> list[int]:
        return self._definition.encode(text, add_special_tokens=False).ids
