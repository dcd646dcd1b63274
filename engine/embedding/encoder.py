"""A model and its processor together: pictures and texts in, unit vectors out, in batches."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np

from diptych.core.data.decoder import Decode
from diptych.core.data.processor.model_sizes import ModelSizes, check_together
from diptych.core.data.processor.processor import Processor
from diptych.models import from_preset
from diptych.models.pretrained import trained_preset
from diptych.models.siglip.config import NaFlexVisionConfig
from diptych.models.two_towers import PretrainedPair


@dataclass(frozen=True)
class Encoder:
    """Embeds pictures and texts with one model; vectors are float32 [n, dim] of length one."""

    model: PretrainedPair
    processor: Processor

    def __post_init__(self):
        """Raises ValueError where the processor does not prepare what the model takes."""
        vision, text = self.model.config.vision, self.model.config.text
        naflex = isinstance(vision, NaFlexVisionConfig)
        sizes = ModelSizes(
            vocab_size=text.vocab_size,
            context_length=text.context_length,
            image_size=None if naflex else vision.image_size,
            patch_size=vision.patch_size if naflex else None,
        )
        processor = self.processor
        check_together(self.model.name, sizes, processor.pixels, processor.tokenizer, processor.context_length)

    @classmethod
    def open(cls, model: str | Path, *, revision: str | None = None, dtype: str | None = None) -> "Encoder":
        """The model and processor of a checkpoint: a folder, "hf://owner/name", or the name of a model that diptych
        ships.

        A finished run's folder stands for the model in it.
        """
        preset = trained_preset(model)
        return cls(
            from_preset(preset, revision=revision, dtype=dtype), Processor.from_preset(preset, revision=revision)
        )

    def save_to_preset(self, folder: str | Path, *, format: str = "transformers") -> None:
        """Writes the model and its processor into one folder, which `open` reads.

        Args:
            folder: made if need be.
            format: "transformers" or "diptych"; a model or a processor that a layout cannot express raises ValueError.
        """
        self.model.save_to_preset(folder, format=format)
        self.processor.save_to_preset(folder, format=format)

    def decoding(self, decode: Decode) -> "Encoder":
        """The same model with pictures' files decoded so; raises ImportError as `ImageProcessor.decoding`."""
        return replace(self, processor=self.processor.decoding(decode))

    def embed_images(self, items: Sequence[Any], *, batch_size: int = 64) -> np.ndarray:
        """Encoded bytes, paths, Pillow images or uint8 arrays [h, w, 3] -> float32 [n, dim]."""
        return self.embed_inputs(self.processor.images(some) for some in _batches(items, batch_size))

    def embed_inputs(self, batches: Iterable[dict[str, np.ndarray]]) -> np.ndarray:
        """Batches of the image tower's inputs by name -> float32 [n, dim]."""
        return self._embed(self.image_embedder, batches)

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> np.ndarray:
        """Texts -> float32 [n, dim]."""
        return self._embed(self.text_embedder, (self.processor.texts(some) for some in _batches(texts, batch_size)))

    @cached_property
    def image_embedder(self) -> keras.Model:
        return self.model.image_embedder()

    @cached_property
    def text_embedder(self) -> keras.Model:
        return self.model.text_embedder()

    @property
    def dim(self) -> int:
        return self.model.config.vision.output_width

    @property
    def logit_scale(self) -> float:
        return float(keras.ops.convert_to_numpy(self.model.logit_scale))

    @property
    def logit_bias(self) -> float | None:
        """None for a model trained by a softmax loss."""
        bias = self.model.logit_bias
        return None if bias is None else float(keras.ops.convert_to_numpy(bias))

    def fingerprint(self) -> str:
        """A hash of weights and processing: equal fingerprints give equal vectors, up to rounding."""
        return fingerprint_of(self.model, self.processor.fingerprint())

    def _embed(self, embedder: keras.Model, batches: Iterable[dict[str, np.ndarray]]) -> np.ndarray:
        vectors = [
            keras.ops.convert_to_numpy(embedder.predict_on_batch(_as_called(batch, embedder))) for batch in batches
        ]
        return np.concatenate(vectors) if vectors else np.zeros((0, self.dim), np.float32)


def fingerprint_of(model: keras.Model, processing: str) -> str:
    """A hash of a model's weights, and of what its inputs are prepared by."""
    digest = hashlib.sha256(processing.encode())
    for variable in model.weights:
        digest.update(f"{variable.path} {tuple(variable.shape)}".encode())
        digest.update(keras.ops.convert_to_numpy(variable.value).tobytes())
    return digest.hexdigest()


def _as_called(batch: dict[str, np.ndarray], embedder: keras.Model):
    """One array for a model with one input, a dictionary for one with several."""
    return batch if len(embedder.inputs) > 1 else next(iter(batch.values()))


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
