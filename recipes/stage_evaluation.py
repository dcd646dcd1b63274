"""Judges the towers in a stage and at its end: retrieval by language, boxes that the decoder finds, probes on patches."""

from pathlib import Path

import keras
import numpy as np

from diptych.core.data.emoji.scenes import SceneSource
from diptych.core.data.preprocess import Preprocess
from diptych.core.evaluation.box_gallery import Located
from diptych.core.evaluation.dense import depth_probe
from diptych.core.evaluation.dense_page import DensePictures, dense_page
from diptych.core.evaluation.localization import accuracy_at_iou
from diptych.core.evaluation.multilingual import MEAN, recall_by_language
from diptych.core.evaluation.neighbours import neighbours
from diptych.core.evaluation.pair_set import PairSet
from diptych.core.evaluation.patch_pictures import PatchPicture, principal_colours
from diptych.core.evaluation.retrieval import recall_at_k
from diptych.core.evaluation.segmentation_pictures import SegmentationPicture
from diptych.core.evaluation.segmentation_probe import SegmentationProbe, segmentation_probe
from diptych.core.evaluation.tables import results_text
from diptych.core.training.learner import Learner
from diptych.core.training.run_folder import RunFolder, write_json
from diptych.core.training.staged_recipe import StagedRecipe
from diptych.models.config import VisionConfig
from diptych.models.student import Student
from diptych.recipes.pairs import Pairs, evaluation_scenes
from diptych.recipes.picture_features import PictureFeatures, Writer
from diptych.recipes.scene_sets import CLASS_NAMES, Scenes, read_scenes
from diptych.recipes.stage_plan import PlannedStage

