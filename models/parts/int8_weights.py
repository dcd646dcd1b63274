"""Matrices in eight bits: whole numbers with a scale for each output channel, computed with in the layer's dtype.

    kernel[i, o] ≈ int8[i, o] · scale[o],    scale[o] = max_i |kernel[i, o]| / 127

Weights alone are rounded; activations are as they were, so that nothing is calibrated (Jacob et al. 2018, section 2.1,
symmetric and by channel).
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

MODE = "int8"
LARGEST = 127


class Int8Weights(keras.layers.Layer):
    """A layer whose `quantize("int8")`, and with it `model.quantize("int8")`, keeps its matrices in int8.

    Such a layer is for inference: what it holds is not trained.

    Attributes:
        matrices: names of the attributes that hold matrices, and the axis over which a product sums. Those that a layer
            does not have are passed over.
    """

    matrices: ClassVar[dict[str, int]]

    def quantize(self, mode=None, type_check=True, config=None):
        """Keras's own interface.

        Raises:
            NotImplementedError: for another mode.
            ValueError: for a layer that is so already.
        """
        if mode != MODE:
            raise NotImplementedError(f"{type(self).__name__}.quantize: expected mode {MODE!r}, got {mode!r}.")
        values = {
            kernel.path: ops.convert_to_numpy(ops.cast(kernel.value, "float32")) for kernel, _ in self._matrices()
        }
        for path, axis in self.hold_int8().items():
            rounded, scale = int8_of(values.pop(path), axis)
            kernel = next(weight for weight in self.weights if weight.path == path)
            kernel.assign(rounded)
            kernel.int8_scale.assign(scale)

    def hold_int8(self) -> dict[str, int]:
        """Puts variables of int8, each with its scales as `int8_scale`, in the place of the matrices; their values are
        zero. -> path of a matrix: axis that is summed over.
        """
        if any(keras.backend.standardize_dtype(kernel.dtype) == MODE for kernel, _ in self._matrices()):
            raise ValueError(f"{self.path or self.name} holds int8 already: quantize a model once.")
        axes = {}
        self._tracker.unlock()
        for name, axis in self._held():
            old = getattr(self, name)
            path, shape = old.path, tuple(old.shape)
            self._untrack_variable(old)
            names = path.rpartition("/")[2]
            new = self.add_weight(name=names, shape=shape, initializer="zeros", dtype=MODE, trainable=False)
            scales = (shape[1 - axis],)
            new.int8_scale = self.add_weight(
                name=f"{names}_scale",
                shape=scales,
                initializer="ones",
                dtype="float32",
                trainable=False,
                autocast=False,
            )
            new._path, new.int8_scale._path = path, f"{path}_scale"
            setattr(self, name, new)
            axes[path] = axis
        self._tracker.lock()
        return axes

    def _held(self) -> list[tuple[str, int]]:
        return [(name, axis) for name, axis in self.matrices.items() if hasattr(self, name)]

    def _matrices(self) -> Iterator[tuple[keras.Variable, int]]:
        for name, axis in self._held():
            yield getattr(self, name), axis


def int8_of(matrix: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """A matrix in int8 and its scales, float32, one for each place of the other axis; zeros have the scale 1."""
    matrix = np.asarray(matrix, np.float32)
    largest = np.abs(matrix).max(axis=axis, keepdims=True)
    scale = np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)
    return np.rint(matrix / scale).astype(np.int8), scale.reshape(-1)


def scale_of(kernel) -> Any:
    """The scales of a matrix in int8; None for any other."""
    return getattr(kernel, "int8_scale", None)


def as_float(kernel, dtype: str):
    """A matrix as it is computed with, those in int8 made wider."""
    scale = scale_of(kernel)
    return kernel if scale is None else ops.cast(kernel, dtype) * ops.cast(scale, dtype)


def hold_int8(model: keras.Model) -> dict[str, int]:
    """Makes room for int8 in all of a model's layers that can; see `Int8Weights.hold_int8`."""
    axes: dict[str, int] = {}
    for layer in model._flatten_layers():
        if isinstance(layer, Int8Weights):
            axes |= layer.hold_int8()
    return axes


def in_int8(values, axes: dict[str, int]) -> Iterator[tuple[str, np.ndarray]]:
    """Values by path, one after the other, those of the matrices in int8 with their scales behind them."""
    for path, value in values:
        if path in axes:
            rounded, scale = int8_of(value, axes[path])
            del value
            yield path, rounded
            yield f"{path}_scale", scale
        else:
            yield path, value
