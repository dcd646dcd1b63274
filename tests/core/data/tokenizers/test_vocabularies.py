"""The vocabulary of a checkpoint's folder, and the cleaning of texts that goes with it.

transformers agrees where it is right.
"""

import json

import numpy as np
import pytest

from diptych.core.data.emoji import TOKENIZER_PATH
from diptych.core.data.processor.shared_tokenizer import shared_tokenizer
from diptych.core.data.tokenizers.open import open_tokenizer
from diptych.core.data.tokenizers.vocabularies import (
    VOCABULARY_FILES,
    is_t5_vocabulary,
    open_vocabulary,
    vocabulary_file,
)
from tests.core.data.tokenizers.small_vocabularies import (
    FOX,
    clip_tokenizer,
    lengthened,
    released_gemma_vocabulary,
    sentencepiece_model,
    some_captions,
)

CURIOUS = [
    "A Cat.",
    "a cat.",
    FOX,
    "red_fox",
    "",
    "   ",
    " a  cat ",
    "new\nline\ttab",
    "\u00c9cole \u0130zmir",
    "(1/2) [x] {y} ~z^",
    "word " * 90,
]


def _folder(tmp_path, name: str, data: bytes, **files):
    (tmp_path / name).write_bytes(data)
    for file, content in files.items():
        (tmp_path / f"{file}.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize(("family", "size"), [("t5", 32_000), ("t5", 32_100), ("t5", 250_000), ("t5", 250_112)])
def test_t5s_vocabularies_are_known_by_size_and_marks(family, size, tmp_path):
    tokenizer = open_vocabulary(_folder(tmp_path, "spiece.model", lengthened(sentencepiece_model(family), size)))
    assert tokenizer.vocab_size == size
    assert (tokenizer.lower_case, tokenizer.strip_punctuation) == (True, True)
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id) == (1, 1, None)
    ids = tokenizer.encode("The fox, it's!", 16)
    assert np.array_equal(ids, tokenizer.encode("the fox its", 16))
    assert (ids[np.argmax(ids == 1) :] == 1).all()
    for path in (tmp_path, tmp_path / "spiece.model"):  # no checkpoint beside it
        assert shared_tokenizer(str(path)).fingerprint() == tokenizer.fingerprint()


@pytest.mark.parametrize(
    ("family", "size"),
    [("t5", 0), ("t5", 31_999), ("t5", 32_129), ("t5", 249_999), ("gemma", 32_000), ("gemma", 250_000)],
)
def test_other_vocabularies_keep_their_punctuation(family, size, tmp_path):
    model = sentencepiece_model(family)
    (tmp_path / "tokenizer.model").write_bytes(lengthened(model, size) if size else model)
    tokenizer = open_vocabulary(tmp_path)
    assert not is_t5_vocabulary(tokenizer)
    assert (tokenizer.lower_case, tokenizer.strip_punctuation, tokenizer.pad_id, tokenizer.eos_id) == (
        True,
        False,
        0,
        1,
    )
    assert not np.array_equal(tokenizer.encode("fox!", 16), tokenizer.encode("fox", 16))


def test_a_folder_without_a_vocabulary_is_told_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no vocabulary, expected one of .*tokenizer\.json"):
        shared_tokenizer(str(tmp_path))


def test_case_never_matters_and_the_embedded_vocabulary_is_no_exception(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(TOKENIZER_PATH.read_bytes())
    tokenizer = open_vocabulary(tmp_path)
    assert np.array_equal(tokenizer.encode("A Cat.", 12), tokenizer.encode("a cat.", 12))
    assert tokenizer.fingerprint() == open_tokenizer(TOKENIZER_PATH).fingerprint()


def test_the_ids_of_siglip_are_those_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("google.protobuf", reason="transformers' SiglipTokenizer needs protobuf")
    folder = _folder(tmp_path, "spiece.model", lengthened(sentencepiece_model("t5"), 32_000))
    theirs = transformers.SiglipTokenizer(str(folder / "spiece.model"))
    texts = [*CURIOUS, *some_captions()]
    expected = theirs(texts, padding="max_length", max_length=64, truncation=True)["input_ids"]
    ours = open_vocabulary(folder)
    assert [ours.encode(text, 64).tolist() for text in texts] == expected
    # A wrong answer is seen: without the punctuation's rule, or with another padding.
    ours.strip_punctuation = False
    assert [ours.encode(text, 64).tolist() for text in texts] != expected


def _gemma_folder(tmp_path, model_type: str, tokenizer_class: str):
    """A SigLIP 2 checkpoint's tokenizer as the hub has it: a tokenizer.json that does not lower-case, and a promise
    that it does.
    """
    pytest.importorskip("tokenizers", reason="the optional package tokenizers is not installed")
    from diptych.core.data.tokenizers.export import tokenizer_definition

    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model("gemma"))
    definition = tokenizer_definition(open_tokenizer(tmp_path / "tokenizer.model", lower_case=False), 64)
    (tmp_path / "tokenizer.model").unlink()
    settings = {
        "tokenizer_class": tokenizer_class,
        "do_lower_case": True,
        "padding_side": "right",
        "add_bos_token": False,
        "add_eos_token": True,
        "pad_token": "<pad>",
        "eos_token": "<eos>",
        "bos_token": "<bos>",
        "unk_token": "<unk>",
    }
    data = json.dumps(definition).encode()
    return _folder(tmp_path, "tokenizer.json", data, config={"model_type": model_type}, tokenizer_config=settings)


