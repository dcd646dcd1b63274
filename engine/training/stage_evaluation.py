"""Judges the towers in a stage and at its end: retrieval by language, boxes that the decoder finds, probes on patches."""

from pathlib import Path
from typing import Any

import keras
import numpy as np

from diptych.core.data.emoji.scenes import SEPARATOR, SceneSource
from diptych.core.data.examples.captioning import CaptionTargets
from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.evaluation.multilingual import MEAN, recall_by_language
from diptych.core.evaluation.pair_set import PairSet
from diptych.core.evaluation.retrieval import first_relevant_ranks, relevant_by_label
from diptych.core.report.tables import results_text
from diptych.core.training.learner import Learner
from diptych.core.training.run_folder import RunFolder, write_json
from diptych.core.training.staged_recipe import StagedRecipe
from diptych.engine.datasets import Pairs
from diptych.engine.embedding.picture_features import PictureFeatures, Writer
from diptych.engine.judging.dense.probes import (
    Patches,
    dense_lines,
    fitted_scenes,
    judged_scenes,
    locate_in_scenes,
    probe_scenes,
    write_dense_page,
)
from diptych.engine.training.stage_plan import PlannedStage
from diptych.models.siglip.config import VisionConfig
from diptych.models.siglip.student import Student

QUICK_LANGUAGE = "en"
IMAGE_BATCH, TEXT_BATCH = 250, 1_000


