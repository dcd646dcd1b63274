"""The judge of a model that is asked, in training and at its end: its answers to held-out questions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import keras
import numpy as np
from keras import ops

from diptych import backends
from diptych.core.data.examples.prompted_examples import PromptedExamples
from diptych.core.data.ledger import visit
from diptych.core.data.records import Record, Source
from diptych.core.data.sources.files import evenly
from diptych.core.evaluation.answer_metrics import AnswerScore, answer_score
from diptych.core.losses.captioning import captioning_loss
from diptych.core.losses.products import Product
from diptych.core.report.run.contents import Asked
from diptych.core.report.verdict import before_training, changes, gained, training_warnings
from diptych.core.training.best import LOSS
from diptych.core.training.card import Card
from diptych.core.training.learner import Learner
from diptych.core.training.metrics import read_metrics
from diptych.core.training.recipe import Recipe
from diptych.core.training.run_folder import RunFolder
from diptych.engine.answering import Answerer
from diptych.engine.datasets.data_set import DataSet, Sources
from diptych.engine.training.held_out import what_warnings_ask
from diptych.engine.training.planned_stage import PlannedStage
from diptych.engine.training.results import PromptedResults
from diptych.engine.training.run_report import report
from diptych.engine.training.task import adapters_merged
from diptych.models import PaliGemma
from diptych.models.siglip.student import Student

BATCH = 16
SHARE_IN_TRAINING = 8
MOST_SHOWN, SHOWN_IN_TEXT = 48, 8
THUMBNAIL = 96


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """A question with its picture, uint8 [height, width, 3] as the model takes it, or its pictures with an axis of them
    in front, and its true answers.
    """

    picture: np.ndarray
    prompt: str
    answers: tuple[str, ...]


class AnswerLoss(keras.Model):
    """A model's inputs -> the mean loss of each answer's tokens, float32 `[n]`."""

    def __init__(self, model: PaliGemma, product: Product):
        super().__init__(name="answer_loss")
        self._model, self._product = model, product
        self.built = True

    def call(self, inputs):
        losses = self._model.token_losses(inputs, product=self._product)
        return captioning_loss(losses, ops.cast(inputs["suffix_mask"][:, 1:], "float32"))


class PromptedEvaluation:
    """Evaluates a stage's model on the questions that the data set holds out."""

    def __init__(
        self,
        recipe: Recipe,
        planned: PlannedStage,
        data_set: DataSet,
        sources: Sources,
        preprocess: PromptedExamples,
        student: Student,
    ):
        self._recipe, self._planned, self.preprocess = recipe, planned, preprocess
        self._data_set, self._sources, self._student = data_set, sources, student
        self._answerer = Answerer(student.towers, preprocess.processor)
        self._loss = AnswerLoss(student.towers, backends.product(recipe.model.precision))

    @adapters_merged
    def quick(self) -> dict[str, float]:
        """Loss and metrics of some questions of the first set: what is watched during training."""
        answers = self._answers(self._asked_in_training)
        scores = [score for score, _ in self._scores(self._asked_in_training, answers)]
        losses = np.concatenate([self._losses(batch) for batch in _batches(self._asked_in_training)])
        return {LOSS: float(losses.mean()), **{score["metric"]: score["value"] for score in scores}}

    @adapters_merged
    def finish(self, learner: Learner, folder: RunFolder, card: Card) -> PromptedResults:
        """Asks everything, prints a table and some answers, writes the report; returns the results."""
        rows, scored, shown = read_metrics(folder.metrics), dict[str, list[AnswerScore]](), None
        for name, source in self._sources.held_out.items():
            asked: list[HeldOut] = []
            answers: list[str] = []
            for some in _batches(self._questions(source, self._recipe.prompted.most_asked), size=8 * BATCH):
                answers += self._answers(some)
                asked += some if shown is None and len(asked) < MOST_SHOWN else [_without_picture(one) for one in some]
            found = self._scores(asked, answers)
            scored[name] = [score for score, _ in found]
            shown = shown or _shown(asked[:MOST_SHOWN], answers, found[0][1])
            for score in scored[name]:
                low, high = score["interval"]
                print(
                    f"{name}: {score['metric']} {score['value']:.4f} ({low:.4f} to {high:.4f}) of "
                    f"{score['questions']:,}",
                    flush=True,
                )
        listed = (
            [
                {"prompt": prompt, "truth": truth, "answer": answer}
                for prompt, truth, answer in zip(shown.prompts, shown.truths, shown.answers, strict=True)
            ]
            if shown
            else []
        )
        for one in listed[:SHOWN_IN_TEXT]:
            print(f"  {one['prompt']}: {one['answer'] or 'nothing'} (in truth {one['truth']})", flush=True)
        changed = changes(rows, {}, {})
        if told := gained(changed):
            print(told, flush=True)
        results: PromptedResults = {
            "answers": scored,
            "asked": listed,
            "compilations": learner.step.compilations,
            "before": before_training(rows),
            "warnings": training_warnings(rows, **what_warnings_ask(self._recipe, self._planned)),
        }
        if self._recipe.run.report:
            report(
                learner,
                folder,
                card,
                title=f"{self._planned.config.describes} on {self._data_set.name}",
                metrics=rows,
                answer_scores=scored,
                asked=shown,
                changes=changed,
            )
        return results

    @cached_property
    def _asked_in_training(self) -> list[HeldOut]:
        source = next(iter(self._sources.held_out.values()))
        found = list(self._questions(source, self._recipe.prompted.most_asked // SHARE_IN_TRAINING))
        if not found:
            raise ValueError(
                f"None of the {len(source):,} held-out questions of {self._data_set.name} can be used. Give others by "
                "--val-data, or a longer --context-length."
            )
        return found

    def _questions(self, source: Source, most: int) -> Iterator[HeldOut]:
        """So many questions of a source at most, two at least, from even places; bad ones are in its ledger."""

        def read(record: Record) -> HeldOut:
            answers = record.require_captions()
            prompt = self.preprocess.prompt_of(record, answers[0].language)
            told = tuple(answer.text.strip() for answer in answers)
            self._texts([prompt], told[:1])
            return HeldOut(picture=self.preprocess.image(record, source), prompt=prompt, answers=told)

        for _, question in visit(source, read, evenly(range(len(source)), max(2, most))):
            yield question

    def _texts(self, prompts: Sequence[str], answers: Sequence[str]) -> dict[str, np.ndarray]:
        return self.preprocess.processor.texts(prompts, answers, length=self.preprocess.context_length)

    def _answers(self, asked: Sequence[HeldOut]) -> list[str]:
        pictures, prompts = [_item(one) for one in asked], [one.prompt for one in asked]
        return self._answerer.answers(pictures, prompts, steps=self._recipe.prompted.answer_tokens, batch_size=BATCH)

    def _losses(self, asked: Sequence[HeldOut]) -> np.ndarray:
        filled = [*asked, *[asked[0]] * (BATCH - len(asked))]
        texts = self._texts([one.prompt for one in filled], [one.answers[0] for one in filled])
        pictures = self.preprocess.processor.images([_item(one) for one in filled])
        return keras.ops.convert_to_numpy(self._loss.predict_on_batch(texts | pictures))[: len(asked)]

    def _scores(self, asked: Sequence[HeldOut], answers: Sequence[str]) -> list[tuple[AnswerScore, np.ndarray]]:
        options, truths = self._recipe.prompted, [one.answers for one in asked]
        return [answer_score(metric, answers, truths, lower_case=options.lower_case) for metric in options.metric]


def _batches(asked, size: int = BATCH) -> Iterator[list[HeldOut]]:
    batch: list[HeldOut] = []
    for one in asked:
        batch.append(one)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _pictures(question: HeldOut) -> np.ndarray:
    """uint8 [pictures, height, width, 3]."""
    return question.picture if question.picture.ndim == 4 else question.picture[None]


def _item(question: HeldOut) -> np.ndarray | list[np.ndarray]:
    """As a processor takes it: one picture, or a list of several."""
    return list(question.picture) if question.picture.ndim == 4 else question.picture


def _without_picture(question: HeldOut) -> HeldOut:
    return HeldOut(picture=np.zeros((0, 0, 3), np.uint8), prompt=question.prompt, answers=question.answers)


def _shown(asked: Sequence[HeldOut], answers: Sequence[str], right: np.ndarray) -> Asked:
    pictures = np.stack([np.concatenate([*_pictures(one)], axis=1) for one in asked])  # side by side
    step = max(1, -(-max(pictures.shape[1:3]) // THUMBNAIL))
    return Asked(
        thumbnails=np.ascontiguousarray(pictures[:, ::step, ::step]),
        prompts=[one.prompt for one in asked],
        truths=[" | ".join(dict.fromkeys(one.answers)) for one in asked],
        answers=list(answers[: len(asked)]),
        right=right[: len(asked)].tolist(),
    )
