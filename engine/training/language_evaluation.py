"""The judge of a language model, in training and at its end: bits a byte of texts that it has not seen."""

from collections.abc import Iterator

import keras
import numpy as np

from diptych import backends
from diptych.core.data.texts.token_store import TokenStore
from diptych.core.data.texts.windows import WindowExamples
from diptych.core.data.tokenizers.gpt_bpe import GptTokenizer
from diptych.core.evaluation.language import LanguageResult, language_result, language_text, unknown_warnings
from diptych.core.evaluation.text_baselines import MOST_BYTES, compressed_bits, ngram_bits, unigram_bits
from diptych.core.losses.language import next_token_losses
from diptych.core.losses.products import Product, capped_product
from diptych.core.report.verdict import before_training, changes, gained, training_warnings
from diptych.core.training.best import LOSS
from diptych.core.training.card import Card
from diptych.core.training.learner import Learner
from diptych.core.training.metrics import read_metrics
from diptych.core.training.recipe import Recipe
from diptych.core.training.run_folder import RunFolder
from diptych.engine.datasets.data_set import Sources
from diptych.engine.datasets.texts import TextDataSet
from diptych.engine.training.held_out import what_warnings_ask
from diptych.engine.training.planned_stage import PlannedStage
from diptych.engine.training.results import LanguageResults
from diptych.engine.training.run_report import report
from diptych.engine.training.task import adapters_merged
from diptych.models.siglip.student import Student

MOST_QUICK, MOST_JUDGED = 1 << 14, 1 << 21
"""Tokens of the first set that are read in training, and of each set at the end."""
TOKENS_AT_ONCE = 1 << 12
PROMPT_TOKENS, PROMPTS = 12, 3
"""Of a sample where none is given, from the held-out documents, and how many there are."""
TEMPERATURE, TOP_K = 0.8, 40


class Surprise(keras.Model):
    """Token ids int32 `[texts, length]` -> -log p of all but the first, float32 `[texts, length - 1]`."""

    def __init__(self, predictor, product: Product):
        super().__init__(name="surprise")
        self._predictor, self._product = predictor, product
        self.built = True

    def call(self, token_ids):
        features, kernel, cap = self._predictor.predicting({"token_ids": token_ids})
        product = self._product if cap is None else capped_product(self._product, cap)
        return next_token_losses(features, kernel, token_ids, tokens_per_chunk=None, product=product)


