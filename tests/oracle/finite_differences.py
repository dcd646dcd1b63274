"""Central differences in float64, the judge of the oracle itself."""

import math

import numpy as np

STEP = 1e-5


def directional_difference(function, point: dict, direction: dict) -> float:
    """(f(point + h direction) - f(point - h direction)) / 2h for dictionaries of arrays, with h = 1e-5."""
    ahead = function({name: value + STEP * direction[name] for name, value in point.items()})
    behind = function({name: value - STEP * direction[name] for name, value in point.items()})
    return (ahead - behind) / (2 * STEP)


def check_gradient(function, point: dict, gradients: dict, rng: np.random.Generator, *, entries: int = 2) -> None:
    """Compare gradients with differences: each array along a random direction and in `entries` single entries.

    The truncation error of a central difference is h² f'''/6, rounding adds 1e-16 |f| / h: both near 1e-10 for
    functions of size 1, and the tolerance of 1e-7 of the gradient's norm leaves room for third derivatives of a few
    hundred.
    """
    point = {name: np.asarray(value, np.float64) for name, value in point.items()}
    zeros = {name: np.zeros_like(value) for name, value in point.items()}
    whole = math.sqrt(sum(np.square(gradient).sum() for gradient in gradients.values()))
    assert set(gradients) == set(point)
    assert np.isfinite(whole)
    for name, value in point.items():
        directions = [rng.normal(size=value.shape)]
        directions[0] /= max(np.linalg.norm(directions[0]), 1e-300)
        for index in rng.integers(0, value.size, min(entries, value.size)):
            single = np.zeros(value.size)
            single[index] = 1.0
            directions.append(single.reshape(value.shape))
        for direction in directions:
            expected = directional_difference(function, point, zeros | {name: direction})
            got = float(np.sum(gradients[name] * direction))
            assert abs(got - expected) <= 1e-7 * (abs(expected) + whole), f"{name}: {got}, by differences {expected}"
