"""Features of pictures from a trained tower: pooled vectors, patches, and what a decoder writes of them."""

from collections.abc import Sequence

import keras
import numpy as np

from diptych.core.data.examples.captioning import CaptionTargets, Question
from diptych.core.data.examples.naflex import NaFlexLengths
from diptych.core.data.image import resize
from diptych.core.data.pixels import minus_one_to_one
from diptych.models.captioner.generation import Generator
from diptych.models.siglip.config import NaFlexVisionConfig, VisionConfig
from diptych.models.siglip.model import SigLIP

BATCH = 128


class PictureFeatures:
    """Reads pictures with an image tower.

    Args:
        towers: a model whose image tower reads.
        sequence_length: of a NaFlex tower, patches.
    """

    def __init__(self, towers: SigLIP, *, sequence_length: int | None = None):
        self._tower = towers.image_encoder
        self._config = towers.config.own_vision
        self._length = sequence_length

    def inputs(self, pictures: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """uint8 [h, w, 3] each -> the tower's inputs by name, in [-1, 1]."""
        if not isinstance(self._config, NaFlexVisionConfig):
            squares = np.stack([resize(picture, self._config.image_size) for picture in pictures])
            return {"images": minus_one_to_one(squares)}
        length = self._length or self._config.max_num_patches
        lengths = NaFlexLengths(patch_size=self._config.patch_size, lengths=(length,), halve_from=None)
        cut = [lengths.cut(picture, length, "bilinear_antialias") for picture in pictures]
        patches = np.stack([one["patches"] for one in cut])
        return {
            "patches": minus_one_to_one(patches),
            "spatial_shapes": np.stack([one["spatial_shapes"] for one in cut]),
        }

    def __call__(self, pictures: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """-> {"pooled": float32 [n, width], "tokens": float32 [n, patches, width]}, and "spatial_shapes" of a NaFlex
        tower.
        """
        found: dict[str, list[np.ndarray]] = {}
        for start in range(0, len(pictures), BATCH):
            chosen = list(pictures[start : start + BATCH])
            # Filled up to one shape, for which the tower is compiled once.
            inputs = self.inputs(chosen + chosen[:1] * (BATCH - len(chosen)))
            outputs = self._tower.predict_on_batch(inputs if len(inputs) > 1 else inputs["images"])
            shapes = {name: value for name, value in inputs.items() if name == "spatial_shapes"}
            for name, value in {**outputs, **shapes}.items():
                found.setdefault(name, []).append(np.asarray(keras.ops.convert_to_numpy(value))[: len(chosen)])
        return {name: np.concatenate(values) for name, values in found.items()}

    def patches(self, pictures: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Of a square tower: features of patches float32 [n, rows, columns, width], and the pooled ones."""
        features = self(pictures)
        assert isinstance(self._config, VisionConfig)
        side = self._config.image_size // self._config.patch_size
        tokens = features["tokens"]
        return tokens.reshape(len(tokens), side, side, tokens.shape[-1]), features["pooled"]


class Writer:
    """Asks a decoder about pictures: captions, boxes of phrases, descriptions of boxes; the likeliest words, or
    draws.
    """

    def __init__(self, features: PictureFeatures, captioner, targets: CaptionTargets):
        self._features, self._captioner, self._targets = features, captioner, targets
        self._generators: dict[tuple[int, float | None, float], Generator] = {}

    def __call__(
        self,
        question: Question,
        pictures: Sequence[np.ndarray],
        arguments: Sequence[dict],
        places: Sequence[int] | None = None,
        *,
        temperature: float | None = None,
        top_p: float = 0.9,
    ) -> list:
        """One answer for each of `arguments` (of `CaptionTargets.prompt`), about the picture at its place; by default
        in order.
        """
        seen = self._features(pictures)
        tokens, shapes = seen["tokens"], seen.get("spatial_shapes")
        places = range(len(arguments)) if places is None else places
        prompts = [self._targets.prompt(question, **each) for each in arguments]
        longest = max(map(len, prompts))
        steps = self._captioner.config.context_length - longest
        generator = self._generator(steps, temperature, top_p)
        answers = []
        for start in range(0, len(prompts), BATCH):
            chosen = prompts[start : start + BATCH]
            # All batches have one shape, so that the loop is compiled once; what is filled up is thrown away.
            rows = np.resize(np.asarray(places[start : start + BATCH]), BATCH)
            ids = np.zeros((BATCH, longest), np.int32)
            lengths = np.ones(BATCH, np.int32)
            for row, prompt in enumerate(chosen):
                ids[row, : len(prompt)], lengths[row] = prompt, len(prompt)
            batch = {"encoder_tokens": tokens[rows], "prompt_ids": ids, "prompt_lengths": lengths}
            if shapes is not None:
                batch["encoder_mask"] = np.arange(tokens.shape[1]) < shapes[rows].prod(axis=1, keepdims=True)
            if temperature:
                batch["noise"] = np.random.default_rng(start).random((BATCH, steps), dtype=np.float32)
            written = keras.ops.convert_to_numpy(generator.predict_on_batch(batch))
            answers += [self._targets.read(question, row) for row in written[: len(chosen)]]
        return answers

    def _generator(self, steps: int, temperature: float | None, top_p: float) -> Generator:
        key = (steps, temperature, top_p)
        if key not in self._generators:
            self._generators[key] = Generator(self._captioner, steps=steps, temperature=temperature, top_p=top_p)
        return self._generators[key]
