"""The decoder's sequences: prefixes, targets, weights, and the way back to words and boxes."""

import pickle
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.data.emoji import TOKENIZER_PATH, concepts
from diptych.core.data.emoji.concepts import SCENE_TOKENIZER_PATH
from diptych.core.data.examples.captioning import CaptionTargets
from diptych.core.data.records import BadExample, Caption, Region
from diptych.core.data.tokenizers.open import open_tokenizer
from diptych.core.data.tokenizers.token_text import text_of
from tests.core.data.tokenizers.small_vocabularies import FOX, sentencepiece_model

BOX = (0.1, 0.2, 0.53, 0.8)
WHOLE = (0.0, 0.0, 1.0, 1.0)
TARGETS = CaptionTargets(tokenizer_path=TOKENIZER_PATH)
TEXTS = st.sampled_from([name for concept in concepts()[::7] for name in list(concept.names.values())[::5]])
LONG = "a very long caption of a dog and a cat " * 20


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def written(targets: CaptionTargets, made: dict[str, np.ndarray]) -> list[str]:
    """The text that counts in each of the three sequences."""
    return [
        text_of(targets.tokenizer, tokens[weights == 1])
        for tokens, weights in zip(made["target_tokens"], made["target_weights"], strict=True)
    ]


# What is written


def test_the_three_tasks_are_locca_s():
    made = TARGETS(Caption("A Dog and a Red Apple", "en"), [Region(BOX, "Red Apple", "en")], rng())
    assert written(TARGETS, made) == [
        "a dog and a red apple",
        "red apple : 50 100 264 399",
        "50 100 264 399 : red apple",
    ]
    whole = [text_of(TARGETS.tokenizer, tokens) for tokens in made["target_tokens"]]
    assert [text.split()[0] for text in whole] == ["cap:", "aref:", "gcap:"]
    assert made["target_tokens"].dtype == np.int32
    assert made["target_weights"].dtype == np.uint8
    assert made["target_tokens"].shape == made["target_weights"].shape == (3, 64)
    assert made["parallel"].dtype == np.bool_
    assert made["parallel"].shape == ()


def test_a_digit_of_a_scene_s_box_is_one_token():
    """With its space: a token of space before each digit would look alike at all four corners."""
    targets = replace(TARGETS, tokenizer_path=SCENE_TOKENIZER_PATH, bins=10)
    tokens = targets.prompt("describe", box=(0.1, 0.2, 0.6, 0.9))
    box = targets.prompt("describe", box=(0.6, 0.6, 0.6, 0.6))
    opening = len(tokens) - 5
    assert len(set(tokens[opening:])) == 5  # four digits and the separator
    assert len(set(box[opening:])) == 2
    assert text_of(targets.tokenizer, tokens) == "gcap: 1 2 5 8 :"


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.lists(TEXTS, max_size=3), st.integers(8, 80), st.integers(0, 2**32))
def test_every_sequence_is_prefix_target_end_padding(text, phrases, length, seed):
    targets = replace(TARGETS, context_length=length)
    regions = [Region(BOX, phrase) for phrase in phrases]
    made = targets(Caption(text), regions, np.random.default_rng(seed))
    tokenizer = targets.tokenizer
    for task, (tokens, weights) in enumerate(zip(made["target_tokens"], made["target_weights"], strict=True)):
        prefix = len(targets.prompt("caption")) if task == 0 else len(tokenizer.encode(targets.prompts[task], 80)[:4])
        (ends,) = np.nonzero(tokens == tokenizer.eos_id)
        assert len(ends) == 1
        assert (tokens[ends[0] + 1 :] == tokenizer.pad_id).all()
        assert (tokens[: ends[0]] != tokenizer.pad_id).all()
        if weights.any():
            assert np.array_equal(np.flatnonzero(weights), np.arange(prefix, ends[0] + 1))
    assert made["target_weights"][0].any()
    if not phrases:
        assert not made["target_weights"][1:].any()


def test_without_regions_only_the_caption_counts():
    made = TARGETS(Caption("dog"), [], rng())
    assert made["target_weights"].sum(axis=1).tolist() == [len(TARGETS.tokenizer.encode("dog", 9).nonzero()[0]), 0, 0]


