"""Judges a model in training and at its end: recall by language, zero-shot groups, the table, results.json and report.html."""

from contextlib import nullcontext

import keras
import numpy as np

from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.evaluation.multilingual import MEAN, recall_by_language
from diptych.core.evaluation.pair_set import Classes, PairSet
from diptych.core.evaluation.retrieval import recall_at_k
from diptych.core.evaluation.zero_shot import kind_scores, zero_shot
from diptych.core.report.run import write_report
from diptych.core.report.run.contents import ReportData, Samples
from diptych.core.report.tables import results_text
from diptych.core.training.learner import Learner
from diptych.core.training.metrics import read_metrics
from diptych.core.training.recipe import Recipe
from diptych.core.training.run_folder import RunFolder, write_json
from diptych.engine.datasets import Pairs

EMBEDDING_BATCH = 256
QUICK_LANGUAGE = "en"


class Evaluation:
    """Evaluates `model` on the pairs that a recipe holds out; the pairs are decoded when first needed."""

    def __init__(self, pairs: Pairs, preprocess: Preprocess, model, recipe: Recipe):
        self._pairs, self._preprocess, self._recipe = pairs, preprocess, recipe
        self._model = model
        self._image_embedder, self._text_embedder = model.image_embedder(), model.text_embedder()
        self._sets: list[PairSet] | None = None

    @property
    def sets(self) -> list[PairSet]:
        """The held-out sets, the one of the headline first."""
        if self._sets is None:
            self._sets = self._pairs.evaluation_sets(self._preprocess)
        return self._sets

    def quick(self, examples: int) -> dict[str, float]:
        """Recall in one language and zero-shot accuracy on the first set: what is watched during training."""
        pairs = self.sets[0]
        language = QUICK_LANGUAGE if QUICK_LANGUAGE in pairs.languages else pairs.languages[0]
        chosen = pairs.in_language(language)
        images = self.embed_images(pairs.images)
        texts = self.embed_texts(pairs.tokens[chosen])
        recalls, _ = recall_at_k(texts, images, pairs.caption_labels[chosen], ks=(1, 5))
        numbers = {f"recall@{k}/{language}": recall for k, recall in recalls.items()}
        if pairs.classes:
            numbers["zero_shot_group"] = self._zero_shot(pairs.classes, images)["accuracy"]
        return numbers

    def finish(self, learner: Learner, folder: RunFolder, card: dict) -> None:
        """Evaluates everything, prints the table, writes results.json and the report."""
        with learner.ema.applied() if learner.ema else nullcontext():
            self._finish(learner, folder, card)

    def embed_images(self, images: np.ndarray) -> np.ndarray:
        """uint8 [n, size, size, 3] -> float32 [n, dim], L2-normalised."""
        batches = (
            images[i : i + EMBEDDING_BATCH] / np.float32(127.5) - 1 for i in range(0, len(images), EMBEDDING_BATCH)
        )
        return self._embed(self._image_embedder, batches)

    def embed_texts(self, tokens: np.ndarray) -> np.ndarray:
        """int32 [n, context_length] -> float32 [n, dim], L2-normalised."""
        size = 4 * EMBEDDING_BATCH
        return self._embed(self._text_embedder, (tokens[i : i + size] for i in range(0, len(tokens), size)))

    def _embed(self, embedder: keras.Model, batches) -> np.ndarray:
        return np.concatenate([keras.ops.convert_to_numpy(embedder.predict_on_batch(batch)) for batch in batches])

    def _zero_shot(self, classes: Classes, images: np.ndarray) -> dict:
        prompts = [self.embed_texts(np.stack([self._preprocess.tokens(p) for p in some])) for some in classes.prompts]
        scale = float(keras.ops.convert_to_numpy(self._model.logit_scale))
        return zero_shot(kind_scores(images, prompts, logit_scale=scale), classes.labels, classes.names)

    def _finish(self, learner: Learner, folder: RunFolder, card: dict) -> None:
        retrieval, zero_shots, samples = {}, {}, None
        for pairs in self.sets:
            images, texts = self.embed_images(pairs.images), self.embed_texts(pairs.tokens)
            labels = np.arange(len(images))
            retrieval[pairs.name] = recall_by_language(
                images, texts, labels, pairs.caption_labels, pairs.languages, image_to_text=True
            )
            if len(set(pairs.languages)) == 1:
                retrieval[pairs.name].pop(MEAN)
            if pairs.classes:
                zero_shots[f"{pairs.classes.name}, {pairs.name.lower()}"] = self._zero_shot(pairs.classes, images)
            if samples is None and self._model.logit_bias is not None:
                # A softmax model has no probability of a pair, which galleries and scores show.
                samples = self._samples(pairs, images, texts)
        print("\n" + results_text(retrieval, zero_shots), flush=True)
        results = {
            "examples_seen": learner.steps_done * learner.batch_size,
            "retrieval": retrieval,
            "zero_shot": zero_shots,
        }
        write_json(folder.results, results)
        if not self._recipe.run.report:
            return
        data = ReportData(
            title=f"{'SigLIP' if self._recipe.optimization.loss == 'sigmoid' else 'CLIP'} on {self._pairs.name}",
            card=card | {"examples_seen": results["examples_seen"], "wall_seconds": learner.seconds},
            metrics=read_metrics(folder.metrics),
            retrieval=retrieval,
            zero_shot=zero_shots,
            samples=samples,
            skipped=learner.skipped_examples,
            examples_read=learner.examples_read,
            captions_judged=sum(len(pairs.captions) for pairs in self.sets),
            captions_clipped=sum(pairs.clipped for pairs in self.sets),
        )
        data.save(folder.path / "report_data.npz")
        print(f"Report: {write_report(folder.report, data).resolve().as_uri()}", flush=True)

    def _samples(self, pairs: PairSet, images: np.ndarray, texts: np.ndarray) -> Samples:
        model = self._model
        return Samples(
            image_embeddings=images,
            text_embeddings=texts,
            image_labels=np.arange(len(images)),
            text_labels=pairs.caption_labels,
            captions=pairs.captions,
            languages=pairs.languages,
            thumbnails=pairs.images,
            logit_scale=float(keras.ops.convert_to_numpy(model.logit_scale)),
            logit_bias=float(keras.ops.convert_to_numpy(model.logit_bias)),
            batch_size=self._recipe.optimization.batch_size,
            name=pairs.name,
        )
