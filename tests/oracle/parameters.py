"""Weights by path, and their gradients under the same paths."""

from collections.abc import Mapping

import numpy as np


class Parameters:
    """A view of a flat `{path: float64 array}` from one place of the model, which collects gradients on the way back.

    `parameters.at("encoder")["norm/scale"]` reads the weight "encoder/norm/scale"; `add("norm/scale", gradient)` adds
    to its gradient. A weight that nothing adds to keeps a gradient of zero.
    """

    def __init__(self, weights: Mapping[str, np.ndarray]):
        self._weights = {path: np.asarray(value, np.float64) for path, value in weights.items()}
        self.gradients = {path: np.zeros_like(value) for path, value in self._weights.items()}
        self._prefix = ""

    def at(self, name: str) -> "Parameters":
        """The same parameters seen from one level below."""
        below = object.__new__(Parameters)
        below._weights, below.gradients, below._prefix = self._weights, self.gradients, f"{self._prefix}{name}/"
        return below

    def __getitem__(self, name: str) -> np.ndarray:
        return self._weights[self._prefix + name]

    def add(self, name: str, gradient: np.ndarray) -> None:
        path = self._prefix + name
        if np.shape(gradient) != self._weights[path].shape:
            raise ValueError(f"The gradient of {path} has shape {np.shape(gradient)}, the weight {self[name].shape}.")
        self.gradients[path] += gradient
