"""Results of a task on texts: its metrics, beside what can be answered without a language model."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np

from diptych.core.data.text_tasks.sequences import TokenSequences
from diptych.core.data.text_tasks.task import TextTask
from diptych.core.evaluation.bag_of_words import BagOfWords, usual_answer
from diptych.core.evaluation.task_metrics import Judged, judged

USUAL, WORDS, SECOND_WORDS = "usual answer", "bag of words", "bag of words, second text alone"


class AnswersResult(TypedDict):
    """What was scored on one set, JSON-ready; metrics by name, that of the headline first."""

    examples: int
    tokens: int
    unknown: int  # of these, which the vocabulary cannot spell
    metrics: dict[str, Judged]
    baselines: dict[str, dict[str, Judged]]  # by what answers


class WrongAnswer(TypedDict):
    """An example that was answered wrongly."""

    key: str
    texts: list[str]
    truth: str
    answer: str
    probability: float  # of the answer


def score_answers(task: TextTask, probabilities: np.ndarray, examples: Sequence[TokenSequences]) -> dict[str, Judged]:
    """The task's metrics of probabilities [examples, answers]."""
    truths = np.stack([example.target for example in examples]).astype(np.float64)
    return judged(task.metrics, task.answers(truths), task.answers(probabilities))


def baseline_answers(
    task: TextTask, vocab_size: int, train: Sequence[TokenSequences], sets: Mapping[str, Sequence[TokenSequences]]
) -> dict[str, dict[str, dict[str, Judged]]]:
    """What needs no language model scores on each set: by the set's name, then by what answers.

    Args:
        vocab_size: rows of the token table, special tokens included.
    """
    models = {WORDS: BagOfWords(task, vocab_size).fit(train)}
    if task.layout in ("entailment", "multiple_choice"):
        models[SECOND_WORDS] = BagOfWords(task, vocab_size, second_alone=True).fit(train)
    found: dict[str, dict[str, dict[str, Judged]]] = {}
    for name, examples in sets.items():
        said = {USUAL: usual_answer(train, len(examples))}
        said |= {what: model.probabilities(examples) for what, model in models.items()}
        found[name] = {what: score_answers(task, shares, examples) for what, shares in said.items()}
    return found
