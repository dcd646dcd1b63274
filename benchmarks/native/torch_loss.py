"""The sigmoid loss on torch for the benchmark: ours, the plain one, and others', timed through autograd."""

import math
import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F

from benchmarks.native.torch_products import ACCELERATED, DEVICE, elapsed, embeddings, product
from diptych import backends
from diptych.backends.torch import contrastive as native

__all__ = ["ACCELERATED", "elapsed", "embeddings", "product"]

KNOWS_ITS_MEMORY = ACCELERATED
GIVES_MEMORY_BACK = True
COMPILER = "eager" if os.environ.get("TRITON_INTERPRET") == "1" else "inductor"
"""What stands behind `torch.compile`: where kernels are interpreted, in a rehearsal, no machine code either."""


def device_name() -> str | None:
    return backends.device_name()


def float64():
    """Where float64 is float64."""
    return nullcontext()


def to_device(array, dtype: str):
    return torch.from_numpy(array).to(DEVICE, getattr(torch, dtype))


def contenders(dtype: str, width: int, peers: bool, loss: str = "sigmoid_loss") -> dict[str, Callable]:
    """Name -> function of (x, y, *scalars) that returns the loss and its gradients."""
    losses = {
        name: partial(_ours, loss, name)
        for name in backends.LOSSES[loss]
        if "torch" in backends.IMPLEMENTATIONS[name]
        and name != "reference"
        and not native.obstacle(name, device=DEVICE, dtype=dtype)
    }
    losses["naive"] = _naive if loss == "sigmoid_loss" else partial(_ours, loss, "reference")
    if peers:
        losses |= _peers(loss, dtype)
        losses |= {f"{name}, torch.compile": compiled(each) for name, each in losses.items() if name in COMPILED}
    return {name: partial(_differentiate, each) for name, each in losses.items()}


COMPILED = ("naive", "open_clip")
"""Losses that are compiled, too, as their users do."""


def contenders_of_small_batches(dtype: str) -> dict[str, Callable]:
    """Ours and the plain loss, eager, compiled and, where there is a GPU, as a CUDA graph; a new set for each size."""
    torch.compiler.reset()
    fast = backends.choose_implementation(dtype=dtype)
    losses = {fast: partial(_ours, "sigmoid_loss", fast), "naive": _naive}
    losses |= {f"{name}, torch.compile": compiled(loss) for name, loss in losses.items()}
    found = {name: partial(_differentiate, loss) for name, loss in losses.items()}
    if ACCELERATED:
        graphed = (fast, f"{fast}, torch.compile", "naive, torch.compile")
        found |= {f"{name}, CUDA graph": Graph(found[name]) for name in graphed}
    return found


def compiled(loss: Callable) -> Callable:
    """By `torch.compile`, for each size alone: a program for any size is slower."""
    return torch.compile(loss, dynamic=False, backend=COMPILER)


class Graph:
    """A function whose launches for the first arguments are recorded and replayed."""

    def __init__(self, function: Callable):
        self.function, self.graph = function, None

    def __call__(self, *arguments):
        if self.graph is None:
            other = torch.cuda.Stream()
            other.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(other):
                for _ in range(3):
                    self.function(*arguments)
            torch.cuda.current_stream().wait_stream(other)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.result = self.function(*arguments)
            self.graph = graph
        self.graph.replay()
        return self.result


def explicit_gradients(name: str, x, y, *scalars):
    """Ours in float32, as they are before they take the embeddings' dtype; None for what has none."""
    if name not in ("triton", "blocked"):
        return None
    loss = {2: native.sigmoid_loss_and_gradients, 1: native.softmax_contrastive_loss_and_gradients}[len(scalars)]
    return loss(x, y, **_named(scalars), implementation=name)


def _ours(loss, name, x, y, *scalars):
    return getattr(backends, loss)(x, y, **_named(scalars), implementation=name)


def _named(scalars):
    return dict(zip(("logit_scale", "logit_bias"), scalars, strict=False))


def _naive(x, y, t, b):
    labels = 2 * torch.eye(len(x), device=x.device, dtype=x.dtype) - 1
    logits = t.to(x.dtype) * x @ y.T + b.to(x.dtype)
    return -F.logsigmoid(labels * logits).sum() / len(x)


def _peers(loss: str, dtype: str) -> dict[str, Callable]:
    """Other people's losses; one that is installed and cannot be imported says so when it is called."""
    peers: dict[str, Callable] = {"open_clip": partial(_open_clip, loss)}
    if ACCELERATED and loss == "softmax_contrastive_loss":
        peers["inf_cl"] = _inf_cl
    if ACCELERATED and loss == "sigmoid_loss" and dtype == "bfloat16":
        kernels = {"siglip-kernel": "chunked_bf16", "siglip-kernel, pipelined": "chunked_bf16_pipelined"}
        peers |= {name: partial(_siglip_kernel, backend) for name, backend in kernels.items()}
    found: dict[str, Callable] = {}
    for name, load in peers.items():
        if find_spec(name.partition(",")[0].replace("-", "_")):
            try:
                found[name] = load()
            except Exception as error:  # whatever the packages that they need have to say
                found[name] = partial(_refuse, error)
    return found


def _refuse(error: Exception, *arguments):
    raise error


def _open_clip(loss: str) -> Callable:
    from open_clip.loss import ClipLoss, SigLipLoss

    function = SigLipLoss() if loss == "sigmoid_loss" else ClipLoss()
    return lambda x, y, *scalars: function(x, y, *(scalar.to(x.dtype) for scalar in scalars))


def _inf_cl() -> Callable:
    """Inf-CL's kernels, a direction at a time, in float32 as they are."""
    from inf_cl import cal_flash_loss

    def loss(x, y, t):
        labels = torch.arange(len(x), device=x.device)
        x, y = x.float(), y.float()
        return (cal_flash_loss(x, y, labels, t).mean() + cal_flash_loss(y, x, labels, t).mean()) / 2

    return loss


def _siglip_kernel(backend: str) -> Callable:
    from siglip_kernel import fused_siglip_loss

    return lambda x, y, t, b: fused_siglip_loss(x, y, t.log(), b, backend=backend)


def _differentiate(loss, *arguments):
    leaves = [argument.detach().requires_grad_() for argument in arguments]
    value = loss(*leaves)
    return value.detach(), *torch.autograd.grad(value, leaves)


def wait(result) -> None:
    if ACCELERATED:
        torch.cuda.synchronize()


def extra_bytes(function, arguments) -> float:
    """The most memory in use beside arguments and results; on an accelerator. A graph has its memory before."""
    if isinstance(function, Graph):
        return math.nan
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = function(*arguments)
    torch.cuda.synchronize()
    kept = sum(part.nbytes for part in result)
    return torch.cuda.max_memory_allocated() - before - kept


def out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError)
