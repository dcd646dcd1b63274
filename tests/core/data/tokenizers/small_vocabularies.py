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
