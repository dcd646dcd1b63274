"""Optimizer updates over lists of weights at once on torch, for the optimizers that torch has a fused kernel for."""

from collections.abc import Callable

import torch


def apply_updates(optimizer, variables) -> Callable[[list], None]:
    """A function that applies a list of gradients to the weights behind `variables`, in place.

    An optimizer whose `update_rule` is "adamw" runs in torch's fused kernel on its own slots, so that checkpoints do
    not see the difference; any other runs its own `apply`.
    """
    if getattr(optimizer, "update_rule", None) == "adamw":
        return FusedAdamW(optimizer, variables)
    return lambda gradients: optimizer.apply(gradients, variables)


class FusedAdamW:
    """`diptych.core.training.optimizers.AdamW` by `torch.optim.AdamW(fused=True)`.

    torch decays by lr · weight_decay, so a decay of d at base rate η becomes d / η, and a rate multiplier, which does
    not touch decay here, is divided out again.
    """

    def __init__(self, optimizer, variables):
        self._optimizer = optimizer
        self._constrained = [v for v in variables if v.constraint is not None]
        self._weights = [v.value for v in variables]
        groups: dict[tuple[float, float], list] = {}
        for index, key in enumerate(zip(optimizer.rates, optimizer.decays, strict=True)):
            groups.setdefault(key, []).append(index)
        self._rates = [rate for rate, _ in groups]
        self._torch = torch.optim.AdamW(
            [
                {
                    "params": [self._weights[i] for i in indices],
                    "weight_decay": decay / optimizer.base_learning_rate / rate if decay else 0.0,
                }
                for (rate, decay), indices in groups.items()
            ],
            betas=(optimizer.beta_1, optimizer.beta_2),
            eps=optimizer.epsilon,
            fused=True,
        )
        for index, weight in enumerate(self._weights):
            self._torch.state[weight] = {
                "step": optimizer.slots["updates"][index].value,
                "exp_avg": optimizer.slots["momentum"][index].value,
                "exp_avg_sq": optimizer.slots["velocity"][index].value,
            }

    def __call__(self, gradients):
        iterations = self._optimizer.iterations
        learning_rate = float(self._optimizer.learning_rate)
        for group, rate in zip(self._torch.param_groups, self._rates, strict=True):
            group["lr"] = learning_rate * rate
        for weight, gradient in zip(self._weights, gradients, strict=True):
            weight.grad = gradient
        self._torch.step()
        self._torch.zero_grad(set_to_none=True)
        iterations.assign_add(1)
        for variable in self._constrained:
            variable.assign(variable.constraint(variable))
