"""Training runs of the oracle, and how far float32 may stray from them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tests.oracle.optimizers import Optimizer, clip_by_global_norm, global_norm
from tests.oracle.schedule import moving_average
from tests.oracle.siglip import siglip


@dataclass
class Trajectory:
    """Losses, what signs near 0 may change of them, and gradient norms (before clipping) of all steps; weights and what
    they may be off by after some of the steps.
    """

    losses: list[float] = field(default_factory=list)
    loss_errors: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    weights: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)
    allowed: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)
    averages: dict[str, np.ndarray] = field(default_factory=dict)


class Descent:
    """Weights on their way down, with a bound on the error of each entry.

    A step adds to the bound: rate × (the direction's uncertainty + its roundings) + the rounding of the stored weight.
    That is the first-order effect of wrong gradients; that wrong weights make other gradients is of second order in the
    rate.
    """

    def __init__(self, weights: Mapping[str, np.ndarray], optimizer: Optimizer, *, roundoff: float, roundings: int):
        self.weights = {path: np.asarray(value, np.float64) for path, value in weights.items()}
        self.allowed = {path: np.zeros_like(value) for path, value in self.weights.items()}
        self._optimizer, self._roundoff, self._roundings = optimizer, roundoff, roundings

    def step(self, gradients, errors, *, schedule: float = 1.0) -> None:
        """One update by gradients that may be off by `errors`, entry by entry."""
        before = self.weights
        self.weights = self._optimizer.step(before, gradients, schedule=schedule)
        roundings = self._roundings + self._optimizer.cancellation()
        for path, weight in self.weights.items():
            rate = schedule * self._optimizer.learning_rate * self._optimizer.rate_share(path)
            moved = np.abs(weight - before[path])
            self.allowed[path] = (
                self.allowed[path]
                + rate * self._optimizer.uncertainty(path, errors[path], self._roundoff)
                + self._roundoff * (roundings * moved + 2 * np.abs(weight))
            )

    def loss_error(self, gradients) -> float:
        """How far the loss may be off because the optimizer jumped the other way, from the gradients at the weights.

        Where a direction is a sign, an entry close to 0 goes one way or the other, whatever the precision: to first
        order that changes the loss by gradient × error of the weight. The entries do so independently of each other, so
        their squares add up. 0 for a continuous optimizer, whose loss has no such excuse.
        """
        if self._optimizer.continuous:
            return 0.0
        return float(np.sqrt(sum(np.square(gradients[path] * error).sum() for path, error in self.allowed.items())))


def train(
    config: dict,
    weights: Mapping[str, np.ndarray],
    batches: Sequence[dict],
    optimizer: Optimizer,
    *,
    loss: str,
    schedule: Callable[[int], float],
    errors_of: Callable[[dict], dict],
    roundoff: float,
    roundings: int,
    clip_norm: float | None = None,
    ema_decay: float | None = None,
    keep: Sequence[int] = (),
) -> Trajectory:
    """One update a batch; `schedule(k)` is the factor of the update after k others, `errors_of` bounds errors of
    gradients.
    """
    trajectory = Trajectory()
    descent = Descent(weights, optimizer, roundoff=roundoff, roundings=roundings)
    average = descent.weights
    for number, batch in enumerate(batches, 1):
        answer = siglip(config, descent.weights, batch, loss=loss)
        gradients = answer.gradients
        trajectory.losses.append(answer.loss)
        trajectory.loss_errors.append(descent.loss_error(gradients))
        trajectory.gradient_norms.append(global_norm(gradients))
        if clip_norm is not None:
            gradients = clip_by_global_norm(gradients, clip_norm)
        descent.step(gradients, errors_of(gradients), schedule=schedule(number - 1))
        if ema_decay is not None:
            average = moving_average(average, descent.weights, decay=ema_decay)
        if number in keep:
            trajectory.weights[number], trajectory.allowed[number] = descent.weights, dict(descent.allowed)
    trajectory.averages = average if ema_decay is not None else {}
    return trajectory
