"""The native code of tensorflow: the training step, the contrastive losses, products and the name of its device."""

from diptych.backends.tensorflow import contrastive
from diptych.backends.tensorflow.device import device_name, divide_cpu, out_of_memory, processes
from diptych.backends.tensorflow.products import multiply_bfloat16
from diptych.backends.tensorflow.step import TrainStep

__all__ = ["TrainStep", "contrastive", "device_name", "divide_cpu", "multiply_bfloat16", "out_of_memory", "processes"]