@pytest.mark.parametrize("length", range(8, 40))
def test_a_box_is_whole_or_the_task_is_left_out(length):
    targets = replace(TARGETS, context_length=length)
    made = targets(Caption(LONG), [Region(BOX, "a small red apple on a table")], rng())
    _, referring, grounded = written(targets, made)
    assert referring in ("", "a small red apple on a table : 50 100 264 399")
    assert grounded == "" or grounded.startswith("50 100 264 399 :")
    assert made["target_tokens"][0, -1] == targets.tokenizer.eos_id
    assert made["target_weights"][0].sum() == length - len(targets.prompt("caption"))


def test_some_lengths_hold_the_box_and_others_do_not():
    held = []
    for length in range(8, 40):
        made = replace(TARGETS, context_length=length)(Caption("x"), [Region(BOX, "a small red apple")], rng())
        held.append(made["target_weights"].any(axis=1).tolist())
    assert [True, False, False] in held
    assert [True, False, True] in held  # the description can be cut, the phrase before a box cannot
    assert held[-1] == [True, True, True]


def test_regions_are_drawn_evenly_and_apart_for_the_two_tasks():
    regions = [Region(BOX, name) for name in ("dog", "cat", "sun")]
    draw = rng()
    pairs = [tuple(written(TARGETS, TARGETS(Caption("x"), regions, draw))[1:]) for _ in range(900)]
    counts = [
        sum(first.startswith(one) and second.endswith(other) for first, second in pairs)
        for one in ("dog", "cat", "sun")
        for other in ("dog", "cat", "sun")
    ]
    assert sum(counts) == 900
    assert max(abs(count - 100) for count in counts) < 5 * np.sqrt(900 * 1 / 9 * 8 / 9)


def test_regions_in_the_caption_s_language_come_first():
    regions = [Region(BOX, "Hund", "de"), Region(BOX, "dog", "en")]
    for language, name in (("de", "hund"), ("en", "dog")):
        made = [
            written(TARGETS, TARGETS(Caption("x", language), regions, np.random.default_rng(seed))) for seed in range(8)
        ]
        assert {texts[2].split(" : ")[1] for texts in made} == {name}
    either = [written(TARGETS, TARGETS(Caption("x", "fr"), regions, np.random.default_rng(seed))) for seed in range(20)]
    assert {texts[2].split(" : ")[1] for texts in either} == {"hund", "dog"}


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_parallel_prediction_has_its_probability(probability):
    targets, draw = replace(TARGETS, parallel_probability=probability), rng()
    share = np.mean([targets(Caption("dog"), [], draw)["parallel"] for _ in range(1000)])
    assert abs(share - probability) <= 5 * np.sqrt(probability * (1 - probability) / 1000)


def test_equal_random_numbers_give_equal_sequences():
    regions = [Region(BOX, name) for name in ("dog", "cat", "sun")]
    one, other = (TARGETS(Caption("x"), regions, rng()) for _ in range(2))
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_what_is_no_text_is_a_bad_example():
    for caption, regions in ((Caption(""), []), (Caption(7), []), (Caption("dog"), [Region(BOX, "\0")])):
        with pytest.raises(BadExample, match="caption_"):
            TARGETS(caption, regions, rng())


# What is asked and read


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.sampled_from(["yxyx", "xyxy"]))
def test_prompts_are_how_the_learned_sequences_begin(text, order):
    targets = replace(TARGETS, order=order, context_length=96)
    tokens = targets(Caption(text), [Region(BOX, text)], rng())["target_tokens"]
    prompts = (targets.prompt("caption"), targets.prompt("find", text=text), targets.prompt("describe", box=BOX))
    for prompt, row in zip(prompts, tokens, strict=True):
        assert prompt.dtype == np.int32
        assert np.array_equal(row[: len(prompt)], prompt)
    answers = [row[len(prompt) :] for prompt, row in zip(prompts, tokens, strict=True)]
    lower = " ".join(text.lower().split())
    normal = text_of(targets.tokenizer, targets.tokenizer.encode(text, 96))
    assert targets.read("caption", answers[0]) == targets.read("describe", answers[2]) == normal
    assert len(normal) == len(lower) or not lower.isascii()
    assert np.abs(np.subtract(targets.read("find", answers[1]), BOX)).max() <= 0.5 / 499 + 1e-12