class StageEvaluation:
    """Evaluates a stage's student on the pairs that the recipe holds out, and on scenes of which everything is known."""

    def __init__(
        self, recipe: StagedRecipe, planned: PlannedStage, preprocess: Preprocess, pairs: Pairs, student: Student
    ):
        self._recipe, self._planned, self._preprocess, self._pairs = recipe, planned, preprocess, pairs
        self._student = student
        length = max(planned.stage.sequence_lengths, default=None)
        self._features = PictureFeatures(student.towers, sequence_length=length)
        self._image_embedder, self._text_embedder = student.towers.image_embedder(), student.towers.text_embedder()
        self._sets: list[PairSet] | None = None

    def quick(self, examples: int) -> dict[str, float]:
        """Recall in one language on the first set: what is watched during training."""
        pairs = self._read()[0]
        language = QUICK_LANGUAGE if QUICK_LANGUAGE in pairs.languages else pairs.languages[0]
        return {f"recall@{k}/{language}": recall for k, recall in self._recalls(pairs, language, ks=(1, 5)).items()}

    def finish(self, learner: Learner, folder: RunFolder) -> dict:
        """Evaluates everything, prints a table, writes results.json and report.html; returns the results."""
        retrieval = {}
        for pairs in self._read():
            retrieval[pairs.name] = recall_by_language(
                self._images(pairs),
                self._texts(pairs.tokens),
                labels := alike(pairs),
                labels[pairs.caption_labels],
                pairs.languages,
                image_to_text=True,
            )
            if len(set(pairs.languages)) == 1:
                retrieval[pairs.name].pop(MEAN)
        results = {
            "stage": self._planned.stage.name,
            "examples_seen": self._planned.examples_before + self._planned.examples,
            "retrieval": retrieval,
            "compilations": learner.step.compilations,
        }
        if self._planned.naflex:
            results["recall_by_length"] = self._recall_by_length()
        elif isinstance(self._planned.vision, VisionConfig):
            patches = str(self._planned.vision.num_patches)
            headline = next(iter(retrieval.values()))
            results["recall_by_length"] = {
                patches: headline.get(QUICK_LANGUAGE, headline.get(MEAN, {})).get("recall@1")
            }
        print("\n" + results_text(retrieval, {}), flush=True)
        scenes = any(isinstance(source, SceneSource) for source in self._pairs.held_out.values())
        if scenes and self._recipe.run.report:
            self._scenes(results, folder.path)
        write_json(folder.results, results)
        return results

    def _scenes(self, results: dict, folder: Path) -> None:
        """Boxes and probes on scenes; adds to the results and writes the page."""
        scenes = judged_scenes()
        results["dense"], pictures = {}, {}
        if self._student.captioner is not None:
            boxes, pictures["located"] = locate_in_scenes(self._writer(), scenes)
            results["dense"] |= boxes
        if not self._planned.stage.sequence_lengths:
            fitted = fitted_scenes()
            known, found = (Patches(*self._features.patches(pixels)) for pixels in (fitted.pixels, scenes.pixels))
            probed, shown = probe_scenes(known, fitted, found, scenes)
            results["dense"] |= probed
            pictures |= shown
        title = f"Stage {self._planned.stage.name}: boxes and patches"
        page = write_dense_page(folder / "dense.html", results["dense"], pictures, title=title)
        print("\n".join([*dense_lines(results["dense"]), f"Boxes and patches: {page.resolve().as_uri()}"]), flush=True)

    def _recall_by_length(self) -> dict[str, float]:
        """recall@1 of the first set at the sequence lengths that were trained, and between them."""
        trained = sorted(self._planned.stage.sequence_lengths)
        between = [round((a + b) / 2) for a, b in zip(trained, trained[1:], strict=False)]
        found = {}
        for length in sorted({*trained, *between}):
            pairs = self._pairs.evaluation_sets(self._preprocess, sequence_length=length)[0]
            language = QUICK_LANGUAGE if QUICK_LANGUAGE in pairs.languages else pairs.languages[0]
            found[str(length)] = self._recalls(pairs, language, ks=(1,))[1]
        return found

    def _recalls(self, pairs: PairSet, language: str, ks: tuple[int, ...]) -> dict[int, float]:
        """Text to image, from the captions of one language."""
        chosen, labels = pairs.in_language(language), alike(pairs)
        relevant = relevant_by_label(labels[pairs.caption_labels[chosen]], labels)
        texts, images = self._texts(pairs.tokens[chosen]), self._images(pairs)
        ranks = first_relevant_ranks(texts, images, relevant)
        return {k: float((ranks <= k).mean()) for k in ks}

    def _writer(self) -> Writer:
        assert isinstance(self._preprocess.targets, CaptionTargets)
        return Writer(self._features, self._student.captioner, self._preprocess.targets)

    def _read(self) -> list[PairSet]:
        if self._sets is None:
            length = max(self._planned.stage.sequence_lengths, default=None)
            self._sets = self._pairs.evaluation_sets(self._preprocess, sequence_length=length)
        return self._sets

    def _images(self, pairs: PairSet) -> np.ndarray:
        """L2-normalised embeddings of a set's pictures."""
        parts = []
        for start in range(0, len(pairs.images), IMAGE_BATCH):
            chosen = slice(start, start + IMAGE_BATCH)
            inputs: Any = pairs.images[chosen] / np.float32(127.5) - 1
            if pairs.patches is not None and pairs.spatial_shapes is not None:
                patches = pairs.patches[chosen] / np.float32(127.5) - 1
                inputs = {"patches": patches, "spatial_shapes": pairs.spatial_shapes[chosen]}
            parts.append(keras.ops.convert_to_numpy(self._image_embedder.predict_on_batch(inputs)))
        return np.concatenate(parts)

    def _texts(self, tokens: np.ndarray) -> np.ndarray:
        parts = [
            keras.ops.convert_to_numpy(self._text_embedder.predict_on_batch(tokens[i : i + TEXT_BATCH]))
            for i in range(0, len(tokens), TEXT_BATCH)
        ]
        return np.concatenate(parts)


def alike(pairs: PairSet) -> np.ndarray:
    """A label for each picture, int64; pictures that a language describes by the same words in any order have one label.

    Among some hundred scenes of a few dozen things several show the same ones, and any of those is right.
    """
    words = {
        int(pairs.caption_labels[place]): tuple(sorted(pairs.captions[place].split(SEPARATOR)))
        for place in pairs.in_language(pairs.languages[0])
    }
    known: dict[object, int] = {}
    return np.array([known.setdefault(words.get(place, place), len(known)) for place in range(len(pairs.images))])
