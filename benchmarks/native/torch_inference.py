"""Keras layers, models and other torch functions for inference: eager, and through torch.compile."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

ACCELERATED = torch.cuda.is_available()


def ways(layer, inputs: tuple, *, compile: bool) -> dict[str, Callable]:
    """What comes behind a contestant's name -> a function without arguments that computes and waits for the result.

    Keras's Python cannot be compiled, so torch.compile is given the graph of torch operations that `torch.export`
    finds.
    """
    found = {"": runner(layer, inputs, accelerated=ACCELERATED)}
    if compile:
        with torch.no_grad():
            graph = torch.export.export(_Module(layer), _on_device(inputs, accelerated=ACCELERATED)).module()
        found[", torch.compile"] = runner(torch.compile(graph), inputs, accelerated=ACCELERATED)
    return found


def runner(function: Callable, inputs: tuple, *, accelerated: bool) -> Callable:
    """function(*inputs) in inference mode, without arguments and waited for; NumPy inputs are put onto the device
    before.
    """
    on_device = _on_device(inputs, accelerated=accelerated)

    def run():
        with torch.inference_mode():
            result = function(*on_device)
        if accelerated:
            torch.cuda.synchronize()
        return result

    return run


def exact_products() -> AbstractContextManager:
    """A context in which float32 products are computed in float32; with torch's default they are."""
    return nullcontext()


class _Module(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, *inputs):
        return self.layer(*inputs)


def _on_device(inputs, *, accelerated: bool):
    """Tuples and dictionaries of NumPy arrays and tensors -> of tensors on the device."""
    device = "cuda" if accelerated else "cpu"
    return torch.utils._pytree.tree_map(lambda x: torch.as_tensor(x).to(device), inputs)
