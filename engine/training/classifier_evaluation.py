"""The judge of a classifier, in training and at its end, on the labelled pictures that the data set holds out."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from diptych.core.data.examples.class_targets import ClassTargets
from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.data.pixels import minus_one_to_one
from diptych.core.data.sources.labels import ClassNames
from diptych.core.evaluation.classification import ClassificationResult, classification
from diptych.core.evaluation.labelled_set import LabelledSet, read_labelled
from diptych.core.evaluation.prompts import prompted_scores
from diptych.core.evaluation.several_labels import SeveralLabelsResult, several_labels
from diptych.core.losses.classification import sigmoid_cross_entropy, softmax_cross_entropy
from diptych.core.report.run.contents import WrongAnswers
from diptych.core.report.tables import classified_text
from diptych.core.report.verdict import before_training, changes, gained, no_better_than_chance, training_warnings
from diptych.core.training.best import LOSS
from diptych.core.training.card import Card
from diptych.core.training.learner import Learner
from diptych.core.training.metrics import MetricsRow, read_metrics
from diptych.core.training.recipe import Recipe
from diptych.core.training.run_folder import RunFolder
from diptych.engine.datasets.data_set import Sources
from diptych.engine.datasets.labelled import LabelledDataSet
from diptych.engine.embedding.encoder import Encoder
from diptych.engine.training.held_out import what_warnings_ask
from diptych.engine.training.planned_stage import PlannedStage
from diptych.engine.training.results import ClassifierResults
from diptych.engine.training.run_report import report
from diptych.engine.training.task import adapters_merged
from diptych.engine.training.zero_shot_before import FILE, ZeroShotBefore
from diptych.models import ImageClassifier, VisionConfig
from diptych.models.checked import CheckedModel
from diptych.models.classifier.model import probabilities
from diptych.models.siglip.student import Student

BATCH = 256
MOST_WRONG = 24


class ClassifierEvaluation:
    """Evaluates a stage's classifier on held-out pictures; they are decoded when first needed."""

    def __init__(
        self,
        recipe: Recipe,
        planned: PlannedStage,
        data_set: LabelledDataSet,
        sources: Sources,
        preprocess: Preprocess,
        student: Student,
        *,
        beginning: Path,
    ):
        self._recipe, self._planned, self.preprocess = recipe, planned, preprocess
        self._data_set, self._sources, self._student = data_set, sources, student
        self._model: ImageClassifier = student.towers
        self._sets: list[LabelledSet] | None = None
        self._pooled: dict[str, np.ndarray] = {}
        self._kept_before = beginning / FILE

    @property
    def sets(self) -> list[LabelledSet]:
        """The held-out sets, the one of the headline first."""
        if self._sets is None:
            self._sets = self._read(self.preprocess)
        return self._sets

    def judge_before(self, encoder: Encoder | str) -> None:
        """Keeps and tells what the names of the classes find in each set by the checkpoint that the run begins from.

        Args:
            encoder: that checkpoint; or, in words, why it cannot read names.
        """
        if isinstance(encoder, str):
            before = ZeroShotBefore(none_because=encoder)
        else:
            before = ZeroShotBefore(found=self._found_by_words(encoder))
        before.save(self._kept_before)
        print(before, flush=True)

    @adapters_merged
    def quick(self) -> dict[str, float]:
        """Accuracy, or mean average precision, and loss on each set: what is watched during training."""
        numbers: dict[str, float] = {}
        for place, pictures in enumerate(self.sets):
            logits = self._logits(pictures)
            if self._model.config.several_labels:
                name = "mean_average_precision"
                value = several_labels(logits, pictures.targets, self._model.config.classes)["mean_average_precision"]
            else:
                name, value = "accuracy", expected_accuracy(logits, pictures.targets)
            numbers[name if not place else f"{name}/{pictures.name.lower()}"] = value or 0.0
            if not place:
                numbers[LOSS] = self._loss(logits, pictures.targets)
        return numbers

    @adapters_merged
    def finish(self, learner: Learner, folder: RunFolder, card: Card) -> ClassifierResults:
        """Evaluates everything, prints a table, writes the report; returns the results."""
        config, rows = self._model.config, read_metrics(folder.metrics)
        scored: dict[str, ClassificationResult | SeveralLabelsResult] = {}
        wrong: WrongAnswers | None = None
        for pictures in self.sets:
            logits = self._logits(pictures)
            scored[pictures.name] = self._scored(logits, pictures)
            if config.several_labels:
                continue
            if wrong is None:
                wrong = wrong_answers(pictures, probabilities(config, logits), config.classes)
        before = ZeroShotBefore.load(self._kept_before)
        results: ClassifierResults = {
            "classification": scored,
            "zero_shot_before": before.found,
            "compilations": learner.step.compilations,
            "before": before_training(rows),
            "warnings": self._warnings(rows, scored),
        }
        print("\n" + classified_text(scored, before.found), flush=True)
        if not before.found:
            print(before, flush=True)
        for pictures in self.sets:
            judged = len(pictures.keys)
            if judged + sum(pictures.skipped.values()) < pictures.records:
                print(f"{pictures.name}: {judged:,} of {pictures.records:,} were judged, evenly chosen.", flush=True)
        if told := gained(changed := changes(rows, {}, {})):
            print(told, flush=True)
        if not self._recipe.run.report:
            return results
        report(
            learner,
            folder,
            card,
            title=f"{'Labels' if config.several_labels else 'Classes'} of {self._data_set.name}",
            metrics=rows,
            classified=scored,
            zero_shot=before.found,
            wrong=wrong,
            changes=changed,
        )
        return results

    def _warnings(
        self, rows: list[MetricsRow], scored: dict[str, ClassificationResult | SeveralLabelsResult]
    ) -> list[str]:
        first = next(iter(scored.values()))
        found = training_warnings(rows, **what_warnings_ask(self._recipe, self._planned))
        if "accuracy" not in first:
            return found
        what = "The right class comes first for"
        chance = 1 / len(self._model.config.classes)
        worse = no_better_than_chance(
            what, first["accuracy"], chance=chance, count=first["images"], of="held-out pictures"
        )
        return [*found, *worse]

    def _read(self, preprocess: Preprocess) -> list[LabelledSet]:
        config = self._model.config
        targets = ClassTargets(classes=ClassNames(config.classes), several=config.several_labels)
        return [
            read_labelled(
                source,
                preprocess,
                targets,
                name=name,
                most_records=self._data_set.most_evaluated,
                sequence_length=self._planned.judged_length,
            )
            for name, source in self._sources.held_out.items()
        ]

    def _found_by_words(self, encoder: Encoder) -> dict[str, ClassificationResult | SeveralLabelsResult]:
        """What prompts of the classes find in each set, whose pictures have the size that the encoder takes."""
        vision, names = encoder.model.config.vision, self._model.config.classes
        prompts, sets = self._data_set.prompts, self.sets
        if isinstance(vision, VisionConfig) and vision.image_size != self.preprocess.image_size:
            sets = self._read(replace(self.preprocess, image_size=vision.image_size))
        found = {}
        for pictures in sets:
            images = encoder.embed_inputs(self._inputs(pictures, rows) for rows in _rows(pictures))
            scores = prompted_scores(
                images,
                [name.replace("_", " ") for name in names],
                encoder.embed_texts,
                logit_scale=encoder.logit_scale,
                canonicalize=encoder.logit_bias is not None,
                kinds=[prompts[name] for name in names] if set(names) <= set(prompts) else None,
            )
            found[pictures.name] = self._scored(scores + (encoder.logit_bias or 0.0), pictures)
        return found

    def _scored(self, logits: np.ndarray, pictures: LabelledSet) -> ClassificationResult | SeveralLabelsResult:
        config = self._model.config
        if config.several_labels:
            return several_labels(logits, pictures.targets, config.classes)
        return classification(logits, pictures.targets, config.classes, logit_bias=None)

    def _logits(self, pictures: LabelledSet) -> np.ndarray:
        """float32 [images, classes]; a tower that stays as it is sees the pictures once."""
        if "image" not in self._planned.locked:
            return self._through(self._model, pictures)
        if pictures.name not in self._pooled:
            tower = self._model.image_encoder
            pooled = CheckedModel({x.name: x for x in tower.inputs}, tower.output["pooled"])
            self._pooled[pictures.name] = self._through(pooled, pictures)
        kernel, bias = (keras.ops.convert_to_numpy(weight.value) for weight in self._model.head.weights)
        return self._pooled[pictures.name] @ kernel + bias

    def _through(self, model: keras.Model, pictures: LabelledSet) -> np.ndarray:
        batches = (self._inputs(pictures, rows) for rows in _rows(pictures))
        outputs = [keras.ops.convert_to_numpy(model.predict_on_batch(batch)) for batch in batches]
        return np.concatenate(outputs).astype(np.float32)

    def _inputs(self, pictures: LabelledSet, rows: slice) -> dict[str, np.ndarray]:
        if pictures.patches is None or pictures.spatial_shapes is None:
            return {"images": minus_one_to_one(pictures.images[rows])}
        return {"patches": minus_one_to_one(pictures.patches[rows]), "spatial_shapes": pictures.spatial_shapes[rows]}

    def _loss(self, logits: np.ndarray, targets: np.ndarray) -> float:
        loss = sigmoid_cross_entropy if self._model.config.several_labels else softmax_cross_entropy
        given = targets if self._model.config.several_labels else targets.astype(np.int32)
        return float(np.mean(keras.ops.convert_to_numpy(loss(keras.ops.convert_to_tensor(logits), given))))


