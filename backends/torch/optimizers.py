"""Optimizer updates over lists of weights at once on torch, for the optimizers that torch has a fused kernel for."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import torch


def apply_updates(optimizer, variables) -> Callable[[list, torch.Tensor], None]:
    """A function that applies a list of gradients to the weights behind `variables` in place, where `finite` is true.

    An optimizer whose `update_rule` is "adamw" runs in torch's fused kernel on its own slots, so that checkpoints do
    not see the difference; any other runs its own equations. Neither waits for the device: `finite`, a boolean scalar,
    and the learning rate stay on it.
    """
    if getattr(optimizer, "update_rule", None) == "adamw":
        return FusedAdamW(optimizer, variables)

    def apply(gradients, finite):
        state = [variable.value for variable in (*variables, *optimizer.variables)]
        before = [tensor.clone() for tensor in state]
        optimizer.apply(gradients, variables)
        keep(state, before, where=~finite)

    return apply


def keep(tensors, values, *, where: torch.Tensor) -> None:
    """Writes the values into the tensors where the scalar is true, and leaves them as they are where it is false."""
    for tensor, value in zip(tensors, values, strict=True):
        torch.where(where, value, tensor, out=tensor)


class Updated(NamedTuple):
    """A weight, or a piece of one, with its slots; `place` is the weight's among all."""

    place: int
    weight: torch.Tensor
    updates: torch.Tensor
    momentum: torch.Tensor
    velocity: torch.Tensor


class FusedAdamW:
    """`diptych.core.training.optimizers.AdamW` by `torch.optim.AdamW(fused=True)`.

    torch decays by lr · weight_decay, so a decay of d at base rate η becomes d / η, and a rate multiplier, which does
    not touch decay here, is divided out again.

    Args:
        optimizer: built.
        variables: the trained weights.
        updated: what of them is updated here, in the order of the gradients; by default all, whole.
        gather: called when it is, before weights are brought within their bounds.
    """

    def __init__(self, optimizer, variables, updated: Sequence[Updated] | None = None, gather: Callable | None = None):
        self._optimizer, self._gather = optimizer, gather
        self._constrained = [v for v in variables if v.constraint is not None]
        slots = optimizer.slots
        if updated is None:
            named = ([slot.value for slot in slots[name]] for name in ("updates", "momentum", "velocity"))
            values = zip((v.value for v in variables), *named, strict=True)
            updated = [Updated(place, *tensors) for place, tensors in enumerate(values)]
        self._weights = [one.weight for one in updated]
        here = {one.place for one in updated}
        self._counted_alone = [slot.value for place, slot in enumerate(slots["updates"]) if place not in here]
        groups: dict[tuple[float, float], list] = {}
        for one in updated:
            groups.setdefault((optimizer.rates[one.place], optimizer.decays[one.place]), []).append(one.weight)
        self._rates = [rate for rate, _ in groups]
        self._torch = torch.optim.AdamW(
            [
                {
                    "params": weights,
                    "weight_decay": decay / optimizer.base_learning_rate / rate if decay else 0.0,
                }
                for (rate, decay), weights in groups.items()
            ],
            betas=(optimizer.beta_1, optimizer.beta_2),
            eps=optimizer.epsilon,
            fused=True,
        )
        for one in updated:
            slots_of_one = {"step": one.updates, "exp_avg": one.momentum, "exp_avg_sq": one.velocity}
            self._torch.state[one.weight] = slots_of_one

    def __call__(self, gradients, finite):
        iterations = self._optimizer.iterations
        learning_rate = keras.ops.convert_to_tensor(self._optimizer.learning_rate, dtype="float32")
        for group, rate in zip(self._torch.param_groups, self._rates, strict=True):
            group["lr"] = learning_rate * rate
        for weight, gradient in zip(self._weights, gradients, strict=True):
            # The kernel goes through memory, where the axes of a convolution's gradient lie in another order.
            weight.grad = gradient.contiguous()
        self._torch.found_inf = (~finite).float()  # by which torch's own scaler of losses makes the kernel skip a step
        self._torch.step()
        self._torch.zero_grad(set_to_none=True)
        for updates in self._counted_alone:
            updates += finite
        iterations.assign_add(finite.to(iterations.value.dtype))
        if self._gather:
            self._gather()
        for variable in self._constrained:
            variable.assign(variable.constraint(variable))
