"""The graphs that are exported: both towers from inputs to embeddings, with what a caller must know of each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import keras
import numpy as np

from diptych import __version__
from diptych.core.data.examples.naflex import NaFlex
from diptych.core.data.pixels import FixedSize
from diptych.core.data.processor.files import own_settings
from diptych.engine.embedding.encoder import Encoder

BATCH, NUM_PATCHES = "batch", "num_patches"
"""Dimensions that may have any size."""

SIGMOID = (
    "sigmoid(logit_scale * dot(image_embedding, text_embedding) + logit_bias) "
    "is the probability that both belong together"
)
SOFTMAX = "softmax over texts of logit_scale * dot(image_embedding, text_embedding) is each text's share"

TowerCard = dict[str, Any]
"""What a caller must know of a tower, in JSON's types: "tower", "inputs", "outputs", the model with its scale and bias,
and the settings by which its processor prepares pictures or texts, whose names depend on the kind of processor."""


class TowerInput(TypedDict):
    """An input of a tower."""

    dtype: str
    range: list[float]  # least and greatest value
    shape: list[int | str]  # sizes, and the names of dimensions that may have any size
    axes: list[str]  # what each dimension is


@dataclass(frozen=True, kw_only=True)
class Tower:
    """One tower as a Keras model, {input name: array} -> {"<name>_embedding": float32 [batch, dim]}, of length one.

    name: "image" or "text".
    shapes: of the inputs: sizes, and the names of dimensions that may have any size.
    card: what a caller must know.
    """

    name: str
    model: keras.Model
    shapes: dict[str, tuple[int | str, ...]]
    card: TowerCard

    def reference(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """What Keras says, float32 [batch, dim]."""
        (output,) = self.model.predict_on_batch(inputs).values()
        return keras.ops.convert_to_numpy(output)

    def draw(self, rng: np.random.Generator, batch: int, num_patches: int | None = None) -> dict[str, np.ndarray]:
        """Random inputs: noise of random brightness and contrast (models see much the same in all plain noise), texts
        and grids of random lengths. `num_patches` is for a tower where it may be any.
        """
        if "token_ids" in self.shapes:
            return {"token_ids": self._draw_token_ids(rng, batch)}
        ((name, described), *_) = self.card["inputs"].items()
        length = [num_patches or self.card["max_num_patches"]] if name == "patches" else []
        shape = (batch, *length, *described["shape"][1 + len(length) :])
        least, most = described["range"]
        ends = rng.uniform(least, most, (2, batch, *[1] * (len(shape) - 1)))
        pixels = (ends[0] + (ends[1] - ends[0]) * rng.uniform(size=shape)).astype(np.float32)
        if name == "images":
            return {"images": pixels}
        rows = rng.integers(1, shape[1] + 1, batch)
        columns = rng.integers(1, shape[1] // rows + 1)
        pixels[np.arange(shape[1]) >= (rows * columns)[:, None]] = 0
        return {"patches": pixels, "spatial_shapes": np.stack([rows, columns], axis=1).astype(np.int32)}

    def _draw_token_ids(self, rng: np.random.Generator, batch: int) -> np.ndarray:
        length, (least, most) = self.card["context_length"], self.card["inputs"]["token_ids"]["range"]
        ids = rng.integers(least, most + 1, (batch, length))
        place, words = np.arange(length), rng.integers(1, length, (batch, 1))
        ending = np.where(place == words, self.card["eos_id"], self.card["pad_id"])
        return np.where(place < words, ids, ending).astype(np.int32)


def towers(encoder: Encoder, *, name: str, fixed_num_patches: bool = False) -> tuple[Tower, Tower]:
    """Both towers of a model.

    Args:
        encoder: the model and its processor, in float32.
        name: of the model, for the cards.
        fixed_num_patches: whether a NaFlex tower takes no other number of patches than the processor makes.
    """
    settings = own_settings(
        encoder.processor.pixels,
        encoder.processor.tokenizer,
        encoder.processor.context_length,
        encoder.processor.clean_captions,
    )
    image = _tower("image", encoder.image_embedder, _image_inputs(encoder, fixed_num_patches))
    text = _tower("text", encoder.text_embedder, _text_inputs(encoder))
    normalization = settings["image"].pop("normalization")
    shared = _shared(encoder, name)
    image.card.update(shared | settings["image"] | normalization)
    text.card.update(shared | settings["text"])
    return image, text


def _tower(name: str, embedder: keras.Model, inputs: dict[str, TowerInput]) -> Tower:
    """The embedder with its output named, and its inputs of the given shapes."""
    shapes = {key: tuple(described["shape"]) for key, described in inputs.items()}
    symbolic = {
        key: keras.Input(
            [None if isinstance(size, str) else size for size in shape[1:]], dtype=inputs[key]["dtype"], name=key
        )
        for key, shape in shapes.items()
    }
    embedding = embedder(symbolic if len(symbolic) > 1 else next(iter(symbolic.values())))
    output = f"{name}_embedding"
    card = {
        "tower": name,
        "inputs": inputs,
        "outputs": {output: {"dtype": "float32", "shape": [BATCH, embedding.shape[-1]], "length": 1}},
    }
    return Tower(name=name, model=keras.Model(symbolic, {output: embedding}, name=name), shapes=shapes, card=card)


def _image_inputs(encoder: Encoder, fixed_num_patches: bool) -> dict[str, TowerInput]:
    pixels = encoder.processor.pixels
    if not isinstance(pixels, NaFlex):
        return {"images": image_input(pixels)}
    between = list(pixels.normalization.range)
    length = pixels.max_num_patches if fixed_num_patches else NUM_PATCHES
    return {
        "patches": {
            "dtype": "float32",
            "range": between,
            "shape": [BATCH, length, pixels.patch_size**2 * 3],
            "axes": ["batch", "patch, row by row, padded with zeros", "pixel row, pixel column, red green blue"],
        },
        "spatial_shapes": {
            "dtype": "int32",
            "range": [1, pixels.max_num_patches],
            "shape": [BATCH, 2],
            "axes": ["batch", "rows and columns of the patches"],
        },
    }


def image_input(pixels: FixedSize) -> TowerInput:
    """Pictures of one size."""
    return {
        "dtype": "float32",
        "range": list(pixels.normalization.range),
        "shape": [BATCH, pixels.height, pixels.width, 3],
        "axes": ["batch", "row", "column", "red green blue"],
    }


def _text_inputs(encoder: Encoder) -> dict[str, TowerInput]:
    return {
        "token_ids": {
            "dtype": "int32",
            "range": [0, encoder.model.config.text.vocab_size - 1],
            "shape": [BATCH, encoder.processor.context_length],
            "axes": ["batch", "token: the text, eos_id, then pad_id to the end"],
        }
    }


def _shared(encoder: Encoder, name: str) -> TowerCard:
    return {
        "model": name if "://" in name else Path(name).name,
        "fingerprint": encoder.fingerprint(),
        "diptych_version": __version__,
        "logit_scale": encoder.logit_scale,
        "logit_bias": encoder.logit_bias,
        "similarity": SOFTMAX if encoder.logit_bias is None else SIGMOID,
    }