def _rows(pictures: LabelledSet) -> list[slice]:
    return [slice(start, start + BATCH) for start in range(0, len(pictures.keys), BATCH)]


def expected_accuracy(logits: np.ndarray, targets: np.ndarray) -> float:
    """Accuracy where equal first places are drawn by lot, so that a head that knows nothing scores like guessing."""
    best = logits == logits.max(axis=1, keepdims=True)
    return float(np.mean(best[np.arange(len(targets)), targets] / best.sum(axis=1)))


def wrong_answers(pictures: LabelledSet, shares: np.ndarray, names: tuple[str, ...]) -> WrongAnswers:
    """The wrong answers of which the model is surest.

    Args:
        pictures: with one label each.
        shares: probabilities [images, classes].
        names: of the classes.
    """
    answers = shares.argmax(axis=1)
    wrong = np.flatnonzero(answers != pictures.targets)
    chosen = wrong[np.argsort(-shares[wrong, answers[wrong]], kind="stable")][:MOST_WRONG]
    return WrongAnswers(
        thumbnails=pictures.images[chosen],
        keys=[pictures.keys[place] for place in chosen],
        truths=[names[pictures.targets[place]] for place in chosen],
        answers=[names[answers[place]] for place in chosen],
        probabilities=[float(shares[place, answers[place]]) for place in chosen],
        of_truths=[float(shares[place, pictures.targets[place]]) for place in chosen],
        count=len(wrong),
    )
