"""Keras models that look at what they are called with, where values are at hand, and that are saved for every backend.

Without it, an id beyond the table of tokens is NaN on jax, and pixels of another range give embeddings without a word.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np

from diptych.models.parts.embeddings import TokenEmbedding

PIXELS, IDS = ("images", "patches"), "token_ids"
LARGEST_PIXEL = 8.0
"""Beyond what any normalisation gives: SigLIP's lie in [-1, 1], CLIP's in [-1.8, 2.2]."""
_IMAGES_LOOKED_AT = 8

_INSIDE: ContextVar[bool] = ContextVar("inside a checked model", default=False)


@keras.saving.register_keras_serializable("diptych")
class CheckedModel(keras.Model):
    """A functional Keras model whose `images` or `patches` are pixels in its range, and whose `token_ids` have rows.

    Looked at are dtypes, wherever it is called; NumPy arrays and lists, given to a call or to `fit`, `evaluate`,
    `predict` and their kin for a batch; and ids as tensors in eager calls on jax and tensorflow (torch refuses them
    itself, and its compiler would trace what is asked here). Nothing is looked at inside compiled code or in data sets.

    Raises:
        ValueError: for pixels that are whole numbers, and for ids that the table of tokens has no row for.
    Warns:
        UserWarning: for pixels beyond `LARGEST_PIXEL`.
    """

    def __call__(self, *args, **kwargs):
        with _outermost() as outermost:
            if outermost:
                self._check(args[0] if args else kwargs.get("inputs"))
            return super().__call__(*args, **kwargs)

    def fit(self, x=None, *args, **kwargs):
        self._check(x)
        return super().fit(x, *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        self._check(x)
        return super().evaluate(x, *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        self._check(x)
        return super().predict(x, *args, **kwargs)

    def train_on_batch(self, x, *args, **kwargs):
        self._check(x)
        return super().train_on_batch(x, *args, **kwargs)

    def test_on_batch(self, x, *args, **kwargs):
        self._check(x)
        return super().test_on_batch(x, *args, **kwargs)

    def predict_on_batch(self, x):
        self._check(x)
        return super().predict_on_batch(x)

    def get_compile_config(self):
        """What Keras keeps of `compile`, with optimizers by their public names: torch's own are stored as classes of a
        module that imports torch, also where the file is opened on another backend.
        """
        return _by_public_name(super().get_compile_config())

    def _check(self, inputs: Any) -> None:
        for name, value in self._by_name(inputs).items():
            if name in PIXELS:
                _check_pixels(name, value)
            elif name == IDS:
                _check_ids(name, value, next(_tables(self), None))

    def _by_name(self, inputs: Any) -> Mapping[str, Any]:
        if isinstance(inputs, Mapping):
            return inputs
        names = [x.name for x in self.inputs]
        if len(names) == 1:
            return {names[0]: inputs}
        return dict(zip(names, inputs, strict=False)) if isinstance(inputs, (list, tuple)) else {}


@contextmanager
def _outermost() -> Iterator[bool]:
    """Whether no checked model is being called already: what it is made of is called with what was looked at."""
    inside = _INSIDE.get()
    token = _INSIDE.set(True)
    try:
        yield not inside
    finally:
        _INSIDE.reset(token)


def _tables(layer: keras.layers.Layer) -> Iterator[int]:
    """The rows of the tables of tokens inside a layer."""
    for inner in layer._flatten_layers(include_self=False):
        if isinstance(inner, TokenEmbedding):
            yield inner.vocab_size


def _check_pixels(name: str, value: Any) -> None:
    dtype = keras.backend.standardize_dtype(value.dtype) if hasattr(value, "dtype") else ""
    if "int" in dtype or dtype == "bool":
        raise ValueError(
            f"{name} are {dtype}, expected the normalised pixels that the model was trained on, such as float32 in "
            "-1..1. Processor.images prepares pictures; for SigLIP by hand: images / 127.5 - 1."
        )
    array = _host_array(value)
    if array is None or array.dtype.kind not in "iuf" or array.ndim == 0:
        return
    largest = float(np.abs(array[:_IMAGES_LOOKED_AT]).max(initial=0.0))
    if largest > LARGEST_PIXEL:
        warnings.warn(
            f"{name} hold values up to {largest:.4g}, expected the normalised pixels that the model was trained on, "
            "such as float32 in -1..1. Are they in 0..255? Processor.images prepares pictures.",
            stacklevel=4,
        )


def _check_ids(name: str, value: Any, rows: int | None) -> None:
    array = _host_array(value)
    # torch refuses such ids itself, and a value that is read would break the graphs that it compiles and exports.
    if array is None and keras.config.backend() != "torch" and keras.ops.is_tensor(value):
        try:
            array = np.asarray(value)
        except (TypeError, ValueError, NotImplementedError, RuntimeError):  # being traced, or of several hosts
            return
    if rows is None or array is None or array.dtype.kind not in "iuf" or not array.size:
        return
    if not 0 <= array.min() <= array.max() < rows:
        raise ValueError(
            f"{name} lie between {array.min()} and {array.max()}, expected 0 to {rows - 1}: the model's table has "
            f"{rows:,} rows. Prepare texts with the model's own Processor."
        )


def _host_array(value: Any) -> np.ndarray | None:
    """The values of what is NumPy's or Python's own."""
    if not isinstance(value, (np.ndarray, list, tuple)):
        return None
    try:
        array = np.asarray(value)
    except ValueError:  # rows of several lengths, which Keras refuses
        return None
    return array if array.dtype.kind != "O" else None


def _by_public_name(config: Any) -> Any:
    if isinstance(config, list):
        return [_by_public_name(value) for value in config]
    if not isinstance(config, dict):
        return config
    config = {name: _by_public_name(value) for name, value in config.items()}
    if str(config.get("module", "")).startswith("keras.src.backend.") and hasattr(
        keras.optimizers, config.get("class_name", "")
    ):
        config |= {"module": "keras.optimizers", "registered_name": None}
    return config
