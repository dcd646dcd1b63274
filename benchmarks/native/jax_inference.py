"""Keras layers and models on jax, compiled whole for inference."""

from collections.abc import Callable

import jax

ACCELERATED = jax.default_backend() != "cpu"


def ways(layer, inputs: tuple, *, compile: bool) -> dict[str, Callable]:
    """What comes behind a contestant's name -> a function without arguments that computes and waits for the result."""
    trained = [variable.value for variable in layer.trainable_variables]
    others = [variable.value for variable in layer.non_trainable_variables]
    call = jax.jit(lambda trained, others, inputs: layer.stateless_call(trained, others, *inputs)[0])
    on_device = jax.device_put(inputs)
    return {"": lambda: jax.block_until_ready(call(trained, others, on_device))}


def exact_products():
    """A context in which float32 products are computed in float32, on accelerators too."""
    return jax.default_matmul_precision("highest")
