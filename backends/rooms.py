"""The room of the backend that Keras runs on; the other rooms, and their frameworks, are not imported."""

from types import ModuleType


def name() -> str:
    """The current backend: "jax", "torch" or "tensorflow"."""
    import keras

    return keras.config.backend()


def room() -> ModuleType:
    """`diptych.backends.jax`, `.torch` or `.tensorflow`."""
    match name():
        case "jax":
            from diptych.backends import jax

            return jax
        case "torch":
            from diptych.backends import torch

            return torch
        case "tensorflow":
            from diptych.backends import tensorflow

            return tensorflow
        case other:
            raise ValueError(f"diptych trains on jax, torch or tensorflow; Keras runs on {other!r}.")
