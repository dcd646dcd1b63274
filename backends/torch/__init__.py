"""The native code of torch: the training step, the sigmoid loss, products and the name of its device."""

from diptych.backends.torch import sigmoid_loss
from diptych.backends.torch.device import device_name, processes
from diptych.backends.torch.products import multiply_bfloat16
from diptych.backends.torch.step import TrainStep

__all__ = ["TrainStep", "device_name", "multiply_bfloat16", "processes", "sigmoid_loss"]
