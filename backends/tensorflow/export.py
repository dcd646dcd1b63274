"""Exported towers as tensorflow runs them: SavedModel and LiteRT."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf


def load_saved_model(path: Path) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """A SavedModel's serving signature as a function of arrays by name."""
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]

    def run(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        # `loaded` must live as long as its functions, which do not hold the variables.
        assert loaded is not None
        (output,) = signature(**{name: tf.constant(array) for name, array in inputs.items()}).values()
        return output.numpy()

    return run


def load_litert(path: Path) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """A LiteRT file's signature as a function of arrays by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the interpreter will have a package of its own
        runner = tf.lite.Interpreter(model_path=str(path)).get_signature_runner()

    def run(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        (output,) = runner(**inputs).values()
        return output

    return run
