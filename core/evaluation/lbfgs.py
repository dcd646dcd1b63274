"""Minimising a smooth function of many numbers with its gradient alone: L-BFGS."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SUFFICIENT_DECREASE = 1e-4
CURVATURE = 0.9
MOST_TRIALS = 30
ROUNDING = 4 * np.finfo(np.float64).eps


@dataclass(frozen=True)
class Minimum:
    """Where the search ended."""

    place: np.ndarray  # float64 [size]
    value: float
    iterations: int
    converged: bool  # the gradient, or what a step could still gain, fell below the tolerance


def minimise(
    function: Callable[[np.ndarray], tuple[float, np.ndarray]],
    start: np.ndarray,
    *,
    iterations: int = 200,
    tolerance: float = 1e-5,
    memory: int = 10,
) -> Minimum:
    """A minimum near `start`; for a convex function, the minimum.

        step = -H gradient, H from the last `memory` differences of places and gradients (the two-loop recursion)

    The length of a step satisfies the weak Wolfe conditions, found by doubling and halving, so that H stays positive
    definite. It is deterministic: the same function and start give the same place.

    Args:
        function: float64 [size] -> (value, gradient [size]); may compute in float32, then a tolerance below 1e-6 is not
            reached.
        start: [size].
        iterations: steps at most.
        tolerance: ends where the largest entry of the gradient is below tolerance · max(1, |value|).
        memory: differences that are kept.

    Returns:
        The lowest place found.

    Raises:
        ValueError: the function is not finite at the start.

    Reference: Nocedal and Wright, Numerical Optimization, 2006, algorithms 7.4 and 7.5; Burke, Lewis and Overton 2008
    for the search by doubling and halving.
    """
    place = np.array(start, np.float64)
    value, gradient = function(place)
    if not (np.isfinite(value) and np.isfinite(gradient).all()):
        raise ValueError(f"the function or its gradient is not finite at the start, where its value is {value}.")
    pairs: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=memory)
    for iteration in range(iterations):
        if np.abs(gradient).max(initial=0.0) <= tolerance * max(1.0, abs(value)):
            return Minimum(place, float(value), iteration, True)
        direction = -_product(pairs, gradient)
        # Without a history the length of the gradient says nothing about that of a good step.
        length = 1.0 if pairs else min(1.0, 1.0 / np.abs(gradient).sum())
        found = _search(function, place, value, gradient, direction, length)
        if found is None:
            # No step along a direction of descent goes down: what is left to gain is below the rounding of the
            # function.
            return Minimum(place, float(value), iteration, True)
        new_place, new_value, new_gradient = found
        step, change = new_place - place, new_gradient - gradient
        if step @ change > 0:
            pairs.append((step, change))
        gain = value - new_value
        place, value, gradient = new_place, new_value, new_gradient
        if gain <= ROUNDING * abs(value):
            return Minimum(place, float(value), iteration + 1, True)
    return Minimum(place, float(value), iterations, False)


def _product(pairs: deque[tuple[np.ndarray, np.ndarray]], gradient: np.ndarray) -> np.ndarray:
    """H @ gradient by the two-loop recursion."""
    result, shares = gradient.copy(), []
    for step, change in reversed(pairs):
        share = (step @ result) / (step @ change)
        result -= share * change
        shares.append(share)
    if pairs:
        step, change = pairs[-1]
        result *= (step @ change) / (change @ change)
    for (step, change), share in zip(pairs, reversed(shares), strict=True):
        result += (share - (change @ result) / (step @ change)) * step
    return result


def _search(
    function: Callable[[np.ndarray], tuple[float, np.ndarray]],
    place: np.ndarray,
    value: float,
    gradient: np.ndarray,
    direction: np.ndarray,
    length: float,
) -> tuple[np.ndarray, float, np.ndarray] | None:
    """A step that lowers the function enough and leaves its slope flat enough; the best seen, or None where none goes
    down.
    """
    slope = gradient @ direction
    low, high, best = 0.0, np.inf, None
    for _ in range(MOST_TRIALS):
        tried = place + length * direction
        new_value, new_gradient = function(tried)
        if not np.isfinite(new_value) or new_value > value + SUFFICIENT_DECREASE * length * slope:
            high = length
        else:
            if best is None or new_value < best[1]:
                best = (tried, new_value, new_gradient)
            if new_gradient @ direction >= CURVATURE * slope:
                return tried, new_value, new_gradient
            low = length
        length = 2 * length if np.isinf(high) else (low + high) / 2
    return best
