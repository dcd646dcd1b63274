"""Words are found whole, in the language of the caption, in any script."""

import numpy as np
import pytest

from diptych.core.data.records import Caption, Record
from diptych.core.data.sources.word_attributes import WordAttributes


def record(*captions: tuple[str, str]) -> Record:
    return Record("key", ("image",), tuple(Caption(text, language) for text, language in captions))


GROUPS = {
    "women": {"en": ["woman", "women", "she"], "de": ["Frau"], "hi": ["औरत"], "ja": ["女性"], "*": ["♀ woman"]},
    "men": {"en": ["man", "men"], "de": ["Mann", "er"], "ru": ["мужчина"], "zh": ["男人"], "tr": ["adam"]},
}
LABELS = {"police": ["police officer", "policía"], "chef": {"en": ["chef"], "fr": ["chef cuisinier"]}}


@pytest.mark.parametrize(
    ("text", "language", "groups"),
    [
        ("A woman, and a MAN!", "en", {"women", "men"}),
        ("the woman's hat", "en", {"women"}),
        ("the manager of a womanly policeman", "en", set()),
        ("man-made", "en", {"men"}),
        ("snowman", "en", set()),
        ("The man", "en-GB", {"men"}),
        ("the man", "de", set()),
        ("Eine FRAU und er", "de", {"women", "men"}),
        ("der Herd", "de", set()),
        ("she", "und", set()),
        ("Мужчина идёт", "ru", {"men"}),
        ("एक औरत चल रही है", "hi", {"women"}),
        ("औरतों की भीड़", "hi", set()),
        ("公園を歩く女性たち", "ja", {"women"}),
        ("一个男人在跑步", "zh-Hant", {"men"}),
        ("ｍａｎ", "en", {"men"}),
    ],
)
def test_groups_are_found_by_whole_words(text, language, groups):
    found = WordAttributes(GROUPS, LABELS)(record((text, language)))
    if not groups:
        assert found is None
    else:
        assert {name for name, there in zip(GROUPS, found[0], strict=True) if there} == groups


def test_labels_may_be_phrases_and_any_caption_counts():
    attributes = WordAttributes(GROUPS, LABELS)
    assert (attributes.groups, attributes.labels) == (("women", "men"), ("police", "chef"))
    s, y = attributes(record(("a man", "en"), ("chef cuisinier", "fr"), ("Police  officer", "en")))
    np.testing.assert_array_equal(s, [0, 1])
    np.testing.assert_array_equal(y, [1, 1])
    s, y = attributes(record(("a woman of the police, an officer", "en"), ("le chef", "fr")))
    np.testing.assert_array_equal(s, [1, 0])
    np.testing.assert_array_equal(y, [0, 0])


def test_what_names_no_group_has_no_attributes():
    attributes = WordAttributes(GROUPS, LABELS)
    assert attributes(record(("a chef", "en"))) is None
    assert attributes(record()) is None
    assert attributes(record((7, "en"), (None, "en"))) is None, "what is no text is refused when it is used"


@pytest.mark.parametrize(
    ("groups", "labels", "words"),
    [
        ({}, LABELS, "at least one group"),
        ({"women": []}, {}, "'women' needs a list of words"),
        ({"women": "woman"}, {}, "needs a list of words"),
        ({"women": {"en": "woman"}}, {}, "needs a list of words"),
        ({"women": {"en": []}}, {}, "needs a list of words"),
        (GROUPS, {"chef": ["!"]}, "'chef' needs a list of words"),
    ],
)
def test_names_without_words_are_refused(groups, labels, words):
    with pytest.raises(ValueError, match=words):
        WordAttributes(groups, labels)
