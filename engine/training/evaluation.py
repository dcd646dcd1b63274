"""The judge of a stage's towers: recall by language, zero-shot classes, boxes and probes on scenes."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from diptych.core.data.examples.captioning import CaptionTargets
from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.data.pixels import as_in_training
from diptych.core.evaluation.multilingual import MEAN, RecallByLanguage, recall_by_language
from diptych.core.evaluation.pair_set import Classes, PairSet
from diptych.core.evaluation.retrieval import first_relevant_ranks, relevant_by_label
from diptych.core.evaluation.zero_shot import ZeroShotResult, kind_scores, zero_shot
from diptych.core.losses.contrastive import sigmoid_loss
from diptych.core.report.dense_page import DensePictures, DenseResults
from diptych.core.report.run.contents import Samples
from diptych.core.report.tables import results_text
from diptych.core.report.verdict import before_training, changes, gained, warnings_of
from diptych.core.training.best import LOSS
from diptych.core.training.card import Card
from diptych.core.training.learner import Learner
from diptych.core.training.metrics import MetricsRow, read_metrics
from diptych.core.training.recipe import Recipe
from diptych.core.training.run_folder import RunFolder
from diptych.engine.datasets.data_set import DataSet, Sources
from diptych.engine.embedding.picture_features import PictureFeatures, Writer
from diptych.engine.judging.dense.probes import (
    SCENES,
    Patches,
    dense_lines,
    fitted_scenes,
    judged_scenes,
    locate_in_scenes,
    probe_scenes,
    write_dense_page,
)
from diptych.engine.training.before import Before
from diptych.engine.training.held_out import held_out_loss, what_warnings_ask
from diptych.engine.training.planned_stage import PlannedStage
from diptych.engine.training.results import PairResults
from diptych.engine.training.retention import Retention
from diptych.engine.training.run_report import report
from diptych.engine.training.task import adapters_merged
from diptych.engine.training.terms.contrastive import softmax_loss
from diptych.models import NaFlexVisionConfig, VisionConfig
from diptych.models.siglip.student import Student

QUICK_LANGUAGE = "en"
IMAGE_BATCH, TEXT_BATCH = 256, 1_024


class Evaluation:
    """Evaluates a stage's student on the pairs that the data set holds out; they are decoded when first needed."""

    def __init__(
        self,
        recipe: Recipe,
        planned: PlannedStage,
        data_set: DataSet,
        sources: Sources,
        preprocess: Preprocess,
        student: Student,
    ):
        self._recipe, self._planned, self.preprocess = recipe, planned, preprocess
        self._data_set, self._sources, self._student = data_set, sources, student
        self._image_embedder, self._text_embedder = student.towers.image_embedder(), student.towers.text_embedder()
        self._sets: list[PairSet] | None = None
        self.retention: Retention | None = None
        self.kept_before: Path | None = None
        self._locked_images: dict[str, np.ndarray] = {}

    @property
    def sets(self) -> list[PairSet]:
        """The held-out sets, the one of the headline first."""
        if self._sets is None:
            self._sets = self._read(self._planned.judged_length)
        return self._sets

    @adapters_merged
    def quick(self) -> dict[str, float]:
        """Recall in one language, zero-shot accuracy and loss on the first set: what is watched during training."""
        pairs = self.sets[0]
        language, images = _headline_language(pairs), self._images(pairs)
        chosen = pairs.in_language(language)
        texts, owners = self._texts(pairs.tokens[chosen]), pairs.caption_labels[chosen]
        recalls = _recalls(pairs, images, texts, owners, ks=(1, 5))
        numbers = {f"recall@{k}/{language}": recall for k, recall in recalls.items()}
        scalars = {"logit_scale": self._student.logit_scale, "logit_bias": self._student.logit_bias}
        pair_loss = softmax_loss if self._recipe.optimization.loss == "softmax" else sigmoid_loss
        size = self._planned.batch_size
        numbers[LOSS] = held_out_loss(images, texts, owners, partial(pair_loss, **scalars), batch_size=size)
        if pairs.classes:
            numbers["zero_shot_group"] = self._zero_shot(pairs.classes, images)["accuracy"]
        return numbers

    @adapters_merged
    def embed_first(self) -> tuple[np.ndarray, np.ndarray]:
        """The pictures and the captions of the first set, float32 [images, dim] and [texts, dim]."""
        return self._images(self.sets[0]), self._texts(self.sets[0].tokens)

    def judge_before(self, images: np.ndarray, texts: np.ndarray) -> None:
        """Keeps what is found and known before the first step, the first set being embedded already."""
        if self.kept_before is None:
            return
        retention = self.retention.judge() if self.retention else {}
        scale, bias = _scale_and_bias(self._student)
        before = Before(
            image_embeddings=images, text_embeddings=texts, logit_scale=scale, logit_bias=bias, retention=retention
        )
        before.save(self.kept_before)

    @property
    def before(self) -> Before | None:
        """What `judge_before` kept, in this process or an earlier one; None for runs that began with fresh weights."""
        return Before.load(self.kept_before) if self.kept_before else None

    def pair_scores(self, images: np.ndarray, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scale times cosine of the first set's pairs, and of its pictures with captions that are not theirs."""
        pairs = self.sets[0]
        scores = _scale_and_bias(self._student)[0] * images @ texts.T
        own = pairs.labels[:, None] == pairs.labels[pairs.caption_labels][None]
        return scores[own], scores[~own]

    @adapters_merged
    def finish(self, learner: Learner, folder: RunFolder, card: Card) -> PairResults:
        """Evaluates everything, prints a table, writes the pages; returns the results."""
        retrieval: dict[str, RecallByLanguage] = {}
        zero_shots: dict[str, ZeroShotResult] = {}
        samples: Samples | None = None
        rows = read_metrics(folder.metrics)
        for pairs in self.sets:
            images, texts = self._images(pairs), self._texts(pairs.tokens)
            retrieval[pairs.name] = recall_by_language(
                images, texts, pairs.labels, pairs.labels[pairs.caption_labels], pairs.languages, image_to_text=True
            )
            if len(set(pairs.languages)) == 1:
                retrieval[pairs.name].pop(MEAN)
            if pairs.classes:
                zero_shots[f"{pairs.classes.name}, {pairs.name.lower()}"] = self._zero_shot(pairs.classes, images)
            if samples is None:
                samples = self._samples(pairs, images, texts)
        results: PairResults = {
            "retrieval": retrieval,
            "zero_shot": zero_shots,
            "compilations": learner.step.compilations,
            "recall_by_length": self._recall_by_length(retrieval),
            "before": before_training(rows),
            "warnings": self._warnings(rows, retrieval),
        }
        print("\n" + results_text(retrieval, zero_shots), flush=True)
        retained = self.retention.judge() if self.retention else {}
        earlier = self.before
        before = earlier.retention if earlier else {}
        changed = changes(rows, before, retained)
        results["retention"] = {"before": before, "after": retained}
        if told := gained(changed):
            print(told, flush=True)
        judged, cut = sum(len(pairs.captions) for pairs in self.sets), sum(pairs.clipped for pairs in self.sets)
        if cut:
            length = self.preprocess.context_length
            print(f"{cut:,} of {judged:,} held-out captions are longer than {length} tokens and were cut", flush=True)
        if not self._recipe.run.report:
            return results
        if self._data_set.shows_scenes and isinstance(self._planned.vision, VisionConfig | NaFlexVisionConfig):
            results["dense"] = self._scenes(folder.path)
        report(
            learner,
            folder,
            card,
            title=self._title(),
            metrics=rows,
            retrieval=retrieval,
            zero_shot=zero_shots,
            samples=samples,
            opening_examples=self.preprocess.opening_examples or None,
            before=earlier.beside(samples) if earlier and samples else None,
            changes=changed,
            captions_judged=judged,
            captions_clipped=cut,
        )
        return results

    def _warnings(self, rows: list[MetricsRow], retrieval: dict[str, RecallByLanguage]) -> list[str]:
        """What is wrong with the stage, as the headline's captions show."""
        pairs = self.sets[0]
        language = _headline_language(pairs)
        labels = pairs.labels[pairs.caption_labels[pairs.in_language(language)]]
        right = [len(relevant) for relevant in relevant_by_label(labels, pairs.labels)]
        return warnings_of(
            rows,
            recall=retrieval[pairs.name][language]["recall@1"],
            chance=sum(right) / len(right) / len(pairs.labels),
            queries=len(right),
            **what_warnings_ask(self._recipe, self._planned),
        )

    def _title(self) -> str:
        loss = "CLIP" if self._recipe.optimization.loss == "softmax" else "SigLIP"
        stage = f", stage {self._planned.stage.name}" if len(self._recipe.stages) > 1 else ""
        return f"{loss} on {self._data_set.name}{stage}"

    def _read(self, sequence_length: int | None) -> list[PairSet]:
        return self._data_set.evaluation_sets(self._sources, self.preprocess, sequence_length=sequence_length)

    def _recall_by_length(self, retrieval: dict[str, RecallByLanguage]) -> dict[str, float | None]:
        """recall@1 of the first set by number of patches: for NaFlex at the lengths that were trained, and between
        them.
        """
        vision = self._planned.vision
        found: dict[str, float | None] = {}
        if not isinstance(vision, NaFlexVisionConfig):
            headline = next(iter(retrieval.values()))
            return {str(self._planned.lengths[0]): headline.get(QUICK_LANGUAGE, headline.get(MEAN, {})).get("recall@1")}
        trained = sorted(self._planned.stage.sequence_lengths)
        between = [round((a + b) / 2) for a, b in zip(trained, trained[1:], strict=False)]
        for length in sorted({*trained, *between}):
            pairs = self._read(length)[0]
            chosen = pairs.in_language(_headline_language(pairs))
            texts, owners = self._texts(pairs.tokens[chosen]), pairs.caption_labels[chosen]
            found[str(length)] = _recalls(pairs, self._images(pairs), texts, owners, ks=(1,))[1]
        return found

    def _zero_shot(self, classes: Classes, images: np.ndarray) -> ZeroShotResult:
        prompts = [self._texts(np.stack([self.preprocess.tokens(p) for p in some])) for some in classes.prompts]
        scale, _ = _scale_and_bias(self._student)
        return zero_shot(kind_scores(images, prompts, logit_scale=scale), classes.labels, classes.names)

    def _scenes(self, folder: Path) -> DenseResults:
        """Boxes and probes on scenes, with a page of them."""
        scenes = judged_scenes()
        results: DenseResults = {}
        pictures = DensePictures()
        lengths = self._planned.stage.sequence_lengths
        features = PictureFeatures(self._student.towers, sequence_length=self._planned.judged_length)
        if self._student.captioner is not None and isinstance(self.preprocess.targets, CaptionTargets):
            writer = Writer(features, self._student.captioner, self.preprocess.targets)
            boxes, located = locate_in_scenes(writer, scenes)
            results["localization"] = {SCENES: boxes}
            pictures = DensePictures(located=located)
        if not lengths:
            fitted = fitted_scenes()
            known, found = (Patches(*features.patches(pixels)) for pixels in (fitted.pixels, scenes.pixels))
            probed, shown = probe_scenes(known, fitted, found, scenes)
            results |= probed
            pictures = pictures.beside(shown)
        title = f"Stage {self._planned.stage.name}: boxes and patches"
        page = write_dense_page(folder / "dense.html", results, pictures, title=title)
        print("\n".join([*dense_lines(results), f"Boxes and patches: {page.resolve().as_uri()}"]), flush=True)
        return results

    def _images(self, pairs: PairSet) -> np.ndarray:
        """L2-normalised embeddings of a set's pictures, float32 [images, dim]; a locked tower makes them once."""
        if pairs.name in self._locked_images:
            return self._locked_images[pairs.name]
        inputs = (self._inputs(pairs, rows) for rows in _rows(pairs.images, IMAGE_BATCH))
        images = self._embedded(self._image_embedder, inputs)
        if "image" in self._planned.locked and not self._planned.naflex:  # whose sets are read at several lengths
            self._locked_images[pairs.name] = images
        return images

    def _texts(self, tokens: np.ndarray) -> np.ndarray:
        """L2-normalised embeddings of int32 [n, context_length], float32 [n, dim]."""
        return self._embedded(self._text_embedder, (tokens[rows] for rows in _rows(tokens, TEXT_BATCH)))

    def _embedded(self, embedder: keras.Model, batches: Iterable[Any]) -> np.ndarray:
        return np.concatenate([keras.ops.convert_to_numpy(embedder.predict_on_batch(batch)) for batch in batches])

    def _inputs(self, pairs: PairSet, rows: slice) -> Any:
        """The image tower's inputs: normalised pixels or patches."""
        normalization = self.preprocess.normalization
        if pairs.patches is None or pairs.spatial_shapes is None:
            return as_in_training(pairs.images[rows], normalization)
        patches = as_in_training(pairs.patches[rows], normalization)
        return {"patches": patches, "spatial_shapes": pairs.spatial_shapes[rows]}

    def _samples(self, pairs: PairSet, images: np.ndarray, texts: np.ndarray) -> Samples:
        scale, bias = _scale_and_bias(self._student)
        return Samples(
            image_embeddings=images,
            text_embeddings=texts,
            image_labels=pairs.labels,
            text_labels=pairs.labels[pairs.caption_labels],
            captions=pairs.captions,
            languages=pairs.languages,
            thumbnails=pairs.images,
            logit_scale=scale,
            logit_bias=bias,
            batch_size=self._recipe.optimization.batch_size,
            name=pairs.name,
        )


def _scale_and_bias(student: Student) -> tuple[float, float | None]:
    """The scalars of the loss; a softmax model has no bias."""
    bias = student.logit_bias
    scale = float(keras.ops.convert_to_numpy(student.logit_scale))
    return scale, None if bias is None else float(keras.ops.convert_to_numpy(bias))


def _recalls(
    pairs: PairSet, images: np.ndarray, texts: np.ndarray, owners: np.ndarray, ks: tuple[int, ...]
) -> dict[int, float]:
    """Text to image."""
    ranks = first_relevant_ranks(texts, images, relevant_by_label(pairs.labels[owners], pairs.labels))
    return {k: float((ranks <= k).mean()) for k in ks}


def _headline_language(pairs: PairSet) -> str:
    return QUICK_LANGUAGE if QUICK_LANGUAGE in pairs.languages else pairs.languages[0]


def _rows(array: np.ndarray, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, len(array), size)]
