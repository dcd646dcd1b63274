"""An exponential moving average of the trained weights, updated after each optimizer step."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import numpy as np


class Ema:
    """average <- decay · average + (1 - decay) · weight.

    Args:
        weights: the Keras variables to follow; the average starts at their values.
        decay: in (0, 1); about 1 / (1 - decay) steps are averaged.
    """

    def __init__(self, weights, *, decay: float):
        if not 0 < decay < 1:
            raise ValueError(
                f"The decay of a moving average lies between 0 and 1, got {decay}. Use None for no average."
            )
        self.decay = decay
        self.weights = list(weights)
        self.averages = [
            keras.Variable(_copy(w), dtype=w.dtype, trainable=False, name=f"ema_{w.name}") for w in self.weights
        ]

    def named(self) -> dict[str, keras.Variable]:
        """Path of the weight -> its average."""
        return {weight.path: average for weight, average in zip(self.weights, self.averages, strict=True)}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model's weights are the averages; afterwards they are as they were."""
        kept = [_copy(weight) for weight in self.weights]
        try:
            for weight, average in zip(self.weights, self.averages, strict=True):
                weight.assign(_copy(average))
            yield
        finally:
            for weight, value in zip(self.weights, kept, strict=True):
                weight.assign(value)


def _copy(variable) -> np.ndarray:
    # A jax array on the CPU and its NumPy view share memory, and two variables must not: a step gives its state away.
    return np.array(keras.ops.convert_to_numpy(variable.value))
