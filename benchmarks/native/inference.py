"""Which module runs Keras layers and models for inference on a backend."""

from types import ModuleType


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
