"""Vocabularies of the checkpoints' families, trained on the embedded names in a second, and of real size."""

import functools
import importlib.util
import io
import json
import os
import random
import struct
from pathlib import Path

import pytest

from diptych.core.data.emoji.concepts import concepts
from diptych.core.data.tokenizers.clip_bpe import ClipTokenizer, released_vocabulary

FOX = "The Quick-Brown fox, it's 42 years old!"

SENTENCEPIECE = {
    # T5's: SigLIP. Gemma's: SigLIP 2; it cleans nothing and marks no first word.
    "t5": {"model_type": "unigram", "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    "gemma": {
        "model_type": "bpe",
        "byte_fallback": True,
        "pad_id": 0,
        "eos_id": 1,
        "eos_piece": "<eos>",
        "bos_id": 2,
        "bos_piece": "<bos>",
        "unk_id": 3,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
    },
}


@functools.cache
def captions() -> tuple[tuple[str, str], ...]:
    """(language, name) of the embedded concepts, in all 36 languages."""
    return tuple((language, name) for concept in concepts() for language, name in concept.names.items())


@functools.cache
def some_captions(count: int = 720) -> tuple[str, ...]:
    """Names in an order of their own, every language among them."""
    shuffled = random.Random(0).sample(captions(), len(captions()))
    chosen = shuffled[:count]
    assert count < 500 or len({language for language, _ in chosen}) == 36
    return tuple(name for _, name in chosen)


@functools.cache
def sentencepiece_model(family: str, vocab_size: int = 1500) -> bytes:
    """A `.model` of a family, with the family's special pieces."""
    import sentencepiece

    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([name.lower() for name in some_captions(4000)] + [FOX.lower()] * 20),
        model_writer=file,
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        character_coverage=0.98,
        num_threads=1,
        minloglevel=2,
        **SENTENCEPIECE[family],
    )
    return file.getvalue()


def lengthened(model: bytes, vocab_size: int) -> bytes:
    """A `.model` with as many pieces as the real one: fields of a protocol buffer may simply follow."""
    from sentencepiece import SentencePieceProcessor

    missing = vocab_size - SentencePieceProcessor(model_proto=model).vocab_size()
    pieces = (f"\ue000{index}".encode() for index in range(missing))
    fields = (b"\x0a" + bytes([len(piece)]) + piece + b"\x15" + struct.pack("<f", -90.0) for piece in pieces)
    return model + b"".join(b"\x0a" + bytes([len(field)]) + field for field in fields)


@functools.cache
def newline_model(words: tuple[str, ...] = ()) -> bytes:
    """A `.model` of Gemma's kind with its lines of several lengths, letters, bytes and words, written in a moment."""
    begun = [word[:end] for word in words for end in range(2, len(word) + 1)]
    pieces = [
        *((name, 0.0, 3) for name in ("<pad>", "<eos>", "<bos>")), ("<unk>", 0.0, 2),
        ("\n", 0.0, 4), ("\n\n", 0.0, 4),
        *((f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)),
        *((piece, -float(rank), 1) for rank, piece in enumerate(dict.fromkeys(begun))),
        *((letter, -9999.0, 1) for letter in "\u2581abcdefghijklmnopqrstuvwxyzABC0123456789;:.,?!-'"),
    ]  # fmt: skip
    fields = [
        _field(1, piece.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind])
        for piece, score, kind in pieces
    ]
    numbers = {3: 2, 35: 1, 40: 3, 41: 2, 42: 1, 43: 0}  # a BPE model with bytes; <unk>, <bos>, <eos>, <pad>
    trainer = b"".join(_number(field, value) for field, value in numbers.items())
    trainer += b"".join(_field(*name) for name in ((46, b"<bos>"), (47, b"<eos>"), (48, b"<pad>")))
    normalizer = _field(1, b"identity") + _number(3, 0) + _number(4, 0) + _number(5, 1)
    return b"".join(_field(1, field) for field in fields) + _field(2, trainer) + _field(3, normalizer)


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)


@functools.cache
def clip_merges(count: int = 600) -> tuple[tuple[str, str], ...]:
    """Merges of byte pairs with CLIP's end-of-word mark, as the tokenizers package finds them."""
    tokenizers = pytest.importorskip("tokenizers", reason="the optional package tokenizers is not installed")
    trained = tokenizers.Tokenizer(tokenizers.models.BPE(end_of_word_suffix="</w>"))
    trained.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.WhitespaceSplit(),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=512 + count, end_of_word_suffix="</w>", show_progress=False)
    trained.train_from_iterator([name.lower() for name in some_captions(4000)] + [FOX.lower()] * 20, trainer)
    merges = json.loads(trained.to_str())["model"]["merges"]
    return tuple(tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges)


def clip_tokenizer() -> ClipTokenizer:
    """A small tokenizer of CLIP's kind."""
    return ClipTokenizer(released_vocabulary(clip_merges()), clip_merges())


def released_clip_vocabulary() -> Path:
    """The real one, which open_clip brings; skips where it is not installed."""
    found = importlib.util.find_spec("open_clip")
    if found is None or not found.submodule_search_locations:
        pytest.skip("open_clip, which brings CLIP's vocabulary, is not installed")
    return Path(found.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"


def released_gemma_vocabulary() -> Path:
    """The real one, whose place an environment variable names; skips without."""
    path = os.environ.get("DIPTYCH_GEMMA_TOKENIZER", "")
    if not Path(path).is_file():
        pytest.skip("DIPTYCH_GEMMA_TOKENIZER names no tokenizer.json of Gemma's 256,000 pieces")
    return Path(path)
