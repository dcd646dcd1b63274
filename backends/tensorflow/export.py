"""Exported towers as tensorflow runs them: SavedModel and LiteRT."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf


class SavedModel:
    """A SavedModel's serving signature as a function of arrays by name."""

    def __init__(self, path: Path):
        self._loaded = tf.saved_model.load(
            str(path)
        )  # must live as long as its signature, which does not hold the variables
        self._signature = self._loaded.signatures["serving_default"]

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        (output,) = self._signature(**{name: tf.constant(array) for name, array in inputs.items()}).values()
        return output.numpy()


def load_litert(path: Path) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """A LiteRT file's signature as a function of arrays by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the interpreter will have a package of its own
        runner = tf.lite.Interpreter(model_path=str(path)).get_signature_runner()

    def run(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        (output,) = runner(**inputs).values()
        return output

    return run