QUICK_LANGUAGE = "en"
IMAGE_BATCH, TEXT_BATCH = 250, 1_000
ASKED, PROBED = 300, 600  # phrases that the decoder is asked for; scenes that probes are fitted to
SHOWN = 12


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
        chosen = pairs.in_language(language)
        recalls, _ = recall_at_k(
            self._texts(pairs.tokens[chosen]), self._images(pairs), pairs.caption_labels[chosen], ks=(1, 5)
        )
        return {f"recall@{k}/{language}": recall for k, recall in recalls.items()}

    def finish(self, learner: Learner, folder: RunFolder, card: dict) -> dict:
        """Evaluates everything, prints a table, writes results.json and report.html; returns the results."""
        retrieval = {}
        for pairs in self._read():
            retrieval[pairs.name] = recall_by_language(
                self._images(pairs),
                self._texts(pairs.tokens),
                np.arange(len(pairs.images)),
                pairs.caption_labels,
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
        scenes = read_scenes(evaluation_scenes(), ASKED)
        dense, pictures = {}, {}
        if self._student.captioner is not None:
            dense["localization"], pictures["located"] = self.locate(scenes, self._writer())
        if not self._planned.stage.sequence_lengths:
            found, shown = self.probe(scenes)
            dense |= found
            pictures |= shown
        results["dense"] = dense
        page = dense_page(
            dense, DensePictures(**pictures), title=f"Stage {self._planned.stage.name}: boxes and patches"
        )
        (folder / "dense.html").write_text(page, encoding="utf-8")
        for kind, sets in dense.items():
            for name, numbers in sets.items():
                value = {
                    "localization": "accuracy",
                    "segmentation": "mean_iou",
                    "depth": "rmse",
                    "neighbours": "accuracy",
                }[kind]
                print(f"{kind}, {name}: {value} {numbers[value]:.3f}", flush=True)
        print(f"Boxes and patches: {(folder / 'dense.html').resolve().as_uri()}", flush=True)

    def locate(self, scenes: Scenes, writer: Writer) -> tuple[dict, list[Located]]:
        """Acc@0.5 of the boxes that the decoder writes for the things of scenes, and pictures of some."""
        phrases = scenes.phrases[:ASKED]
        boxes = writer(
            "find", scenes.pixels, [{"text": phrase.text} for phrase in phrases], [phrase.scene for phrase in phrases]
        )
        truth = np.array([phrase.box for phrase in phrases])
        groups = np.array([phrase.scene for phrase in phrases])
        located = [
            Located(picture=scenes.pixels[phrase.scene], phrase=phrase.text, true=phrase.box, predicted=box)
            for phrase, box in zip(phrases[:SHOWN], boxes, strict=False)
        ]
        return {"new scenes": accuracy_at_iou(boxes, truth, groups=groups)}, located

    def probe(self, scenes: Scenes) -> tuple[dict, dict]:
        """Linear probes on frozen patches, fitted to scenes of the training designers: classes of pixels, distances; and neighbours."""
        fitted = read_scenes(SceneSource(length=PROBED, seed=1, concepts=_concepts(self._pairs)), PROBED)
        known, pooled_known = self._features.patches(fitted.pixels)
        found, pooled = self._features.patches(scenes.pixels)
        labels, known_labels = np.stack(scenes.labels), np.stack(fitted.labels)
        segmentation = segmentation_probe(known, known_labels, found, labels, CLASS_NAMES)
        depth = depth_probe(known, np.stack(fitted.depths), found, np.stack(scenes.depths))
        kinds = neighbours(pooled_known, fitted.kinds, pooled, scenes.kinds, CLASS_NAMES[1:])
        drawn = SegmentationProbe.fit(known, known_labels, len(CLASS_NAMES)).predict(found[:SHOWN], *labels.shape[1:])
        pictures = {
            "patches": [
                PatchPicture(picture=picture, colours=colours)
                for picture, colours in zip(scenes.pixels, principal_colours(found[:SHOWN]), strict=False)
            ],
            "segmentation": [
                SegmentationPicture(picture=picture, truth=truth, predicted=guess)
                for picture, truth, guess in zip(scenes.pixels, labels, drawn, strict=False)
            ],
            "class_names": CLASS_NAMES,
        }
        results = {
            "segmentation": {"new scenes": segmentation},
            "depth": {"new scenes": depth},
            "neighbours": {"new scenes": kinds},
        }
        return results, pictures

    def _recall_by_length(self) -> dict[str, float]:
        """recall@1 of the first set at the sequence lengths that were trained, and between them."""
        trained = sorted(self._planned.naflex.lengths)
        between = [round((a + b) / 2) for a, b in zip(trained, trained[1:], strict=False)]
        found = {}
        for length in sorted({*trained, *between}):
            pairs = self._pairs.evaluation_sets(self._preprocess, sequence_length=length)[0]
            language = QUICK_LANGUAGE if QUICK_LANGUAGE in pairs.languages else pairs.languages[0]
            chosen = pairs.in_language(language)
            texts, images = self._texts(pairs.tokens[chosen]), self._images(pairs)
            found[str(length)] = recall_at_k(texts, images, pairs.caption_labels[chosen], ks=(1,))[0][1]
        return found

    def _writer(self) -> Writer:
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
            if pairs.patches is None:
                inputs = pairs.images[chosen] / np.float32(127.5) - 1
            else:
                inputs = {
                    "patches": pairs.patches[chosen] / np.float32(127.5) - 1,
                    "spatial_shapes": pairs.spatial_shapes[chosen],
                }
            parts.append(keras.ops.convert_to_numpy(self._image_embedder.predict_on_batch(inputs)))
        return np.concatenate(parts)

    def _texts(self, tokens: np.ndarray) -> np.ndarray:
        parts = [
            keras.ops.convert_to_numpy(self._text_embedder.predict_on_batch(tokens[i : i + TEXT_BATCH]))
            for i in range(0, len(tokens), TEXT_BATCH)
        ]
        return np.concatenate(parts)


def _concepts(pairs: Pairs) -> int | None:
    """How many concepts the training scenes show."""
    return pairs.train.concepts if isinstance(pairs.train, SceneSource) else None
