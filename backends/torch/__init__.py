"""The native code of torch: the training step, the contrastive losses, products and the name of its device."""

from diptych.backends.torch import contrastive
from diptych.backends.torch.device import device_name, gather, join, leave, out_of_memory, processes
from diptych.backends.torch.products import multiply_bfloat16
from diptych.backends.torch.step import TrainStep

__all__ = [
    "TrainStep",
    "contrastive",
    "device_name",
    "gather",
    "join",
    "leave",
    "multiply_bfloat16",
    "out_of_memory",
    "processes",
]
