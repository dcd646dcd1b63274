"""Token ids end with end-of-text, are padded on the right, and come in bounded time."""

import contextlib
import io
import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.data.captions import MAX_CAPTION_CHARACTERS, clean_caption
from diptych.core.data.emoji import TOKENIZER_PATH
from diptych.core.data.records import BadExample
from diptych.core.data.tokenizers.base import Tokenizer
from diptych.core.data.tokenizers.open import open_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return open_tokenizer(TOKENIZER_PATH)


def test_the_slowest_captions_are_quick(tokenizer):
    for worst in (
        "\u0301\u0316" * 4999,
        "a " * 4999,
        "\u200b" * 9999,
        "\t\u3000" * 4999,
        "é" * 9999,
        "\U0001f468\u200d" * 4999,
    ):
        assert len(worst) <= MAX_CAPTION_CHARACTERS
        start = time.process_time()
        with contextlib.suppress(BadExample):
            tokenizer.encode(clean_caption(worst), 16)
        assert time.process_time() - start < 0.5


def test_truncation_keeps_end_of_text_last_and_padding_comes_after(tokenizer):
    text = "a smiling cat with heart-shaped eyes and a long tail"
    whole = tokenizer.encode(text, 64)
    length = int(np.argmax(whole == tokenizer.eos_id))
    assert 8 < length < 63
    assert (whole[length + 1 :] == tokenizer.pad_id).all()
    for context_length in range(1, 64):
        tokens = tokenizer.encode(text, context_length)
        kept = min(length, context_length - 1)
        assert tokens.shape == (context_length,)
        assert tokens.dtype == np.int32
        assert np.array_equal(tokens[:kept], whole[:kept])
        assert tokens[kept] == tokenizer.eos_id
        assert (tokens[kept + 1 :] == tokenizer.pad_id).all()
        assert (tokens == tokenizer.eos_id).sum() == 1


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40))
def test_every_id_is_in_the_vocabulary(text):
    tokenizer = open_tokenizer(TOKENIZER_PATH)
    try:
        tokens = tokenizer.encode(clean_caption(text), 16)
    except BadExample:
        return
    assert tokens.min() >= 0
    assert tokens.max() < tokenizer.vocab_size


def _trained_model(**settings) -> bytes:
    import sentencepiece

    file = io.BytesIO()
    lines = [f"the {colour} fox number {number}" for colour in ("red", "blue", "green") for number in range(200)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=file,
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
        **settings,
    )
    return file.getvalue()


def test_case_is_folded_unless_told_otherwise(tmp_path):
    path = tmp_path / "spiece.model"
    path.write_bytes(_trained_model(pad_id=0, eos_id=1, unk_id=2, bos_id=-1))
    folded, cased = open_tokenizer(path), open_tokenizer(path, lower_case=False)
    assert np.array_equal(folded.encode("RED Fox", 16), folded.encode("red fox", 16))
    assert not np.array_equal(cased.encode("RED Fox", 16), cased.encode("red fox", 16))
    assert cased.fingerprint() != folded.fingerprint()


def test_a_model_without_padding_pads_with_end_of_text_or_as_told(tmp_path):
    path = tmp_path / "spiece.model"
    path.write_bytes(_trained_model(pad_id=-1, eos_id=1, unk_id=2, bos_id=-1))
    assert open_tokenizer(path).pad_id == 1
    assert list(open_tokenizer(path).encode("red fox", 12)[-3:]) == [1, 1, 1]
    told = open_tokenizer(path, pad_id=0)
    assert told.encode("red fox", 12)[-1] == 0
    path.write_bytes(_trained_model(pad_id=0, eos_id=-1, unk_id=1, bos_id=-1))
    with pytest.raises(ValueError, match="end-of-text"):
        open_tokenizer(path)


def test_a_hugging_face_tokenizer_json_is_read_alike(tmp_path):
    pytest.importorskip("tokenizers", reason="the optional package tokenizers is not installed")
    words = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "a": 4, "red": 5, "fox": 6}
    definition = {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}},
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"},
    }
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(definition))
    tokenizer = open_tokenizer(path)
    assert tokenizer.encode("A RED fox", 6).tolist() == [4, 5, 6, 1, 0, 0]
    assert tokenizer.encode("A RED fox", 3).tolist() == [4, 5, 1]
    assert (tokenizer.vocab_size, tokenizer.pad_id, tokenizer.eos_id) == (7, 0, 1)


def test_a_missing_file_says_what_to_give(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"\.model or a tokenizer\.json"):
        open_tokenizer(tmp_path / "none.model")
    with pytest.raises(ValueError, match="context_length"):
        open_tokenizer(TOKENIZER_PATH).encode("a", 0)
