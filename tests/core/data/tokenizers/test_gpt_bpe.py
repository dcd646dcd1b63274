"""GPT-1's tokenizer: both ways of cutting, the released vocabulary where it is at hand, and vocabularies of one's own.

The released vocabulary is not part of the project: DIPTYCH_GPT1_VOCABULARY names a folder with encoder_bpe_40000.json
and vocab_40000.bpe.
"""

import importlib.util
import json
import os
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from diptych.core.data.tokenizers import gpt_words
from diptych.core.data.tokenizers.bpe_training import train_gpt_tokenizer
from diptych.core.data.tokenizers.gpt_bpe import END_OF_LINE, UNKNOWN, GptTokenizer
from diptych.core.data.tokenizers.gpt_words import paper_clean, words_of

RELEASED = os.environ.get("DIPTYCH_GPT1_VOCABULARY", "")
needs_release = pytest.mark.skipif(not RELEASED, reason="DIPTYCH_GPT1_VOCABULARY names no folder")
needs_spacy = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("ftfy", "spacy"))), reason="ftfy and spaCy are not installed"
)

# Text, its ids in the paper's way (spaCy 3.8, ftfy 6.3), and as transformers 5 has them.
GOLDEN = [
    ("the president is", "481 4735 544", "481 4735 544"),
    ("The quick brown fox jumps over the lazy dog.", "481 2279 2507 8573 11670 715 481 8447 2585 239", None),
    ("lower newer", "2583 19807", None),
    ("hello", "3570", None),
    ("I'm sure he doesn't know -- it's \"fine\", isn't it?",
     "249 719 881 487 1056 538 699 2383 507 535 244 1614 244 240 544 538 507 257",
     "249 256 258 881 487 28989 247 256 241 699 260 260 507 256 252 244 1614 244 240 1532 247 256 241 507 257"),
    ("Wait...what?! caf\u00e9 na\u00efve r\u00e9sum\u00e9",
     "1637 749 599 257 267 13550 24213 17 62 6414 300", "1637 239 239 239 599 257 267 10717 13391 13837"),
    ("Line one.\nLine two.\n\n  Line three.",
     "1584 566 239 40477 1584 867 239 40477 1584 1203 239", "1584 566 239 1584 867 239 1584 1203 239"),
    ("\u201cCurly quotes\u201d \u2014 and an em-dash\u2026",
     "244 10835 23919 244 260 488 531 3525 260 9241 749", "0 10835 23919 0 0 488 531 3525 260 9241 0"),
    ("a/b c_d [e] {f} 3.14 $5,000 U.S.A. Mr. Smith",
     "246 278 259 263 279 248 293 243 294 309 250 310 19243 7765 289 284 240 7397 25896 14 10311 1682 4920",
     "246 278 259 263 279 248 293 243 294 309 250 310 281 239 7765 289 284 240 7397 254 239 252 239 246 239 4360 239 "
     "4920"),
    ("cannot gonna can't", "759 595 2113 1599 993 538", "2274 595 10881 1599 759 256 241"),
    ("e.g. 10km don't", "23612 20572 5895 35677 587 538", "243 239 268 239 8582 35677 2310 256 241"),
    ("sch\u00c3\u00b6n \ufb01ne (broken encoding)", None, None),
    ("\u65e5\u672c \U0001f642", "0 0 0", "0 0 0"),
]  # fmt: skip
BROKEN = ("sch\u00c3\u00b6n \ufb01ne", "6250 133 247 1614", "40157 0 247 0 2066")

TEXTS = ["The lower, the newer: lower and lower.\nIt's the lowest (newest) of all!", "Low newts knew the wettest."]


def small(way: str = "transformers", merges: int = 40) -> GptTokenizer:
    return train_gpt_tokenizer(TEXTS, merges=merges, way=way)


@needs_release
@pytest.mark.parametrize("way", ["transformers", pytest.param("paper", marks=needs_spacy)])
def test_the_released_vocabulary_gives_the_golden_ids(way):
    tokenizer = GptTokenizer.open(RELEASED, way=way)
    assert tokenizer.vocab_size == len(tokenizer.vocabulary) == 40_478
    compared = 0
    for text, paper, transformers in [*GOLDEN, BROKEN]:
        expected = paper if way == "paper" or transformers is None else transformers
        if expected is not None:
            assert " ".join(map(str, tokenizer.ids(text))) == expected, text
            compared += 1
    assert compared == 13


