"""Keras layers and models on tensorflow, compiled whole for inference."""

from collections.abc import Callable
from contextlib import contextmanager

import tensorflow as tf

ACCELERATED = bool(tf.config.list_physical_devices("GPU"))


def ways(layer, inputs: tuple, *, compile: bool) -> dict[str, Callable]:
    """What comes behind a contestant's name -> a function without arguments that computes and waits for the result."""
    call = tf.function(lambda inputs: layer(*inputs), jit_compile=True, autograph=False)
    on_device = tf.nest.map_structure(tf.constant, inputs)

    def run():
        result = call(on_device)
        tf.test.experimental.sync_devices()
        return result

    return {"": run}


@contextmanager
def exact_products():
    """A context in which float32 products are computed in float32, on accelerators too."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
