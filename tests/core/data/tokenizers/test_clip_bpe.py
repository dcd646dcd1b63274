"""CLIP's byte pairs: the ids of transformers and open_clip, from any of the vocabulary's files."""

import gzip
import html
import importlib.util
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.data.tokenizers.clip_bpe import ClipTokenizer, released_vocabulary
from diptych.core.data.tokenizers.open import open_tokenizer
from tests.core.data.tokenizers.small_vocabularies import (
    FOX,
    clip_merges,
    clip_tokenizer,
    released_clip_vocabulary,
    some_captions,
)

MERGES = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>"), ("s", "</w>")][:4]
CURIOUS = [
    FOX, "", "  a\n\tb  ", "IT'S WE'LL don't'll 'S 'RE y'all", "1234 1/2 \u00bd \u00b2 \u2167",
    "na\u00efve caf\u00e9 \u00c0\u00c9",
    "\u65e5\u672c\u8a9e 123", "a_b __ --- ***", "\u00a0x\u3000y\u2003z", "a<|endoftext|>b <|startoftext|>", "e\u0301 "
    "\u0939\u093f\u0928\u094d\u0926\u0940",
    "\U0001f408\u200d\u2b1b x\u00ady", "x" * 300, "word " * 100,
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> ClipTokenizer:
    return clip_tokenizer()


def test_bytes_are_merged_in_the_order_of_the_list():
    vocabulary = released_vocabulary(MERGES)
    tokenizer = ClipTokenizer(vocabulary, MERGES)
    bos, eos = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    cat, dog = vocabulary["cat</w>"], vocabulary["dog</w>"]
    assert (bos, eos) == (len(vocabulary) - 2, len(vocabulary) - 1)
    assert tokenizer.encode("Cat  DOG", 6).tolist() == [bos, cat, dog, eos, eos, eos]
    assert tokenizer.encode("cats", 7).tolist() == [
        bos,
        vocabulary["ca"],
        vocabulary["t"],
        vocabulary["s</w>"],
        eos,
        eos,
        eos,
    ]
    assert tokenizer.encode("cat dog cat dog", 4).tolist() == [bos, cat, dog, eos]
    assert ClipTokenizer(vocabulary, MERGES, pad_id=0).encode("cat", 5).tolist() == [bos, cat, eos, 0, 0]
    assert tokenizer.length("cat dog") == 4


def test_words_are_cut_as_the_reference_cuts_them(tokenizer):
    assert tokenizer.encode_words("it's 42") == ["it", "'s", "4", "2"]
    assert tokenizer.encode_words("don't!'s") == ["don", "'t", "!'", "s"]
    assert tokenizer.encode_words("\u00e9t\u00e9\u00b2 \u65e5\u672c?") == [
        "\u00e9t\u00e9",
        "\u00b2",
        "\u65e5\u672c",
        "?",
    ]
    assert tokenizer.encode_words("\u0939\u093f") == ["\u0939", "\u093f"]
    assert tokenizer.encode_words("a<|endoftext|>b") == ["a", "<|endoftext|>", "b"]


def test_every_byte_comes_back(tokenizer):
    for text in [*CURIOUS, *some_captions(100)]:
        ids = tokenizer.encode(text, 800)
        kept = ids[1 : np.argmax(ids == tokenizer.eos_id)]
        pieces = "".join(tokenizer.token(int(token_id)) for token_id in kept)
        assert pieces.replace("</w>", "").count("\ufffd") == 0
        if "<|" not in text:
            letters = {letter: byte for byte, letter in enumerate(_letters())}
            raw = bytes(letters[letter] for letter in pieces.replace("</w>", ""))
            assert raw.decode() == "".join(tokenizer.clean(text).split())


def _letters() -> list[str]:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=30))
def test_any_text_gets_the_ids_of_transformers(text):
    ours = clip_tokenizer_once().encode(text, 77).tolist()
    if text.lower() != "".join(letter.lower() for letter in text) or any("\x1c" <= letter <= "\x1f" for letter in text):
        return  # a capital final sigma and the four separators below the space: see the next test
    assert ours == transformers_ids([text])[0], text


def test_names_in_36_languages_get_the_ids_of_transformers(tokenizer):
    texts = [*CURIOUS, *some_captions()]
    assert [tokenizer.encode(text, 77).tolist() for text in texts] == transformers_ids(texts)


def test_where_transformers_lowers_otherwise(tokenizer):
    """OpenAI's tokenizer lowers by Python's rules; transformers' turns the capital sigma at a word's end into a middle
    one.
    """
    text = "\u0393\u0391\u03a4\u0391\u03a3"
    assert tokenizer.encode(text, 77).tolist() == tokenizer.encode("\u03b3\u03b1\u03c4\u03b1\u03c2", 77).tolist()
    assert transformers_ids([text])[0] == tokenizer.encode("\u03b3\u03b1\u03c4\u03b1\u03c3", 77).tolist()


