"""The growth of an error on its way through a part: `conditioning`, for any function of named arrays."""

import numpy as np

from tests.oracle.conditioning import NUDGE, NUDGES


def conditions_of(function, point: dict[str, np.ndarray], *, seed: int = 0) -> dict[str, float]:
    """name -> ‖change‖ / (1e-6 ‖value‖) of each array of `function(point)`, root mean square over three nudges; 0 where
    it is 0.

    A nudge multiplies every entry of the point by 1 + 1e-6 N(0, 1).
    """
    rng = np.random.default_rng(seed)
    values, total = function(point), {}
    for _ in range(NUDGES):
        nudged = {name: x * (1.0 + NUDGE * rng.standard_normal(np.shape(x))) for name, x in point.items()}
        for name, value in function(nudged).items():
            total[name] = total.get(name, 0.0) + np.square(value - values[name]).sum()
    norms = {name: np.linalg.norm(value) for name, value in values.items()}
    return {
        name: float(np.sqrt(square / NUDGES) / (NUDGE * norms[name])) if norms[name] else 0.0
        for name, square in total.items()
    }