@needs_release
def test_the_released_vocabulary_is_laid_out_as_a_trained_one():
    released = GptTokenizer.open(RELEASED)
    for tokenizer, characters in ((released, 238), (small(), None)):
        tokens = [tokenizer.token(token_id) for token_id in range(tokenizer.vocab_size)]
        characters = characters or (len(tokens) - 2 - len(tokenizer.merges)) // 2
        assert tokens[0] == UNKNOWN
        assert all(len(token) == 1 for token in tokens[1 : characters + 1])
        assert tokens[characters + 1 : 2 * characters + 1] == [f"{one}</w>" for one in tokens[1 : characters + 1]]
        assert tokens[2 * characters + 1 : -1] == list(map("".join, tokenizer.merges))
        assert tokens[-1] == END_OF_LINE


@needs_spacy
def test_the_papers_words_are_spacys_after_its_cleaning():
    assert words_of("I can't -- U.S.A.!\n\n Next", "paper") == ["i", "ca", "n't", "--", "u.s.a.", "!", "\n", "next"]
    assert words_of("\u201cSo\u2026\u201d", "paper") == ['"', "so", "...", '"']


def test_the_papers_cleaning():
    assert paper_clean("a--b\u2014c,d  e\n \n f\u2026 g\u00b4s") == "a -- b - c , d e \n f... g's"
    assert paper_clean("?!!\t(x)") == "? !! ( x )"
    assert paper_clean(".:'$=<>&%#@^") == ".:'$=<>&%#@^"


def test_the_papers_way_says_what_to_install_and_is_never_exchanged(monkeypatch):
    tokenizer = small("transformers")
    paper = GptTokenizer(tokenizer.vocabulary, tokenizer.merges)
    assert paper.way == "paper"
    for missing in ("ftfy", "spacy"):
        gpt_words._ftfy_and_spacy.cache_clear()
        monkeypatch.setitem(sys.modules, missing, None)
        with pytest.raises(ImportError, match=r"needs ftfy and spaCy.*pip install 'diptych\[gpt1\]'.*gives other ids"):
            paper.ids("the")
    assert tokenizer.ids("the")
    gpt_words._ftfy_and_spacy.cache_clear()


def by_transformers(tokenizer: GptTokenizer, folder: Path):
    transformers = pytest.importorskip("transformers")
    tokenizer.save(folder)
    return transformers.OpenAIGPTTokenizer.from_pretrained(folder)


def test_the_other_way_is_that_of_transformers(tmp_path):
    tokenizer = small()
    theirs = by_transformers(tokenizer, tmp_path)
    rng = np.random.default_rng(0)
    old, now = unicodedata.ucd_3_2_0.category, unicodedata.category  # all tables agree on characters of before 2002
    every = [one for one in map(chr, range(1, 0x30000)) if old(one) == now(one) and now(one) not in ("Cn", "Cs", "Co")]
    texts = [
        *TEXTS,
        *(text for text, _, _ in GOLDEN),
        "low\x00er \ufffd low\u200der I\u0307 \u0130 \u03a3\u03a3 \u4e2d\u6587",
    ]
    texts += ["".join(rng.choice(every, 30)) for _ in range(200)]
    texts += ["".join(rng.choice(list("lowernst \u00e9\u0301\n'!\u3000"), 40)) for _ in range(50)]
    for text in texts:
        assert tokenizer.ids(text) == theirs(text)["input_ids"], ascii(text)
    assert tokenizer.text(tokenizer.ids(TEXTS[1])) == theirs.decode(theirs(TEXTS[1])["input_ids"])


@needs_release
def test_the_other_way_is_that_of_transformers_with_the_released_vocabulary(tmp_path):
    tokenizer = GptTokenizer.open(RELEASED, way="transformers")
    theirs = by_transformers(tokenizer, tmp_path)
    for text, _, _ in GOLDEN:
        assert tokenizer.ids(text) == theirs(text)["input_ids"]


def test_merges_are_taken_by_rank_and_the_last_character_ends_the_word():
    # transformers' own test of its tokenizer.
    tokens = [*"lowerstidn", *(f"{one}</w>" for one in "wrt"), "lo", "low", "er</w>", "low</w>"]
    vocabulary = {token: place for place, token in enumerate([*tokens, "lowest</w>", "newer</w>", UNKNOWN])}
    merges = [("l", "o"), ("lo", "w"), ("e", "r</w>")]
    tokenizer = GptTokenizer(vocabulary, merges, way="transformers")
    assert [tokenizer.token(token_id) for token_id in tokenizer.ids("lower")] == ["low", "er</w>"]
    assert [tokenizer.token(token_id) for token_id in tokenizer.ids("er ere z")] == [
        "er</w>",
        "e",
        "r",
        "<unk>",
        "<unk>",
    ]


