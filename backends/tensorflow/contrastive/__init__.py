"""The contrastive losses on tensorflow: what can run where, and the functions behind `diptych.backends`.

sweep          the B² part, block by block, compiled by XLA
sigmoid        SigLIP's loss
softmax        CLIP's loss
pairs          the positives, and the end of the gradients
loss           both losses, and the derivative rule
distributed    the gather over replicas of a `tf.distribute` strategy
"""

from functools import partial

import numpy as np
import tensorflow as tf

from diptych.backends.tensorflow.contrastive.distributed import distributed_loss
from diptych.backends.tensorflow.contrastive.loss import SIGMOID, SOFTMAX, pair_loss, pair_loss_and_gradients
from diptych.backends.tensorflow.contrastive.sigmoid import SigmoidLossGradients
from diptych.backends.tensorflow.contrastive.softmax import SoftmaxLossGradients

__all__ = [
    "SigmoidLossGradients",
    "SoftmaxLossGradients",
    "default_device",
    "device_of",
    "distributed_sigmoid_loss",
    "distributed_softmax_contrastive_loss",
    "is_compiling",
    "known_value",
    "obstacle",
    "sigmoid_loss",
    "sigmoid_loss_and_gradients",
    "softmax_contrastive_loss",
    "softmax_contrastive_loss_and_gradients",
]

sigmoid_loss = partial(pair_loss, SIGMOID)
sigmoid_loss_and_gradients = partial(pair_loss_and_gradients, SIGMOID)
distributed_sigmoid_loss = partial(distributed_loss, SIGMOID)
softmax_contrastive_loss = partial(pair_loss, SOFTMAX)
softmax_contrastive_loss_and_gradients = partial(pair_loss_and_gradients, SOFTMAX)
distributed_softmax_contrastive_loss = partial(distributed_loss, SOFTMAX)


def obstacle(implementation: str, *, device: str, dtype: str) -> str | None:
    """Why an implementation cannot run on embeddings of this dtype on a device; XLA takes all of them."""
    return None


def default_device() -> str:
    """The device that tensorflow computes on when nothing else is said, such as "GPU:0"."""
    return "GPU:0" if tf.config.list_logical_devices("GPU") else "CPU:0"


def device_of(x) -> str:
    """The device that holds x; in a graph, where it is not known, the default one."""
    device = tf.DeviceSpec.from_string(getattr(x, "device", None) or "")
    return f"{device.device_type}:{device.device_index}" if device.device_type else default_device()


def is_compiling() -> bool:
    """Whether a message of ours would end up in a compiled program; a graph leaves Python's own calls out."""
    return False


def known_value(x, *, wait: bool = False) -> np.ndarray | None:
    """x as NumPy, None where it is symbolic, or on an accelerator that one would have to wait for."""
    if not isinstance(x, (tf.Tensor, tf.Variable)):
        return np.asarray(x)
    if not tf.executing_eagerly() or not hasattr(x, "numpy") or (not wait and not device_of(x).startswith("CPU")):
        return None
    return x.numpy()
