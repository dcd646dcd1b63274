"""Moving averages of weights, updated after each optimizer step: one to evaluate with, or one that teaches."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import keras
import numpy as np


class Ema:
    """average <- decay · average + (1 - decay) · weight.

    Args:
        weights: the Keras variables to follow; the average starts at their values.
        decay: in (0, 1); about 1 / (1 - decay) steps are averaged.
        averages: existing variables to keep the average in, one a weight; by default new ones are made.
    """

    def __init__(self, weights, *, decay: float, averages: Sequence | None = None):
        if not 0 < decay < 1:
            raise ValueError(
                f"The decay of a moving average lies between 0 and 1, got {decay}. Use None for no average."
            )
        self.decay = decay
        self.weights = list(weights)
        if averages is None:
            averages = [
                keras.Variable(_copy(w), dtype=w.dtype, trainable=False, name=f"ema_{w.name}") for w in self.weights
            ]
        self.averages = list(averages)

    def named(self) -> dict[str, keras.Variable]:
        """Path of the weight -> its average."""
        return {weight.path: average for weight, average in zip(self.weights, self.averages, strict=True)}

    def restart(self) -> None:
        """Sets the averages to the weights."""
        for weight, average in zip(self.weights, self.averages, strict=True):
            average.assign(_copy(weight))

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
