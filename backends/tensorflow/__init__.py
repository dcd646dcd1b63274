"""The native code of tensorflow: the training step, the sigmoid loss, products and the name of its device."""

from diptych.backends.tensorflow import sigmoid_loss
from diptych.backends.tensorflow.device import device_name, out_of_memory, processes
from diptych.backends.tensorflow.products import multiply_bfloat16
from diptych.backends.tensorflow.step import TrainStep

__all__ = ["TrainStep", "device_name", "multiply_bfloat16", "out_of_memory", "processes", "sigmoid_loss"]
