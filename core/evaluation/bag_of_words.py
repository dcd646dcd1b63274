"""Answers from words alone: a logistic regression on which tokens stand in which text, without their order.

It is what a task can be answered by without a language model, and with the second text alone it shows what the
hypotheses, or the endings, give away by themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diptych.core.data.text_tasks.layouts import SpecialIds
from diptych.core.data.text_tasks.sequences import TokenSequences
from diptych.core.data.text_tasks.task import TextTask
from diptych.core.evaluation.lbfgs import minimise

STRENGTHS = (1e-4, 1e-3, 1e-2)
"""Of the regularisation, chosen between on a tenth of the examples."""
MOST_EXAMPLES = 20_000
"""That the regression is fitted to, evenly chosen; more change little and take long."""
ITERATIONS = 40
_KINDS = 3  # in the first text alone, in the second alone, in both


@dataclass(frozen=True)
class Words:
    """Features of some examples, each row of which is one sequence, or one example.

    rows, columns: int64 [entries], where a feature is.   count: rows.   values: float64 [entries].
    """

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    count: int

    def times(self, weights: np.ndarray) -> np.ndarray:
        """Features @ weights: [columns, outputs] -> [count, outputs]."""
        return np.stack(
            [np.bincount(self.rows, self.values * w[self.columns], minlength=self.count) for w in weights.T], axis=1
        )

    def transposed_times(self, numbers: np.ndarray, columns: int) -> np.ndarray:
        """Features' @ numbers: [count, outputs] -> [columns, outputs]."""
        return np.stack(
            [np.bincount(self.columns, self.values * x[self.rows], minlength=columns) for x in numbers.T], axis=1
        )


class BagOfWords:
    """A regression for a task.

    Args:
        task: what is answered.
        vocab_size: rows of the token table, special tokens included.
        second_alone: whether it sees of two texts the second only, of multiple choice the answers.
    """

    def __init__(self, task: TextTask, vocab_size: int, *, second_alone: bool = False):
        self.task, self.vocab_size, self.second_alone = task, vocab_size, second_alone
        self._special = SpecialIds.behind(vocab_size - 3)
        self._columns = _KINDS * vocab_size + 1
        self._weights = np.zeros((self._columns, 1 if task.choices else task.outputs))

    def fit(self, examples: Sequence[TokenSequences]) -> "BagOfWords":
        """Fits the weights: mean cross-entropy + strength / 2 · |weights|², by the strength that suits every tenth."""
        places = np.linspace(0, len(examples) - 1, min(len(examples), MOST_EXAMPLES), dtype=int)
        chosen = [examples[place] for place in places]
        held_out = np.arange(len(chosen)) % 10 == 9
        if held_out.any():
            kept = [one for one, out in zip(chosen, held_out, strict=True) if not out]
            judged = [one for one, out in zip(chosen, held_out, strict=True) if out]
            strength = min(STRENGTHS, key=lambda tried: self._fitted(kept, tried)._loss(judged))
        else:
            strength = STRENGTHS[-1]
        return self._fitted(chosen, strength)

    def probabilities(self, examples: Sequence[TokenSequences]) -> np.ndarray:
        """Of each answer, float64 [examples, answers]."""
        scores = self._words(examples).times(self._weights)
        scores = scores.reshape(len(examples), -1)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)

    def _fitted(self, examples: Sequence[TokenSequences], strength: float) -> "BagOfWords":
        words, targets = self._words(examples), np.stack([one.target for one in examples]).astype(np.float64)

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            weights = flat.reshape(self._weights.shape)
            scores = words.times(weights).reshape(targets.shape)
            shifted = scores - scores.max(axis=1, keepdims=True)
            logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
            wrong = (np.exp(logs) - targets) / len(targets)
            gradient = words.transposed_times(wrong.reshape(words.count, -1), self._columns) + strength * weights
            return float(-(targets * logs).sum() / len(targets) + strength / 2 * (weights**2).sum()), gradient.ravel()

        fitted = object.__new__(BagOfWords)
        fitted.__dict__ |= self.__dict__
        place = minimise(loss, np.zeros(self._weights.size), iterations=ITERATIONS).place
        fitted._weights = place.reshape(self._weights.shape)
        return fitted

    def _loss(self, examples: Sequence[TokenSequences]) -> float:
        targets = np.stack([one.target for one in examples])
        return float(-(targets * np.log(self.probabilities(examples) + 1e-300)).sum())

    def _words(self, examples: Sequence[TokenSequences]) -> Words:
        """Each sequence's features, or each example's where its sequences are one pair in two orders."""
        of_rows = [
            self._features(ids)
            for example in examples
            for ids in (example.sequences if self.task.choices else example.sequences[:1])
        ]
        lengths = [len(row) for row in of_rows]
        rows = np.repeat(np.arange(len(of_rows)), lengths)
        values = 1 / np.sqrt(np.maximum(np.repeat(lengths, lengths), 1))
        columns = np.concatenate(of_rows) if of_rows else np.zeros(0, np.int64)
        return Words(rows, columns.astype(np.int64), values, len(of_rows))

    def _features(self, ids: np.ndarray) -> np.ndarray:
        """Numbers of features: a kind's and a token's together, and one that all have."""
        (cuts,) = np.nonzero(ids == self._special.delimiter)
        cut = int(cuts[0]) if len(cuts) else len(ids) - 1
        first, second = np.unique(ids[1:cut]), np.unique(ids[cut + 1 : -1])
        if self.second_alone:
            first = first[:0]
        both = np.intersect1d(first, second)
        first, second = np.setdiff1d(first, both), np.setdiff1d(second, both)
        # Of two texts that are alike neither is the first.
        other = first if self.task.layout == "similarity" else second + self.vocab_size
        own = second if self.task.layout == "similarity" else first
        return np.concatenate([own, other, both + 2 * self.vocab_size, [_KINDS * self.vocab_size]])


def usual_answer(examples: Sequence[TokenSequences], count: int) -> np.ndarray:
    """What one would say without looking: the training examples' mean target for each of `count` examples,
    [count, answers].
    """
    mean = np.mean([one.target for one in examples], axis=0, dtype=np.float64)
    return np.tile(mean, (count, 1))
