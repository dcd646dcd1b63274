"""The tokenizer of a checkpoint's folder: the place of its vocabulary, and the token that pads."""

import warnings
from pathlib import Path

from diptych.core.data.tokenizers.base import Tokenizer
from diptych.core.data.tokenizers.clip_bpe import ClipTokenizer
from diptych.core.data.tokenizers.open import open_tokenizer
from diptych.core.data.tokenizers.sentencepiece import SentencePieceTokenizer
from diptych.core.files.fields import MAX_TOKENIZER_BYTES, Fields, read_fields

# SentencePiece's own files come first: the tokenizer.json beside them is a conversion, and reading it needs one package
# more. Where it has other tokens, it was changed after the conversion, and counts, as in transformers.
VOCABULARY_FILES = (
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.model",
    "tokenizer.json",
    "vocab.json",
    "bpe_simple_vocab_16e6.txt.gz",
)
SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json")
CONVERTED = "tokenizer.json"
STRIP_PUNCTUATION = "strip_punctuation"
"""A field of tokenizer_config.json that only we write."""


def vocabulary_file(folder: Path) -> Path:
    """The file with a folder's vocabulary; raises FileNotFoundError, saying what was looked for."""
    for name in VOCABULARY_FILES:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder} holds no vocabulary, expected one of {', '.join(VOCABULARY_FILES)}.")


def open_vocabulary(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint's folder, as transformers lays it out, with the cleaning that its vocabulary wants.

    Letters are lower-cased for every vocabulary. ASCII punctuation is dropped for T5's, as transformers'
    SiglipTokenizer does for SigLIP's English and multilingual checkpoints; big_vision, which trained them, lower-cases
    only. The vocabulary decides, never the kind of model that uses it: transformers 5 lower-cases for SigLIP 2's
    checkpoints only where their model_type is "siglip2", which two of seventeen have, so that "A Cat." and "a cat." get
    different ids in the others. Only tokenizer_config.json as we write it overrides this, which says what is done with
    punctuation.

    The tokenizer pads with the pad token that tokenizer_config.json or special_tokens_map.json names. Where they are
    silent, T5's vocabularies pad with end-of-text, as SigLIP was trained, CLIP's with end-of-text, others with their
    own pad token.

    Warns:
        UserWarning: where a SentencePiece model and the tokenizer.json beside it have different tokens.
    """
    tokenizer = open_tokenizer(vocabulary_file(folder))
    if isinstance(tokenizer, SentencePieceTokenizer) and (folder / CONVERTED).is_file():
        tokenizer = _as_converted(tokenizer, folder / CONVERTED)
    tokenizer.strip_punctuation = is_t5_vocabulary(tokenizer)
    settings = [read_fields(folder / name) for name in SETTINGS_FILES if (folder / name).is_file()]
    ours = next((fields for fields in settings if STRIP_PUNCTUATION in fields), None)
    if ours is not None and not isinstance(tokenizer, ClipTokenizer):
        tokenizer.lower_case = ours.get("do_lower_case", bool, True)
        tokenizer.strip_punctuation = ours.get(STRIP_PUNCTUATION, bool, False)
    named = next((fields for fields in settings if "pad_token" in fields), None)
    if named is not None:
        tokenizer.pad_id = _pad_id(tokenizer, named)
    elif is_t5_vocabulary(tokenizer):
        tokenizer.pad_id = tokenizer.eos_id
    return tokenizer


def _as_converted(tokenizer: SentencePieceTokenizer, path: Path) -> Tokenizer:
    """The tokenizer itself, or that of the tokenizer.json beside it where this has tokens that it has not."""
    fields = read_fields(path, MAX_TOKENIZER_BYTES)
    pieces = fields.object("model").values.get("vocab")
    tokens = dict(pieces) if isinstance(pieces, dict) else dict(enumerate(pieces)) if isinstance(pieces, list) else {}
    added = [token for token in fields.get("added_tokens", list, []) if isinstance(token, dict)]
    others = [token for token in added if tokenizer.token_id(str(token.get("content"))) != token.get("id")]
    if len(tokens) <= tokenizer.vocab_size and not others:
        return tokenizer
    named = f", such as {others[0].get('content')!r}" if others else ""
    warnings.warn(
        f"{path} has tokens that the {tokenizer.file_name} beside it has not{named}. It is read, as transformers does; "
        "remove the file that is not the model's.",
        stacklevel=4,
    )
    return open_tokenizer(path)


def open_alone(file: Path) -> Tokenizer:
    """The tokenizer of a vocabulary's file without a folder's settings, with what its vocabulary wants: T5's drop
    punctuation and pad with end-of-text.
    """
    tokenizer = open_tokenizer(file)
    if is_t5_vocabulary(tokenizer):
        tokenizer.strip_punctuation, tokenizer.pad_id = True, tokenizer.eos_id
    return tokenizer


def is_t5_vocabulary(tokenizer: Tokenizer) -> bool:
    """Whether this is one of T5's vocabularies, with which SigLIP was trained: 32,000 pieces (c4) or mT5's 250,000, up
    to 128 more.
    """
    marks = tuple(tokenizer.token_id(mark) for mark in ("<pad>", "</s>", "<unk>"))
    return marks == (0, 1, 2) and any(0 <= tokenizer.vocab_size - size <= 128 for size in (32_000, 250_000))


def _pad_id(tokenizer: Tokenizer, fields: Fields) -> int:
    """A special token stands as its text, or as an object with it."""
    if isinstance(fields.values["pad_token"], dict):
        token = fields.object("pad_token").require("content", str)
    else:
        token = fields.require("pad_token", str)
    pad_id = tokenizer.token_id(token)
    if pad_id is None:
        raise fields.wrong("pad_token", f"a token that {tokenizer.file_name} holds: do the files belong together?")
    return pad_id
