"""A SentencePiece vocabulary written as tokenizer.json gives the same ids, in 36 languages."""

import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.data.captions import clean_caption
from diptych.core.data.emoji import TOKENIZER_PATH
from diptych.core.data.records import BadExample
from diptych.core.data.tokenizers.base import Tokenizer
from diptych.core.data.tokenizers.export import is_like_gemma, tokenizer_definition
from diptych.core.data.tokenizers.open import open_tokenizer
from diptych.core.data.tokenizers.sentencepiece_model import BYTE, CONTROL, UNKNOWN, parse_sentencepiece
from tests.core.data.tokenizers.small_vocabularies import (
    FOX,
    captions,
    clip_tokenizer,
    sentencepiece_model,
    some_captions,
)

tokenizers = pytest.importorskip("tokenizers", reason="the optional package tokenizers is not installed")

CURIOUS = [
    FOX,
    "",
    " ",
    "A  Cat. ",
    "\u0393\u0391\u03a4\u0391\u03a3 \u03a3\u039f\u03a6\u039f\u03a3",
    "\u0130zmir",
    "\ufb01sh \u2460 \uff21",
    "a\u2581b",
    "x" * 200,
]


def _exported(tokenizer: Tokenizer, context_length: int = 24):
    definition = tokenizer_definition(tokenizer, context_length)
    return tokenizers.Tokenizer.from_str(json.dumps(definition))


def _of_family(family: str, tmp_path, **cleaning) -> Tokenizer:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(family))
    return open_tokenizer(tmp_path / "tokenizer.model", **cleaning)


def test_the_embedded_vocabulary_gives_the_same_ids_for_every_tenth_name():
    tokenizer = open_tokenizer(TOKENIZER_PATH)
    names = [name for _, name in captions()[::10]]
    names += [name.upper() for name in names[::3]] + [unicodedata.normalize("NFD", name) for name in names] + CURIOUS
    assert len(names) > 15_000
    written = _exported(tokenizer).encode_batch(names)
    assert [encoding.ids for encoding in written] == [tokenizer.encode(name, 24).tolist() for name in names]


@pytest.mark.parametrize("cleaning", [{}, {"lower_case": False}, {"strip_punctuation": True}])
@pytest.mark.parametrize("family", ["t5", "gemma"])
def test_each_family_gives_the_same_ids(family, cleaning, tmp_path):
    tokenizer = _of_family(family, tmp_path, **cleaning)
    names = [*some_captions(), *(name.upper() for name in some_captions(100)), *CURIOUS]
    written = _exported(tokenizer).encode_batch(names)
    assert [encoding.ids for encoding in written] == [tokenizer.encode(name, 24).tolist() for name in names]


def test_a_wrong_vocabulary_would_be_seen(tmp_path):
    tokenizer = _of_family("t5", tmp_path)
    other = _exported(_of_family("t5", tmp_path, strip_punctuation=True))
    assert other.encode("a fox!").ids != tokenizer.encode("a fox!", 24).tolist()
    definition = tokenizer_definition(tokenizer, 24)
    definition["model"]["vocab"][3:] = definition["model"]["vocab"][:2:-1]
    assert tokenizers.Tokenizer.from_str(json.dumps(definition)).encode(FOX).ids != tokenizer.encode(FOX, 24).tolist()


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs", "Cn", "Mn", "Mc", "Me")), max_size=30))
def test_any_text_without_combining_marks_gets_the_same_ids(text):
    """With marks, but for those behind a compatibility character, as `tokenizer_definition` says."""
    try:
        text = clean_caption(text)
    except BadExample:
        return
    if "<" in text or "\u200d" in text:  # names of pieces; a joiner makes graphemes too
        return
    assert _ONCE.encode(text).ids == _OURS.encode(text, 24).tolist(), text


_OURS = open_tokenizer(TOKENIZER_PATH)
_ONCE = _exported(_OURS)


def test_padding_and_truncation_come_along(tmp_path):
    tokenizer = _of_family("t5", tmp_path)
    tokenizer.pad_id = 1
    ids = _exported(tokenizer, 6).encode_batch(["fox", "the quick brown fox " * 9])
    assert all(len(encoding.ids) == 6 for encoding in ids)
    assert ids[0].ids[-1] == 1
    assert ids[1].ids[-1] == tokenizer.eos_id


def test_texts_come_back_as_sentencepiece_writes_them():
    from sentencepiece import SentencePieceProcessor

    judge = SentencePieceProcessor(model_file=str(TOKENIZER_PATH))
    for name in some_captions(200):
        ids = _OURS.encode(name, 64).tolist()
        assert _ONCE.decode(ids) == judge.decode(ids) != ""


def test_only_what_is_like_gemma_survives_being_taken_for_gemma(tmp_path):
    assert is_like_gemma(tokenizer_definition(_of_family("gemma", tmp_path), 24))
    assert not is_like_gemma(tokenizer_definition(_of_family("gemma", tmp_path, lower_case=False), 24))
    assert not is_like_gemma(tokenizer_definition(_of_family("gemma", tmp_path, strip_punctuation=True), 24))
    assert not is_like_gemma(tokenizer_definition(_of_family("t5", tmp_path), 24))
    assert not is_like_gemma(tokenizer_definition(clip_tokenizer(), 24))


def test_clip_and_tokenizer_json_keep_their_ids(tmp_path):
    clip = clip_tokenizer()
    names = [*some_captions(300), FOX]
    assert [encoding.ids for encoding in _exported(clip).encode_batch(names)] == [
        clip.encode(name, 24).tolist() for name in names
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_definition(_of_family("gemma", tmp_path), 24)))
    read = open_tokenizer(tmp_path / "tokenizer.json")
    again = _exported(read).encode_batch(names)
    assert [encoding.ids for encoding in again] == [read.encode(name, 24).tolist() for name in names]


def test_the_protocol_buffer_is_read_as_sentencepiece_reads_it():
    from sentencepiece import SentencePieceProcessor

    data = TOKENIZER_PATH.read_bytes()
    model, judge = parse_sentencepiece(data), SentencePieceProcessor(model_proto=data)
    assert len(model.pieces) == judge.vocab_size()
    for index, piece in enumerate(model.pieces):
        assert piece.text == judge.id_to_piece(index)
        assert piece.score == pytest.approx(judge.get_score(index))
        assert (piece.kind == CONTROL) == judge.is_control(index)
        assert (piece.kind == BYTE) == judge.is_byte(index)
        assert (piece.kind == UNKNOWN) == judge.is_unknown(index)
    assert model.byte_fallback
    assert model.add_dummy_prefix
    gemma = parse_sentencepiece(sentencepiece_model("gemma"))
    assert (gemma.add_dummy_prefix, gemma.remove_extra_whitespaces, gemma.charsmap) == (False, False, b"")


def test_damaged_protocol_buffers_are_refused_or_read():
    data = sentencepiece_model("t5")
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        damaged = bytearray(data[: rng.integers(1, len(data))])
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        try:
            parse_sentencepiece(bytes(damaged))
        except ValueError:
            refused += 1
    assert refused > 60


def test_a_model_of_words_has_no_tokenizer_json(tmp_path):
    import io

    import sentencepiece

    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["red fox", "blue fox"] * 20),
        model_writer=file,
        vocab_size=9,
        model_type="word",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (tmp_path / "tokenizer.model").write_bytes(file.getvalue())
    with pytest.raises(ValueError, match='expected a unigram or BPE model.*format="diptych"'):
        tokenizer_definition(open_tokenizer(tmp_path / "tokenizer.model"), 24)