def slow_merges(words: Counter, merges: int) -> list[tuple[str, str]]:
    """Algorithm 1 of Sennrich et al. as it stands: everything is counted again for each merge."""
    spelled = {word: [*word[:-1], f"{word[-1]}</w>"] for word in words}
    learned = []
    for _ in range(merges):
        counts: Counter = Counter()
        for word, pieces in spelled.items():
            for pair in zip(pieces[:-1], pieces[1:], strict=True):
                counts[pair] += words[word]
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < 2:
            break
        learned.append(best)
        for word, pieces in spelled.items():
            place = 0
            while place < len(pieces) - 1:
                if (pieces[place], pieces[place + 1]) == best:
                    pieces[place : place + 2] = ["".join(best)]
                place += 1
            spelled[word] = pieces
    return learned


def test_a_vocabulary_is_learned_as_by_the_algorithm():
    rng = np.random.default_rng(1)
    texts = [*TEXTS, " ".join("".join(rng.choice(list("aabc"), rng.integers(1, 9))) for _ in range(300))]
    words = Counter(word for text in texts for word in words_of(text, "transformers"))
    tokenizer = train_gpt_tokenizer(texts, merges=150, way="transformers")
    assert tokenizer.merges == slow_merges(words, 150)
    assert tokenizer.vocab_size == len(tokenizer.vocabulary) == max(tokenizer.vocabulary.values()) + 1
    for text in texts:
        assert UNKNOWN not in map(tokenizer.token, tokenizer.ids(text))
        assert tokenizer.text(tokenizer.ids(text)) == " ".join(words_of(text, "transformers"))


def test_rare_characters_are_unknown():
    tokenizer = train_gpt_tokenizer(["aab aab xaab"], merges=9, way="transformers", least_count=2)
    assert [tokenizer.token(token_id) for token_id in tokenizer.ids("xaab aab")] == [UNKNOWN, "aab</w>", "aab</w>"]


@needs_spacy
def test_the_end_of_a_line_comes_back():
    tokenizer = small("paper")
    ids = tokenizer.ids("low\n\nlower")
    assert ids.count(tokenizer.vocab_size - 1) == 1
    assert tokenizer.text(ids) == "low \n lower"


@pytest.mark.parametrize("way", ["paper", "transformers"])
def test_a_folder_says_which_way_it_is(way, tmp_path):
    of_training = small()
    tokenizer = GptTokenizer(of_training.vocabulary, of_training.merges, way=way)
    tokenizer.save(tmp_path)
    again = GptTokenizer.open(tmp_path)
    assert (again.way, again.merges, again.vocabulary) == (way, tokenizer.merges, tokenizer.vocabulary)
    assert again.fingerprint() == tokenizer.fingerprint()
    assert GptTokenizer.open(tmp_path, way="transformers").fingerprint() != paper_fingerprint(tokenizer)
    (tmp_path / "tokenizer_config.json").unlink()
    assert GptTokenizer.open(tmp_path).way == "paper"
    again.save(tmp_path / "again")
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def paper_fingerprint(tokenizer: GptTokenizer) -> str:
    return GptTokenizer(tokenizer.vocabulary, tokenizer.merges, way="paper").fingerprint()


def test_a_tokenizer_json_is_read_too(tmp_path):
    theirs = by_transformers(small(), tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    assert not (tmp_path / "theirs" / "vocab.json").exists()
    again = GptTokenizer.open(tmp_path / "theirs", way="transformers")
    assert again.fingerprint() == small().fingerprint()
    definition = json.loads((tmp_path / "theirs" / "tokenizer.json").read_text())
    definition["model"]["end_of_word_suffix"] = ""
    (tmp_path / "theirs" / "tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(ValueError, match="expected </w>, as GPT-1's has"):
        GptTokenizer.open(tmp_path / "theirs")


def test_what_does_not_fit_is_said(tmp_path):
    tokenizer = small()
    lacking = {token: place for token, place in tokenizer.vocabulary.items() if token != "lo"}
    with pytest.raises(ValueError, match=r"lacks 1 tokens that it needs, such as \['lo'\]"):
        GptTokenizer(lacking, tokenizer.merges, way="transformers")
    with pytest.raises(ValueError, match=r"such as \['\\n</w>'\]"):
        GptTokenizer({UNKNOWN: 0}, [])
    with pytest.raises(ValueError, match="way must be 'paper' or 'transformers', got 'bert'"):
        GptTokenizer(tokenizer.vocabulary, tokenizer.merges, way="bert")
    with pytest.raises(FileNotFoundError, match=r"vocab\.json and merges\.txt or encoder_bpe_40000\.json"):
        GptTokenizer.open(tmp_path)
    with pytest.raises(ValueError, match=f"ids up to {tokenizer.vocab_size - 1}, got {tokenizer.vocab_size}"):
        tokenizer.text([tokenizer.vocab_size])
    with pytest.raises(ValueError, match="no word in these texts"):
        train_gpt_tokenizer(["", "\n"], merges=3, way="transformers")
