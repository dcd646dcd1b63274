"""CIDEr as pycocoevalcap 1.2 computes it, on captions whose scores and words were taken from it."""

import numpy as np
import pytest

from diptych.core.evaluation.cider import caption_words, cider

REFERENCES = [
    ["a cat sits on a mat", "the cat is on the mat"],
    ["two dogs run in the park", "dogs running in a park", "two dogs play"],
    ["a red bus on the street"],
]
CAPTIONS = ["a cat on a mat", "two dogs run in a park", "a bus on a street on the street"]
SCORES = [3.2176543304835405, 3.796191122409072, 2.6969730677696613]


def test_scores_are_those_of_pycocoevalcap():
    np.testing.assert_allclose(cider(CAPTIONS, REFERENCES), SCORES, rtol=1e-9)


def test_a_caption_that_is_its_only_reference_has_ten():
    """Unless it has fewer words than the longest n-grams."""
    texts = ["a cat sits on a mat", "two dogs run in the park", "one bird"]
    scores = cider(texts, [[text] for text in texts])
    np.testing.assert_allclose(scores, [10, 10, 5])
    assert (cider(texts[::-1], [[text] for text in texts])[:1] < 1).all()
    # Of one picture every n-gram is in every picture, and weighs nothing.
    assert cider(texts[:1], [texts[:1]]).tolist() == [0.0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A man's dog isn't on the red-haired woman's lap.", "a man 's dog is n't on the red-haired woman 's lap"),
        ("It's 10:30 a.m. -- don't wait!", "it 's 10:30 a.m. do n't wait"),
        ("Two dogs (one brown) play; they're happy...", "two dogs -lrb- one brown -rrb- play they 're happy"),
        (
            'He said "hello" to the 1,000 people @ the park & left.',
            "he said hello to the 1,000 people @ the park & left",
        ),
        ("Cannot see the U.S. flag in St. Louis", "can not see the u.s. flag in st. louis"),
        ("an old-fashioned 2-story house w/ red door", "an old-fashioned 2-story house w / red door"),
        ("a 50% off sale, $20, 3.5 feet", "a 50 % off sale $ 20 3.5 feet"),
        ("He's gonna go, wanna see?", "he 's gon na go wan na see"),
        ("the dogs' beds at six o\u2019clock", "the dogs beds at six o\u2019clock"),
    ],
)
def test_captions_are_cut_as_by_stanfords_tokenizer(text, words):
    assert " ".join(caption_words(text)) == words


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="1 lists of references for 2 captions"):
        cider(["a", "b"], [["a"]])
    with pytest.raises(ValueError, match="references of caption 1 are 'b', expected a list"):
        cider(["a", "b"], [["a"], "b"])
