"""Keras layers and models run for inference by each backend's own module, with NumPy arrays as results."""

from types import ModuleType

import numpy as np


def inference_driver(backend: str) -> ModuleType:
    """The backend's module; each has ACCELERATED, `ways` and `exact_products`."""
    match backend:
        case "jax":
            from benchmarks.native import jax_inference as driver
        case "torch":
            from benchmarks.native import torch_inference as driver
        case _:
            from benchmarks.native import tensorflow_inference as driver
    return driver


def to_numpy(result) -> np.ndarray:
    """A contestant's result as an array: a tensor of the backend's, or of torch whatever the backend."""
    import keras

    return result.cpu().numpy() if hasattr(result, "detach") else keras.ops.convert_to_numpy(result)
