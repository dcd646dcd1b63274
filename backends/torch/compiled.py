"""Gradients as one traced graph, compiled once for each shape of batches."""

from collections.abc import Callable, Sequence

import keras
import torch
from torch.fx.experimental.proxy_tensor import make_fx


class CompiledGradients:
    """What `TrainStep.gradients` gives, without Keras and autograd in between.

    The function is run once on the first batch of a shape and what it does to tensors is written down, forward and
    backward passes together. That graph, in which nothing of Keras is left, goes to `torch.compile`. (Compiling the
    function itself breaks it at every Keras layer, dozens of times.) Variables other than the trained weights are read
    where they lie, as they are then.

    Args:
        gradients: batch -> loss, gradients, untrained weights; it may look at shapes, never at values.
        variables: the trained weights.
        compiler: of `torch.compile`, such as "inductor".
    """

    def __init__(self, gradients: Callable, variables: Sequence[keras.Variable], compiler: str):
        self._gradients, self._variables, self._compiler = gradients, variables, compiler
        self._graphs: dict[tuple, Callable] = {}

    def __len__(self) -> int:
        """How many shapes of batches there are graphs for."""
        return len(self._graphs)

    def __call__(self, batch: dict[str, torch.Tensor]):
        key = tuple((name, tuple(array.shape), array.dtype) for name, array in batch.items())
        weights = [variable.value.detach() for variable in self._variables]
        if key not in self._graphs:
            leaves = [weight.clone().requires_grad_() for weight in weights]
            graph = make_fx(lambda weights, batch: self._traced(weights, batch))(leaves, batch)
            self._graphs[key] = torch.compile(graph, backend=self._compiler)
        with torch.no_grad():
            return self._graphs[key](weights, batch)

    def _traced(self, weights, batch):
        with keras.StatelessScope(state_mapping=list(zip(self._variables, weights, strict=True))):
            return self._gradients(batch, weights)
