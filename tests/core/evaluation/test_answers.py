"""Scores of written answers, on cases whose value is known."""

import numpy as np
import pytest

from diptych.core.evaluation.answers import (
    anls,
    edit_distance,
    exact_match,
    plain_vqa_accuracy,
    relaxed_match,
    vqa_accuracy,
    vqa_normalized,
)


def test_exact_match():
    assert (exact_match("2", "2"), exact_match("2 ", "2"), exact_match("Yes", "yes")) == (1.0, 0.0, 0.0)
    assert exact_match("Yes", "yes", lower_case=True) == 1.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Two cats", "2 cats"),
        ("none", "0"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("ow's'at", "'ow's'at"),
        ("somebody'd", "somebodyd"),
        ("red-haired", "red haired"),
        ("red - haired", "red haired"),
        ("yes, it is", "yes it is"),
        ("yes,it is", "yes it is"),
        ("1,000", "1000"),
        ("1,000 red/blue", "1000 redblue"),  # where a comma stands between digits, no mark becomes a space
        ("3.5", "3.5"),
        ("3. m", "3 m"),
        ("e.g.", "eg"),
        ("What?!", "what"),
        ("a an the", ""),
    ],
)
def test_texts_are_normalised_as_by_the_official_code(text, expected):
    assert vqa_normalized(text) == expected


def test_vqa_accuracy_is_the_mean_over_those_left_out():
    """With k of ten agreeing: (10 - k) min(1, k / 3) + k min(1, (k - 1) / 3), over ten."""
    for agreeing, expected in ((0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0)):
        truths = ["cat"] * agreeing + [f"other {n}" for n in range(10 - agreeing)]
        assert vqa_accuracy("The cat.", truths) == pytest.approx(expected)
    assert vqa_accuracy(" cat\n", ["cat"] * 10) == 1.0
    # All agree, so that nothing is normalised.
    assert vqa_accuracy("the cat", ["cat"] * 10) == 0.0
    assert plain_vqa_accuracy("cat", ["cat", "cat", "dog"]) == pytest.approx(2 / 3)
    assert plain_vqa_accuracy("Cat", ["cat"] * 5, lower_case=True) == 1.0
    with pytest.raises(ValueError, match="list of 2 or more"):
        vqa_accuracy("cat", ["cat"])


@pytest.mark.parametrize(
    ("answer", "truth", "expected"),
    [
        ("105", "100", 1.0),
        ("95.01", "100", 1.0),
        ("105.1", "100", 0.0),
        ("-100", "100", 0.0),
        ("52%", "0.5", 1.0),
        ("0.01", "0", 0.0),
        ("0", "0", 1.0),
        ("0.0", "0", 0.0),  # as texts
        ("red", "red", 1.0),
        ("ten", "10", 0.0),
        ("10", "ten", 0.0),
    ],
)
def test_relaxed_match(answer, truth, expected):
    assert relaxed_match(answer, truth) == expected


def test_anls():
    assert (edit_distance("kitten", "sitting"), edit_distance("", "abc"), edit_distance("ab", "ab")) == (3, 3, 0)
    assert anls("kitten", ["sitting"]) == pytest.approx(1 - 3 / 7)
    assert anls("kitten", ["sitting", "mitten"]) == pytest.approx(1 - 1 / 6)
    assert anls("ab", ["cb"]) == 0.0  # half of it is edited
    assert anls("ABC", ["abc"]) == 0.0
    assert anls("ABC", ["abc"], lower_case=True) == 1.0
    assert (anls("", [""]), anls("a", [""])) == (1.0, 0.0)
    rng = np.random.default_rng(0)
    first, second, third = ("".join(rng.choice(list("abc"), 12)) for _ in range(3))
    assert edit_distance(first, third) <= edit_distance(first, second) + edit_distance(second, third)
