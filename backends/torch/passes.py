"""The backward passes of a step, which together give the gradients of its weights."""

from collections.abc import Sequence

import torch

from diptych.backends.torch.reduction import Reduction


class Passes:
    """Passes of one step over weights that this process holds whole; its gradients are its own.

    Args:
        weights: leaves.
    """

    def __init__(self, weights: Sequence[torch.Tensor]):
        self._weights = weights
        self._so_far: list[torch.Tensor] | None = None

    def add(self, outputs, cotangents=None, inputs: Sequence[torch.Tensor] = ()) -> list[torch.Tensor]:
        """One more pass, whose gradients of the weights count; returns those of `inputs`."""
        found = _gradients(outputs, [*inputs, *self._weights], cotangents)
        if self._so_far is None:
            # What a pass gives may be one tensor for several weights, and nothing to add to.
            self._so_far = [torch.zeros_like(weight) for weight in self._weights]
        torch._foreach_add_(self._so_far, found[len(inputs) :])
        return found[: len(inputs)]

    def last(self, outputs, cotangents=None) -> list[torch.Tensor]:
        """The last pass, and the gradients of all, in the order of the weights."""
        found = _gradients(outputs, self._weights, cotangents)
        if self._so_far is None:
            return found
        torch._foreach_add_(self._so_far, found)
        return self._so_far


def _gradients(outputs, inputs, cotangents) -> list[torch.Tensor]:
    return list(torch.autograd.grad(outputs, inputs, cotangents, allow_unused=True, materialize_grads=True))


class ReducedPasses(Passes):
    """Passes of several processes that hold all weights; the last one brings the means over all.

    Args:
        reduction: which sends.
    """

    def __init__(self, weights: Sequence[torch.Tensor], reduction: Reduction):
        super().__init__(weights)
        self._reduction = reduction

    def last(self, outputs, cotangents=None) -> list[torch.Tensor]:
        """The last pass, and of each of the reduction's buckets the mean, or this process's part of it."""
        return self._reduction.means(outputs, cotangents, self._so_far)