class LanguageEvaluation:
    """Evaluates a stage's language model on the texts that the data set holds out.

    Each document is read in windows of the length that is trained on, which have one token in common, so that each
    token but a document's first is predicted once.
    """

    def __init__(
        self,
        recipe: Recipe,
        planned: PlannedStage,
        data_set: TextDataSet,
        sources: Sources,
        preprocess: WindowExamples,
        student: Student,
    ):
        if data_set.words is None or data_set.learned is None:
            raise ValueError(f"{data_set.name} are no texts that a language model can be judged on.")
        self._recipe, self._planned, self.preprocess = recipe, planned, preprocess
        self._data_set, self._student = data_set, student
        self._words: GptTokenizer = data_set.words
        self._learned: TokenStore = data_set.learned
        self._surprise = Surprise(student.towers, backends.product(recipe.model.precision))

    @adapters_merged
    def quick(self) -> dict[str, float]:
        """Loss and bits a byte on the first tokens of the first set: what is watched during training."""
        found = self._read(next(iter(self._data_set.judged.values())), MOST_QUICK)
        return {LOSS: found["loss"], "bits_per_byte": found["bits_per_byte"]}

    @adapters_merged
    def finish(self, learner: Learner, folder: RunFolder, card: Card) -> LanguageResults:
        """Evaluates everything, prints a table and samples, writes the report; returns the results."""
        rows, scored = read_metrics(folder.metrics), dict[str, LanguageResult]()
        for name, store in self._data_set.judged.items():
            result = self._read(store, MOST_JUDGED)
            scored[name] = {**result, "baselines": self._baselines(store)}
            if len(store) > MOST_JUDGED:
                print(f"{name}: the first {MOST_JUDGED:,} of {len(store):,} tokens are judged", flush=True)
        print(language_text(scored), flush=True)
        samples = self._samples()
        for prompt, text in samples:
            print(f"Sample: {prompt} ... {text}", flush=True)
        changed = changes(rows, {}, {})
        if told := gained(changed):
            print(told, flush=True)
        results: LanguageResults = {
            "language": scored,
            "samples": samples,
            "compilations": learner.step.compilations,
            "before": before_training(rows),
            "warnings": [
                *training_warnings(rows, **what_warnings_ask(self._recipe, self._planned)),
                *unknown_warnings(scored),
            ],
        }
        if self._recipe.run.report:
            report(
                learner,
                folder,
                card,
                title=f"{self._planned.config.describes} on {self._data_set.name}",
                metrics=rows,
                language=scored,
                written=samples,
                changes=changed,
            )
        return results

    def _read(self, store: TokenStore, most: int) -> LanguageResult:
        """The result of the first `most` tokens of a store."""
        nats, tokens, documents, size, unknown = 0.0, 0, 0, 0, 0
        texts = list(_first(store, most))
        for windows, counted in self._batches([ids for _, ids in texts]):
            losses = keras.ops.convert_to_numpy(self._surprise.predict_on_batch(windows)).astype(np.float64)
            nats += float(losses[counted].sum())
            tokens += int(counted.sum())
        for _, ids in texts:
            documents += 1
            size += len(self._words.text(ids).encode())
            unknown += int((ids == self._words.unknown_id).sum())
        return language_result(
            nats,
            tokens=tokens,
            documents=documents,
            bytes=size,
            unknown=unknown,
            vocab_size=self._planned.config.vocab_size,
        )

    def _batches(self, texts: list[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Windows int32 [rows, length], and which of the predictions of each count, bool [rows, length - 1]."""
        length = self.preprocess.context_length
        rows = max(1, TOKENS_AT_ONCE // length)
        starts = [(text, at) for text in texts for at in range(0, max(1, len(text) - 1), length - 1)]
        for begin in range(0, len(starts), rows):
            windows = np.zeros((rows, length), np.int32)
            counted = np.zeros((rows, length - 1), bool)
            for row, (text, at) in enumerate(starts[begin : begin + rows]):
                part = text[at : at + length]
                windows[row, : len(part)] = part
                counted[row, : len(part) - 1] = True
            yield windows, counted

    def _baselines(self, store: TokenStore) -> dict[str, float]:
        """Bits a byte of what needs no model."""
        texts = [ids for _, ids in _first(store, MOST_JUDGED)]
        spelled = [self._words.text(ids).encode() for ids in texts]
        counts = self._learned.counts(self._planned.config.vocab_size)
        size = sum(map(len, spelled))
        found = {
            "each token by itself": unigram_bits(counts, np.concatenate(texts)) / size,
            "xz": compressed_bits(b"\n".join(spelled)) / size,
        }
        learned = b"\n".join(self._words.text(ids).encode() for _, ids in _first(self._learned, MOST_BYTES // 4))
        judged = b"\n".join(spelled)
        by_order = ngram_bits(learned, judged)
        best = min(by_order, key=by_order.__getitem__)
        return {**found, f"counted after {best} bytes (Witten and Bell)": by_order[best] / len(judged[:MOST_BYTES])}

    def _samples(self) -> list[tuple[str, str]]:
        """(prompt, what the model writes behind it) of each prompt, drawn from the seed of the run."""
        options, length = self._recipe.language, self._planned.config.context_length
        prompts = [self._words.ids(prompt) for prompt in options.prompts] or self._held_out_prompts()
        samples = []
        for number, ids in enumerate(prompts):
            ids = ids[-(length // 2) :]
            steps = min(options.sample_tokens, length - len(ids))
            if not ids or steps < 1:
                continue
            found = self._student.towers.generate(
                np.asarray([ids], np.int32), steps=steps, temperature=TEMPERATURE, top_k=TOP_K, seed=number
            )
            written = keras.ops.convert_to_numpy(found)[0]
            beyond = written >= self._words.vocab_size  # rows that a checkpoint has behind its vocabulary
            samples.append((self._words.text(ids), self._words.text(np.where(beyond, self._words.unknown_id, written))))
        return samples

    def _held_out_prompts(self) -> list[list[int]]:
        """Some tokens from even places of the first set."""
        store = next(iter(self._data_set.judged.values()))
        places = [len(store) * place // (PROMPTS + 1) for place in range(1, PROMPTS + 1)]
        return [store.ids(place, min(place + PROMPT_TOKENS, len(store))).tolist() for place in places]


def _first(store: TokenStore, most: int) -> Iterator[tuple[str, np.ndarray]]:
    """(key, tokens) of the first documents that have so many tokens together; the last is cut."""
    for key, ids in store.documents():
        if most <= 0:
            return
        yield key, ids[:most]
        most -= len(ids)
