"""The native code of jax: the training step, the sigmoid loss and the name of its device."""

from diptych.backends.jax import sigmoid_loss
from diptych.backends.jax.device import device_name, out_of_memory, processes
from diptych.backends.jax.step import TrainStep

__all__ = ["TrainStep", "device_name", "out_of_memory", "processes", "sigmoid_loss"]
