"""Answers from words alone: what they can tell and what they cannot."""

import numpy as np
import pytest

from diptych.core.data.text_tasks.layouts import SpecialIds, sequences
from diptych.core.data.text_tasks.sequences import TokenSequences
from diptych.core.data.text_tasks.task import TextTask
from diptych.core.evaluation.bag_of_words import BagOfWords, usual_answer

VOCABULARY = 40
SPECIAL = SpecialIds.behind(VOCABULARY)
RNG = np.random.default_rng(0)


def example(task, label, texts, answers=()):
    ids, _ = sequences(task.layout, texts, answers, SPECIAL, length=64)
    return TokenSequences("", tuple(np.array(one, np.int32) for one in ids), task.target(str(label)))


def words(count=6):
    return RNG.integers(0, VOCABULARY, count).tolist()


def accuracy(task, examples, **options):
    model = BagOfWords(task, VOCABULARY + 3, **options).fit(examples[:120])
    said, truth = model.probabilities(examples[120:]), np.stack([one.target for one in examples[120:]])
    np.testing.assert_allclose(said.sum(axis=1), 1)
    return float(np.mean(said.argmax(1) == truth.argmax(1)))


def test_a_word_that_says_it_is_found_in_either_text():
    sentence = TextTask(name="a", layout="classification", labels=("0", "1"))
    pair = TextTask(name="b", layout="entailment", labels=("0", "1"))
    told = [(label, [*words(), 30 + label]) for label in RNG.integers(0, 2, 180).tolist()]
    told = [(label, [word for word in text if word not in (30, 31)] + [30 + label]) for label, text in told]
    assert accuracy(sentence, [example(sentence, label, [text]) for label, text in told]) > 0.95
    behind = [example(pair, label, [words(), text]) for label, text in told]
    assert accuracy(pair, behind, second_alone=True) > 0.95
    before = [example(pair, label, [text, words()]) for label, text in told]
    assert accuracy(pair, before) > 0.9
    assert accuracy(pair, before, second_alone=True) < 0.7


def test_an_answer_with_the_words_of_its_context_is_chosen():
    task = TextTask(name="c", layout="multiple_choice", choices=3)
    examples = []
    for label in RNG.integers(0, 3, 180).tolist():
        order = RNG.permutation(VOCABULARY).tolist()
        answers = [order[:3] if number == label else order[10 + 3 * number : 13 + 3 * number] for number in range(3)]
        examples.append(example(task, label, [order[:9]], answers))
    assert accuracy(task, examples) > 0.95
    assert accuracy(task, examples, second_alone=True) < 0.55


def test_scores_and_equal_words_in_both_orders():
    task = TextTask(name="d", layout="similarity", scores=(0, 2), metrics=("pearson",))
    examples = []
    for score in RNG.uniform(0, 2, 180):
        order = RNG.permutation(VOCABULARY).tolist()
        shared = order[: int(3 * score)]
        examples.append(example(task, score, [order[:8], [*shared, *order[20 : 28 - len(shared)]]]))
    model = BagOfWords(task, VOCABULARY + 3).fit(examples[:120])
    said, truth = (
        task.answers(x) for x in (model.probabilities(examples[120:]), np.stack([e.target for e in examples[120:]]))
    )
    assert np.corrcoef(said, truth)[0, 1] > 0.8
    turned = [one._replace(sequences=one.sequences[::-1]) for one in examples[120:]]
    np.testing.assert_allclose(model.probabilities(turned), model.probabilities(examples[120:]))


def test_the_usual_answer_is_that_of_most():
    task = TextTask(name="a", layout="classification", labels=("0", "1"))
    told = [example(task, label, [words()]) for label in (1, 1, 0, 1)]
    assert usual_answer(told, 2) == pytest.approx(np.array([[0.25, 0.75]] * 2))
