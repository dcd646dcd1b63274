"""Our tokenizers as `tokenizer.json`, with the same ids, for tokenizers, transformers and transformers.js."""

import base64
import json
from collections.abc import Sequence
from typing import Any

from diptych.core.data.tokenizers.base import Tokenizer
from diptych.core.data.tokenizers.clip_bpe import ClipTokenizer
from diptych.core.data.tokenizers.sentencepiece_model import (
    BPE,
    BYTE,
    CONTROL,
    UNIGRAM,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Piece,
    SentencePieceModel,
    parse_sentencepiece,
)

_SPACE_MARK = "\u2581"
_ASCII_PUNCTUATION = r"[!-/:-@\[-`{-~]"
# `str.lower` writes a capital sigma at the end of a word as a final one, the tokenizers package's Lowercase never does.
_FINAL_SIGMA = "(?<=\\p{L})\u03a3(?!\\p{L})"


def tokenizer_definition(tokenizer: Tokenizer, context_length: int) -> dict[str, Any]:
    """The content of a tokenizer.json: cleaning, vocabulary, end-of-text, truncation and padding to `context_length`.

    Ids equal `Tokenizer.encode`'s, but for what the format cannot say: names of control pieces ("</s>") that stand in a
    text are taken for the pieces themselves, and so are names of byte pieces ("<0x41>"); and several combining marks
    that no language puts together, or one behind a no-break space, may come out otherwise.

    Raises:
        ValueError: for a SentencePiece model of a kind that the format does not know.
    """
    if tokenizer.file_name == "tokenizer.json":
        definition = json.loads(tokenizer.data)
    else:
        definition = _from_sentencepiece(parse_sentencepiece(tokenizer.data))
    if not isinstance(tokenizer, ClipTokenizer):
        definition["normalizer"] = _sequence([*_cleaning(tokenizer), definition.get("normalizer")])
        definition["post_processor"] = _end_of_text(tokenizer)
    definition["truncation"] = {
        "direction": "Right",
        "max_length": context_length,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    definition["padding"] = {
        "strategy": {"Fixed": context_length},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": tokenizer.pad_id,
        "pad_type_id": 0,
        "pad_token": tokenizer.token(tokenizer.pad_id),
    }
    return definition


def is_like_gemma(definition: dict[str, Any]) -> bool:
    """Whether a tokenizer.json keeps its ids when a class rebuilds Gemma's cleaning around its pieces and merges.

    transformers 5 does so for every checkpoint of model_type "siglip2", whatever its tokenizer files say.
    """
    model, steps = definition["model"], (definition["normalizer"] or {}).get("normalizers", [])
    kinds = [step["type"] for step in steps]
    return (
        model["type"] == "BPE"
        and model["byte_fallback"]
        and kinds == ["Replace", "Lowercase", "Replace"]
        and steps[2] == _replace({"String": " "}, _SPACE_MARK)
    )


def _cleaning(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """`Tokenizer.clean` in the format's terms."""
    steps = []
    if tokenizer.lower_case:
        steps += [_replace({"Regex": _FINAL_SIGMA}, "\u03c2"), {"type": "Lowercase"}]
    if tokenizer.strip_punctuation:
        steps += [_replace({"Regex": _ASCII_PUNCTUATION}, ""), _replace({"Regex": r"\s+"}, " "), _strip()]
    return steps


def _end_of_text(tokenizer: Tokenizer) -> dict[str, Any]:
    token = tokenizer.token(tokenizer.eos_id)
    eos = {"SpecialToken": {"id": token, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [first, eos],
        "pair": [first, eos, second, eos],
        "special_tokens": {token: {"id": token, "ids": [tokenizer.eos_id], "tokens": [token]}},
    }


def _from_sentencepiece(model: SentencePieceModel) -> dict[str, Any]:
    if model.model_type not in (UNIGRAM, BPE) or model.whitespace_as_suffix or not model.escape_whitespaces:
        raise ValueError(
            f"a SentencePiece model of type {model.model_type}, with white space "
            f"{'as a suffix' if model.whitespace_as_suffix else 'marked' if model.escape_whitespaces else 'unmarked'}, "
            "has no tokenizer.json; expected a unigram or BPE model with marked white space before words, the "
            "trainer's defaults. "
            'Save with format="diptych", which keeps the .model file.'
        )
    back = [_replace({"String": _SPACE_MARK}, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]
    if model.add_dummy_prefix:
        back.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": token_id,
                "content": piece.text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": piece.kind != USER_DEFINED,
            }
            for token_id, piece in enumerate(model.pieces)
            if piece.kind in (CONTROL, UNKNOWN, USER_DEFINED)
        ],
        "normalizer": _sequence(_normalization(model)),
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": back},
        "model": _unigram(model) if model.model_type == UNIGRAM else _bpe(model),
    }


def _normalization(model: SentencePieceModel) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    if model.charsmap:
        # The format applies the map to short graphemes and single characters only: what is spelt in more parts, as
        # Korean and Vietnamese are in names of files on a Mac, has to be composed first.
        steps += [{"type": "NFC"}] if "nfkc" in model.normalization else []
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(model.charsmap).decode()})
    if model.remove_extra_whitespaces:
        steps += [_strip(), _replace({"Regex": " {2,}"}, " ")]
    if model.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": _SPACE_MARK})
    return [*steps, _replace({"String": " "}, _SPACE_MARK)]


def _unigram(model: SentencePieceModel) -> dict[str, Any]:
    unknown = next(index for index, piece in enumerate(model.pieces) if piece.kind == UNKNOWN)
    return {
        "type": "Unigram",
        "unk_id": unknown,
        "vocab": [[piece.text, piece.score] for piece in model.pieces],
        "byte_fallback": model.byte_fallback,
    }


def _bpe(model: SentencePieceModel) -> dict[str, Any]:
    """SentencePiece joins the two neighbours whose union has the best score: every split of a piece is a merge, the
    best piece first.
    """
    ids = {piece.text: index for index, piece in enumerate(model.pieces)}
    joined = {piece.text for piece in model.pieces if piece.kind not in (CONTROL, UNKNOWN, BYTE, UNUSED)}
    ordered = sorted((piece for piece in model.pieces if piece.text in joined), key=lambda piece: -piece.score)
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": next(piece.text for piece in model.pieces if piece.kind == UNKNOWN),
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": model.byte_fallback,
        "ignore_merges": False,
        "vocab": ids,
        "merges": [pair for piece in ordered for pair in _splits(piece, joined, ids)],
    }


def _splits(piece: Piece, joined: set[str], ids: dict[str, int]) -> list[list[str]]:
    text = piece.text
    pairs = [[text[:cut], text[cut:]] for cut in range(1, len(text)) if text[:cut] in joined and text[cut:] in joined]
    return sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _strip() -> dict[str, Any]:
    return {"type": "Strip", "strip_left": True, "strip_right": True}


def _sequence(steps: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """One normaliser of several, those that are sequences themselves laid open."""
    given = [inner for step in steps if step is not None for inner in step.get("normalizers", [step])]
    return {"type": "Sequence", "normalizers": given} if given else None
