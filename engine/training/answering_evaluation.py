"""The judge of a model that answers a task, in training and at its end, on the examples that are held out."""

from typing import Any

import keras
import numpy as np

from diptych.core.data.text_tasks.sequences import SequenceFields, TokenizedTexts, TokenSequences, sequence_fields
from diptych.core.data.text_tasks.task import TextTask
from diptych.core.evaluation.answering import AnswersResult, WrongAnswer, baseline_answers, score_answers
from diptych.core.evaluation.classification import softmax_probabilities
from diptych.core.evaluation.language import Spelled, unknown_warnings
from diptych.core.evaluation.task_metrics import METRICS
from diptych.core.report.answers_text import answers_text
from diptych.core.report.verdict import before_training, changes, gained, training_warnings
from diptych.core.training.best import LOSS
from diptych.core.training.card import Card
from diptych.core.training.learner import Learner
from diptych.core.training.metrics import read_metrics
from diptych.core.training.recipe import Recipe
from diptych.core.training.run_folder import RunFolder
from diptych.engine.datasets.data_set import Sources
from diptych.engine.datasets.text_tasks import TextTaskDataSet
from diptych.engine.training.held_out import what_warnings_ask
from diptych.engine.training.planned_stage import PlannedStage
from diptych.engine.training.results import AnsweringResults
from diptych.engine.training.run_report import report
from diptych.models import GPTDoubleHeads

BATCH = 64
MOST_WRONG = 24


class AnsweringEvaluation:
    """Evaluates a stage's model on held-out examples."""

    def __init__(
        self,
        recipe: Recipe,
        planned: PlannedStage,
        data_set: TextTaskDataSet,
        sources: Sources,
        preprocess: SequenceFields,
        student: Any,
    ):
        self._recipe, self._planned, self.preprocess = recipe, planned, preprocess
        self._data_set = data_set
        self._model: GPTDoubleHeads = student.towers

    @property
    def _task(self) -> TextTask:
        return self._data_set.task

    def quick(self) -> dict[str, float]:
        """The task's metrics on each set, and the loss on the first: what is watched during training."""
        numbers: dict[str, float] = {}
        for place, (name, texts) in enumerate(self._data_set.held_out.items()):
            shares = self._probabilities(texts.examples)
            targets = _targets(texts.examples)
            truths, answers = self._task.answers(targets), self._task.answers(shares)
            for metric in self._task.metrics:
                numbers[metric if not place else f"{metric}/{name.lower()}"] = METRICS[metric](truths, answers)
            if not place:
                numbers[LOSS] = float(-(targets * np.log(np.maximum(shares, 1e-30))).sum() / len(targets))
        return numbers

    def finish(self, learner: Learner, folder: RunFolder, card: Card) -> AnsweringResults:
        """Evaluates everything, prints a table, writes the report; returns the results."""
        rows, sets = read_metrics(folder.metrics), self._data_set.held_out
        examples = {name: texts.examples for name, texts in sets.items()}
        train = self._data_set.train
        rows_of_table = self._model.config.decoder.vocab_size
        baselines = baseline_answers(self._task, rows_of_table, train.examples if train else [], examples)
        answers: dict[str, AnswersResult] = {}
        wrong: list[WrongAnswer] = []
        for name, texts in sets.items():
            shares = self._probabilities(texts.examples)
            metrics = score_answers(self._task, shares, texts.examples)
            answers[name] = {
                "examples": len(texts),
                **self._spelled(texts.examples),
                "metrics": metrics,
                "baselines": baselines[name],
            }
            wrong = wrong or wrong_answers(self._task, texts, shares)
        results: AnsweringResults = {
            "answers": answers,
            "compilations": learner.step.compilations,
            "before": before_training(rows),
            "warnings": [
                *training_warnings(rows, **what_warnings_ask(self._recipe, self._planned)),
                *unknown_warnings(answers),
            ],
        }
        print("\n" + answers_text(answers), flush=True)
        if told := gained(changed := changes(rows, {}, {})):
            print(told, flush=True)
        if not self._recipe.run.report:
            return results
        report(
            learner,
            folder,
            card,
            title=self._data_set.name,
            metrics=rows,
            answers=answers,
            wrong_answers=wrong,
            changes=changed,
        )
        return results

    def _spelled(self, examples: list[TokenSequences]) -> Spelled:
        unknown, ids = self.preprocess.vocabulary.unknown_id, [ids for one in examples for ids in one.sequences]
        return {"tokens": sum(map(len, ids)), "unknown": sum(int(np.count_nonzero(one == unknown)) for one in ids)}

    def _probabilities(self, examples: list[TokenSequences]) -> np.ndarray:
        """float64 [examples, answers], in batches of one shape."""
        found = []
        for start in range(0, len(examples), BATCH):
            some = examples[start : start + BATCH]
            fields = sequence_fields([*some, *[some[0]] * (BATCH - len(some))], self.preprocess.length)
            inputs = {"token_ids": fields["token_ids"], "extract": fields["extract"]}
            logits = keras.ops.convert_to_numpy(self._model.predict_on_batch(inputs))
            found.append(softmax_probabilities(logits[: len(some)]))
        return np.concatenate(found)


def wrong_answers(task: TextTask, texts: TokenizedTexts, shares: np.ndarray) -> list[WrongAnswer]:
    """The wrong answers of which the model is surest; none of a task of scores."""
    if task.scores:
        return []
    truths, said = _targets(texts.examples).argmax(axis=1), shares.argmax(axis=1)
    wrong = np.flatnonzero(truths != said)
    chosen = wrong[np.argsort(-shares[wrong, said[wrong]], kind="stable")][:MOST_WRONG]
    found: list[WrongAnswer] = []
    for place in chosen.tolist():
        example = texts.text_example(place)
        names = example.answers or task.labels
        found.append(
            {
                "key": example.key,
                "texts": list(example.texts),
                "truth": names[int(truths[place])],
                "answer": names[int(said[place])],
                "probability": float(shares[place, said[place]]),
            }
        )
    return found


def _targets(examples: list[TokenSequences]) -> np.ndarray:
    return np.stack([example.target for example in examples]).astype(np.float64)