def test_the_ids_of_siglip_2_are_those_of_transformers_where_it_lower_cases(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    folder = _gemma_folder(tmp_path, "siglip2", "Siglip2Tokenizer")
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), open_vocabulary(folder)
    assert type(theirs).__name__ == "Siglip2Tokenizer"
    texts = [*CURIOUS, *some_captions()]
    expected = theirs(texts, padding="max_length", max_length=64, truncation=True)["input_ids"]
    assert [ours.encode(text, 64).tolist() for text in texts] == expected


def test_where_transformers_forgets_to_lower_case(tmp_path):
    """Most SigLIP 2 checkpoints are of model_type "siglip", whose tokenizer leaves capitals as they are."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    folder = _gemma_folder(tmp_path, "siglip", "GemmaTokenizer")
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), open_vocabulary(folder)
    capital, small = (theirs(text, padding="max_length", max_length=64)["input_ids"] for text in ("A Cat.", "a cat."))
    assert capital != small
    assert ours.encode("A Cat.", 64).tolist() == ours.encode("a cat.", 64).tolist() == small


def test_gemmas_own_vocabulary():
    path = released_gemma_vocabulary()
    ours = open_tokenizer(path)
    assert (ours.vocab_size, ours.pad_id, ours.eos_id, ours.bos_id) == (256_000, 0, 1, None)
    assert (ours.lower_case, ours.strip_punctuation) == (True, False)
    assert ours.encode("Hello world", 5).tolist() == [17534, 2134, 1, 0, 0]
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    theirs = transformers.Siglip2Tokenizer.from_pretrained(
        path.parent, padding_side="right", add_eos_token=True, add_bos_token=False
    )
    texts = [*CURIOUS, *some_captions()]
    expected = theirs(texts, padding="max_length", max_length=64, truncation=True)["input_ids"]
    assert [ours.encode(text, 64).tolist() for text in texts] == expected


def test_the_pad_token_is_the_files_to_say(tmp_path):
    folder = _folder(
        tmp_path, "spiece.model", sentencepiece_model("t5"), special_tokens_map={"pad_token": {"content": "</s>"}}
    )
    assert open_vocabulary(folder).pad_id == 1
    (folder / "tokenizer_config.json").write_text('{"pad_token": "<pad>"}')
    assert open_vocabulary(folder).pad_id == 0
    (folder / "tokenizer_config.json").write_text('{"pad_token": null}')
    assert open_vocabulary(folder).pad_id == 1
    (folder / "tokenizer_config.json").write_text('{"pad_token": "[PAD]"}')
    with pytest.raises(ValueError, match=r"tokenizer_config\.json.*\[PAD\].*belong together"):
        open_vocabulary(folder)
    (folder / "tokenizer_config.json").write_text('{"pad_token": 3}')
    with pytest.raises(ValueError, match="expected a text"):
        open_vocabulary(folder)


def test_only_settings_of_our_own_override_what_the_vocabulary_wants(tmp_path):
    folder = _folder(tmp_path, "spiece.model", lengthened(sentencepiece_model("t5"), 32_000))
    for settings, expected in [
        ({"do_lower_case": False}, (True, True)),
        ({"do_lower_case": False, "strip_punctuation": False}, (False, False)),
        ({"do_lower_case": True, "strip_punctuation": False}, (True, False)),
    ]:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        tokenizer = open_vocabulary(folder)
        assert (tokenizer.lower_case, tokenizer.strip_punctuation) == expected
    assert not open_tokenizer(folder / "spiece.model").strip_punctuation, "training cleans as it is told"


def test_clips_vocabulary_pads_with_end_of_text_unless_told(tmp_path):
    tokenizer = clip_tokenizer()
    folder = _folder(tmp_path, "tokenizer.json", tokenizer.data)
    assert open_vocabulary(folder).pad_id == tokenizer.eos_id
    (folder / "special_tokens_map.json").write_text('{"pad_token": "!"}')
    assert open_vocabulary(folder).pad_id == 0


def test_files_are_looked_for_in_order_and_missed_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.model.*bpe_simple_vocab_16e6\.txt\.gz"):
        open_vocabulary(tmp_path)
    for name in reversed(VOCABULARY_FILES):
        (tmp_path / name).write_bytes(b"")
        assert vocabulary_file(tmp_path).name == name


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("tokenizer.model", b"", "is empty, expected a SentencePiece model"),
        ("tokenizer.model", b"\x0a\xff\xff\xff\xff\x0f", "no SentencePiece model"),
        ("tokenizer.model", b"{}", "is JSON, expected a SentencePiece model"),
        ("tokenizer.json", b"", "is empty, expected JSON"),
        ("tokenizer.json", b"[" * 100_000, r"no tokenizer\.json"),
        ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": 3}}', r"no tokenizer\.json"),
        ("tokenizer.json", b'{"model": {"end_of_word_suffix": "</w>", "vocab": 3}}', "an object"),
    ],
)
def test_broken_vocabularies_are_refused(name, data, message, tmp_path):
    pytest.importorskip("tokenizers", reason="the optional package tokenizers is not installed")
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        open_tokenizer(tmp_path / name)


def test_an_enormous_vocabulary_is_not_read(tmp_path):
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(ValueError, match="68,157,440 bytes, expected at most 67,108,864"):
        open_tokenizer(tmp_path / "tokenizer.json")
