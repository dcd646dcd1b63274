"""The contrastive losses on torch: what can run where, and the functions behind `diptych.backends`.

sweep              the B² part, block by block
sigmoid            SigLIP's loss: with torch's operations, or with Triton
softmax            CLIP's loss: with torch's operations, or with Triton
pairs              the positives, and the end of the gradients
triton_block       a block of pairs on NVIDIA GPUs
triton_softmax     the softmax loss's blocks by it
triton_pairs       the sigmoid loss's positives on NVIDIA GPUs, and the end of the gradients
triton_functions   what they share
loss               both losses, and the operator
distributed        the ring and the gather over processes
"""

from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np
import torch
from torch.torch_version import TorchVersion

from diptych.backends.torch.contrastive.distributed import distributed_loss
from diptych.backends.torch.contrastive.loss import pair_loss, pair_loss_and_gradients
from diptych.backends.torch.contrastive.sigmoid import SigmoidLossGradients
from diptych.backends.torch.contrastive.softmax import SoftmaxLossGradients

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

sigmoid_loss = partial(pair_loss, "sigmoid_loss")
sigmoid_loss_and_gradients = partial(pair_loss_and_gradients, "sigmoid_loss")
distributed_sigmoid_loss = partial(distributed_loss, "sigmoid_loss")
softmax_contrastive_loss = partial(pair_loss, "softmax_contrastive_loss")
softmax_contrastive_loss_and_gradients = partial(pair_loss_and_gradients, "softmax_contrastive_loss")
distributed_softmax_contrastive_loss = partial(distributed_loss, "softmax_contrastive_loss")


def obstacle(implementation: str, *, device: torch.device, dtype: str) -> str | None:
    """Why an implementation cannot run on embeddings of this dtype on a device; None where it can."""
    if implementation == "blocked" and device.type == "mps":
        return "it adds up in float64, which Metal does not have"
    if implementation != "triton":
        return None
    if device.type != "cuda" or torch.version.cuda is None:
        return f"it is for NVIDIA GPUs, and the embeddings are on {device.type}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return f"it needs compute capability 8.0, and this is {torch.cuda.get_device_name(device)}"
    if dtype not in ("bfloat16", "float16"):
        return f"it takes bfloat16 or float16 embeddings, and these are {dtype}"
    return _missing_for_triton()


@cache
def _missing_for_triton() -> str | None:
    """What is missing of the packages, whose metadata take longer to read than a small batch to compute."""
    if find_spec("triton") is None:
        return "Triton is not installed; type: pip install triton"
    if TorchVersion(version("triton")) < "3.6":
        return f"it needs Triton 3.6 or newer, and this is {version('triton')}"
    if torch.__version__ < "2.8":
        return (
            f"it needs torch 2.8 or newer, for products of 16-bit matrices in float32, and this is {torch.__version__}"
        )
    return None


def default_device() -> torch.device:
    """The device that Keras computes on."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def device_of(x: torch.Tensor) -> torch.device:
    return x.device


def is_compiling() -> bool:
    """Whether a message of ours would end up in a compiled program."""
    return torch.compiler.is_compiling()


def known_value(x, *, wait: bool = False) -> np.ndarray | None:
    """x as NumPy, None where it is being compiled, or on an accelerator that one would have to wait for."""
    if not isinstance(x, torch.Tensor):
        return np.asarray(x)
    if torch.compiler.is_compiling() or (not wait and x.device.type != "cpu"):
        return None
    return x.detach().float().cpu().numpy()