_ONCE: dict[str, object] = {}


def clip_tokenizer_once() -> ClipTokenizer:
    return _ONCE.setdefault("ours", clip_tokenizer())


def transformers_ids(texts: list[str]) -> list[list[int]]:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    if "theirs" not in _ONCE:
        merges = list(clip_merges())
        _ONCE["theirs"] = transformers.CLIPTokenizer(vocab=released_vocabulary(merges), merges=merges)
    return _ONCE["theirs"](texts, padding="max_length", max_length=77, truncation=True)["input_ids"]


def test_the_released_vocabulary_gives_the_ids_of_open_clip():
    path = released_clip_vocabulary()
    ours = open_tokenizer(path, pad_id=0)
    assert (ours.vocab_size, ours.bos_id, ours.eos_id) == (49_408, 49_406, 49_407)
    assert ours.encode("a photo of a cat", 9).tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 0, 0]
    # Loaded by its path: the package itself wants torchvision.
    ftfy = pytest.importorskip("ftfy", reason="open_clip's tokenizer needs ftfy")
    pytest.importorskip("regex", reason="open_clip's tokenizer needs regex")
    spec = importlib.util.spec_from_file_location("open_clip_tokenizer", path.with_name("tokenizer.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    texts = [text for text in [*CURIOUS, *some_captions(2000)] if "<|" not in text]
    # ftfy straightens curly quotes and the like, which transformers and we leave alone.
    texts = [text for text in texts if ftfy.fix_text(text) == text == html.unescape(text)]
    assert len(texts) > 1900
    theirs = module.SimpleTokenizer(str(path))(texts).numpy()
    assert np.array_equal(np.stack([ours.encode(text, 77) for text in texts]), theirs)


def test_the_vocabulary_is_the_same_from_every_kind_of_file(tokenizer, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(tokenizer.data)
    (tmp_path / "vocab.json").write_text(json.dumps(tokenizer.vocabulary))
    lines = "\n".join(" ".join(pair) for pair in tokenizer.merges)
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{lines}\n")
    (tmp_path / "bpe.txt.gz").write_bytes(gzip.compress(f"header\n{lines}\n".encode()))
    for name in ("tokenizer.json", "vocab.json", "bpe.txt.gz"):
        read = open_tokenizer(tmp_path / name)
        assert isinstance(read, ClipTokenizer)
        assert read.fingerprint() == tokenizer.fingerprint()
        assert np.array_equal(read.encode(FOX, 77), tokenizer.encode(FOX, 77))
    other = ClipTokenizer(tokenizer.vocabulary, tokenizer.merges, pad_id=0)
    assert other.fingerprint() != tokenizer.fingerprint()


def _broken_files() -> dict[str, tuple[dict[str, bytes], str, str]]:
    vocabulary = released_vocabulary(MERGES)
    good = json.dumps(vocabulary).encode()
    lines = b"#version: 0.2\nc a\nca t</w>\nd o\ndo g</w>\n"
    half = json.dumps(dict(list(vocabulary.items())[:300])).encode()
    twice = json.dumps(vocabulary | {"c": 5}).encode()
    return {
        "half a vocabulary": ({"vocab.json": half, "merges.txt": lines}, "vocab.json", "lacks"),
        "merges of another": ({"vocab.json": good, "merges.txt": lines + b"q x\n"}, "vocab.json", "belong together"),
        "no merges": ({"vocab.json": good}, "vocab.json", r"merges\.txt"),
        "a merge of three": ({"vocab.json": good, "merges.txt": b"c a t\n"}, "vocab.json", "merge 1"),
        "binary merges": ({"vocab.json": good, "merges.txt": b"\xff\xfe\x00"}, "vocab.json", "not UTF-8"),
        "an id twice": ({"vocab.json": twice, "merges.txt": lines}, "vocab.json", "same id"),
        "ids that are words": ({"vocab.json": b'{"a": "one"}', "merges.txt": lines}, "vocab.json", "an id"),
        "a list": ({"vocab.json": b"[]", "merges.txt": lines}, "vocab.json", "object"),
        "not gzip": ({"bpe.txt.gz": b"\x1f\x8bnonsense"}, "bpe.txt.gz", "gzip"),
        "a gzip cut short": ({"bpe.txt.gz": gzip.compress(lines * 99)[:-20]}, "bpe.txt.gz", "gzip"),
        "a gzip that grows": ({"bpe.txt.gz": gzip.compress(bytes(70 << 20), 1)}, "bpe.txt.gz", "unpacks"),
    }


@pytest.mark.parametrize("name", _broken_files())
def test_broken_vocabularies_are_refused(name, tmp_path):
    files, opened, message = _broken_files()[name]
    for file, data in files.items():
        (tmp_path / file).write_bytes(data)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_tokenizer(tmp_path / opened)
