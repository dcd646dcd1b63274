"""Sequences of tasks on texts: the four layouts of the paper, and what is cut."""

import numpy as np
import pytest

from diptych.core.data.bad_example import BadExample
from diptych.core.data.text_tasks.layouts import SpecialIds, sequences, shortest_length
from diptych.core.data.text_tasks.task import TextTask

GPT1 = SpecialIds.behind(40_478)
PRESIDENT, LOWER, HELLO = [481, 4735, 544], [2583, 19807], [3570]  # "the president is", "lower newer", "hello"


def test_the_four_layouts_with_the_released_ids():
    assert sequences("classification", [PRESIDENT], [], GPT1, length=512) == ([[40478, 481, 4735, 544, 40480]], 0)
    entailment, _ = sequences("entailment", [PRESIDENT, LOWER], [], GPT1, length=512)
    assert entailment == [[40478, 481, 4735, 544, 40479, 2583, 19807, 40480]]
    similarity, _ = sequences("similarity", [PRESIDENT, LOWER], [], GPT1, length=512)
    assert similarity == [*entailment, [40478, 2583, 19807, 40479, 481, 4735, 544, 40480]]
    choices, _ = sequences("multiple_choice", [PRESIDENT], [LOWER, HELLO], GPT1, length=512)
    assert choices == [*entailment, [40478, 481, 4735, 544, 40479, 3570, 40480]]
    question, _ = sequences("multiple_choice", [PRESIDENT, HELLO], [LOWER, HELLO], GPT1, length=512)
    assert question[1] == [40478, 481, 4735, 544, 3570, 40479, 3570, 40480]


@pytest.mark.parametrize("layout", ["classification", "entailment", "similarity", "multiple_choice"])
@pytest.mark.parametrize("length", [6, 7, 20, 512])
def test_nothing_is_longer_than_it_may_be_and_what_is_cut_is_counted(layout, length):
    long = [list(range(1000, 2000)), list(range(2000, 3000))]
    choice = layout == "multiple_choice"
    texts, answers = (long[:1] if choice or layout == "classification" else long), [long[1]] if choice else []
    found, cut = sequences(layout, texts, answers, GPT1, length=length)
    assert max(map(len, found)) <= length
    special = {GPT1.start, GPT1.delimiter, GPT1.extract}
    for ids in found:
        assert ids[0] == GPT1.start
        assert ids[-1] == GPT1.extract
        assert ids.count(GPT1.delimiter) == (layout != "classification")
    kept = {token for ids in found for token in ids} - special
    assert cut == 1000 * len(texts + answers) - len(kept)
    if layout != "classification":  # the released code: n_ctx // 2 - 2 tokens of each text
        assert found[0][1 : length // 2 - 1] == texts[0][: length // 2 - 2]
        assert len(found[0]) == 2 * (length // 2 - 2) + 3


def test_a_question_stays_whole_behind_an_article_that_is_too_long():
    article, question, answers = list(range(600)), [900, 901, 902], [[910, 911], [920]]
    found, cut = sequences("multiple_choice", [article, question], answers, GPT1, length=32)
    assert cut == 600 - 24
    assert found[0] == [GPT1.start, *range(24), *question, GPT1.delimiter, 910, 911, GPT1.extract]
    assert len(found[0]) == 32


def test_a_length_without_room_is_refused():
    for layout in ("classification", "entailment", "similarity", "multiple_choice"):
        with pytest.raises(ValueError, match="got a length of 2"):
            sequences(layout, [[1]], [], GPT1, length=2)
        assert shortest_length(layout) >= 3


def test_scores_are_split_between_the_whole_numbers_beside_them():
    task = TextTask(name="likeness", layout="similarity", scores=(0, 5), metrics=("pearson",))
    for label, expected in {"3.8": [0, 0, 0, 0.2, 0.8, 0], "5": [0, 0, 0, 0, 0, 1], "0": [1, 0, 0, 0, 0, 0]}.items():
        target = task.target(label)
        np.testing.assert_allclose(target, expected, atol=1e-6)
        assert task.answers(target[None])[0] == pytest.approx(float(label))
    for label, reason in {"5.1": "label_beyond", "nan": "label_beyond", "high": "label_no_number"}.items():
        with pytest.raises(BadExample, match=reason):
            task.target(label)


def test_labels_outside_the_map_are_refused_with_the_map():
    task = TextTask(name="follows", layout="entailment", labels=("neutral", "entailment"))
    assert task.target("entailment").tolist() == [0, 1]
    with pytest.raises(BadExample, match="'perhaps' is none of the 2 classes: neutral, entailment"):
        task.target("perhaps")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layout": "entailment"}, "labels, scores or a number of choices"),
        ({"layout": "entailment", "labels": ("one",)}, "two answers or more"),
        ({"layout": "entailment", "choices": 3}, "choices belong to the layout multiple_choice"),
        ({"layout": "similarity", "scores": (0, 5)}, "judged by pearson, spearman"),
    ],
)
def test_a_task_that_fits_no_layout_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        TextTask(name="wrong", **given)
