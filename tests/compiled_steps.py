"""Training steps that are compiled once for a file of tests, and start anew for each."""

from collections.abc import Callable
from inspect import signature

import keras
import numpy as np


class CompiledSteps:
    """Calls `build` once for each set of arguments; asked again, gives the same objects with their first values.

    Args:
        build: returns a tuple whose last item is the step; its other items are what holds variables, or None.
    """

    def __init__(self, build: Callable[..., tuple]):
        self._build = build
        self._made: dict[str, tuple[tuple, list]] = {}

    def __call__(self, *arguments, **named) -> tuple:
        bound = signature(self._build).bind(*arguments, **named)
        bound.apply_defaults()
        key = repr(bound.arguments)
        if key not in self._made:
            parts = self._build(*arguments, **named)
            initial = [(variable, np.array(keras.ops.convert_to_numpy(variable.value))) for variable in held_by(parts)]
            self._made[key] = parts, initial
            return parts
        parts, initial = self._made[key]
        parts[-1].synchronize()
        for variable, value in initial:
            variable.assign(value)
        return parts


def held_by(parts: tuple) -> list[keras.Variable]:
    """The variables of models, optimizers, averages and objectives, each once."""
    found = {}
    for part in parts[:-1]:
        for name in ("variables", "averages"):
            held = getattr(part, name, ())
            found |= {id(variable): variable for variable in (held.values() if isinstance(held, dict) else held)}
    return list(found.values())
