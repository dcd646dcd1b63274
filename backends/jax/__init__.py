"""The native code of jax: the training step, the contrastive losses, products and the name of its device."""

from diptych.backends.jax import contrastive
from diptych.backends.jax.device import device_name, gather, join, out_of_memory, processes
from diptych.backends.jax.products import multiply_bfloat16
from diptych.backends.jax.spread import at_rest
from diptych.backends.jax.step import TrainStep

__all__ = [
    "TrainStep",
    "at_rest",
    "contrastive",
    "device_name",
    "gather",
    "join",
    "multiply_bfloat16",
    "out_of_memory",
    "processes",
]
