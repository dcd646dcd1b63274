"""A linear map and a BatchNorm trained by gradient descent on squared errors: float64, its gradient derived by hand.

    h = x W,   y = γ (h - m) / √(v + ε) + β,   L = Σ (y - t)² / n

with m and v the mean and the variance of the piece's rows, of which the moving statistics take in a part after each
piece.
"""

import numpy as np

MOMENTUM, EPSILON = 0.9, 1e-3
Weights = dict[str, np.ndarray]


def loss_and_gradient(x: np.ndarray, t: np.ndarray, weights: Weights) -> tuple[float, Weights, Weights]:
    """-> L, its gradient, and {"mean", "variance"} of the rows."""
    rows = len(x)
    h = x @ weights["kernel"]
    statistics = {"mean": h.mean(0), "variance": h.var(0)}
    root = np.sqrt(statistics["variance"] + EPSILON)
    normal = (h - statistics["mean"]) / root
    error = weights["gamma"] * normal + weights["beta"] - t
    dy = 2 * error / t.size
    dnormal = weights["gamma"] * dy
    dh = (dnormal - dnormal.mean(0) - normal * (dnormal * normal).sum(0) / rows) / root
    gradient = {"kernel": x.T @ dh, "gamma": (dy * normal).sum(0), "beta": dy.sum(0)}
    return float((error**2).mean()), gradient, statistics


def step(x: np.ndarray, t: np.ndarray, weights: Weights, *, pieces: int, rate: float) -> tuple[float, Weights]:
    """-> the mean of the pieces' losses, and the weights after it, moving statistics included."""
    losses, total, moved = [], {}, {name: weights[name] for name in ("mean", "variance")}
    for some, targets in zip(np.split(x, pieces), np.split(t, pieces), strict=True):
        loss, gradient, statistics = loss_and_gradient(some, targets, weights)
        losses.append(loss)
        total = {name: total.get(name, 0.0) + value / pieces for name, value in gradient.items()}
        moved = {name: MOMENTUM * moved[name] + (1 - MOMENTUM) * statistics[name] for name in moved}
    return float(np.mean(losses)), {name: weights[name] - rate * value for name, value in total.items()} | moved
