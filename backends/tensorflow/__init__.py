"""What tensorflow does natively: the training step and the name of its device."""

from diptych.backends.tensorflow.device import device_name
from diptych.backends.tensorflow.step import TrainStep

__all__ = ["TrainStep", "device_name"]
