"""Which tokenizer a checkpoint's folder holds: where its vocabulary is, and with which token it pads."""

from pathlib import Path

from diptych.core.data.fields import Fields, read_fields
from diptych.core.data.text import Tokenizer, is_t5_vocabulary

# SentencePiece's own files come first: the tokenizer.json beside them is a conversion, and reading it needs one package more.
VOCABULARY_FILES = (
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.model",
    "tokenizer.json",
    "vocab.json",
    "bpe_simple_vocab_16e6.txt.gz",
)


def vocabulary_file(folder: Path) -> Path:
    """The file with a folder's vocabulary; raises FileNotFoundError, saying what was looked for."""
    for name in VOCABULARY_FILES:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder} holds no vocabulary, expected one of {', '.join(VOCABULARY_FILES)}.")


def open_vocabulary(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint's folder, as transformers lays it out.

    It pads with the pad token that tokenizer_config.json or special_tokens_map.json names. Where they are silent, T5's vocabularies
    pad with end-of-text, as SigLIP was trained, CLIP's with end-of-text, others with their own pad token.
    """
    tokenizer = Tokenizer.from_file(vocabulary_file(folder))
    token, where = _pad_token(folder)
    if token is not None:
        pad_id = tokenizer.token_id(token)
        if pad_id is None:
            raise ValueError(
                f"{where}: pad_token is {token!r}, which {tokenizer.file_name} does not hold. Do the files belong together?"
            )
        tokenizer.pad_id = pad_id
    elif is_t5_vocabulary(tokenizer):
        tokenizer.pad_id = tokenizer.eos_id
    return tokenizer


def _pad_token(folder: Path) -> tuple[str | None, str]:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if not (folder / name).is_file():
            continue
        fields = read_fields(folder / name)
        if "pad_token" in fields:
            return _content(fields), fields.where
    return None, ""


def _content(fields: Fields) -> str:
    """A special token stands as its text, or as an object with it."""
    if isinstance(fields.values["pad_token"], dict):
        return fields.object("pad_token").require("content", str)
    return fields.require("pad_token", str)