def test_an_answer_without_a_box_is_none():
    assert TARGETS.read("find", TARGETS.tokenizer.encode("dog", 8)) is None
    assert TARGETS.read("find", []) is None


def test_reading_stops_at_the_end():
    ids = [*TARGETS.tokenizer.encode("dog", 4), *TARGETS.tokenizer.encode("cat", 4)]
    assert TARGETS.read("caption", ids) == "dog"


def test_a_long_phrase_leaves_room_for_a_box():
    prompt, empty = TARGETS.prompt("find", text=LONG), len(TARGETS.prompt("describe"))
    whole = len(TARGETS.tokenizer.encode("0 0 499 499", 64).nonzero()[0]) - 1
    for box in np.sort(np.random.default_rng(0).random((300, 2, 2)), axis=1).reshape(-1, 4).tolist():
        written_box = len(TARGETS.prompt("describe", box=tuple(box))) - empty + whole
        assert len(prompt) + written_box + 1 <= TARGETS.context_length


def test_an_unknown_question_is_refused():
    for ask in (lambda: TARGETS.prompt("count"), lambda: TARGETS.read("count", [])):
        with pytest.raises(ValueError, match="caption, find, describe, got 'count'"):
            ask()


def test_gemma_s_kind_of_vocabulary_works_alike(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(sentencepiece_model("gemma"))
    targets = CaptionTargets(tokenizer_path=path, context_length=96)
    made = targets(Caption("The quick fox"), [Region(BOX, "quick fox")], rng())
    assert written(targets, made) == ["the quick fox", "quick fox : 50 100 264 399", "50 100 264 399 : quick fox"]
    answer = made["target_tokens"][1][len(targets.prompt("find", text="quick fox")) :]
    assert targets.read("find", answer) == pytest.approx(BOX, abs=0.5 / 499)


def test_a_vocabulary_without_digits_is_refused(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(sentencepiece_model("t5"))
    targets = CaptionTargets(tokenizer_path=path)
    assert targets(Caption("fox"), [], rng())["target_weights"][0].any()
    with pytest.raises(ValueError, match="cannot spell boxes"):
        targets(Caption("fox"), [Region(BOX, "fox")], rng())


# Text of tokens


@pytest.mark.parametrize("text", ["a red fox", FOX.lower(), "füchse, 狐", "🦊 鬱 ꙮ"])
def test_text_of_tokens_is_the_text(text):
    tokenizer = open_tokenizer(TOKENIZER_PATH)
    assert text_of(tokenizer, tokenizer.encode(text, 60)) == text


def test_bytes_that_are_no_text_are_marked():
    pieces = {5: "<0xF0>", 6: "<0x9F>", 7: "▁dog", 8: "<unk>"}
    tokenizer = SimpleNamespace(pad_id=0, bos_id=2, eos_id=1, token=pieces.__getitem__)
    assert text_of(tokenizer, [2, 7, 5, 6, 7, 8, 0, 1, 7]) == "dog\ufffd dog"


# Settings


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"parallel_probability": 1.5}, "parallel_probability must lie in"),
        ({"context_length": 1}, "context_length must be 2 or more"),
        ({"prompts": ("Cap: ",)}, "prompts must be one each for caption, referring, grounded"),
        ({"bins": 1}, "2 bins or more"),
        ({"order": "xywh"}, "an order of yxyx, xyxy"),
    ],
)
def test_wrong_settings_are_refused(changed, complaint):
    with pytest.raises(ValueError, match=complaint):
        replace(TARGETS, **changed)


def test_a_sequence_without_room_for_its_prefix_is_refused():
    with pytest.raises(ValueError, match="context_length is 4, expected at least"):
        replace(TARGETS, context_length=4)(Caption("dog"), [], rng())


def test_settings_travel_and_their_fingerprint_follows_all_of_them():
    changes = [
        {},
        {"context_length": 32},
        {"parallel_probability": 0.0},
        {"bins": 100},
        {"order": "xyxy"},
        {"prompts": ("a", "b", "c")},
        {"separator": " - "},
    ]
    assert len({replace(TARGETS, **changed).fingerprint() for changed in changes}) == len(changes)
    assert pickle.loads(pickle.dumps(TARGETS)).fingerprint() == TARGETS.fingerprint()
